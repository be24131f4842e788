"""Answers against one plain forward pass a request, with everything the library shares switched off."""

from __future__ import annotations

import copy
import random
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from equiframe.errors import InputError, ModelError
from equiframe.models import LanguageModel
from equiframe.models.adapter import forward_at
from equiframe.requests import Embedding, TokenLogProbs, TopTokens
from equiframe.scoring import engine
from equiframe.scoring.engine import answer

WIDTH = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LOUD = {"initializer_range": 0.4}  # so that context matters


def randomised(language_model, config, architecture):
    """The fixture's tokenizer with another architecture's random weights."""
    torch.manual_seed(0)
    tokenizer = language_model.tokenizer
    return LanguageModel(architecture.__name__, architecture(config).eval(), tokenizer, language_model.kind)


@pytest.fixture
def bert(masked_model):
    config = BertConfig(vocab_size=len(masked_model.tokenizer), max_position_embeddings=64, **WIDTH, **LOUD)
    return randomised(masked_model, config, BertForMaskedLM)


@pytest.fixture
def gpt2(causal_model):
    size = len(causal_model.tokenizer)
    config = GPT2Config(vocab_size=size, n_positions=64, n_embd=16, n_layer=2, n_head=2, **LOUD)
    return randomised(causal_model, config, GPT2LMHeadModel)


@torch.no_grad()
def oracle(language_model, request):
    """One sequence, full logits, a full softmax in float64."""
    out = language_model.model(input_ids=torch.tensor([request.input_ids]), output_hidden_states=True)
    if isinstance(request, TokenLogProbs):
        logs = out.logits[0].double().log_softmax(dim=-1)
        return [logs[p, t].item() for p, t in zip(request.positions, request.targets, strict=True)]
    if isinstance(request, TopTokens):
        logits = out.logits[0, request.position].tolist()
        return sorted(range(len(logits)), key=lambda token: -logits[token])[: request.count]
    states = out.hidden_states[-1][0]
    return {"cls": states[0], "last": states[-1], "mean": states.mean(dim=0)}[request.pooling].tolist()


def some_requests(language_model, count=60, kinds=("log-probs", "embedding", "top")):
    """Sequences that begin alike, repeat, and differ in length."""
    draw = random.Random(0)
    size = len(language_model.tokenizer)
    starts = [tuple(draw.randrange(5, size) for _ in range(8)) for _ in range(5)]
    requests = []
    for _ in range(count):
        rest = tuple(draw.randrange(5, size) for _ in range(draw.randrange(0, 20)))
        ids = draw.choice(starts)[: draw.randrange(1, 9)] + rest
        kind = draw.choice(kinds)
        if kind == "top":
            requests.append(TopTokens(ids, draw.randrange(len(ids)), draw.choice([1, 5, 10**6])))
        elif kind == "embedding":
            requests.append(Embedding(ids, draw.choice(["cls", "mean", "last"])))
        else:
            places = tuple(sorted(draw.sample(range(len(ids)), draw.randrange(1, len(ids) + 1))))
            requests.append(TokenLogProbs(ids, places, tuple(draw.randrange(size) for _ in places)))
    return requests + requests[:5]


def check(language_model, requests, **options):
    found = answer(language_model, requests, **options)
    assert len(found) == len(requests)
    for request, value in zip(requests, found, strict=True):
        assert list(value) == pytest.approx(oracle(language_model, request), abs=1e-4)


@pytest.mark.parametrize("token_budget", [1, 100, 4096])
def test_masked_answers_are_those_of_one_pass_each(bert, token_budget):
    check(bert, some_requests(bert), token_budget=token_budget)


@pytest.mark.parametrize("token_budget", [1, 100, 4096])
def test_causal_answers_are_those_of_one_pass_each(gpt2, token_budget):
    check(gpt2, some_requests(gpt2), token_budget=token_budget)


