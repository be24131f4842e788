"""Plans keep what was asked, in order and within the budget, whatever was asked."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from equiframe.requests import Embedding, NextSentence, TokenLogProbs
from equiframe.scoring.planner import Row, batches, plan, positions_read


@st.composite
def requests(draw):
    """Sequences over a small alphabet, so that many are equal or begin alike."""
    ids = tuple(draw(st.lists(st.integers(0, 2), min_size=1, max_size=12)))
    if draw(st.booleans()):
        return Embedding(ids, draw(st.sampled_from(["cls", "mean", "last"])))
    positions = tuple(draw(st.lists(st.integers(0, len(ids) - 1), max_size=4)))
    return TokenLogProbs(ids, positions, tuple(draw(st.integers(0, 9)) for _ in positions))


def path_to(row, place):
    """Tokens from the first of a sequence to a place."""
    parents = tuple(range(-1, len(row.tokens) - 1)) if row.parents is None else row.parents
    path = []
    while place >= 0:
        path.append(row.tokens[place])
        assert parents[place] < place
        place = parents[place]
    return tuple(reversed(path))


@settings(max_examples=300, deadline=None)
@given(st.lists(requests(), max_size=25), st.sampled_from([0, 1, 6, 20, 128]))
def test_each_read_sees_the_tokens_before_it(asked, tree_tokens):
    planned = plan(asked, tree_tokens=tree_tokens)
    assert len(planned.reads) == len(asked)
    for request, (number, places) in zip(asked, planned.reads, strict=True):
        row = planned.rows[number]
        assert set(places) <= set(row.places)
        positions = positions_read(request)
        assert len(places) == len(positions)
        for place, position in zip(places, positions, strict=True):
            assert path_to(row, place) == request.input_ids[: position + 1]
        if not tree_tokens:
            assert row.tokens == request.input_ids


@settings(max_examples=200, deadline=None)
@given(st.lists(requests(), max_size=25), st.sampled_from([0, 6, 20, 128]))
def test_nothing_is_read_twice_or_for_nothing(asked, tree_tokens):
    planned = plan(asked, tree_tokens=tree_tokens)
    order = [(row.parents is None, -len(row.tokens)) for row in planned.rows]
    assert order == sorted(order)
    for number, row in enumerate(planned.rows):
        assert list(row.places) == sorted({p for n, places in planned.reads if n == number for p in places})
        if not tree_tokens:
            assert row.parents is None
    if tree_tokens:
        for row in planned.rows:
            if row.parents is None:
                continue
            assert len(row.parents) == len(row.tokens)
            assert row.parents != tuple(range(-1, len(row.tokens) - 1))
            paths = [path_to(row, place) for place in range(len(row.tokens))]
            assert len(set(paths)) == len(paths)
            if row.parents.count(-1) > 1 or len(row.tokens) > tree_tokens:
                longest = max((len(path) for path in paths), default=0)
                assert len(row.tokens) <= tree_tokens or longest == len(row.tokens)
    else:
        assert len({row.tokens for row in planned.rows}) == len(planned.rows)


@settings(max_examples=200, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=25), st.integers(1, 60), st.integers(1, 10), st.booleans())
def test_batches_keep_both_budgets_and_leave_no_row_out(asked, token_budget, place_budget, as_trees):
    rows = plan(asked, tree_tokens=20 if as_trees else 0).rows
    bounds = batches(rows, token_budget=token_budget, place_budget=place_budget)
    assert [at for start, end in bounds for at in range(start, end)] == list(range(len(rows)))
    for start, end in bounds:
        assert start < end
        if end > start + 1:
            assert (end - start) * max(len(row.tokens) for row in rows[start:end]) <= token_budget
            assert sum(len(row.places) for row in rows[start:end]) <= place_budget
            assert len({row.parents is None for row in rows[start:end]}) == 1


def test_a_sequence_asked_twice_is_one_row():
    masked = (1, 9, 3)
    planned = plan([TokenLogProbs(masked, (1,), (4,)), TokenLogProbs(masked, (1, 2), (5, 6)), Embedding((1, 2))])
    assert planned.rows == (Row(masked, None, (1, 2)), Row((1, 2), None, (0, 1)))
    assert planned.reads == ((0, (1,)), (0, (1, 2)), (1, (0, 1)))


def test_three_candidates_of_a_sentence_share_it_up_to_the_blank():
    sentences = [(0, 5, 6, 1, 8), (0, 5, 6, 2, 8), (0, 5, 6, 3, 4, 8)]
    asked = [TokenLogProbs(ids, tuple(range(len(ids) - 1)), ids[1:]) for ids in sentences]
    (row,) = plan(asked, tree_tokens=128).rows
    assert row.tokens == (0, 5, 6, 1, 2, 3, 4)  # the last token of a sentence is never read after it
    assert row.parents == (-1, 0, 1, 2, 2, 2, 5)


def test_what_comes_after_the_last_place_read_is_left_out():
    asked = [TokenLogProbs((0, 1, 2, 3), (1,), (2,)), TokenLogProbs((0, 1, 9), (0,), (1,))]
    (row,) = plan(asked, tree_tokens=128).rows
    assert row == Row((0, 1), None, (0, 1))


def test_a_pair_is_read_by_its_token_types_too():
    ids = (1, 2, 3)
    planned = plan([NextSentence(ids, (0, 0, 1)), NextSentence(ids, (0, 1, 1)), NextSentence(ids, (0, 0, 1))])
    assert planned.rows == (Row(ids, None, (0,), (0, 0, 1)), Row(ids, None, (0,), (0, 1, 1)))
    assert planned.reads == ((0, (0,)), (1, (0,)), (0, (0,)))
