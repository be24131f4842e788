"""Every architecture that can be built tiny: its scores are those of plain transformers, or it is refused."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from tokenizers import processors
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from equiframe.data import DataSource
from equiframe.errors import ModelError
from equiframe.methods.inlp import INLP
from equiframe.methods.sentence_debias import SentenceDebias
from equiframe.models import LanguageModel, load, save
from equiframe.models.kinds import check_version
from equiframe.models.projected import project
from equiframe.requests import TokenLogProbs
from equiframe.scoring.engine import answer
from equiframe.scoring.planner import plan

WINDOW = 8  # of attention, and of a scan, where an architecture has one
SHARED = "she is a nurse and he is a doctor and "
ALONE = "the woman met the man in the street and " + 3 * SHARED + "she is a cook"
TEXTS = (SHARED + "she is a cook", SHARED + "he is a woman", ALONE)  # a tree of the first two, and a text alone

# Under the names that architectures have for the same things; each takes those that it knows.
SHAPE = {
    **dict.fromkeys("hidden_size n_embd d_model emb_dim dim embedding_size word_embed_proj_dim".split(), 32),
    **dict.fromkeys(
        "intermediate_size d_ff d_inner ffn_dim hidden_dim ffn_hidden_size moe_intermediate_size".split(), 32
    ),
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers".split(), 2),
    **dict.fromkeys("num_attention_heads n_head n_heads num_heads".split(), 2),
    **dict.fromkeys("sliding_window attention_window mamba_chunk_size chunk_size".split(), WINDOW),
    **dict.fromkeys("max_position_embeddings n_positions".split(), 68),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts".split(), 4),
    **dict.fromkeys("initializer_range init_std".split(), 0.2),
    "num_key_value_heads": 1,
    "num_experts_per_tok": 2,
    "head_dim": 16,
    "rotary_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
LARGEST = 2_000_000  # parameters
REFUSED = {
    "masked": {"mobilebert": "did not call its output embedding"},
    "causal": dict.fromkeys(("bert-generation", "cpmant", "xlm", "xlnet"), "not a causal"),
}
KINDS = {
    "masked": (MODEL_FOR_MASKED_LM_MAPPING_NAMES, AutoModelForMaskedLM),
    "causal": (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM),
}


def tiny(kind, name, vocabulary):
    """A random model, None where the shapes above do not fit the architecture or do not make it small."""
    configure, auto = CONFIG_MAPPING[name], KINDS[kind][1]
    known = {*inspect.signature(configure).parameters, *configure.attribute_map}
    shape = {key: value for key, value in SHAPE.items() if key in known}
    if "kv_lora_rank" in known:  # every head has its own key in latent attention
        shape["num_key_value_heads"] = 2
    try:
        config = configure(**shape)
        if config.is_encoder_decoder or config.get_text_config() is not config:
            return None
        check_version(config, name)
        config.vocab_size = vocabulary
        config.is_decoder = kind == "causal" and name in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        with torch.device("meta"):
            if auto.from_config(config).num_parameters() > LARGEST:
                return None
        torch.manual_seed(0)
        model = auto.from_config(config).eval()
        plain(model, list(range(5, 12)))
    except Exception:
        return None
    return model


@torch.no_grad()
def plain(model, ids):
    """Log-probabilities [length, vocabulary] of one sequence, as transformers alone says them."""
    return model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)


@pytest.fixture(scope="module")
def habits(new_tokenizer):
    """The same tokenizer with other habits, and how many special tokens it puts on either side of a text."""
    usual, left, foreign, bare = (new_tokenizer() for _ in range(4))
    for tokenizer in (usual, left, foreign, bare):
        tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    left.padding_side = left.truncation_side = "left"
    foreign.add_special_tokens({"pad_token": "[OTHER]"})  # beyond the model's rows
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1")
    return {"usual": (usual, 1), "left": (left, 1), "foreign pad": (foreign, 1), "no specials": (bare, 0)}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A text file of 36 sentences, a third of each gender and of none."""
    groups = ("she", "the woman", "her sister"), ("he", "the man", "his brother"), ("a cook", "the nurse", "the doctor")
    jobs = "a nurse", "a doctor", "a teacher", "in the street"
    path = tmp_path_factory.mktemp("text") / "people.txt"
    path.write_text("".join(f"{who} is {job}\n" for group in groups for who in group for job in jobs))
    return str(path)


