"""Finished runs in a browser, and a page that scores a pair of sentences with any of their models.

The pages are those that the runs wrote, the comparison is that of ``equiframe compare``, and a pair is scored as by
the benchmark ``pairs``. Gradio draws the controls; its page loads nothing from other hosts and reports nothing to them.
"""

from __future__ import annotations

import difflib
import functools
import html
import itertools
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import pandas as pd

from equiframe.analysis.comparison import aligned, compare
from equiframe.benchmarks.benchmark import Excluded
from equiframe.benchmarks.minimal_pairs import MinimalPair, MinimalPairs
from equiframe.commands.overview import COLUMNS, overview
from equiframe.errors import EquiframeError, InputError, RunError
from equiframe.models import BUILTIN, LanguageModel, load
from equiframe.options import check_range, check_several
from equiframe.record import RunRecord
from equiframe.report import comparison_page
from equiframe.scoring.engine import answer

_PAGE, _MODEL = "report.html", "model"


def finished_runs(root: Path | str) -> dict[str, Path]:
    """Find folders with a report, ``root`` and those below it, by relative path; links that lead outside are ignored.

    ``root`` is listed under its own name if it is a run.

    Raises:
        RunError: the folder does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise RunError(f"{root} is not a folder. Give the folder with your runs, or the folder of one run")
    root = root.resolve()
    pages = sorted(page for page in root.rglob(_PAGE) if page.resolve() == page)
    found = {page.parent.relative_to(root).as_posix(): page.parent for page in pages}
    if (own := found.pop(".", None)) is not None:
        found = {root.name if root.name not in found else ".": own, **found}
    return found


def page_of(root: Path | str, names: Sequence[str]) -> str:
    """The report of one run, or the comparison of several with the first of them, as HTML.

    Raises:
        InputError: no run is named, or two have nothing in common.
        RunError: a name is not that of a finished run under ``root``.
    """
    check_several("names", names)
    runs = finished_runs(root)
    if not names:
        raise InputError("pick a run to read its report, or several to compare them with the first")
    for name in names:
        if name not in runs:
            raise RunError(f"{name} is not a finished run in {root}. Available: {', '.join(runs) or 'none'}")
    if len(names) == 1:
        return (runs[names[0]] / _PAGE).read_text(encoding="utf-8")
    records = aligned({name: RunRecord.read(runs[name]) for name in names})
    return comparison_page(records, compare(records), title=" / ".join(names))


def models_of(root: Path | str) -> dict[str, str]:
    """Models that ``load`` takes, by the name of the run that made them; the built-in models come first."""
    folders = {name: run / _MODEL for name, run in finished_runs(root).items()}
    saved = {name: str(folder) for name, folder in folders.items() if folder.is_dir() and folder.resolve() == folder}
    return {**{name: name for name in BUILTIN}, **saved}


def score_pair(
    language_model: LanguageModel, stereotype: str, anti_stereotype: str
) -> tuple[float, float, pd.DataFrame]:
    """Return both scores of a pair, and the contribution of each token, as in the benchmark ``pairs``.

    Returns:
        Score of the stereotype, score of the other sentence, and a table with a row for each scored token: the
        tokens of both sentences next to each other, their log-probabilities, and the difference.

    Raises:
        InputError: the sentences are empty or the same, or the model cannot score them.
    """
    pair = MinimalPair("1", "", "1", stereotype.strip(), anti_stereotype.strip())
    if not pair.stereotype or not pair.anti_stereotype or pair.stereotype == pair.anti_stereotype:
        raise InputError("give two sentences that differ")
    benchmark, codec = MinimalPairs("typed"), language_model.codec
    asked = benchmark.asked(pair, codec)
    if isinstance(asked, Excluded):
        raise InputError(f"{language_model.name} cannot score this pair: {asked.reason}")
    answers = asked.by_part(answer(language_model, asked.requests))
    (scores,) = benchmark.read(pair, answers, codec)
    sides = []
    for part, answered in zip(asked.parts, answers, strict=True):
        targets = [target for request in part for target in request.targets]  # type: ignore[union-attr]
        logs = itertools.chain.from_iterable(answered)
        sides.append([(codec.tokenizer.decode([token]), log) for token, log in zip(targets, logs, strict=True)])
    rows = [(first, log, second, other) for (first, log), (second, other) in _beside(*sides)]
    table = pd.DataFrame(rows, columns=["stereotype", "nats", "anti-stereotype", "nats (anti)"])
    table["difference"] = table["nats"] - table["nats (anti)"]
    return scores["stereotype"], scores["anti"], table


_Token: TypeAlias = tuple[str, float]


def _beside(first: Sequence[_Token], second: Sequence[_Token]) -> Iterator[tuple[_Token, _Token]]:
    """Align the tokens of two sentences; if one has more tokens, the other side is empty."""
    words, other_words = ([token for token, _ in side] for side in (first, second))
    matcher = difflib.SequenceMatcher(None, words, other_words, autojunk=False)
    for _, start, end, start_second, end_second in matcher.get_opcodes():
        pieces = first[start:end], second[start_second:end_second]
        yield from itertools.zip_longest(*pieces, fillvalue=("", math.nan))


def toggled(names: Sequence[str], name: str) -> list[str]:
    """The names with one more at the end, or without it if it was already among them."""
    return [other for other in names if other != name] if name in names else [*names, name]


def application(root: Path | str) -> Any:
    """The web application, for any ASGI server.

    Raises:
        InputError: Gradio is not installed.
        RunError: there is no such folder.
    """
    finished_runs(root)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import fastapi
        import gradio
        from starlette.routing import Route
    except ImportError as error:
        raise InputError("serve needs Gradio: pip install 'equiframe[serve]'") from error

    def choices() -> tuple[pd.DataFrame, Any, Any]:
        found = finished_runs(root)
        return overview(found), gradio.update(choices=list(found)), gradio.update(choices=list(models_of(root)))

    with gradio.Blocks(title="equiframe", analytics_enabled=False, fill_width=True) as blocks:
        with gradio.Tab("Runs"):
            table, runs = _choose_runs(gradio, root)
        with gradio.Tab("A pair of sentences"):
            model = _type_a_pair(gradio, root)
        blocks.load(choices, None, [table, runs, model], api_visibility="private")
    routes = [Route("/report", functools.partial(_report, root))]
    return gradio.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None, routes=routes),
        blocks,
        path="/",
        footer_links=[],
        theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css="#report iframe { width: 100%; height: 78vh; border: 0 } #runs td { cursor: pointer }",
        ssr_mode=False,
        enable_monitoring=False,
    )


def _report(root: Path | str, request: Any) -> Any:
    """The report of one run, or of several next to each other, as a response."""
    from starlette.responses import HTMLResponse, PlainTextResponse

    try:
        return HTMLResponse(page_of(root, request.query_params.getlist("run")))
    except EquiframeError as error:
        return PlainTextResponse(str(error), 404)


def _choose_runs(gradio: Any, root: Path | str) -> tuple[Any, Any]:
    """Build the table of the runs and the list of the picked ones, with their report below it."""

    def frame(names: list[str] | None) -> str:
        if not names:
            return ""
        query = "&".join(f"run={quote(name, safe='')}" for name in names)
        return f'<iframe src="report?{query}" sandbox="allow-scripts" title="report"></iframe>'

    def pick(picked: list[str] | None, event: Any) -> list[str]:
        return toggled(picked or (), event.row_value[0])

    pick.__annotations__["event"] = gradio.SelectData  # Gradio needs it, and cannot resolve a postponed annotation

    gradio.Markdown("# Runs\n\nPick a row to read its report, or several rows to compare them with the first.")
    table = gradio.Dataframe(
        pd.DataFrame(columns=list(COLUMNS)),
        interactive=False,
        wrap=True,
        column_widths=["150px", "190px", "120px", "140px", "580px"],
        show_label=False,
        buttons=[],
        elem_id="runs",
    )
    runs = gradio.Dropdown(
        list(finished_runs(root)),
        multiselect=True,
        label="Picked",
        info="One run shows its report. Several are compared, paired, with the first.",
    )
    table.select(pick, runs, runs, api_visibility="private")
    runs.change(frame, runs, gradio.HTML(elem_id="report"), api_visibility="private")
    return table, runs


def _type_a_pair(gradio: Any, root: Path | str) -> Any:
    """Build the list of models, the two sentences, and the scores of the model."""
    loaded = functools.lru_cache(maxsize=2)(load)

    def score(model: str, stereotype: str, anti_stereotype: str) -> tuple[str, pd.DataFrame | None]:
        models = models_of(root)
        try:
            if model not in models:
                raise RunError(f"{model} no longer exists: load the page again")
            first, second, table = score_pair(loaded(models[model]), stereotype, anti_stereotype)
        except EquiframeError as error:
            return html.escape(str(error)), None
        liked = "the stereotype" if first > second else "the anti-stereotype" if first < second else "neither"
        sums = (
            f"stereotype **{first:.3f}**, anti-stereotype **{second:.3f}**, difference **{first - second:+.3f}** nats"
        )
        return f"{sums}: the model prefers {liked}.", table.round(3)

    model = gradio.Dropdown(list(models_of(root)), value=BUILTIN[0], label="Model")
    with gradio.Row():
        stereotype = gradio.Textbox("The nurse said that she was late.", label="Stereotype")
        anti = gradio.Textbox("The nurse said that he was late.", label="Anti-stereotype")
    button = gradio.Button("Score", variant="primary")
    outcome = gradio.Markdown()
    tokens = gradio.Dataframe(label="What each token adds to the score, log-probabilities in nats")
    button.click(score, [model, stereotype, anti], [outcome, tokens], api_visibility="private")
    gradio.Markdown(
        "Scored as in `equiframe evaluate MODEL --benchmarks pairs:FILE`. A masked LM predicts each"
        " word that both sentences share, masked alone; a causal LM predicts every word. One pair shows how a score"
        " is computed, not how biased a model is."
    )
    return model


def listen(app: Any, host: str, port: int, announce: Callable[[str], object]) -> None:
    """Serve the application until it is stopped.

    Args:
        app: the application.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        announce: called with the address when it can be used.

    Raises:
        InputError: the port is not valid, or this machine cannot listen there.
    """
    import uvicorn

    check_range("--port", port, whole=True, most=65535)
    try:
        (family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}): give another --port or --host"
        ) from error
    with listener:
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        announce(f"http://{shown}:{listener.getsockname()[1]}")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])
