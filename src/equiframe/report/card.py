"""The numbers of a run in other formats: a model card, model-index results, lm-evaluation-harness results."""

from __future__ import annotations

import datetime
import html
import re
from pathlib import PurePath
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from equiframe.models.saving import READ_BY_TRANSFORMERS
from equiframe.record import BenchmarkResult, Comparison, Result, RunRecord, about, is_headline, suite_of
from equiframe.report.numbers import ideal, interval
from equiframe.report.tables import compared_over, left_out
from equiframe.report.verdict import comparison_verdict, measure_name, run_verdict

_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # not ./FOLDER


def model_card(record: RunRecord, comparison: Comparison | None = None) -> str:
    """Write a model card in Markdown with metadata: what was measured, what changed, and the limits of the numbers.

    Args:
        record: a run that scored benchmarks or measured collapse.
        comparison: comparison of a run of the original model with this one; its paired changes are reported.
    """
    name, training = record.metrics.model.name, record.metrics.training
    if training is not None:
        name = f"{_without_folders(name)} debiased with {training.method}"
    if comparison is None:
        verdicts = [run_verdict(record.metrics)]
    else:
        first = next(iter(comparison.runs))
        verdicts = [
            comparison_verdict(first, later, found, comparison.results) for later, found in comparison.measures.items()
        ]
    made = record.provenance
    options = (training.options if training else {}) or made.method_options
    body = (
        _environment()
        .get_template("card.md.j2")
        .render(
            name=name,
            model=record.metrics.model,
            training=training,
            method_options="; ".join(
                f"{option} = {_without_folders(value)}" for option, value in options.items() if value is not None
            ),
            settings=training.settings if training else {},
            lora_rank=made.fine_tuning.lora_rank,
            self_debias=made.self_debias,
            how_to_load=Markup(READ_BY_TRANSFORMERS) if record.metrics.model.projected else "",
            verdicts=verdicts,
            of_suite=_headlines(record),
            collapse=_geometry(record),
            left_out=left_out(record.metrics),
            compared_over={} if comparison is None else compared_over(comparison),
            limits={about(r).title: about(r).does_not_show for r in record.metrics.benchmarks},
            files=made.files,
            packages=", ".join(f"{name} {version}" for name, version in made.environment.packages.items()),
            date=(made.environment.date or "")[:10],
        )
    )
    data = ModelCardData(
        base_model=made.model if training and _HUB_NAME.fullmatch(made.model) else None,
        library_name="transformers",
        pipeline_tag="fill-mask" if record.metrics.model.kind == "masked" else "text-generation",
        tags=["equiframe", "bias", "fairness"],
        model_name=name,
        eval_results=eval_results(record) or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _without_folders(value: object) -> object:
    """The last part of an absolute path, since the other parts mean nothing elsewhere; any other value unchanged."""
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def _headlines(record: RunRecord) -> dict[str, list[list[str]]]:
    """Return the headline measures by suite: name, value with interval, ideal, items."""
    found: dict[str, list[list[str]]] = {"fairness": [], "nlu": []}
    for result in record.metrics.benchmarks:
        for key, estimate in result.estimates.items():
            if is_headline(result, key):
                row = [measure_name(result, key), interval(estimate), ideal(estimate), str(estimate.count)]
                found[suite_of(result)].append(row)
    return found


def _geometry(record: RunRecord) -> list[list[str]]:
    """Return the measures of collapse and contexts: name, value with interval, ideal."""
    results: list[Result] = [*record.metrics.collapse, *record.metrics.contexts]
    return [
        [measure_name(result, key), interval(estimate), ideal(estimate)]
        for result in results
        for key, estimate in result.estimates.items()
    ]


def eval_results(record: RunRecord) -> list[EvalResult]:
    """Return every headline measure as an entry of a model card's ``model-index``, with its interval as an argument."""
    found = []
    for result in record.metrics.benchmarks:
        for key, estimate in result.estimates.items():
            if is_headline(result, key):
                interval_ends = {"interval_95": [estimate.low, estimate.high], "ideal": estimate.ideal}
                found.append(
                    EvalResult(
                        task_type="fill-mask" if record.metrics.model.kind == "masked" else "text-generation",
                        dataset_type=result.benchmark.partition(":")[0],
                        dataset_name=about(result).title,
                        metric_type=key,
                        metric_name=measure_name(result, key),
                        metric_value=estimate.value,
                        metric_args={**interval_ends, "unit": estimate.unit, "items": estimate.count},
                    )
                )
    return found


def lm_eval_results(record: RunRecord) -> dict[str, Any]:
    """Return a run in the format of lm-evaluation-harness' results file (version 0.4), so that its tools read it.

    Each benchmark is a task, each measure a metric without a filter. The standard error that the layout asks for is
    the width of the 95 % interval over 2 * 1.96, or ``N/A``. Names start with ``equiframe_``, because the harness
    computes the numbers of a task of the same name differently.
    """
    metrics = record.metrics
    tasks = {f"equiframe_{result.benchmark.replace(':', '_')}": result for result in metrics.benchmarks}
    source, arguments = "hf", f"pretrained={metrics.model.name}"
    if (server := metrics.model.server) is not None:
        source, arguments = "local-completions", f"model={server.model},base_url={server.url}/v1/completions"
    made = record.provenance
    date = made.environment.date
    return {
        "results": {task: {"alias": task, **_lm_eval_numbers(result)} for task, result in tasks.items()},
        "group_subtasks": {task: [] for task in tasks},
        "configs": {
            task: {
                "task": task,
                "dataset_path": result.benchmark,
                "output_type": result.scoring,
                "num_fewshot": 0,
                "metadata": {"version": result.version},
            }
            for task, result in tasks.items()
        },
        "versions": {task: result.version for task, result in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {
            task: {key: estimate.higher_is_better for key, estimate in result.estimates.items()}
            for task, result in tasks.items()
        },
        "n-samples": {
            task: {"original": result.items, "effective": result.items - sum(result.excluded.values())}
            for task, result in tasks.items()
        },
        "config": {
            "model": source,
            "model_args": arguments,
            "model_num_parameters": metrics.model.parameters,
            "model_sha": metrics.model.fingerprint,
            "batch_size": None,
            "limit": made.limit,
            "random_seed": made.seed,
        },
        "date": datetime.datetime.fromisoformat(date).timestamp() if date else None,
        "transformers_version": made.environment.packages.get("transformers"),
        "model_source": source,
        "model_name": metrics.model.name,
        "model_name_sanitized": re.sub(r"[^\w.-]+", "__", metrics.model.name),
        "total_evaluation_time_seconds": str(sum(result.seconds for result in metrics.benchmarks)),
    }


def _lm_eval_numbers(result: BenchmarkResult) -> dict[str, float | str]:
    """Return each measure and its standard error."""
    found: dict[str, float | str] = {}
    for key, estimate in result.estimates.items():
        found[f"{key},none"], found[f"{key}_stderr,none"] = estimate.value, "N/A"
        if estimate.low is not None and estimate.high is not None:
            found[f"{key}_stderr,none"] = (estimate.high - estimate.low) / (2 * 1.96)
    return found


def in_markdown(value: object) -> str:
    """Escape a text from data so that Markdown shows it unchanged, on one line. Our own texts are not escaped."""
    if isinstance(value, Markup):
        return value
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("equiframe.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=in_markdown,
    )
