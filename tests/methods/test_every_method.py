"""What holds for every method that trains: its batches, whatever the tokenizer's habits; its weight among others."""

from __future__ import annotations

import pytest
import torch

from equiframe.collapse import UNC3Regularizer
from equiframe.data import DataSource
from equiframe.errors import DataError
from equiframe.methods import METHODS, Method, WithUNC3, load_method
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.projection import sentence_states
from equiframe.methods.text import encoded
from equiframe.models import load, output_embedding
from equiframe.models.encoding import PadRight

TRAINED = sorted(name for name in METHODS if isinstance(load_method(name), Method))
LINES = (
    "a teacher told the man about his job",
    "his sister works as an engineer in the street and likes it",
    "the engineer met her father in the street",
    "her brother is a doctor",
    "the nurse is a cook",
    "a teacher and a ball and a cook and the king and the queen",
)
PAIRS = "his sister is a nurse,his sister works,her brother is a nurse,her brother works and likes it\n"


@pytest.fixture
def options(tmp_path, gap_folder):
    """Options of each method by which it trains on a few lines of different length."""
    text, pairs = tmp_path / "text.txt", tmp_path / "pairs.csv"
    text.write_text("\n".join(LINES * 2) + "\n")
    pairs.write_text("orig_sent0,orig_sent1,aug_sent0,aug_sent1\n" + PAIRS * 3)
    known = {
        "bec": {},
        "cda": {"text": str(text)},
        "dropout": {"text": str(text)},
        "ase": {"text": str(text), "fisher_sentences": 2},
        "adept": {"text": str(text), "fewest": 1, "rho": 1.0},
        "mabel": {"data": str(pairs)},
    }
    return {name: known.get(name, {}) for name in TRAINED}


def losses(lm, name, options, folder, max_length=64):
    """The losses of two batches, and the weight of each."""
    method = load_method(name, options)
    data, _ = method.training_data(lm, source=DataSource(folder), max_length=max_length, seed=0)
    torch.manual_seed(5)
    objective = method.objective(lm, data, pairing="aligned", feature="decoder-input")
    rows = sorted(data.to_list(), key=lambda row: len(row["input_ids"]))
    found = []
    for part in (rows[::2], rows[1::2]):  # short ones and long ones in each
        batch = method.collator(lm)(part)
        found.append((float(objective(lm.model, batch).loss.detach()), objective.weight(batch)))
    return found


def no_padding_token(lm):
    lm.tokenizer.pad_token = None


def padding_beyond_the_rows(lm):
    lm.tokenizer.add_special_tokens({"pad_token": "<not in the embedding>"})
    assert lm.tokenizer.pad_token_id >= len(output_embedding(lm.model).weight)


def left(lm):
    lm.tokenizer.padding_side = lm.tokenizer.truncation_side = "left"


@pytest.mark.parametrize("habit", [left, no_padding_token, padding_beyond_the_rows])
@pytest.mark.parametrize("name", TRAINED)
def test_a_tokenizers_habits_change_no_loss(name, habit, language_model, options, gap_folder):
    again = load(language_model.name, device="cpu")
    habit(again)
    expected = losses(language_model, name, options[name], gap_folder)
    assert losses(again, name, options[name], gap_folder) == expected
    assert all(loss > 0 and weight > 0 for loss, weight in expected)


@pytest.mark.parametrize("name", ["cda", "mabel"])
def test_long_texts_lose_their_end_whatever_the_tokenizer_cuts(name, language_model, options, gap_folder):
    expected = losses(language_model, name, options[name], gap_folder, max_length=5)
    left(language_model)
    assert losses(language_model, name, options[name], gap_folder, max_length=5) == expected
    assert language_model.tokenizer.truncation_side == "left"


def test_states_of_sentences_are_those_of_each_alone(language_model):
    no_padding_token(language_model)
    both = sentence_states(language_model, LINES)
    for state, line in zip(both, LINES, strict=True):
        torch.testing.assert_close(state, sentence_states(language_model, [line])[0], rtol=1e-4, atol=1e-5)


def test_padding_is_on_the_right_and_not_attended(language_model):
    left(language_model)
    batch = PadRight(language_model)([[5, 6, 7], [8]])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["input_ids"][:, 0].tolist() == [5, 8]


def test_texts_without_a_token_to_predict_are_left_out_and_alone_refused(language_model):
    known, nothing = LINES[0], "漢" if language_model.kind == "masked" else "a"
    only = language_model.tokenizer(known)["input_ids"]
    kept = encoded(language_model, [nothing, known], max_length=64, name="text.txt")
    assert kept["input_ids"][:] == [only]
    with pytest.raises(DataError, match=r"text\.txt: the texts hold no token .* could learn to predict"):
        encoded(language_model, [nothing, nothing], max_length=64, name="text.txt")


def test_weight_of_language_modelling_is_its_predicted_tokens(language_model):
    objective = LanguageModelling(language_model, mask_share=1.0)
    batch = PadRight(language_model)([language_model.tokenizer(line)["input_ids"] for line in LINES])
    lengths = batch["attention_mask"].sum(1)
    expected = int((lengths - (2 if language_model.kind == "masked" else 1)).sum())
    assert objective.weight(batch) == expected
    dim = output_embedding(language_model.model).weight.shape[1]
    assert WithUNC3(objective, UNC3Regularizer(torch.tensor([5, 6]), dim, weight=1.0)).weight(batch) == expected


def test_random_replacements_have_an_embedding(masked_model):
    padding_beyond_the_rows(masked_model)
    assert LanguageModelling(masked_model).vocabulary == len(output_embedding(masked_model.model).weight)
