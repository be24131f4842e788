"""The term in a plain Trainer: the loss it adds, accumulation, log, checkpoints, and LoRA."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from equiframe.collapse import UNC3Regularizer
from equiframe.errors import ModelError
from equiframe.models import load, output_embedding
from equiframe.models.adapter import forward_at, pair
from equiframe.training import UNC3Mixin


class FairTrainer(UNC3Mixin, Trainer):
    pass


def term(lm, texts, weight=10.0):
    """Every token of the texts is a word of the term."""
    ids = {token for text in texts for token in lm.tokenizer(text)["input_ids"]} - set(lm.special_ids.tolist())
    return UNC3Regularizer(torch.tensor(sorted(ids)), output_embedding(lm.model).weight.shape[1], weight=weight)


def trainer_for(lm, folder, texts, *, unc3=None, steps=1, processing_class=None, **arguments):
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    given = {
        "max_steps": steps,
        "per_device_train_batch_size": 1,
        "learning_rate": 0.1,
        "optim": "sgd",
        "use_cpu": True,
    }
    return FairTrainer(
        model=lm.model,
        args=TrainingArguments(str(folder), report_to=[], logging_steps=1, disable_tqdm=True, **given | arguments),
        train_dataset=Dataset.from_dict({"input_ids": [lm.tokenizer(t)["input_ids"] for t in texts]}),
        data_collator=DataCollatorForLanguageModeling(lm.tokenizer, mlm=lm.kind == "masked", mlm_probability=0.3),
        processing_class=processing_class or lm.tokenizer,
        unc3=unc3 or term(lm, texts),
        unc3_kind=lm.kind,
    )


def test_adds_the_term_of_the_same_states(language_model, text, tmp_path):
    trainer = trainer_for(language_model, tmp_path, text)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    model = language_model.model.train()
    plain = Trainer.compute_loss(trainer, model, dict(batch))
    both = trainer.compute_loss(model, dict(batch))

    true_ids = torch.where(batch["labels"] == -100, batch["input_ids"], batch["labels"])
    where, ids = pair(
        language_model.kind,
        batch["input_ids"],
        batch["attention_mask"],
        language_model.special_ids,
        true_ids=true_ids,
    )
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    read = forward_at(model, inputs, where, logits=False)
    rows = output_embedding(model).weight
    alone = term(language_model, text)(read.states, ids, rows)
    assert alone > 0
    torch.testing.assert_close(both - plain, alone)
    assert torch.autograd.grad(both - plain, rows)[0].abs().sum() > 0

    evaluated = trainer.compute_loss(model.eval(), dict(batch))
    torch.testing.assert_close(evaluated, Trainer.compute_loss(trainer, model, dict(batch)))


def test_a_processor_of_images_has_the_tokenizer(masked_model, text, tmp_path):
    unc3 = term(masked_model, text)
    ids = torch.cat([unc3.class_ids, masked_model.special_ids]).unique()
    unc3, processor = (
        UNC3Regularizer(ids, unc3.means.shape[1], weight=1.0),
        SimpleNamespace(tokenizer=masked_model.tokenizer),
    )
    trainer = trainer_for(masked_model, tmp_path, text, unc3=unc3, processing_class=processor)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(text))])
    trainer.compute_loss(masked_model.model.train(), dict(batch))
    seen = set(trainer.unc3.class_ids[trainer.unc3.counts > 0].tolist())
    assert seen
    assert not seen & set(masked_model.special_ids.tolist())


def test_counts_once_a_step_however_many_batches(causal_model, model_folders, text, tmp_path):
    once = trainer_for(causal_model, tmp_path / "once", text[:1])
    once.train()
    other = load(str(model_folders["causal"]), device="cpu")
    before = output_embedding(other.model).weight.detach().clone()
    twice = trainer_for(other, tmp_path / "twice", text[:1] * 2, gradient_accumulation_steps=2)
    twice.train()
    found, wanted = (output_embedding(lm.model).weight for lm in (other, causal_model))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert (wanted - before).abs().max() > 1e-4


def test_is_logged_and_kept_in_checkpoints(language_model, text, tmp_path):
    trainer = trainer_for(language_model, tmp_path, text, steps=4, save_steps=2)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 4
    assert all(entry["unc3_weight"] == 10.0 for entry in logged)
    assert logged[-1]["unc3"] == pytest.approx(float(trainer.unc3.last_parts["unc3"]))

    resumed = trainer_for(language_model, tmp_path, text, steps=4, save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert int(resumed.unc3.steps) == 4
    early = load_file(tmp_path / "checkpoint-2" / "unc3.safetensors")["counts"]
    assert early.sum() > 0
    assert (resumed.unc3.counts >= early).all()


def test_reaches_the_features_of_a_lora_model(causal_model, text, tmp_path):
    peft = pytest.importorskip("peft")
    ids = torch.tensor(sorted(set(causal_model.tokenizer(" ".join(text))["input_ids"])))
    dim = output_embedding(causal_model.model).weight.shape[1]
    unc3 = UNC3Regularizer(ids, dim, weight=10.0, memory="ema", through_features=True)
    config = peft.LoraConfig(r=2, target_modules="all-linear")
    trainer = trainer_for(causal_model, tmp_path, text, unc3=unc3)
    trainer.model = model = peft.get_peft_model(causal_model.model, config).train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    (trainer.compute_loss(model, dict(batch)) - Trainer.compute_loss(trainer, model, dict(batch))).backward()
    gradients = [p.grad for name, p in model.named_parameters() if "lora_B" in name and p.grad is not None]
    assert sum(float(g.abs().sum()) for g in gradients) > 0


def test_a_frozen_embedding_needs_the_way_through_the_features(causal_model, text, tmp_path):
    output_embedding(causal_model.model).weight.requires_grad_(False)
    with pytest.raises(ModelError, match="through_features=True"):
        trainer_for(causal_model, tmp_path, text)


def test_in_the_supervised_fine_tuning_of_trl(causal_model, text, tmp_path):
    trl = pytest.importorskip("trl")

    class FairSFTTrainer(UNC3Mixin, trl.SFTTrainer):
        pass

    def train(weight):
        torch.manual_seed(0)
        lm = load(causal_model.name, device="cpu")
        arguments = trl.SFTConfig(
            str(tmp_path / str(weight)),
            max_steps=3,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        )
        trainer = FairSFTTrainer(
            model=lm.model,
            args=arguments,
            train_dataset=Dataset.from_dict({"text": text}),
            processing_class=lm.tokenizer,
            unc3=term(lm, text, weight=weight),
            unc3_kind="causal",
        )
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        return [entry["unc3"] for entry in logged], output_embedding(lm.model).weight.detach()

    plain, rows = train(0.0)
    with_term, moved = train(50.0)
    assert len(with_term) == 3
    assert with_term[0] == pytest.approx(plain[0])
    assert with_term[-1] < plain[-1]
    assert not torch.equal(rows, moved)


def test_a_loss_without_the_output_embedding_is_refused(masked_model, text, tmp_path):
    trainer = trainer_for(masked_model, tmp_path, text)
    with pytest.raises(ModelError, match="fused or chunked"):
        trainer._term(masked_model.model, {"input_ids": torch.ones(1, 3, dtype=torch.int64)}, [])
