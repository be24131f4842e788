"""SentenceDebias and INLP on states made for the purpose, against plain loops, and on tiny models."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equiframe.data import DataSource
from equiframe.errors import DataError, InputError
from equiframe.methods.inlp import INLP, nullspace, predicted, support_vector_machine
from equiframe.methods.projection import (
    counterfactual_pairs,
    row_space,
    sentence_states,
    sentences_by_group,
    swappers,
)
from equiframe.methods.sentence_debias import SentenceDebias, without_differences
from equiframe.models.projected import project


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def is_projection(matrix):
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(matrix @ matrix, matrix, rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------ SentenceDebias


def test_the_planted_direction_is_found():
    direction = torch.nn.functional.normalize(normal(12, seed=1), dim=0)
    neutral = normal(300, 12)
    neutral -= torch.outer(neutral @ direction, direction)
    sizes = 1 + normal(300, seed=2).abs()[:, None]
    matrix, shares = without_differences(neutral + sizes * direction, neutral - sizes * direction, 1)
    torch.testing.assert_close(matrix, torch.eye(12, dtype=torch.float64) - torch.outer(direction, direction))
    assert shares.tolist() == pytest.approx([1.0])
    is_projection(matrix)


def by_loops(first, second, components):
    """Each pair scaled and less its mean, stacked, and the eigenvectors of the plain covariance."""
    rows = []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        a, b = (np.array(x) / np.sqrt(sum(v * v for v in x)) for x in (a, b))
        rows += [a - (a + b) / 2, b - (a + b) / 2]
    stacked = np.array(rows) - np.mean(rows, axis=0)
    values, vectors = np.linalg.eigh(stacked.T @ stacked)
    basis = vectors[:, ::-1][:, :components]
    return np.eye(len(basis)) - basis @ basis.T, (values[::-1] / values.sum())[:components]


@given(st.integers(3, 12), st.integers(2, 6), st.integers(1, 2), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_principal_components_as_the_paper_has_them(pairs, dim, components, seed):
    first, second = normal(pairs, dim, seed=seed), normal(pairs, dim, seed=seed + 1)
    matrix, shares = without_differences(first, second, components)
    expected, expected_shares = by_loops(first, second, components)
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    np.testing.assert_allclose(shares, expected_shares, atol=1e-8)
    is_projection(matrix)


def test_more_components_than_differences():
    first = torch.eye(4, dtype=torch.float64)
    with pytest.raises(InputError, match="span 1 dimensions"):
        without_differences(first[:1], first[1:2], 2)
    with pytest.raises(InputError, match="span 0 dimensions"):
        without_differences(first, first, 1)


# ----------------------------------------------------------------------------------------------------------- INLP


def clusters(classes=3, count=200, dim=10, distance=3.0, seed=0):
    """States whose class shows in two directions alone; the class means sum up to zero."""
    basis, _ = torch.linalg.qr(normal(dim, 2, seed=7))
    angles = 2 * torch.pi * torch.arange(classes, dtype=torch.float64) / classes
    centres = distance * torch.stack([angles.cos(), angles.sin()], dim=1) @ basis.T
    labels = torch.arange(classes).repeat_interleave(count)
    return normal(len(labels), dim, seed=seed) + centres[labels], labels, basis


def fit(states, labels, projection=None):
    classes = int(labels.max()) + 1
    if projection is None:
        projection = torch.eye(states.shape[1], dtype=torch.float64)
    return support_vector_machine(states, labels, classes, projection, states.T @ states)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifier_is_where_the_gradient_vanishes(classes):
    states, labels, _ = clusters(classes, count=30, dim=5)
    states = states * torch.tensor([1, 10, 100, 0.1, 1.0], dtype=torch.float64)  # outlying dimensions, as BERT has
    weights = fit(states, labels)
    assert weights.shape == (3 if classes == 3 else 1, 5)
    for row, of_class in zip(weights.tolist(), range(3) if classes == 3 else [1], strict=True):
        gradient = np.array(row)
        for x, label in zip(states.tolist(), labels.tolist(), strict=True):
            y = 1 if label == of_class else -1
            gradient -= 2 * y * max(0.0, 1 - y * float(np.dot(row, x))) * np.array(x)
        np.testing.assert_allclose(gradient, 0, atol=1e-3 * float(states.abs().max()))


def test_a_classifier_by_hand():
    """Points 1 and -1 on a line: w^2 / 2 + 2 (1 - w)^2 is least at w = 0.8."""
    states = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)
    weights = fit(states, torch.tensor([1, 0]))
    torch.testing.assert_close(weights, torch.tensor([[0.8, 0]], dtype=torch.float64), rtol=0, atol=1e-6)
    assert predicted(states @ weights.T).tolist() == [1, 0]


def test_what_is_left_tells_nothing():
    states, labels, basis = clusters(count=600, dim=30)
    matrix, history = nullspace(states, labels, 3, seed=0)
    is_projection(matrix)
    assert (basis.T @ matrix @ basis).abs().max() < 0.05  # both planted directions are gone
    assert [row["dimensions"] for row in history] == [0, 3, 6, 9]
    assert history[0]["accuracy"] > 0.95
    assert abs(history[-1]["accuracy"] - 1 / 3) < 0.07
    fresh, truth, _ = clusters(count=1000, dim=30, seed=1)
    assert (predicted(fresh @ fit(fresh, truth).T) == truth).double().mean() > 0.95
    right = predicted(fresh @ matrix @ fit(fresh, truth, matrix).T) == truth
    assert abs(float(right.double().mean()) - 1 / 3) < 0.1


def test_two_classes_take_one_dimension_a_classifier():
    states, labels, _ = clusters(2)
    matrix, history = nullspace(states, labels, 4, seed=0)
    assert [row["dimensions"] for row in history] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5]
    assert float(matrix.trace()) == pytest.approx(6)
    assert abs(history[-1]["accuracy"] - 0.5) < 0.15
    is_projection(matrix)


def test_it_ends_where_nothing_is_left():
    states, labels, _ = clusters(3, dim=4)
    matrix, history = nullspace(states, labels, 80, seed=0)
    assert len(history) == 3
    assert history[-1]["dimensions"] == 4
    torch.testing.assert_close(matrix, torch.zeros_like(matrix), rtol=0, atol=1e-9)
    few, few_labels, _ = clusters(2, count=5, dim=20)  # seven states to fit span seven dimensions
    matrix, history = nullspace(few, few_labels, 80, seed=0)
    assert 7 <= history[-1]["dimensions"] <= 8  # one for rounding
    is_projection(matrix)


def test_the_nullspaces_intersect():
    """The formula against classifiers projected out one after the other."""
    states, labels, _ = clusters(3, dim=12)
    matrix, _ = nullspace(states, labels, 3, seed=4)
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(4))
    kept = order[int(0.3 * len(order)) :]
    left, product = states[kept], torch.eye(12, dtype=torch.float64)
    for _ in range(3):
        step = torch.eye(12, dtype=torch.float64) - row_space(fit(left, labels[kept]))
        left, product = left @ step, product @ step
    torch.testing.assert_close(matrix, product, rtol=0, atol=1e-4)


@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_row_space_is_the_projection_onto_the_rows(rows, dim, seed):
    drawn = normal(rows, dim, seed=seed)
    drawn = torch.cat([drawn, 2 * drawn[:1], torch.zeros(1, dim, dtype=torch.float64)])
    space = row_space(drawn)
    is_projection(space)
    torch.testing.assert_close(drawn @ space, drawn)
    assert float(space.trace()) == pytest.approx(min(rows, dim))
    assert not row_space(torch.zeros(2, dim, dtype=torch.float64)).any()


# ------------------------------------------------------------------------------------------------------- sentences


def test_sentences_by_their_words():
    sentences = ["She came.", "His MOTHER came.", "A man came.", "It rained.", "It rained.", "The managers came."]
    assert sentences_by_group(sentences, "gender") == {
        "female": ["She came."],
        "male": ["A man came."],
        "neutral": ["It rained.", "The managers came."],
    }
    assert sentences_by_group(["A mosque.", "A rabbi and a priest.", "Rain."], "religion") == {
        "group": ["A mosque.", "A rabbi and a priest."],
        "neutral": ["Rain."],
    }


def test_counterparts():
    sentences = ["She met Mary.", "It rained.", "She met Mary."]
    assert counterfactual_pairs(sentences, "gender", 10, 0) == [("She met Mary.", "He met Mary.")]
    found = counterfactual_pairs(["the mosque is old"], "religion", 10, 0)
    assert set(found) >= {("the mosque is old", f"the {word} is old") for word in ("church", "synagogue")}
    assert len(swappers("race")) >= 3
    many = [f"he has {i} books" for i in range(50)]
    drawn = counterfactual_pairs(many, "gender", 5, 0)
    assert len(set(drawn)) == 5
    assert drawn != counterfactual_pairs(many, "gender", 5, 1)


def test_states_are_means_over_all_tokens(language_model, text):
    texts = [*text, "he " * 100]
    found = sentence_states(language_model, texts, token_budget=50)
    for row, sentence in zip(found, texts, strict=True):
        ids = torch.tensor([language_model.tokenizer.encode(sentence)[:64]])
        if language_model.kind == "masked" and sentence not in text:
            ids[0, -1] = 3  # cut before the last special token
        with torch.no_grad():
            states = language_model.model.base_model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(row, states.double().mean(dim=0), rtol=1e-4, atol=1e-5)


def test_states_in_half_precision_are_summed_in_float32(masked_model, text):
    def large(_, __, output):
        output.last_hidden_state = torch.full_like(output.last_hidden_state, 3000)

    masked_model.model.half().base_model.register_forward_hook(large)
    found = sentence_states(masked_model, ["he " * 60])  # the sum, 190,000, is more than float16 holds
    torch.testing.assert_close(found, torch.full_like(found, 3000))


# ----------------------------------------------------------------------------------------------------- the methods


@pytest.fixture
def own_text(tmp_path):
    """Sixty sentences, a third of each class."""
    people = {"female": ("she", "the woman", "her sister"), "male": ("he", "the man", "his brother")}
    people["neutral"] = ("a cook", "the nurse", "the doctor")
    jobs = "a nurse", "a doctor", "a teacher", "an engineer", "a cook", "in the street", "with a ball"
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{who} is {job}\n" for group in people.values() for who in group for job in jobs))
    return str(path)


METHODS = [SentenceDebias(components=2), INLP(classifiers=2)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_on_a_model(method, language_model, own_text):
    method = dataclasses.replace(method, text=own_text)
    fitted = method.projection(language_model, source=DataSource(), seed=method.seed)
    is_projection(fitted.matrix)
    assert [file.name for file in fitted.files] == ["text.txt"]
    assert round(float(fitted.matrix.trace())) == (14 if method.name == "sentence-debias" else 10)
    again = method.projection(language_model, source=DataSource(), seed=method.seed)
    torch.testing.assert_close(again.matrix, fitted.matrix, rtol=0, atol=0)
    before = language_model.fingerprint()
    project(language_model.model, fitted.matrix)
    assert language_model.fingerprint() != before
    states = sentence_states(language_model, ["she is a nurse"])
    torch.testing.assert_close(states @ fitted.matrix, states, rtol=1e-4, atol=1e-5)


def test_inlp_forgets_the_gender(masked_model, own_text):
    history = INLP(text=own_text, classifiers=3).projection(masked_model, source=DataSource(), seed=0).history
    assert history[0]["accuracy"] > 0.8 > history[-1]["accuracy"]


def test_gap_is_the_default_text(masked_model, gap_folder):
    fitted = SentenceDebias().projection(masked_model, source=DataSource(gap_folder), seed=0)
    assert {file.name for file in fitted.files} == {"gap/development", "gap/test"}
    assert 0 < fitted.history[0]["explained"] <= 1


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_text_without_the_words(method, masked_model, tmp_path):
    path = tmp_path / "rain.txt"
    path.write_text("it rained all day\n")
    with pytest.raises(InputError, match="give more with the option text"):
        dataclasses.replace(method, text=str(path)).projection(masked_model, source=DataSource(), seed=0)
    with pytest.raises(DataError, match="no text"):
        dataclasses.replace(method, text="nowhere").projection(masked_model, source=DataSource(), seed=0)


def test_options_that_make_no_sense():
    for wrong in ({"components": 0}, {"sentences": 0}):
        with pytest.raises(InputError):
            SentenceDebias(**wrong)
    for wrong in ({"classifiers": 0}, {"sentences": 9}):
        with pytest.raises(InputError):
            INLP(**wrong)
