"""Tiny random models of four architectures, whose tokenizers are trained on real items."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from equiframe.models import LanguageModel

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="session")
def clusters(real_items):
    return real_items("stereoset:dev")


@pytest.fixture(scope="session")
def pairs(real_items):
    return real_items("crows_pairs")


@pytest.fixture(scope="session")
def sentences(clusters, pairs):
    return [sentence for c in clusters for sentence in c.sentences] + [pair.sent_more for pair in pairs]


def word_pieces(sentences, size=1500):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        sentences, trainers.WordPieceTrainer(vocab_size=size, special_tokens=specials, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=128, **dict(zip(names, specials, strict=True))
    )


def byte_level(sentences, specials, size=1500, **names):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        sentences,
        trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    if "mask_token" in names:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)


@pytest.fixture(scope="session")
def bert(sentences):
    torch.manual_seed(0)
    tokenizer = word_pieces(sentences)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, initializer_range=0.3, **SHAPE)
    return LanguageModel("bert", BertForMaskedLM(config).eval(), tokenizer, "masked")


@pytest.fixture(scope="session")
def roberta(sentences):
    torch.manual_seed(1)
    mask = AddedToken("<mask>", lstrip=True, special=True)
    tokenizer = byte_level(
        sentences,
        ["<s>", "<pad>", "</s>", "<unk>", mask],
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token=mask,
    )
    config = RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=130, pad_token_id=1, initializer_range=0.3, **SHAPE
    )
    return LanguageModel("roberta", RobertaForMaskedLM(config).eval(), tokenizer, "masked")


@pytest.fixture(scope="session")
def gpt2(sentences):
    torch.manual_seed(2)
    end = "<|endoftext|>"
    tokenizer = byte_level(sentences, [end], bos_token=end, eos_token=end)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LanguageModel("gpt2", GPT2LMHeadModel(config).eval(), tokenizer, "causal")


@pytest.fixture(scope="session")
def llama(sentences):
    """Its tokenizer has an end token alone, as Qwen's has."""
    torch.manual_seed(3)
    tokenizer = byte_level(sentences, ["<|endoftext|>"], eos_token="<|endoftext|>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        num_key_value_heads=1,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        **SHAPE,
    )
    return LanguageModel("llama", LlamaForCausalLM(config).eval(), tokenizer, "causal")


@pytest.fixture(scope="session")
def log_probs():
    """The log-probabilities at every place of token ids, [length, vocabulary], from one plain call."""

    @torch.no_grad()
    def of(language_model, ids):
        return language_model.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)

    return of


@pytest.fixture(scope="session")
def token_log_probs(log_probs):
    """The log-probability of every token of a sentence, one call and, for a masked model, one mask at a time."""

    def of(language_model, sentence):
        tokenizer = language_model.tokenizer
        if language_model.kind == "causal":
            start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
            ids = tokenizer.encode(sentence, add_special_tokens=False)
            found = log_probs(language_model, [start, *ids])
            return [found[i, token].item() for i, token in enumerate(ids)]
        ids, logs = tokenizer.encode(sentence), []
        for place in range(1, len(ids) - 1):
            masked = [*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]
            logs.append(log_probs(language_model, masked)[place, ids[place]].item())
        return logs

    return of
