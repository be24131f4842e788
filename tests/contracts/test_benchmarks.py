"""What every benchmark that is scored by requests keeps, on real items and a fake answerer; no model is loaded."""

from __future__ import annotations

import importlib.resources
import json
import math

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from equiframe.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from equiframe.benchmarks.benchmark import spread, summarise
from equiframe.data import KNOWN
from equiframe.errors import CannotScoreError
from equiframe.requests import (
    AttentionWeightedLogProbs,
    Embedding,
    NextSentence,
    TextCodec,
    TokenLogProbs,
    TopTokens,
)

ASKED = [name for name, registered in BENCHMARKS.items() if not (registered.fine_tunes or registered.generates)]
KINDS = ["masked", "causal"]
PARSED = {"stereoset": "stereoset:dev", "bbq": "bbq:full"}
"""Items of another variant, which other tests read too."""

TIES = {
    "stereoset": {"ss": 0.0, "lms": 0.0, "icat": 0.0},
    "stereoset_intersentence": {"ss": 0.0, "lms": 0.0, "icat": 0.0},
    "crows_pairs": {"metric": 0.0, "neutral": 100.0},
    "aul": {"metric": 0.0},
    "winobias_pronoun": {"pro": 0.0, "anti": 0.0},
    "agreement": {"agreement": 50.0},
    "bec_pro": {"wilcoxon_p": 1.0, "female_person": 0.0, "male_person": 0.0},
    "lm_loss": {"loss": 0.0, "perplexity": 1.0},
    "blimp": {"accuracy": 50.0},
}
"""What a tie comes to where its authors count one otherwise than as the ideal, or where there is no ideal."""
UNDEFINED = {"bbq", "honest"}
"""Which of equal answers or words comes first decides."""

NOT_PAIRS = {"seat", "honest", "lm_loss"}


def answers(requests):
    """Every probability 1, every state the same, the first tokens of the vocabulary."""
    return [
        tuple(map(float, range(request.count)))
        if isinstance(request, TopTokens)
        else (1.0,) * 8
        if isinstance(request, Embedding)
        else (0.0,)
        if isinstance(request, NextSentence)
        else (0.0,) * len(request.targets)
        for request in requests
    ]


@pytest.fixture(scope="session")
def own_files(tmp_path_factory):
    """Small files in place of those that no wheel holds."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "seat").mkdir()
    lists = {"targ1": ["he", "the man"], "targ2": ["she", "the woman"], "attr1": ["work"], "attr2": ["home", "family"]}
    text = json.dumps({name: {"examples": examples} for name, examples in lists.items()})
    for name in KNOWN:
        if name.startswith("seat/"):
            (folder / f"{name}.jsonl").write_text(text)
    pair = {"sentence_good": "She helps herself.", "sentence_bad": "She helps himself.", "linguistics_term": "binding"}
    for name in KNOWN:
        if name.startswith("blimp/"):
            (folder / f"{name.removeprefix('blimp/')}.jsonl").write_text(json.dumps(pair | {"pairID": "0"}))
    (folder / "hurtlex_EN.tsv").write_text("lemma\tlevel\nfool\tconservative\n")
    return folder


@pytest.fixture
def items(real_items, own_files):
    """A handful of real items of a benchmark, spread over its data."""

    def some(name):
        own = own_files if name in ("seat", "honest", "blimp") else None
        return spread(real_items(PARSED.get(name, name), own), 40)

    return some


@pytest.fixture(scope="session")
def codecs(request):
    """How two real tokenizers read text, without their models."""
    masked = AutoTokenizer.from_pretrained(importlib.resources.files("equiframe.models") / "mini_mlm")
    causal = AutoTokenizer.from_pretrained(request.getfixturevalue("model_folders")["causal"])
    return {"masked": TextCodec(masked, "masked", 512), "causal": TextCodec(causal, "causal", 1024)}


@pytest.fixture(scope="session", params=KINDS)
def knows_nothing(request):
    """A tokenizer to which every word is the same one, the unknown token."""
    specials = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(specials)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, lstrip=True, rstrip=True, special=True) for token in specials])
    if request.param == "masked":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    names = dict(zip(("unk_token", "bos_token", "sep_token", "mask_token"), specials, strict=True))
    return TextCodec(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names), request.param, 512)


def scored(benchmark, items, codec):
    """The result, the table, and what was asked."""
    asked = []

    def answer(requests):
        asked.append(requests)
        return answers(requests)

    outcomes = [outcome for part in benchmark.outcomes(items, codec, answer) for outcome in part]
    (requests,) = asked
    result, table = summarise(benchmark, outcomes, scoring="", files=(), seconds=0.0, seed=0, resamples=20)
    return result, table, requests


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ASKED)
def test_constant_answers(name, kind, items, codecs):
    benchmark, codec = load_benchmark(name), codecs[kind]
    assert isinstance(benchmark, Benchmark)
    result, table, requests = scored(benchmark, items(name), codec)
    assert {type(request) for request in requests} <= set(benchmark.needs)
    assert table["item"].is_unique
    counted = table["excluded"].isna()
    assert counted.any()
    assert result.items == len(table)
    assert sum(result.excluded.values()) == (~counted).sum()
    decided = {value for names in benchmark.decisions for value in names}
    assert table.loc[counted, list(decided)].notna().all(axis=None)
    assert set(benchmark.headline) & set(result.estimates)
    ties = TIES.get(name, {})
    for key, estimate in result.estimates.items():
        assert math.isfinite(estimate.value), key
        assert estimate.low is None or -math.inf < estimate.low <= estimate.high < math.inf, key
        expected = ties.get(key.rpartition(".")[2], estimate.ideal)
        if name not in UNDEFINED and expected is not None:
            assert estimate.value == pytest.approx(expected), key


@pytest.mark.parametrize("name", [name for name in ASKED if name not in NOT_PAIRS])
def test_texts_that_a_tokenizer_cannot_tell_apart_are_excluded_not_half(name, items, knows_nothing):
    outcomes = load_benchmark(name).outcomes(items(name), knows_nothing, answers)
    assert all(outcome.excluded for part in outcomes for outcome in part)


def test_a_model_that_cannot_answer_is_refused_before_it_is_asked(codecs):
    benchmark, asked = load_benchmark("aul:aula"), []
    assert benchmark.needs == (AttentionWeightedLogProbs,)
    assert load_benchmark("aul").needs == (TokenLogProbs,)
    with pytest.raises(CannotScoreError, match="aul:aula asks for AttentionWeightedLogProbs, which this causal"):
        benchmark.outcomes([], codecs["causal"], asked.append)
    assert not asked
    assert benchmark.outcomes([], codecs["masked"], answers) == []