ARCHITECTURES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {**WIDTH, "num_key_value_heads": 1}, True),
    "mistral": (MistralForCausalLM, MistralConfig, {**WIDTH, "num_key_value_heads": 1}, True),
    "opt": (
        OPTForCausalLM,
        OPTConfig,
        {"hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32},
        None,
    ),
    "gpt-neo": (
        GPTNeoForCausalLM,
        GPTNeoConfig,
        {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
        None,
    ),
    "bloom": (BloomForCausalLM, BloomConfig, {"hidden_size": 16, "n_layer": 2, "n_head": 2}, False),
    "mamba": (MambaForCausalLM, MambaConfig, {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}, False),
    "roberta": (RobertaForCausalLM, RobertaConfig, {**WIDTH, "is_decoder": True}, None),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_causal_architecture_is_read_right_whether_it_takes_trees_or_not(causal_model, name):
    architecture, configure, shape, takes_trees = ARCHITECTURES[name]
    scale = {} if name == "mamba" else {"init_std": 0.4} if name == "opt" else LOUD
    config = configure(vocab_size=len(causal_model.tokenizer), max_position_embeddings=64, **shape, **scale)
    language_model = randomised(causal_model, config, architecture)
    requests = some_requests(language_model, 40)
    check(language_model, requests)
    if takes_trees is not None:
        planned = engine._plan(engine.LocalAnswerer(language_model), requests)
        assert any(row.parents is not None for row in planned.rows) == takes_trees


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_trees_are_exact_with_each_attention(gpt2, attention):
    gpt2.model.set_attn_implementation(attention)
    requests = some_requests(gpt2)
    assert any(row.parents is not None for row in engine._plan(engine.LocalAnswerer(gpt2), requests).rows)
    check(gpt2, requests)


def test_half_precision_is_answered_in_float32(gpt2):
    gpt2.model.to(torch.float16)
    requests = some_requests(gpt2, 10, kinds=("log-probs",))
    for request, value in zip(requests, answer(gpt2, requests), strict=True):
        assert list(value) == pytest.approx(oracle(gpt2, request), abs=0.1)
        assert any(v != torch.tensor(v, dtype=torch.float16).item() for v in value)


def test_the_vocabulary_is_computed_only_where_it_is_read(bert, monkeypatch):
    rows = []
    decoder = bert.model.cls.predictions.decoder
    assert bert.examination.rows == bert.model.config.vocab_size  # it reads the model too, once
    decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    requests = [TokenLogProbs((2, 5, 4, 6, 3), (2,), (token,)) for token in range(10)]
    answer(bert, requests)
    assert rows == [1]
    rows.clear()
    monkeypatch.setattr(engine, "_LOGITS_AT_ONCE", 3 * bert.model.config.vocab_size)
    requests = [TokenLogProbs((2, 5, 4, token, 3), (2, 3), (7, 8)) for token in range(10)]
    check(bert, requests)
    assert max(rows[:10]) == 2


def test_nothing_asked_nothing_read(bert, gpt2, monkeypatch):
    monkeypatch.setattr("equiframe.scoring.forward.forward_at", None)
    for language_model in (bert, gpt2):
        assert answer(language_model, []) == []
        assert answer(language_model, [TokenLogProbs((5, 6), (), ())]) == [()]


def test_progress_ends_with_all(bert):
    seen = []
    requests = some_requests(bert)
    answer(bert, requests, token_budget=64, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(requests), len(requests))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_the_model_is_read_in_evaluation_mode_and_left_as_it_was(bert):
    for module in bert.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    request = some_requests(bert, 3)
    expected = answer(bert, request)
    bert.model.train()
    bert.model.bert.embeddings.eval()
    before = [module.training for module in bert.model.modules()]
    assert answer(bert, request) == expected
    assert [module.training for module in bert.model.modules()] == before
    assert all(p.grad is None for p in bert.model.parameters())


def test_not_a_number_is_an_error_that_names_the_sequence(bert):
    with torch.no_grad():
        bert.model.bert.embeddings.word_embeddings.weight[7] = float("nan")
    bad = bert.tokenizer.convert_ids_to_tokens(7)
    with pytest.raises(ModelError, match="not-a-number") as error:
        answer(bert, [TokenLogProbs((2, 7, 3), (0,), (5,))])
    assert bad in str(error.value)


def test_a_sequence_longer_than_the_window_is_never_cut(bert, gpt2):
    for language_model in (bert, gpt2):
        with pytest.raises(InputError, match=r"65 tokens.*reads 1 to 64"):
            answer(language_model, [TokenLogProbs((5,) * 65, (1,), (5,))])
        check(language_model, [TokenLogProbs((5,) * 64, (63,), (5,))])


def test_out_of_memory_halves_the_budget_and_goes_on(bert, monkeypatch):
    sizes, forward = [], forward_at

    def small_memory(model, inputs, *args, **options):
        sizes.append(inputs["input_ids"].numel())
        if sizes[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(model, inputs, *args, **options)

    monkeypatch.setattr("equiframe.scoring.forward.forward_at", small_memory)
    requests = some_requests(bert, kinds=("log-probs",))
    with pytest.warns(UserWarning, match="out of memory: continuing with a token budget of"):
        check(bert, requests, token_budget=1000)
    assert max(sizes[-3:]) <= 100

    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with (
        warnings.catch_warnings(),
        pytest.raises(ModelError, match="too little free memory for 28 tokens"),
    ):
        warnings.simplefilter("ignore")
        monkeypatch.setattr("equiframe.scoring.forward.forward_at", no_memory)
        answer(bert, [Embedding(tuple(range(5, 33)))])


class Ranks(threading.local):
    """torch.distributed with a thread for each rank."""

    rank = 0

    def __init__(self, world_size, gathered, barrier):
        self.world_size, self.gathered, self.barrier = world_size, gathered, barrier

    def is_initialized(self):
        return True

    def get_rank(self):
        return self.rank

    def get_world_size(self):
        return self.world_size

    def all_gather_object(self, objects, mine):
        self.gathered[self.rank] = mine
        self.barrier.wait()
        objects[:] = self.gathered


def test_ranks_share_the_work_and_all_know_all_answers(bert, gpt2, monkeypatch):
    for language_model in (bert, gpt2):
        requests = some_requests(language_model)
        expected = answer(language_model, requests, token_budget=64)
        ranks = Ranks(3, [{}] * 3, threading.Barrier(3, timeout=60))
        monkeypatch.setattr(engine, "dist", ranks)

        def run(rank, language_model=language_model, requests=requests, ranks=ranks):
            ranks.rank = rank
            mine = replace(language_model, model=copy.deepcopy(language_model.model))
            return answer(mine, requests, token_budget=64)

        with ThreadPoolExecutor(3) as threads:
            for found in threads.map(run, range(3)):
                assert found == expected  # to the last bit: ranks share batches
        assert sum(map(len, ranks.gathered)) == len(requests)
        assert min(map(len, ranks.gathered)) > len(requests) / 10
        monkeypatch.undo()


@pytest.mark.parametrize("texts", [1, 12])
def test_a_sliding_window_is_kept(causal_model, texts):
    size = len(causal_model.tokenizer)
    config = MistralConfig(
        vocab_size=size, max_position_embeddings=256, num_key_value_heads=1, sliding_window=8, **WIDTH, **LOUD
    )
    model = randomised(causal_model, config, MistralForCausalLM)
    draw = random.Random(1)
    start = tuple(draw.randrange(5, size) for _ in range(20))
    sequences = [start + tuple(draw.randrange(5, size) for _ in range(30)) for _ in range(texts)]
    check(model, [TokenLogProbs(ids, tuple(range(len(ids) - 1)), ids[1:]) for ids in sequences])


def test_a_model_that_takes_no_tree_reads_long_texts(causal_model):
    config = BloomConfig(vocab_size=len(causal_model.tokenizer), hidden_size=16, n_layer=2, n_head=2, **LOUD)
    model = randomised(causal_model, config, BloomForCausalLM)
    object.__setattr__(model, "tokenizer", copy.deepcopy(model.tokenizer))
    model.tokenizer.model_max_length = 512
    draw = random.Random(2)
    sequences = [tuple(draw.randrange(5, 100) for _ in range(140)) for _ in range(3)]
    check(model, [TokenLogProbs(ids, tuple(range(len(ids) - 1)), ids[1:]) for ids in sequences])
