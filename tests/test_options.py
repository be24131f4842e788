"""Options as values and as the text of a command, and what is said of wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from equiframe.errors import InputError
from equiframe.methods.method import METHODS, load_method
from equiframe.options import validated


@dataclass(frozen=True)
class Options:
    """Each kind of option there is."""

    title: ClassVar[str] = "no option"
    text: str = "gap"
    side: Literal["one", "two"] = "one"
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    steps: int | None = None
    is_on: bool = False

    def __post_init__(self):
        if self.steps == 13:
            raise InputError("give another number")


@dataclass(frozen=True)
class Nothing:
    """No option."""


def test_defaults_stay_and_text_is_read_by_type():
    assert validated(Options, {}, of="x") == Options()
    given = {"text": "7", "side": "two", "share": "0.25", "steps": "12", "is_on": "true"}
    assert validated(Options, given, of="x") == Options("7", "two", 0.25, 12, True)
    assert validated(Options, {"steps": 3, "is_on": True, "share": 1}, of="x") == Options(
        steps=3, is_on=True, share=1.0
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": 1}, r"x has no option 'size'\. Available: text, side, share, steps, is_on"),
        ({"title": "y"}, "x has no option 'title'"),
        ({"side": "three"}, r"x\.side: .*'one' or 'two', found 'three'"),
        ({"share": "2"}, r"x\.share: .*less than or equal to 1, found '2'"),
        ({"share": "nan"}, r"x\.share: .*found 'nan'"),
        ({"steps": "1.5"}, r"x\.steps.*found '1\.5'"),
        ({"is_on": "maybe"}, r"x\.is_on: .*found 'maybe'"),
        ({"steps": 13}, "give another number"),
    ],
)
def test_what_does_not_fit_is_named(values, said):
    with pytest.raises(InputError, match=said) as caught:
        validated(Options, values, of="x")
    assert "\n" not in str(caught.value)


def test_no_options_at_all():
    assert validated(Nothing, {}, of="x") == Nothing()
    with pytest.raises(InputError, match=r"x has no option 'a'\. Available: none"):
        validated(Nothing, {"a": 1}, of="x")


@given(st.dictionaries(st.sampled_from(["text", "side", "share", "steps", "is_on"]) | st.text(), st.text(), max_size=3))
def test_any_text_gives_options_or_our_own_error(values):
    try:
        found = validated(Options, values, of="x")
    except InputError:
        return
    assert 0 <= found.share <= 1
    assert found.side in ("one", "two")


@pytest.mark.parametrize("name", ["cda", "dropout", "ase", "sentence-debias"])
def test_every_option_of_a_method_can_be_given_as_text(name):
    default = load_method(name)
    as_text = {option: str(value) for option, value in vars(default).items()}
    assert load_method(name, as_text) == default
    assert name in METHODS


def test_a_wrong_method_has_a_neighbour():
    with pytest.raises(InputError, match=r"no debiasing method 'cdaa': did you mean 'cda'\? Available: ade"):
        load_method("cdaa")
