"""Runs made by hand: what each item came to is given, the numbers follow."""

from __future__ import annotations

import pandas as pd
import pytest

from equiframe.analysis.measures import CONTEXT_COUNTS, context_measures
from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.benchmark import Outcome, summarise
from equiframe.record import ContextsResult, Metrics, ModelDescription, Provenance, RunRecord
from equiframe.uncertainty import estimate

PAIRS = "pairs:mine.csv"
MODEL = ModelDescription(
    name="by | hand", kind="masked", architecture="x", parameters=1, vocabulary=1, fingerprint="f" * 64
)


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

    def make(limit=None, available=None, **measured):
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
                available=available,
            )
            results.append(result)
        metrics = Metrics(verb="evaluate", model=MODEL, benchmarks=results)
        return RunRecord(provenance=Provenance(limit=limit), metrics=metrics, items=items)

    return make


@pytest.fixture(scope="session")
def make_contexts():
    """An audit whose texts of gender have these divergences between a text and its counterfactual."""

    def make(divergences):
        table = pd.DataFrame({"item": [f"gender: {at}" for at in range(len(divergences))], "bias": "gender"})
        for column in ("square", "half_square", "neutral", "absolute_log_odds", "cosine_gap", *CONTEXT_COUNTS):
            table[column] = 0.0
        table = table.assign(agreement=0.0, log_odds=0.0, aligned=1.0, square=1.0, js=list(divergences))
        estimates = {m.key: estimate(m, seed=0, resamples=500) for m in context_measures(table)}
        contexts = [ContextsResult(bias="gender", pairs=len(table), estimates=estimates)]
        metrics = Metrics(verb="audit", model=MODEL, contexts=contexts)
        return RunRecord(provenance=Provenance(), metrics=metrics, items={}, pairs=table)

    return make


@pytest.fixture(scope="session")
def preferring():
    """So many of so many pairs that prefer the stereotype, spread evenly."""

    def make(preferred, pairs):
        return [1.0 if (i + 1) * preferred // pairs > i * preferred // pairs else -1.0 for i in range(pairs)]

    return make
