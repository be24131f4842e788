"""The public face: names that load on first use."""

from __future__ import annotations

import pytest

import equiframe


@pytest.mark.parametrize("name", equiframe.__all__)
def test_public_names_are_there(name):
    assert getattr(equiframe, name).__doc__


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="nothing"):
        _ = equiframe.nothing
