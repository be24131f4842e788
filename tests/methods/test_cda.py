"""What CDA trains on, by hand; that text is read as it is needed; and whole runs."""

from __future__ import annotations

import dataclasses
import gc
import tempfile
from pathlib import Path

import pytest

from equiframe.data import DataSource
from equiframe.errors import DataError, InputError
from equiframe.methods.bec import BEC
from equiframe.methods.cda import CDA
from equiframe.methods.method import load_method
from equiframe.methods.text import encoded
from equiframe.runs.debias import UNC3Options, debias
from equiframe.training import FineTuning
from equiframe.words import WordSet


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def written(tmp_path):
    def write(*lines):
        file = tmp_path / "text.txt"
        file.write_text("\n".join(lines) + "\n")
        return str(file)

    return write


def ids(lm, texts):
    return lm.tokenizer(list(texts))["input_ids"]


def data(lm, seed=0, **options):
    return CDA(**options).training_data(lm, source=DataSource(), max_length=64, seed=seed)[0]["input_ids"][:]


ORIGINAL = ("she is a nurse", "the ball is a job", "he told Mary about her job")
SWAPPED = ("he is a nurse", "the ball is a job", "she told Mary about his job")


def test_two_sided_keeps_both_and_what_has_no_counterpart_once(language_model, written):
    expected = [ORIGINAL[0], SWAPPED[0], ORIGINAL[1], ORIGINAL[2], SWAPPED[2]]
    assert data(language_model, text=written(*ORIGINAL)) == ids(language_model, expected)


def test_one_sided_replaces(language_model, written):
    assert data(language_model, text=written(*ORIGINAL), sides="one") == ids(language_model, SWAPPED)


def test_names(language_model, written):
    expected = ["she is a nurse", "he is a nurse", "James told the story", "she told James about his job"]
    text = written("he is a nurse", "Mary told the story", "he told Mary about her job")
    assert data(language_model, text=text, sides="one", names=True) == ids(
        language_model, [expected[0], expected[2], expected[3]]
    )


@pytest.mark.parametrize(
    ("bias", "text", "others"),
    [
        ("religion", "the mosque is in the street", ("the church is", "the synagogue is")),
        ("race", "the african nurse is in the street", ("the european nurse", "the asian nurse")),
    ],
)
def test_one_of_several_counterparts_is_drawn_by_the_seed(causal_model, written, bias, text, others):
    lines = [f"{text} {'and ' * i}" for i in range(1, 31)]
    file = written(*lines)
    decode = causal_model.tokenizer.decode
    found = [decode(row) for row in data(causal_model, text=file, bias=bias)]
    assert found[::2] == [" ".join(line.split()) for line in lines]
    counterparts = found[1::2]
    assert all(any(text.startswith(other) for other in others) for text in counterparts)
    assert {sum(text.startswith(other) for text in counterparts) > 4 for other in others} == {True}
    assert data(causal_model, text=file, bias=bias) == data(causal_model, text=file, bias=bias)
    assert data(causal_model, text=file, bias=bias) != data(causal_model, text=file, bias=bias, seed=1)


@pytest.mark.parametrize("sides", ["two", "one"])
def test_texts_with_nothing_to_exchange_can_be_left_out(language_model, written, sides):
    kept = [text for i in (0, 2) for text in ((ORIGINAL[i], SWAPPED[i]) if sides == "two" else (SWAPPED[i],))]
    found = data(language_model, text=written(*ORIGINAL), sides=sides, neutral=False)
    assert found == ids(language_model, kept)


def test_nothing_to_exchange_at_all(masked_model, written, temporary):
    with pytest.raises(
        DataError, match=r"text\.txt: no text of three words or more with a word of race to exchange in it"
    ):
        data(masked_model, text=written(*ORIGINAL), bias="race", neutral=False)
    assert list(temporary.iterdir()) == []


def test_gender_words_are_no_religion(causal_model, written):
    assert data(causal_model, text=written(*ORIGINAL), bias="religion") == ids(causal_model, ORIGINAL)


