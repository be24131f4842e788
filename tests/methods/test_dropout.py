"""Where each architecture keeps its rates of dropout, and that they are others in a training step alone."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import transformers as hf
from torch import nn

from equiframe.data import DataSource
from equiframe.errors import InputError
from equiframe.methods.dropout import Dropout, dropout_rates
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.method import load_method
from equiframe.models import save
from equiframe.runs.debias import UNC3Options, debias
from equiframe.training import FineTuning
from equiframe.words import WordSet

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
BERT = {
    "embeddings.dropout": "hidden",
    "encoder.layer.0.attention.self.dropout": "attention",
    "encoder.layer.0.attention.output.dropout": "hidden",
    "encoder.layer.0.output.dropout": "hidden",
}
ALBERT = "encoder.albert_layer_groups.0.albert_layers.0"
# Read in the sources of transformers 5.23: modules, and the rates that their forward pass uses.
EXPECTED = {
    "bert": (hf.BertForMaskedLM, hf.BertConfig(**SHAPE), BERT),
    "roberta": (hf.RobertaForMaskedLM, hf.RobertaConfig(**SHAPE), BERT),
    "electra": (hf.ElectraForMaskedLM, hf.ElectraConfig(**SHAPE, embedding_size=8), BERT),
    "distilbert": (
        hf.DistilBertForMaskedLM,
        hf.DistilBertConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=32),
        {
            "embeddings.dropout": "hidden",
            "transformer.layer.0.attention.dropout": "attention",
            "transformer.layer.0.ffn.dropout": "hidden",
        },
    ),
    "albert": (
        hf.AlbertForMaskedLM,
        hf.AlbertConfig(**SHAPE, embedding_size=8),
        {
            "embeddings.dropout": "hidden",
            f"{ALBERT}.attention.attention_dropout": "attention",
            f"{ALBERT}.attention.output_dropout": "hidden",
            f"{ALBERT}.dropout": "hidden",
        },
    ),
    "modernbert": (
        hf.ModernBertForMaskedLM,
        hf.ModernBertConfig(  # transformers 5.8 refuses one layer, which cannot be of both its kinds
            **SHAPE | {"num_hidden_layers": 2},
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        ),
        {
            "embeddings.drop": "hidden",
            "layers.0.attn": "attention",
            "layers.0.mlp.drop": "hidden",
            "layers.1.attn": "attention",
            "layers.1.mlp.drop": "hidden",
        },
    ),
    "gpt2": (
        hf.GPT2LMHeadModel,
        hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0),
        {
            "drop": "hidden",
            "h.0.attn.attn_dropout": "attention",
            "h.0.attn.resid_dropout": "hidden",
            "h.0.mlp.dropout": "hidden",
        },
    ),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**SHAPE), {"layers.0.self_attn": "attention"}),
    "gpt_neox": (
        hf.GPTNeoXForCausalLM,
        hf.GPTNeoXConfig(**SHAPE),
        {
            "emb_dropout": "hidden",
            "layers.0.post_attention_dropout": "hidden",
            "layers.0.post_mlp_dropout": "hidden",
            "layers.0.attention": "attention",
        },
    ),
    "opt": (
        hf.OPTForCausalLM,
        hf.OPTConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            ffn_dim=32,
            max_position_embeddings=32,
            word_embed_proj_dim=16,
        ),
        {"decoder": "hidden", "decoder.layers.0": "hidden", "decoder.layers.0.self_attn": "attention"},
    ),
}


@pytest.mark.parametrize("architecture", EXPECTED)
def test_rates_by_architecture(architecture):
    kind, config, expected = EXPECTED[architecture]
    model = kind(config)
    before, dropouts = config.to_dict(), {m: m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    rates = dropout_rates(model, hidden=0.3, attention=0.4)
    name_of = {module: name for name, module in model.base_model.named_modules()}
    assert {name_of[module]: rate for module, _, rate in rates} == {
        name: {"hidden": 0.3, "attention": 0.4}[which] for name, which in expected.items()
    }
    assert len(rates) == len(expected)
    assert set(dropouts) <= {module for module, _, _ in rates}  # no dropout of the model is forgotten
    assert model.config.to_dict() == before
    assert all(module.p == rate for module, rate in dropouts.items())


def batch_of(lm, text):
    return dict(lm.tokenizer(text, return_tensors="pt", padding=True))


def objective_of(lm, **options):
    return Dropout(**options).objective(lm, None, pairing="aligned", feature="decoder-input")


def test_without_dropout_a_training_step_is_the_plain_loss(language_model, text):
    batch, model = batch_of(language_model, text), language_model.model
    torch.manual_seed(0)
    plain = LanguageModelling(language_model)(model, batch).loss
    model.train()
    torch.manual_seed(0)
    torch.testing.assert_close(objective_of(language_model, hidden=0, attention=0)(model, batch).loss, plain)
    torch.manual_seed(0)
    raised = objective_of(language_model, hidden=0.5, attention=0.5)(model, batch).loss
    assert abs(raised - plain) > 1e-3


@pytest.mark.parametrize("options", [{"hidden": 0.9, "attention": 0}, {"hidden": 0, "attention": 0.9}])
def test_each_rate_reaches_the_forward_pass(language_model, text, options):
    model, batch, losses = language_model.model.train(), batch_of(language_model, text), []
    for rates in (options, options, {"hidden": 0, "attention": 0}):
        torch.manual_seed(0)  # the masks of a masked LM are drawn first
        losses.append(objective_of(language_model, **rates)(model, batch).loss)
    assert losses[0] == losses[1] != losses[2]


def test_the_models_own_rates_are_back_after_a_step(language_model, text):
    model = language_model.model.train()
    own = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    seen = []
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda *_: seen.append({m.p for m in model.modules() if isinstance(m, nn.Dropout)})
    )
    objective = objective_of(language_model)
    objective(model, batch_of(language_model, text)).loss.backward()
    handle.remove()
    assert seen == [{0.2, 0.15}]
    with pytest.raises(KeyError):
        objective(model, {})
    assert {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)} == own
    assert set(own.values()) == {0.1}


def test_a_model_without_dropout(masked_model):
    class Plain(hf.PreTrainedModel):
        config_class = hf.PretrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.linear = nn.Linear(2, 2)

    without = dataclasses.replace(masked_model, model=Plain(hf.PretrainedConfig()))
    with pytest.raises(InputError, match="Plain has no dropout to raise: choose another --method"):
        objective_of(without)


@pytest.mark.parametrize("wrong", [{"hidden": "1"}, {"attention": -0.1}, {"hidden": "nan"}])
def test_options_are_checked(wrong):
    with pytest.raises(InputError, match=f"dropout.{next(iter(wrong))}"):
        load_method("dropout", wrong)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_a_whole_run(language_model, text, tmp_path, weight):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(text))
    done = debias(
        language_model,
        load_method("dropout", {"text": str(file), "hidden": "0.3"}),
        UNC3Options(weight=weight),
        FineTuning(max_steps=2, batch_size=4, precision="fp32"),
        WordSet.builtin("gender").resolve(language_model.tokenizer),
        tmp_path / "checkpoints",
    )
    assert (done.result.steps, done.result.method) == (2, "dropout")
    assert ("unc3" in done.history) == (weight > 0)
    model = done.language_model.model
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} == {0.1}
    assert not model.training


def test_alone_it_learns_and_the_saved_rates_are_the_models_own(language_model, text, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(text))
    save(language_model, tmp_path / "before")
    done = debias(
        language_model,
        load_method("dropout", {"text": str(file)}),
        UNC3Options(),
        FineTuning(max_steps=60, batch_size=8, learning_rate=1e-2, precision="fp32"),
        WordSet.builtin("gender").resolve(language_model.tokenizer),
        tmp_path / "checkpoints",
    )
    losses = done.history["language_modelling"]
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]
    save(done.language_model, tmp_path / "after")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", "after"))
    rates = [name for name in before if "drop" in name]
    assert len(rates) >= 2
    assert {name: after[name] for name in rates} == {name: before[name] for name in rates}


def test_rates_reach_llamas_attention(causal_model, text):
    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": len(causal_model.tokenizer), "max_position_embeddings": 64}
    llama = dataclasses.replace(causal_model, model=hf.LlamaForCausalLM(hf.LlamaConfig(**shape)).train())
    batch = batch_of(llama, text)
    plain, unchanged, raised = (
        objective_of(llama, hidden=hidden, attention=attention)(llama.model, batch).loss
        for hidden, attention in ((0, 0), (0.9, 0), (0, 0.9))
    )
    assert plain == unchanged != raised
    assert llama.model.model.layers[0].self_attn.attention_dropout == 0


def test_text_is_as_it_is(masked_model, gap_folder, text):
    dataset, files = Dropout().training_data(masked_model, source=DataSource(gap_folder), max_length=64, seed=0)
    expected = [f"{line.capitalize()}." for line in text] * 2
    assert dataset["input_ids"][:] == masked_model.tokenizer(expected)["input_ids"]
    assert [file.name for file in files] == ["gap/development", "gap/test"]
