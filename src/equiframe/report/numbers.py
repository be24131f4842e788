"""Numbers as text, the same in tables, sentences, figures and the terminal."""

from __future__ import annotations

from equiframe.record import StudyFigure
from equiframe.uncertainty import Difference, Estimate

MINUS = "−"
_DECIMALS = {"%": 1, "words": 1, "points": 2, "perplexity": 2, "cosine": 4}


def decimals(unit: str) -> int:
    """Three, fewer or more for some units."""
    return _DECIMALS.get(unit, 3)


def number(value: float | None, unit: str = "", *, signed: bool = False) -> str:
    """A number with the decimals of its unit; in powers of ten if these would show only zeros."""
    if value is None:
        return ""
    places = decimals(unit)
    small = value != 0 and abs(value) < 0.5 * 10**-places
    text = f"{value:{'+' if signed else ''}{'.1e' if small else f'.{places}f'}}"
    return text.replace("-", MINUS)


def bounds(low: float | None, high: float | None, unit: str = "", *, signed: bool = False) -> str:
    """An interval as ``[low, high]``; empty if there is none."""
    if low is None or high is None:
        return ""
    return f"[{number(low, unit, signed=signed)}, {number(high, unit, signed=signed)}]"


def interval(estimate: Estimate) -> str:
    """A value with its interval."""
    unit = estimate.unit
    return f"{number(estimate.value, unit)} {bounds(estimate.low, estimate.high, unit)}".rstrip()


def change(difference: Difference, unit: str) -> str:
    """A paired difference with its interval and p-value."""
    ends = bounds(difference.low, difference.high, unit, signed=True)
    text = f"{number(difference.value, unit, signed=True)} {ends}".rstrip()
    p = difference.p_value
    return text if p is None else f"{text}, p < 0.001" if p < 0.001 else f"{text}, p = {p:.3f}"


def ideal(estimate: Estimate | StudyFigure) -> str:
    """The ideal, or the direction if there is no ideal."""
    if estimate.ideal is not None:
        return f"{estimate.ideal:g}"
    return {True: "higher", False: "lower", None: ""}[estimate.higher_is_better]


def direction(estimate: Estimate) -> str:
    """How to read a value."""
    if estimate.ideal is not None and estimate.higher_is_better is None:
        return f"ideal {estimate.ideal:g}; a value on either side is a preference"
    way = {True: "higher is better", False: "lower is better", None: ""}[estimate.higher_is_better]
    return way if estimate.ideal is None else f"{way}, ideal {estimate.ideal:g}"
