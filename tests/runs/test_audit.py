"""An audit says of a text what the formulas say of its states, over the vocabulary and over the words."""

from __future__ import annotations

import sys

import pandas as pd
import pytest
import torch

from equiframe.analysis.measures import collapse_measures
from equiframe.collapse import duality_cosines, uniform_duality
from equiframe.errors import InputError
from equiframe.models import collect
from equiframe.models.adapter import classifier
from equiframe.runs.audit import AuditOptions, audit_model, collapse_of_words


@pytest.fixture
def options(text, tmp_path):
    """Eight sentences five times, and five words in two groups."""
    (tmp_path / "text.txt").write_text("\n".join(text * 5))
    (tmp_path / "words.txt").write_text("she\the\nher\this\nnurse\n")
    return AuditOptions(text=str(tmp_path / "text.txt"), words=str(tmp_path / "words.txt"), min_count=2, pairs=0)


def test_the_words_have_the_numbers_of_the_formulas(language_model, options, text):
    measured = audit_model(language_model, options)
    vocabulary, words = measured.results
    ids = torch.tensor(measured.classes["token_id"].tolist())
    statistics = collect(language_model, text * 5).statistics.select(ids, min_count=2)
    rows = classifier(language_model.model)[ids]
    assert measured.classes["count"].tolist() == statistics.counts.tolist()
    assert measured.classes["cosine"].tolist() == pytest.approx(duality_cosines(statistics.means, rows).tolist())
    assert words.values["unc3"] == pytest.approx(float(uniform_duality(statistics.means, rows)))
    assert (vocabulary.class_set, vocabulary.texts, words.classes) == ("vocabulary", 40, len(ids))
    assert vocabulary.classes > words.classes
    assert vocabulary.tokens > words.tokens


def test_intervals_hold_the_values_and_the_same_seed_gives_the_same_ones(language_model, options):
    first, again = (audit_model(language_model, options).results[-1].estimates for _ in range(2))
    assert first == again
    for estimate in first.values():
        assert estimate.low <= estimate.value <= estimate.high
    assert set(first) == {"unc3", "nc3_self_duality"}


def test_measures_of_the_table_are_those_of_the_record(language_model, options):
    measured = audit_model(language_model, options)
    for measure in collapse_measures(measured.classes):
        assert float(measure.statistic(measure.rows)) == pytest.approx(measured.results[-1].values[measure.key])


def test_the_words_alone_have_the_same_numbers(language_model, options):
    whole = audit_model(language_model, options).results[-1].values
    alone = collapse_of_words(language_model, options)
    assert alone == pytest.approx({key: whole[key] for key in alone}, abs=1e-6)
    assert "unc3" in alone


def test_counterparts_keep_their_vectors(language_model, options):
    measured = audit_model(language_model, options)
    word_of = dict(zip(measured.classes["token_id"], measured.classes["word"], strict=True))
    partners = {
        word_of[row.token_id]: {word_of[other] for other in row.partners} for row in measured.vectors.itertuples()
    }
    counterpart = {"she": "he", "he": "she", "her": "his", "his": "her"}
    assert partners
    assert partners == {word: {counterpart[word]} for word in partners}
    mean = torch.tensor(measured.vectors["mean"].tolist())
    assert mean.shape[1] == language_model.model.config.hidden_size
    norms = measured.classes.set_index("token_id").loc[measured.vectors["token_id"], "norm"]
    assert mean.norm(dim=1).tolist() == pytest.approx(norms.tolist(), rel=1e-4)


def test_too_few_words_are_an_error_that_says_what_to_give(language_model, options, tmp_path):
    (tmp_path / "words.txt").write_text("king\nqueen\n")
    rare = AuditOptions(text=options.text, words=options.words, min_count=50, pairs=0)
    with pytest.raises(
        InputError, match=r"0 words of .* occur at least 50 times in 40 sentences of text\.txt: .*--min"
    ):
        audit_model(language_model, rare)


def test_a_sample_of_the_text_is_spread_over_it(language_model, options):
    told = []
    few = AuditOptions(text=options.text, words=options.words, min_count=1, pairs=0, sentences=10)
    measured = audit_model(language_model, few, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (10, 10)
    assert measured.results[0].texts == 10


def test_a_text_too_long_to_keep_gives_the_same_numbers(masked_model, tmp_path, monkeypatch):
    sentences, words = tmp_path / "text.txt", tmp_path / "words.txt"
    lines = ["she is a nurse and he is a doctor", "her brother is a cook , and his sister is a nurse"]
    sentences.write_text("".join(f"{line} {'is ' * number}\n" for number in range(20) for line in lines))
    words.write_text("she\the\nher\this\n")
    options = AuditOptions(text=str(sentences), sentences=12, words=str(words), min_count=1)
    kept = audit_model(masked_model, options)
    monkeypatch.setattr(sys.modules[audit_model.__module__], "_KEPT", 7)
    again = audit_model(masked_model, options)
    assert again.results == kept.results
    pd.testing.assert_frame_equal(again.classes, kept.classes)
    assert kept.results[0].tokens > 50
