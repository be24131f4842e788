"""Runs made by hand: what each item came to is given, the numbers follow."""

from __future__ import annotations

import pytest

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.benchmark import Outcome, summarise
from equiframe.record import Metrics, ModelDescription, Provenance, RunRecord

PAIRS = "pairs:mine.csv"


def _outcomes(benchmark, values):
    """Sentences with a loss per token; or pairs, each with how much the stereotype is preferred, in nats."""
    for at, value in enumerate(values):
        if benchmark == "lm_loss":
            yield Outcome(f"{at}", {}, {"loss": 10.0 * value, "tokens": 10.0})
        else:
            yield Outcome(f"{at}", {"group": "", "unit": f"{at}"}, {"stereotype": value, "anti": 0.0})


@pytest.fixture(scope="session")
def make_run():
    """A run that measured, by benchmark, these values."""

    def make(limit=None, **measured):
        results, items = [], {}
        for name, values in measured.items():
            spec = PAIRS if name == "pairs" else name
            benchmark = load_benchmark(spec)
            result, items[spec] = summarise(
                benchmark,
                list(_outcomes(spec, values)),
                scoring="by hand",
                files=(),
                seconds=1.0,
                seed=0,
                resamples=2000,
            )
            results.append(result)
        model = ModelDescription(
            name="by | hand", kind="masked", architecture="x", parameters=1, vocabulary=1, fingerprint="f" * 64
        )
        metrics = Metrics(verb="evaluate", model=model, benchmarks=results)
        return RunRecord(provenance=Provenance(limit=limit), metrics=metrics, items=items)

    return make


@pytest.fixture(scope="session")
def preferring():
    """So many of so many pairs that prefer the stereotype, spread evenly."""

    def make(preferred, pairs):
        return [1.0 if (i + 1) * preferred // pairs > i * preferred // pairs else -1.0 for i in range(pairs)]

    return make