def test_one_sided_with_names_on_gap_is_bec(masked_model, gap_folder):
    arguments = {"source": DataSource(gap_folder), "max_length": 64, "seed": 0}
    ours, files = CDA(sides="one", names=True).training_data(masked_model, **arguments)
    theirs, same_files = BEC().training_data(masked_model, **arguments)
    assert ours["input_ids"][:] == theirs["input_ids"][:]
    assert files == same_files


def test_long_texts_are_cut(masked_model):
    rows = encoded(masked_model, ["she is a nurse and he is a doctor"], max_length=5, name="x")["input_ids"][:]
    assert rows == [[2, *masked_model.tokenizer.convert_tokens_to_ids(["she", "is", "a"]), 3]]


def test_texts_are_not_kept_in_memory(masked_model):
    alive = [0, 0]

    class Counted(str):
        def __init__(self, _):
            alive[0] += 1
            alive[1] = max(alive)

        def __del__(self):
            alive[0] -= 1

    dataset = encoded(masked_model, (Counted(f"she is a nurse {i}") for i in range(2500)), max_length=8, name="x")
    assert len(dataset) == 2500
    assert alive[1] < 10


def test_the_temporary_folder_goes_with_the_dataset(masked_model, temporary):
    dataset = encoded(masked_model, ["she is a nurse"], max_length=8, name="x")
    (folder,) = temporary.iterdir()
    assert [Path(file["filename"]).parent for file in dataset.cache_files] == [folder]
    other = encoded(masked_model, ["he is a nurse"], max_length=8, name="x")
    assert len(list(temporary.iterdir())) == 2
    del dataset
    gc.collect()
    assert len(list(temporary.iterdir())) == 1
    assert len(other) == 1


def test_a_broken_line_is_named_when_it_is_reached_and_nothing_is_left(masked_model, tmp_path, temporary):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "she is a nurse"}\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: 'text': expected a string"):
        data(masked_model, text=str(file))
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_after_an_interruption(masked_model, temporary, kind):
    def texts():
        yield "she is a nurse"
        raise kind

    with pytest.raises(kind):
        encoded(masked_model, texts(), max_length=8, name="x")
    assert list(temporary.iterdir()) == []


def test_a_text_with_nothing_in_it(masked_model, written, temporary):
    with pytest.raises(DataError, match=r"text\.txt: the file has no text of three or more words"):
        data(masked_model, text=written("too short"))
    assert list(temporary.iterdir()) == []


def test_batches_are_padded_and_attended(language_model):
    collate = CDA().collator(language_model)
    batch = collate([{"input_ids": [5, 6, 7]}, {"input_ids": [5]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("wrong", [{"sides": "three"}, {"bias": "age"}, {"names": "perhaps"}, {"neutral": 2}])
def test_options_are_checked(wrong):
    with pytest.raises(InputError, match=f"cda.{next(iter(wrong))}"):
        load_method("cda", wrong)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_a_whole_run(language_model, written, text, tmp_path, temporary, weight):
    before = language_model.fingerprint()
    method = load_method("cda", {"text": written(*text)})
    words = WordSet.builtin("gender").resolve(language_model.tokenizer)
    done = debias(
        language_model,
        method,
        UNC3Options(weight=weight),
        FineTuning(max_steps=2, batch_size=4, precision="fp32"),
        words,
        tmp_path / "checkpoints",
    )
    assert done.result.steps == 2
    assert done.language_model.fingerprint() != before
    assert ("unc3" in done.history) == (weight > 0)
    assert "language_modelling" in done.history
    assert [file.name for file in done.files] == ["text.txt"]
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("sides", ["two", "one"])
def test_alone_it_learns(language_model, written, text, tmp_path, sides):
    done = debias(
        language_model,
        load_method("cda", {"text": written(*text), "sides": sides}),
        UNC3Options(),
        FineTuning(max_steps=60, batch_size=8, learning_rate=1e-2, precision="fp32"),
        WordSet.builtin("gender").resolve(language_model.tokenizer),
        tmp_path / "checkpoints",
    )
    losses = done.history["language_modelling"]
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]


def test_the_published_settings_are_those_of_bec():
    assert dataclasses.asdict(CDA.settings) == dataclasses.asdict(BEC.settings)
