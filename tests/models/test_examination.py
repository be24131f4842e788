"""What a model is found to be, against what transformers does with it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertLMHeadModel,
    FNetConfig,
    FNetForMaskedLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    XLNetConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from equiframe.errors import ModelError
from equiframe.models import LanguageModel, collect, load, save
from equiframe.models.examination import _configured
from equiframe.requests import TextCodec, TokenLogProbs
from equiframe.scoring.engine import answer

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def of_type(name, tokenizer, kind="masked"):
    torch.manual_seed(0)
    shape = {**SHAPE, "n_embd": 16, "n_layer": 2, "n_head": 2, "ffn_dim": 32, "word_embed_proj_dim": 16}
    known = {key: value for key, value in shape.items() if hasattr(CONFIG_MAPPING[name](), key)}
    config = CONFIG_MAPPING[name](
        **known, vocab_size=len(tokenizer), max_position_embeddings=40, pad_token_id=1, bos_token_id=2, eos_token_id=3
    )
    auto = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
    tokenizer.model_max_length = 10**9
    return LanguageModel(name, auto.from_config(config).eval(), tokenizer, kind)


WINDOWS = [
    *(("masked", name) for name in ("bert", "electra", "albert", "distilbert", "roberta", "camembert", "xlm-roberta")),
    *(("masked", name) for name in ("xlm-roberta-xl", "data2vec-text", "mpnet", "roberta-prelayernorm")),
    *(("causal", name) for name in ("gpt2", "opt", "openai-gpt")),
]


@pytest.mark.parametrize(("kind", "name"), WINDOWS)
def test_the_window_is_the_longest_text_that_the_model_takes(new_tokenizer, kind, name):
    language_model = of_type(name, new_tokenizer(), kind)
    window = language_model.window
    assert 38 <= window <= 40
    with torch.no_grad():
        language_model.model(input_ids=torch.full((1, window), 7))
        with pytest.raises((IndexError, RuntimeError)):
            language_model.model(input_ids=torch.full((1, window + 1), 7))


def test_a_window_of_minus_one_is_none(bert):
    config = XLNetConfig(d_model=16, n_layer=1, n_head=2, d_inner=16)
    assert config.max_position_embeddings == -1
    bert.model.config = config
    assert _configured(bert.model) == 2**31


@pytest.fixture
def bert(new_tokenizer):
    return of_type("bert", new_tokenizer())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_a_folder_without_tokenizer_files_is_refused(new_tokenizer, tmp_path, family):
    config = CONFIG_MAPPING[family](
        **({"n_embd": 16, "n_layer": 1, "n_head": 2} if family == "gpt2" else SHAPE), vocab_size=120
    )
    auto = AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM
    auto.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no (word|tokenizer files).*save_pretrained"):
        load(str(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(bert):
    bert.model.resize_token_embeddings(3)
    with pytest.raises(ModelError, match="none of its tokenizer's words has one of its 3 embeddings"):
        _ = bert.examination


def test_tokens_beyond_the_embeddings_are_named(bert):
    bert.model.resize_token_embeddings(len(bert.tokenizer) - 1)
    token = bert.tokenizer.convert_ids_to_tokens(len(bert.tokenizer) - 1)
    assert token == "."
    with pytest.raises(ModelError, match=r"token '\.' the id 100.*resize"):
        answer(bert, [TokenLogProbs((2, 100, 3), (1,), (7,))])
    with pytest.raises(ModelError, match=r"token '\.' the id 100"):
        answer(bert, [TokenLogProbs((2, 7, 3), (1,), (100,))])
    with pytest.raises(ModelError, match=r"token '\.' the id 100"):
        collect(bert, ["she is a nurse ."])


def test_padding_beyond_the_embeddings_is_replaced(bert):
    expected = collect(bert, ["she is a nurse", "she"]).statistics.means
    bert.tokenizer.add_special_tokens({"pad_token": "[OTHER]"})
    again = LanguageModel("again", bert.model, bert.tokenizer, "masked")
    assert again.tokenizer.pad_token_id == len(bert.tokenizer) - 1 == again.examination.rows
    assert again.examination.pad_id == 1
    torch.testing.assert_close(collect(again, ["she is a nurse", "she"]).statistics.means, expected)


def saved(model, tokenizer, folder, **changes):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return str(folder)


def test_an_encoder_is_no_causal_model(new_tokenizer, tmp_path):
    config = RobertaConfig(vocab_size=101, **SHAPE)
    folder = saved(RobertaForMaskedLM(config), new_tokenizer(), tmp_path / "roberta")
    assert load(folder).kind == "masked"
    with pytest.raises(ModelError, match=r"depends on later tokens.*--kind masked"):
        load(folder, kind="causal")


def test_a_decoder_that_forgot_it_is_one_is_refused(new_tokenizer, tmp_path):
    model = BertLMHeadModel(BertConfig(vocab_size=101, is_decoder=True, **SHAPE))
    folder = saved(model, new_tokenizer(), tmp_path / "bert", is_decoder=False)
    with pytest.raises(ModelError, match="set is_decoder"):
        load(folder)
    right = saved(model, new_tokenizer(), tmp_path / "right")
    assert load(right).kind == "causal"


def test_a_causal_model_is_no_masked_one(new_tokenizer, tmp_path):
    model = BertLMHeadModel(BertConfig(vocab_size=101, is_decoder=True, **SHAPE))
    folder = saved(model, new_tokenizer(), tmp_path / "bert")
    with pytest.raises(ModelError, match=r"on earlier ones.*--kind causal"):
        load(folder, kind="masked")


def test_a_classifier_with_a_tied_head_is_refused(causal_model, tmp_path):
    classifier = GPT2ForSequenceClassification(causal_model.model.config)
    folder = saved(classifier, causal_model.tokenizer, tmp_path / "classifier")
    with pytest.raises(ModelError, match="GPT2ForSequenceClassification, which is neither"):
        load(folder)


def test_a_model_that_reads_padding_reads_texts_of_one_length(new_tokenizer):
    torch.manual_seed(0)
    model = FNetForMaskedLM(FNetConfig(vocab_size=101, tpu_short_seq_length=8, **SHAPE)).eval()
    fnet = LanguageModel("fnet", model, new_tokenizer(), "masked")
    assert fnet.examination.reads_padding
    sequences = [(2, 7, 9, 3), (2, 7, 9, 11, 3), (2, 8, 10, 3)]
    found = answer(fnet, [TokenLogProbs(ids, (1,), (9,)) for ids in sequences])
    with torch.no_grad():
        right = [model(input_ids=torch.tensor([ids])).logits[0, 1].log_softmax(-1)[9].item() for ids in sequences]
    assert [value for (value,) in found] == pytest.approx(right, abs=1e-5)
    texts = ["she is a nurse", "he", "she is"]
    together = collect(fnet, texts, held_out_every=100).statistics
    alone = [collect(fnet, [text], class_ids=together.class_ids, held_out_every=100).statistics for text in texts]
    she = together.class_ids == fnet.tokenizer.convert_tokens_to_ids("she")
    expected = (alone[0].means[she] + alone[2].means[she]) / 2
    torch.testing.assert_close(together.means[she], expected)


def test_nested_configurations(causal_model, tmp_path):
    shape = {**SHAPE, "vocab_size": len(causal_model.tokenizer), "num_key_value_heads": 1, "head_dim": 8}
    vision = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = Gemma3Config(
        text_config={**shape, "sliding_window": 4, "max_position_embeddings": 50},
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    language_model = load(saved(model, causal_model.tokenizer, tmp_path / "gemma"))
    assert (language_model.kind, language_model.window) == ("causal", 50)
    request = language_model.codec.sequence_log_probs("she is a nurse and he is a doctor")
    (found,) = answer(language_model, [request])
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([request.input_ids])).logits[0].log_softmax(-1)
    right = [logs[at, token].item() for at, token in zip(request.positions, request.targets, strict=True)]
    assert list(found) == pytest.approx(right, abs=1e-4)
    save(language_model, tmp_path / "again")
    assert load(str(tmp_path / "again")).fingerprint() == language_model.fingerprint()


def test_the_fingerprint_reads_tokenizer_and_attention(masked_model, model_folders, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(model_folders["masked"], folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load(str(folder), device="cpu").fingerprint() != masked_model.fingerprint()
    before = masked_model.fingerprint()
    masked_model.tokenizer(["she is", "he"], padding=True, truncation=True, max_length=3)
    assert masked_model.fingerprint() == before
    masked_model.model.set_attn_implementation("eager")
    assert masked_model.fingerprint() != before


def byte_level(mask):
    tokenizer = Tokenizer(models.BPE())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "<pad>", "</s>", "<mask>"]
    vocabulary = {piece: number for number, piece in enumerate([*names, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", mask_token=mask
    )


def sentence_piece(mask):
    pieces = [
        ("<unk>", 0.0),
        ("<mask>", 0.0),
        ("▁", -4.0),
        *((letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyzS.,"),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", mask_token=mask)


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
@pytest.mark.parametrize("text", ["She is a {} .", "a {}, {} and ({})", "{} is", "x  {}", "x{}"])
def test_no_space_is_left_beside_a_mask(make, text):
    plain = TextCodec(make("<mask>"), "masked", 64)
    right = TextCodec(make(AddedToken("<mask>", lstrip=True, special=True)), "masked", 64)
    text = text.replace("{}", "<mask>")
    if "  " in text:  # lstrip takes both spaces, of which one is part of the text
        assert len(plain.encode(text)) == len(right.encode(text)) + 1
    else:
        assert plain.encode(text) == right.encode(text)


def test_every_token_of_the_text_counts_whatever_specials_there_are(new_tokenizer):
    tokenizer = new_tokenizer()
    for single, before, after in (("$A", 0, 0), ("[CLS] $A", 1, 0), ("$A [SEP]", 0, 1), ("[CLS] [CLS] $A [SEP]", 2, 1)):
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        codec = TextCodec(tokenizer, "masked", 64)
        ids = codec.encode("she is a nurse")
        assert codec.places(ids) == range(before, before + 4)
        assert len(ids) == before + 4 + after