CASES = [pytest.param(kind, name, id=f"{kind}-{name}") for kind, (names, _) in KINDS.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_scores_are_those_of_plain_transformers(kind, name, habits):
    model = tiny(kind, name, len(habits["usual"][0]))
    if model is None:
        pytest.skip("not built from these shapes")
    for habit, (tokenizer, specials) in habits.items():
        language_model = LanguageModel(name, model, tokenizer, kind)
        if name in REFUSED[kind]:
            with pytest.raises(ModelError, match=REFUSED[kind][name]):
                _ = language_model.examination
            continue
        codec = language_model.codec
        words = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        assert len(SHARED.split()) > WINDOW < len(words[-1]) // 4
        if kind == "causal":
            requests = [codec.sequence_log_probs(text) for text in TEXTS]
            read = [[codec.start_id, *ids] for ids in words]
            expected = [plain(model, ids) for ids in read]
            wanted = [
                [logs[at, token].item() for at, token in enumerate(ids)]
                for logs, ids in zip(expected, words, strict=True)
            ]
        else:
            requests, wanted = [], []
            for text, ids in zip(TEXTS, words, strict=True):
                encoded = codec.encode(text)
                places = codec.places(encoded)
                assert [encoded[place] for place in places] == ids
                assert len(encoded) == len(ids) + 2 * specials
                for place in (places[0], places[len(places) // 2], places[-1]):
                    masked = [*encoded[:place], codec.mask_id, *encoded[place + 1 :]]
                    requests.append(TokenLogProbs(tuple(masked), (place,), (encoded[place],)))
                    wanted.append([plain(model, masked)[place, encoded[place]].item()])
        together, alone = requests[:2], requests[2:]
        if kind == "causal":
            rows = [row for part in (together, alone) for row in plan(part, tree_tokens=128).rows]
            assert [row.parents is None for row in rows] == [False, True]
        answers = [*answer(language_model, together), *answer(language_model, alone)]
        for found, right in zip(answers, wanted, strict=True):
            assert list(found) == pytest.approx(right, abs=1e-4), habit


NOT_PROJECTED = {
    "masked": {"neomme": "does not read the last hidden states by one"},
    "causal": {"llama4_text": "no encoder separate"},
}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_projected_models_say_the_same_in_plain_transformers(kind, name, new_tokenizer, people, tmp_path):
    tokenizer = new_tokenizer()
    model = tiny(kind, name, len(tokenizer))
    if model is None or name in REFUSED[kind]:
        pytest.skip("not built from these shapes, or refused as a language model")
    for part in (model.config, tokenizer):
        part.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)  # as transformers reads it beside such a model
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    before = [plain(model, text) for text in ids]
    for method in (SentenceDebias(text=people), INLP(text=people, classifiers=2)):
        language_model = LanguageModel(name, copy.deepcopy(model), tokenizer, kind)
        if name in NOT_PROJECTED[kind]:
            with pytest.raises(ModelError, match=NOT_PROJECTED[kind][name]):
                project(language_model.model, method.projection(language_model, source=DataSource(), seed=0).matrix)
            continue
        project(language_model.model, method.projection(language_model, source=DataSource(), seed=0).matrix)
        save(language_model, tmp_path / method.name)
        loaded = load(str(tmp_path / method.name), kind=kind, device="cpu").model
        bare = KINDS[kind][1].from_pretrained(tmp_path / method.name)
        for text, old in zip(ids, before, strict=True):
            debiased = plain(loaded, text)
            torch.testing.assert_close(plain(bare, text), debiased, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(debiased, old, atol=1e-2)


def test_at_least_forty_architectures_are_built(new_tokenizer):
    built = 0
    for case in CASES:
        built += tiny(*case.values, len(new_tokenizer())) is not None
        if built == 40:
            return
    pytest.fail(f"{built} architectures are built from the shapes above: adapt them to this transformers")
