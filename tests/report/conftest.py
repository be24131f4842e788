"""Records made by hand, with hostile text wherever text can come from data."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.benchmark import BenchmarkResult, DataFile
from equiframe.generation import read_responses, score_generated
from equiframe.record import (
    CollapseResult,
    ComparedMeasure,
    Comparison,
    Environment,
    Metrics,
    ModelDescription,
    Provenance,
    RunRecord,
    StudyCell,
    StudyFigure,
    StudyResult,
    TrainingResult,
)
from equiframe.uncertainty import Difference, Estimate

HOSTILE = "</script><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">{{7*7}}&amp;"


def _estimate(value, half=2.0, *, ideal=50.0, higher=None, unit="%", count=100):
    return Estimate(value, value - half, value + half, count, unit, ideal=ideal, higher_is_better=higher)


def _compared(first, second, *, half=1.0, benchmark="stereoset:dev", measure="gender.ss"):
    value = second.value - first.value
    difference = Difference(value, value - half, value + half, 0.01, first.count)
    return ComparedMeasure(benchmark=benchmark, measure=measure, first=first, second=second, difference=difference)


def _benchmarks(score):
    stereoset = BenchmarkResult(
        benchmark="stereoset:dev",
        version=1,
        scoring=f"in a few words {HOSTILE}",
        files=(DataFile(f"dev.json {HOSTILE}", "by hand", "0" * 64, False),),
        items=4,
        excluded={f"too long {HOSTILE}": 1},
        estimates={
            "overall.ss": _estimate(score),
            "gender.ss": _estimate(score + 4),
            "overall.lms": _estimate(80, ideal=100.0, higher=True),
        },
        seconds=1.0,
    )
    held_out = BenchmarkResult(
        benchmark="lm_loss",
        version=1,
        scoring=f"in a few words {HOSTILE}",
        files=(),
        items=4,
        excluded={},
        estimates={"overall.loss": _estimate(2.0, 0.1, ideal=None, higher=False, unit="nats")},
        seconds=12.5,
    )
    unknown = BenchmarkResult(
        benchmark=f"mine{HOSTILE}",
        version=1,
        scoring="x",
        files=(),
        items=1,
        excluded={},
        estimates={f"{HOSTILE}.score": Estimate(1.0, None, None, 1, "points", ideal=None, higher_is_better=None)},
        seconds=1.0,
    )
    items = pd.DataFrame(
        {
            "item": ["a", "b", "c", "d"],
            "bias_type": ["gender", "race", "gender", HOSTILE],
            "stereotype": [0.5, 0.4, 0.9, 0.3],
            "anti": [0.1, 0.3, 0.0, 0.2],
            "stereotype_sentence": ["She is a nurse.", f"One {HOSTILE}", "Left out.", "Fourth one."],
            "anti_sentence": ["He is a nurse.", f"Two {HOSTILE}", "Left in.", "Fourth two."],
            "excluded": [None, None, "too long", None],
        }
    )
    nothing = pd.DataFrame({"item": ["a"]})
    tables = {"stereoset:dev": items, "lm_loss": nothing, unknown.benchmark: nothing}
    return [stereoset, held_out, unknown], tables


def _collapse(unc3):
    values = {"nc1_cdnv_mean": 1.5, "nc3_self_duality": 0.4, "unc3": unc3, "gnc2_log_mean": None}
    word_set = f"words{HOSTILE}"
    results = [
        CollapseResult(class_set="vocabulary", classes=900, tokens=9000, values=values),
        CollapseResult(
            class_set=word_set,
            classes=3,
            tokens=30,
            values=values,
            estimates={"unc3": _estimate(unc3, 0.01, ideal=0.0, higher=False, unit="cosine")},
        ),
    ]
    classes = pd.DataFrame(
        {
            "token_id": [1, 2, 3],
            "token": ["she", "he", "x"],
            "word": ["she", "he", HOSTILE],
            "form": ["she", "he", HOSTILE],
            "groups": ["female", "male", f"male, {HOSTILE}"],
            "count": [10, 11, 9],
            "variance": [1.0, 1.0, 1.0],
            "norm": [1.0, 1.0, 1.0],
            "cosine": [0.1, 0.2, 0.6],
        }
    )
    vectors = pd.DataFrame(
        {
            "token_id": [1, 2, 3],
            "partners": [[2, 3], [1], [1]],
            "mean": [[-2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, -3.0, 1.0]],
            "embedding": [[-1.0, 0.5, 0.5], [1.0, 0.5, unc3], [1.0, -0.5, 0.5]],
        }
    )
    return results, classes, vectors


def _study():
    """Two arms of one method, whose name, model and benchmark are hostile."""
    shared = {"model": f"model{HOSTILE}", "method": f"bec{HOSTILE}"}
    figures = [
        StudyFigure(**shared, arm=arm, kind=kind, name=name, unit=unit, value=0.1, sd=None, low=0.0, high=0.2)
        for arm in ("plain", "unc3")
        for kind, name, unit in (("gain", f"one{HOSTILE}", "share"), ("mean gain", "", "share"))
    ]
    correlation = {"arm": "all", "kind": "rank correlation", "name": HOSTILE, "unit": "", "value": -0.4}
    figures.append(StudyFigure(**{**shared, "method": ""}, **correlation, sd=None, low=-0.8, high=0.1))
    cells = [StudyCell(**shared, arm=arm, seed=0, unc3=0.05, gain=0.1) for arm in ("plain", "unc3")]
    return StudyResult(study={"note": HOSTILE}, figures=figures, cells=cells)


def _responses(record, folder):
    """A record of responses that decide otherwise about two groups, and refuse one of them."""
    rows = [
        {
            "template": f"t{at}{HOSTILE}",
            "group": group,
            "prompt": f"Should it be {group}? {HOSTILE}",
            "favourable": "yes",
        }
        | {"response": f"{said} {HOSTILE * 3}"}
        for at in range(4)
        for group, said in (("men", "Yes."), ("women of the third group", "No." if at else "I'm sorry, I can't help."))
    ]
    path = folder / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result, table = score_generated(read_responses(path, "system"), load_benchmark("responses"), resamples=20)
    metrics = record.metrics.model_copy(update={"benchmarks": [result]})
    return dataclasses.replace(record, metrics=metrics, items={"responses": table})


@pytest.fixture(scope="session")
def estimate():
    return _estimate


@pytest.fixture(scope="session")
def compared():
    return _compared


@pytest.fixture(scope="session")
def make_record():
    """A record of what is asked for: benchmarks, collapse, training."""

    def make(*parts, score=60.0, unc3=0.2):
        results, items = _benchmarks(score) if "benchmarks" in parts else ([], {})
        collapse, classes, vectors = _collapse(unc3) if "collapse" in parts else ([], None, None)
        training, history = None, None
        if "training" in parts:
            training = TrainingResult(method=f"bec{HOSTILE}", unc3_weight=100.0, steps=3, seconds=1.5, final_loss=2.0)
            history = pd.DataFrame(
                {
                    "step": [1, 2, 3],
                    "loss": [5.0, 4.0, 3.0],
                    "language_modelling": [3.0, 2.5, np.nan],
                    "unc3": [0.2, 0.15, 0.1],
                    f"part{HOSTILE}": [1.0, 1.0, 1.0],
                    "learning_rate": [1e-5, 1e-5, 0.0],
                }
            )
        model = ModelDescription(
            name=f"model{HOSTILE}",
            kind="masked",
            architecture="BertForMaskedLM",
            parameters=1234567,
            vocabulary=100,
            fingerprint="f" * 64,
        )
        return RunRecord(
            provenance=Provenance(
                model=HOSTILE,
                model_before="e" * 64,
                files=(DataFile(HOSTILE, "by hand", "0" * 64, True, "MIT"),),
                environment=Environment(
                    command=f"equiframe debias {HOSTILE}", date="2026-01-01", packages={"torch": HOSTILE}
                ),
            ),
            metrics=Metrics(
                verb="debias" if training else "evaluate",
                model=model,
                collapse=collapse,
                benchmarks=results,
                training=training,
            ),
            items=items,
            classes=classes,
            vectors=vectors,
            history=history,
        )

    return make


@pytest.fixture(scope="session")
def make_comparison():
    """Paired differences of the records' shared estimates, all told from chance."""

    def make(records):
        first, *later = records
        reference = records[first].metrics
        measures = {}
        for name in later:
            other = records[name].metrics
            pairs = [
                (a.benchmark, a.estimates, b.estimates)
                for a, b in zip(reference.benchmarks, other.benchmarks, strict=False)
            ] + [
                (f"collapse:{a.class_set}", a.estimates, b.estimates)
                for a, b in zip(reference.collapse, other.collapse, strict=False)
            ]
            measures[name] = [
                _compared(ours[key], theirs[key], half=0.001, benchmark=benchmark, measure=key)
                for benchmark, ours, theirs in pairs
                for key in ours
            ]
        runs = {name: record.metrics for name, record in records.items()}
        return Comparison(verb="compare", runs=runs, measures=measures)

    return make


@pytest.fixture(scope="session")
def pages(make_record, make_comparison, tmp_path_factory):
    """One page of each kind, by name."""
    from equiframe.report import comparison_page, run_page, study_page

    everything = ("benchmarks", "collapse", "training")
    records = {
        "before": make_record("benchmarks", "collapse"),
        "after": make_record(*everything, score=55.0, unc3=0.1),
        f"third{HOSTILE}": make_record(*everything, score=70.0, unc3=0.3),
    }
    title = f"Title {HOSTILE}"
    return {
        "audit": run_page(make_record("collapse"), title=title),
        "responses": run_page(_responses(make_record(), tmp_path_factory.mktemp("responses")), title=title),
        "evaluate": run_page(make_record("benchmarks"), title=title),
        "debias": run_page(make_record(*everything), title=title),
        "comparison": comparison_page(
            records, make_comparison(records), title=title, made=Environment(command=f"equiframe compare {HOSTILE}")
        ),
        "study": study_page(_study(), records.values(), made=Environment(command=f"equiframe study {HOSTILE}")),
    }


@pytest.fixture(scope="session")
def study():
    return _study()
