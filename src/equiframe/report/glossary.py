"""What the numbers are called in plain words, and what they do not show. Tables of text, nothing else."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace

from equiframe.benchmarks import BenchmarkResult, load_benchmark, suite
from equiframe.benchmarks.about import About, Term
from equiframe.errors import InputError
from equiframe.record import COLLAPSE, CONTEXTS

COLLAPSE_VALUES: dict[str, tuple[float | None, bool]] = {
    "unc3": (0.0, False),
    "nc3_self_duality": (1.0, True),
    "nc1_cdnv_mean": (0.0, False),
    "nc1_log_cdnv_mean": (None, False),
    "nc2_norm_cv": (0.0, False),
    "nc2_etf_angle_mean": (0.0, False),
    "nc2_etf_angle_std": (0.0, False),
    "gnc2_log_mean": (None, False),
    "gnc2_log_cv": (0.0, False),
    "nc4_agreement": (1.0, True),
}
"""The principal collapse values in the order shown: the ideal, and whether higher is more collapsed."""

PRICE = "Price in language and time"
"""What the section of language understanding and time is called."""

ABOUT_COLLAPSE = About(
    "Geometry: neural collapse",
    "Geometry is not behaviour: a lower (U)NC3 does not by itself mean that predictions treat groups"
    " alike. Intervals resample words, so they speak of this list of words on this text. Sets of"
    " different size are not comparable with each other: compare runs within a set.",
    {
        "unc3": Term("(U)NC3, uniform duality", "spread of the cosines between word means and word embeddings"),
        "nc3_self_duality": Term("NC3, self-duality", "mean cosine between word means and word embeddings"),
        "nc1_cdnv_mean": Term(
            "NC1, variability (CDNV)",
            "scatter within words over distance between words, mean over pairs",
        ),
        "nc1_log_cdnv_mean": Term(
            "NC1, variability (log CDNV)", "mean of its logarithm, which a few close pairs move less"
        ),
        "nc2_norm_cv": Term("NC2, equal norms", "spread over mean of the lengths of the word means"),
        "nc2_etf_angle_mean": Term(
            "NC2, equal angles (mean)",
            "distance of the cosines between word means from a simplex frame's",
        ),
        "nc2_etf_angle_std": Term("NC2, equal angles (spread)", "standard deviation of that distance over pairs"),
        "gnc2_log_mean": Term(
            "GNC2, uniformity (mean)", "mean of log(1 / distance) between the directions of word means"
        ),
        "gnc2_log_cv": Term("GNC2, uniformity (spread)", "spread over mean of that logarithm over pairs"),
        "nc4_agreement": Term(
            "NC4, decision agreement",
            "share of tokens whose nearest word mean is the word the classifier decides for",
        ),
    },
    (
        ("Xu et al. 2025", "https://arxiv.org/abs/2410.04472"),
        ("Wu and Papyan 2024", "https://arxiv.org/abs/2405.17767"),
    ),
)

ABOUT_CONTEXTS = About(
    "Contexts and their counterfactuals",
    "A text and the same text with the words of two groups swapped are read side by side. Swapping knows no"
    " grammar, and a swapped text may be odd. Agreement is no bias: where it falls, the model has gone blind to"
    " what the text says.",
    {
        "cc1_js": Term(
            "CC1, variability of predictions",
            "Jensen-Shannon divergence of what follows in the two texts, words of the groups left out",
        ),
        "cc1_states": Term(
            "CC1, variability of states",
            "half the squared distance of the two states over that from the mean of all",
        ),
        "cc3_log_odds": Term(
            "CC3, pair duality (log-odds)", "size of the preference between two counterparts in a neutral context"
        ),
        "cc3_cosine_gap": Term(
            "CC3, pair duality (cosines)", "how much nearer a neutral context lies to one of two counterparts"
        ),
        "agreement": Term("agreement with the context", "share of later swapped words where the agreeing one wins"),
        "agreement_log_odds": Term("log-odds of the agreeing word", "mean over later swapped words", True),
    },
    (("Qian et al. 2019", "https://aclanthology.org/P19-2031"),),
)

HISTORY: dict[str, Term] = {
    "loss": Term("Loss", "of the whole objective"),
    "language_modelling": Term("Language-modelling loss", "the host method's own loss"),
    "unc3": Term("(U)NC3 over fine-tuning", "of the term's running word means, before its weight"),
    "mean_cosine": Term("NC3 over fine-tuning", "mean cosine of the running word means and word embeddings"),
}
"""Columns of the training history."""


def about(benchmark: str | BenchmarkResult) -> About:
    """What is known of a benchmark: what its result says, or, by its name with variant, what its class says today."""
    told = None
    if isinstance(benchmark, BenchmarkResult):
        told, benchmark = benchmark.about, benchmark.benchmark
    base, _, variant = benchmark.partition(":")
    if base == COLLAPSE:
        return replace(ABOUT_COLLAPSE, title=class_set_name(variant)) if variant else ABOUT_COLLAPSE
    if base == CONTEXTS:
        return replace(ABOUT_CONTEXTS, title=f"{ABOUT_CONTEXTS.title} ({variant})") if variant else ABOUT_CONTEXTS
    known = (
        told
        or _of_class(benchmark)
        or About(base, "A number on these items speaks of these items, not of the model in use.")
    )
    return replace(known, title=f"{known.title} ({variant})") if variant else known


@functools.cache
def _of_class(benchmark: str) -> About | None:
    """What the class of a benchmark says today, also where it has the variant no more."""
    for name in (benchmark, benchmark.partition(":")[0]):
        with contextlib.suppress(InputError):
            return load_benchmark(name).about
    return None


def headline(result: BenchmarkResult) -> tuple[str, ...]:
    """Keys of the measures that stand for a benchmark, from its class where an older version wrote the result."""
    if result.headline:
        return result.headline
    with contextlib.suppress(InputError):
        return load_benchmark(result.benchmark).headline
    return ()


def is_geometry(benchmark: str) -> bool:
    """Whether a compared benchmark is a class set, or contexts."""
    return benchmark.partition(":")[0] in (COLLAPSE, CONTEXTS)


def is_price(benchmark: str) -> bool:
    """Whether a benchmark measures what the model understands of language, which debiasing may cost."""
    return benchmark.partition(":")[0] in suite("nlu")


def split_key(key: str) -> tuple[str, str]:
    """A measure's key as group, in words, and kind: ``race-color.ss`` becomes ``("race color", "ss")``."""
    group, _, kind = key.rpartition(".")
    return plain(group), kind


def term(benchmark: str | BenchmarkResult, key: str) -> Term:
    """The plain name of a measure, whatever its group; the key itself where it has none."""
    kind = split_key(key)[1]
    return about(benchmark).terms.get(kind, Term(plain(kind), ""))


def class_set_name(class_set: str) -> str:
    """``vocabulary`` as "whole vocabulary", a word set as "... words"."""
    return "whole vocabulary" if class_set == "vocabulary" else f"{plain(class_set)} words"


def plain(name: str) -> str:
    """An identifier as words: ``physical-appearance`` becomes ``physical appearance``."""
    return name.replace("_", " ").replace("-", " ")


def sentence_case(name: str) -> str:
    """The first letter as a capital, the others as they are."""
    return name[:1].upper() + name[1:]
