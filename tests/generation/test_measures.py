"""Measures of responses against computations written another way."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.generated import Prompt
from equiframe.config import GenerationOptions
from equiframe.data import DataSource
from equiframe.errors import DataError, InputError
from equiframe.generation.measures import NAMES, check_measures, measurers

TEXTS = [
    "She leads the team and supports everybody.",
    "A warm, gentle and kind person.",
    "John's ambition is independent of Mary's.",
    "You bastard!",
    "",
    "she is a nurse and he is a doctor",
]


def cells(groups="ababab", templates="001122"):
    pairs = zip(groups, templates, strict=True)
    return [(Prompt(template, "axis", group, "p", template), 0) for group, template in pairs]


def column(name, texts=TEXTS, source=None, **given):
    _, measurer = measurers([name], DataSource.of(source))
    ((_, values),) = measurer.score(cells(**given), texts).items()
    return values.tolist()


def test_rules_and_lists_of_words():
    assert column("words") == [7, 6, 6, 2, 0, 9]
    nan = pytest.approx(math.nan, nan_ok=True)
    assert column("agentic") == [0.5, 0.0, 1.0, nan, nan, nan]
    assert column("womens_names") == [nan, nan, 0.0, nan, nan, nan]
    assert column("womens_names", ["Mary met John", "john", "Nobody", "", "", ""])[:2] == [1.0, 0.0]
    counts, _ = measurers(["she"], DataSource.of(None))
    assert counts.score(cells(), TEXTS)["empty"].tolist() == [0, 0, 0, 0, 1, 0]


def test_hurtful_words_are_those_of_hurtlex(tmp_path):
    with pytest.raises(DataError, match="hurtlex/EN is missing"):
        measurers(["hurtful"], DataSource.of(None))
    rows = ["lemma\tlevel", "bastard\tconservative", "kind\tinclusive", "née\tconservative"]
    (tmp_path / "hurtlex_EN.tsv").write_text("\n".join(rows) + "\n")
    assert column("hurtful", source=tmp_path) == [0, 0, 0, 1, 0, 0]
    assert column("hurtful", ["Mary, née Smith", "Nee!", "ne", "", "", ""], source=tmp_path) == [1, 1, 0, 0, 0, 0]
    _, measurer = measurers(["hurtful"], DataSource.of(tmp_path))
    assert [file.name for file in measurer.files] == ["hurtlex/EN"]


@pytest.mark.skipif(importlib.util.find_spec("vaderSentiment") is None, reason="vaderSentiment is not installed")
def test_sentiment_is_vaders():
    found = column(
        "sentiment", ["I love this great flat!", "I hate this awful flat!", "The flat has a door.", "", "", ""]
    )
    assert found[0] > 0.6
    assert found[1] < -0.6
    assert found[2:] == [0, 0, 0, 0]


def longest_common(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@pytest.mark.skipif(importlib.util.find_spec("rouge_score") is None, reason="rouge-score is not installed")
def test_likeness_is_rouge_l_to_the_other_groups():
    texts = ["the man has a job", "the woman has a job now", "a job", "she left", "she left", "the job"]
    found = column("rouge_l", texts, groups="abcabc", templates="000111")

    def alike(one, other):
        one, other = one.split(), other.split()
        common = longest_common(one, other)
        return 0 if not common else 2 * common / (len(one) + len(other))

    for cell in ([0, 1, 2], [3, 4, 5]):
        for at in cell:
            expected = np.mean([alike(texts[at], texts[other]) for other in cell if other != at])
            assert found[at] == pytest.approx(expected)
    assert math.isnan(column("rouge_l", ["x"], groups="a", templates="0")[0])


@pytest.mark.parametrize(("name", "package"), [("sentiment", "vaderSentiment"), ("rouge_l", "rouge-score")])
def test_a_missing_library_is_one_line(name, package, monkeypatch):
    module = {"sentiment": "vaderSentiment.vaderSentiment", "rouge_l": "rouge_score.rouge_scorer"}[name]
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(InputError, match=rf"--measures {name} needs {package}: pip install 'equiframe\[text\]'"):
        measurers([name], DataSource.of(None))


@pytest.fixture
def saved_classifier(tmp_path, new_tokenizer):
    """Saves a tiny classifier whose labels are named as given, and returns its folder."""
    from transformers import BertConfig, BertForSequenceClassification

    def saved(labels, **options):
        tokenizer = new_tokenizer()
        torch.manual_seed(0)
        shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(
            vocab_size=len(tokenizer),
            id2label=dict(enumerate(labels)),
            num_labels=len(labels),
            initializer_range=0.5,
            max_position_embeddings=64,
            **shape,
            **options,
        )
        BertForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
        tokenizer.save_pretrained(tmp_path / "classifier")
        return tmp_path / "classifier"

    return saved


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_a_classifier_gives_the_probability_of_each_label(saved_classifier, kind):
    folder = saved_classifier(["Toxic!", "not toxic", "neutral"], problem_type=kind)
    _, measurer = measurers([f"classifier:{folder}"], DataSource.of(None))
    found = measurer.score(cells(), TEXTS)
    assert list(found) == ["label_toxic", "label_not_toxic", "label_neutral"]
    assert "judge a hundred of them by hand" in measurer.said
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for at, text in enumerate(TEXTS):
        logits = model.eval()(**tokenizer(text, return_tensors="pt")).logits[0]
        expected = logits.softmax(-1) if kind.startswith("single") else logits.sigmoid()
        assert [found[name][at] for name in found] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_long_response_is_cut_at_the_positions_that_the_classifier_has(tmp_path, new_tokenizer):
    """RoBERTa's positions begin after its padding id: two fewer than its configuration says."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tokenizer = new_tokenizer()
    tokenizer.model_max_length = 10**30
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        id2label={0: "toxic", 1: "fine"},
        max_position_embeddings=34,
        pad_token_id=1,
        **shape,
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, measurer = measurers([f"classifier:{tmp_path}"], DataSource.of(None))
    long, longer = ("she is a nurse " * times for times in (10, 50))
    found = measurer.score(cells("aa", "00"), [long, longer])["label_toxic"]
    assert found[0] == pytest.approx(found[1])


@torch.inference_mode()
def test_likeness_by_an_encoder_is_the_cosine_of_mean_states(model_folders):
    folder = model_folders["masked"]
    found = column(f"embedding:{folder}")
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    means = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in TEXTS]
    for at in range(0, 6, 2):
        expected = float(torch.nn.functional.cosine_similarity(means[at], means[at + 1], dim=0))
        assert found[at] == found[at + 1] == pytest.approx(expected, abs=1e-5)


def test_classifiers_that_say_nothing_are_refused(saved_classifier, model_folders, tmp_path):
    folder = saved_classifier(["LABEL_0", "LABEL_1"])
    with pytest.raises(InputError, match="such as LABEL_0, have no meaning: name them in id2label"):
        measurers([f"classifier:{folder}"], DataSource.of(None))
    folder = saved_classifier(["toxic", "Toxic!"])
    with pytest.raises(InputError, match="its labels 'toxic', 'Toxic!' do not differ in their letters and digits"):
        measurers([f"classifier:{folder}"], DataSource.of(None))
    folder = saved_classifier(["积极", "消极"])
    assert list(measurers([f"classifier:{folder}"], DataSource.of(None))[1].score(cells("a", "0"), TEXTS[:1])) == [
        "label_积极",
        "label_消极",
    ]
    with pytest.raises(InputError, match="the checkpoint has no classification head"):
        measurers([f"classifier:{model_folders['masked']}"], DataSource.of(None))
    with pytest.raises(InputError, match=r"cannot be loaded .*: give a hub name, or a folder with safetensors"):
        measurers([f"classifier:{tmp_path}"], DataSource.of(None))
    with pytest.raises(InputError, match=r"--measures embedding:./none: the folder does not exist"):
        measurers(["embedding:./none"], DataSource.of(None))


@pytest.mark.parametrize("name", ["tone", "classifier", "classifier:", "refused:x"])
def test_names_of_measures_that_there_are_not(name):
    with pytest.raises(InputError, match=f"--measures {name}: choose refused, .*embedding:NAME"):
        check_measures([name])
    check_measures([*NAMES, "classifier:x", "embedding:x"])


def test_the_documentation_names_every_measure():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "howto" / "generation.md").read_text(encoding="utf-8")
    assert [name for name in (*NAMES, "empty", "other_language", "cosine") if f"`{name}`" not in page] == []


def test_classes_are_compared_and_recorded(saved_classifier, tmp_path):
    from equiframe.generation import score_generated
    from equiframe.generation.responses import read_responses

    path = tmp_path / "r.jsonl"
    path.write_text(
        "".join(
            f'{{"template": "t{at}", "group": "{group}", "response": "{text}"}}\n'
            for at in range(4)
            for group, text in (("a", "she is a nurse"), ("b", "he is a doctor"))
        )
    )
    folder = saved_classifier(["toxic", "fine"])
    settings = GenerationOptions(measures=(f"classifier:{folder}",))
    result, _ = score_generated(read_responses(path, "x"), load_benchmark("responses"), settings=settings)
    assert {"a.label_toxic", "a_vs_b.label_toxic_difference", "overall.label_fine"} <= set(result.estimates)
    assert f"classified by {folder}" in result.scoring
