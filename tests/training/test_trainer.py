"""Fine-tuning: parts logged, resumed as if never stopped, stopped by a loss that is not finite."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from equiframe.collapse import UNC3Regularizer
from equiframe.errors import InputError, ModelError
from equiframe.methods import ObjectiveOutput, Settings, WithUNC3
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.objective import Objective
from equiframe.models import load, output_embedding
from equiframe.training import DebiasingTrainer, FineTuning, UNC3Mixin
from equiframe.training.arguments import check_trackers, training_arguments
from equiframe.training.trainer import complete_checkpoint

SETTINGS = Settings(epochs=1, learning_rate=1e-3, batch_size=4, max_length=32, unc3_weight=10.0, seed=1)


class FairTrainer(UNC3Mixin, Trainer):
    """Anyone's Trainer with the term."""


def trainer_for(lm, folder, *, weight, steps=6, save_steps=3, text=None, precision="fp32", watch=None):
    objective: Objective = LanguageModelling(lm, mask_share=0.3)
    if weight:
        words = lm.tokenizer.convert_tokens_to_ids(["she", "he", "his", "her", "a", "is"])
        ids = torch.tensor(sorted(set(words)))
        dim = output_embedding(lm.model).weight.shape[1]
        objective = WithUNC3(objective, UNC3Regularizer(ids, dim, weight=weight))
    arguments = FineTuning(max_steps=steps, precision=precision, save_steps=save_steps)
    return DebiasingTrainer(
        objective=objective,
        model=lm.model,
        args=training_arguments(arguments, folder, SETTINGS, torch.device("cpu")),
        train_dataset=Dataset.from_dict({"input_ids": lm.tokenizer(text)["input_ids"]}),
        data_collator=DataCollatorWithPadding(lm.tokenizer),
        watch=watch,
        watch_steps=int(watch is not None),
    )


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_resumed_run_ends_where_an_unbroken_one_does(masked_model, model_folders, text, tmp_path):
    torch.manual_seed(1)
    whole = trainer_for(masked_model, tmp_path / "whole", weight=5.0, text=text * 4)
    whole.train()

    again = load(str(model_folders["masked"]), device="cpu")
    torch.manual_seed(1)
    first = trainer_for(again, tmp_path / "broken", weight=5.0, text=text * 4)

    class Stop(Exception):
        pass

    def stop(*args, **kwargs):
        if first.state.global_step == 4:
            raise Stop
        return step(*args, **kwargs)

    step = first.training_step
    first.training_step = stop
    with pytest.raises(Stop):
        first.train()
    checkpoint = complete_checkpoint(tmp_path / "broken")
    assert checkpoint is not None
    assert checkpoint.endswith("checkpoint-3")

    third = load(str(model_folders["masked"]), device="cpu")
    second = trainer_for(third, tmp_path / "broken", weight=5.0, text=text * 4)
    second.train(resume_from_checkpoint=checkpoint)
    torch.testing.assert_close(weights(third.model), weights(masked_model.model), rtol=0, atol=0)


def test_a_finished_training_takes_no_further_step(masked_model, model_folders, text, tmp_path):
    trained = trainer_for(masked_model, tmp_path, weight=5.0, text=text * 4)
    trained.train_on()
    again = load(str(model_folders["masked"]), device="cpu")
    resumed = trainer_for(again, tmp_path, weight=5.0, text=text * 4)
    resumed.training_step = None  # would be called
    resumed.train_on()
    assert resumed.state.global_step == trained.state.global_step
    assert resumed.history == trained.history
    assert torch.equal(weights(again.model), weights(masked_model.model))
    assert torch.equal(resumed.objective.regularizer.means, trained.objective.regularizer.means)


def test_weight_zero_and_no_regularizer_are_the_same_to_the_bit(masked_model, model_folders, text, tmp_path):
    torch.manual_seed(1)
    trainer_for(masked_model, tmp_path / "a", weight=0, text=text).train()
    other = load(str(model_folders["masked"]), device="cpu")
    torch.manual_seed(1)
    plain = trainer_for(other, tmp_path / "b", weight=0, text=text)
    plain.train()
    assert torch.equal(weights(other.model), weights(masked_model.model))


def test_parts_are_logged(masked_model, text, tmp_path):
    trainer = trainer_for(masked_model, tmp_path, weight=5.0, text=text, steps=2)
    trainer.train()
    entry = trainer.history[0]
    assert {"step", "loss", "language_modelling", "unc3"} <= set(entry)
    assert entry["loss"] == pytest.approx(entry["language_modelling"] + 5.0 * entry["unc3"], rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run(masked_model, text, tmp_path):
    class Broken(Objective):
        def forward(self, model, batch):
            loss = output_embedding(model).weight.sum() * float("nan")
            return ObjectiveOutput(loss=loss, features=torch.empty(0, 16), token_ids=torch.empty(0))

    trainer = trainer_for(masked_model, tmp_path, weight=0, text=text)
    trainer.objective = Broken()
    with pytest.raises(ModelError, match="nan at step 1"):
        trainer.train()


def test_two_ranks_share_the_examples_of_every_epoch(masked_model, text, tmp_path, monkeypatch):
    trainer = trainer_for(masked_model, tmp_path, weight=0, text=text)
    trainer.train_dataset = Dataset.from_dict({"input_ids": [[9] * length for length in range(1, 17)]})
    monkeypatch.setattr(type(trainer.args), "world_size", 2)
    lengths = []
    for rank in range(2):
        torch.manual_seed(rank)  # after batches of different lengths, the generators of two ranks differ
        share = functools.partial(prepare_data_loader, num_processes=2, process_index=rank, put_on_device=False)
        monkeypatch.setattr(trainer.accelerator, "prepare", share)
        loader = trainer.get_train_dataloader()
        loader.set_epoch(1)
        lengths += [length for batch in loader for length in batch["attention_mask"].sum(dim=1).tolist()]
    assert sorted(lengths) == list(range(1, 17))


@pytest.mark.parametrize("precision", ["auto", "bf16"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there auto may be bf16")
def test_every_precision_trains_on_a_processor(precision, masked_model, text, tmp_path):
    arguments = FineTuning(max_steps=1, precision=precision)
    trainer = DebiasingTrainer(
        objective=LanguageModelling(masked_model, mask_share=0.3),
        model=masked_model.model,
        args=training_arguments(arguments, tmp_path, SETTINGS, torch.device("cpu")),
        train_dataset=Dataset.from_dict({"input_ids": masked_model.tokenizer(text)["input_ids"]}),
        data_collator=DataCollatorWithPadding(masked_model.tokenizer),
    )
    before = weights(masked_model.model)
    trainer.train()
    assert trainer.args.device.type == "cpu"
    assert trainer.args.bf16 == (precision == "bf16")
    assert not torch.equal(before, weights(masked_model.model))


def test_fp16_needs_a_gpu(tmp_path):
    with pytest.raises(InputError, match="precision fp16 needs a GPU"):
        training_arguments(FineTuning(precision="fp16"), tmp_path, SETTINGS, torch.device("cpu"))


def test_an_interrupted_checkpoint_is_not_resumed(tmp_path):
    for step, is_whole in ((9, True), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if is_whole:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert complete_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"epochs": 0}, "--epochs 0: give a number above 0"),
        ({"epochs": float("inf")}, "--epochs inf"),
        ({"max_steps": -1}, "--max-steps -1: give a whole number above 0"),
        ({"max_steps": 2.5}, "--max-steps 2.5: give a whole number"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"learning_rate": 1e39}, "--learning-rate 1e\\+39"),
        ({"batch_size": "four"}, "--batch-size four: give a whole number"),
        ({"accumulation": 0}, "--accumulation 0"),
        ({"save_steps": 0}, "--save-steps 0"),
        ({"seed": -1}, "--training-seed -1: give a whole number of 0 or more, at most 4"),
        ({"seed": 2**32}, "--training-seed 4294967296"),
        ({"lora_rank": -1}, "--lora -1"),
        ({"lora_rank": True}, "--lora True"),
        ({"audit_steps": -1}, "--audit-steps -1"),
        ({"precision": "int8"}, "--precision int8: choose auto, fp32, bf16, fp16"),
    ],
)
def test_impossible_settings_name_their_option(wrong, option):
    with pytest.raises(InputError, match=f"^{option}"):
        FineTuning(**wrong)


def test_numbers_of_numpy_are_numbers():
    assert FineTuning(seed=np.int64(3), learning_rate=np.float64(0.1)).seed == 3


def test_a_tracker_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr("equiframe.training.arguments.get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(InputError, match="--report-to wandb: that tracker is not installed: pip install wandb"):
        check_trackers(("tensorboard", "wandb"))
    unknown = "--report-to wandbb: the Trainer does not know this tracker"
    with pytest.raises(InputError, match=rf"{unknown}: give .*tensorboard"):
        check_trackers(("wandbb",))
    check_trackers(("tensorboard",))


def test_of_two_visible_gpus_one_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    arguments = training_arguments(FineTuning(batch_size=4), tmp_path, SETTINGS, torch.device("cpu"))
    assert TrainingArguments(str(tmp_path), use_cpu=True).train_batch_size == 16
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 4)


@pytest.mark.parametrize("kind", [DebiasingTrainer, FairTrainer])
def test_several_gpus_in_one_process_are_refused(kind, masked_model, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    given = {"model": masked_model.model, "args": TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])}
    if kind is FairTrainer:
        given |= {"unc3": UNC3Regularizer(torch.tensor([5, 6]), 16, weight=1.0), "unc3_kind": "masked"}
    else:
        given["objective"] = LanguageModelling(masked_model)
    with pytest.raises(InputError, match="2 GPUs in one process: start one process each"):
        kind(**given)


def test_a_gpu_that_the_trainer_would_not_use_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--device cuda:1: .* CUDA_VISIBLE_DEVICES=1"):
        training_arguments(FineTuning(precision="fp32"), tmp_path, SETTINGS, torch.device("cuda:1"))


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_four_batches_of_four_are_a_batch_of_sixteen(weight, causal_model, text, tmp_path):
    def trained(batch_size, accumulation, folder):
        lm = load(causal_model.name, device="cpu")
        for module in lm.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        objective: Objective = LanguageModelling(lm)
        if weight:
            ids = torch.tensor(sorted(set(lm.tokenizer(" ".join(text))["input_ids"])))
            dim = output_embedding(lm.model).weight.shape[1]
            # of a fixed size, so that it does not matter in how many parts its means are collected
            objective = WithConstant(objective, UNC3Regularizer(ids, dim, weight=weight))
        arguments = FineTuning(max_steps=3, batch_size=batch_size, accumulation=accumulation, precision="fp32")
        trainer = DebiasingTrainer(
            objective=objective,
            model=lm.model,
            args=training_arguments(arguments, folder, SETTINGS, torch.device("cpu")),
            train_dataset=Dataset.from_dict({"input_ids": lm.tokenizer(lines)["input_ids"]}),
            data_collator=DataCollatorWithPadding(lm.tokenizer),
        )
        trainer.train()
        return weights(lm.model), trainer.history

    class WithConstant(WithUNC3):
        def forward(self, model, batch):
            host = self.objective(model, batch)
            term = weight * output_embedding(model).weight.square().mean()
            return dataclasses.replace(host, loss=host.loss + term, term=term)

    lines = [*text, *(" ".join(text[i].split()[: 1 + i % 3]) for i in range(8))]  # long and very short ones
    whole, history = trained(16, 1, tmp_path / "whole")
    parts, history_of_parts = trained(4, 4, tmp_path / "parts")
    moved = (weights(load(causal_model.name, device="cpu").model) - whole).norm()
    assert (parts - whole).norm() < 1e-3 * moved
    for one, other in zip(history, history_of_parts, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["language_modelling"] == pytest.approx(one["language_modelling"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of processors")
def test_the_watched_model_is_not_in_the_precision_of_training(masked_model, text, tmp_path):
    batch = masked_model.tokenizer(text[:2], padding=True, return_tensors="pt")
    seen = []

    def watch():
        with torch.no_grad():
            hidden = masked_model.model.base_model(**batch).last_hidden_state
            seen.append((masked_model.model(**batch).logits, masked_model.model.cls(hidden)))
        return {}

    trainer = trainer_for(masked_model, tmp_path, weight=0, steps=2, text=text, precision="bf16", watch=watch)
    trainer.train()
    assert len(seen) == 2
    for found, expected in seen:
        assert torch.equal(found, expected)
    # training went on in bf16 after the first look
    assert not torch.equal(trainer.model(**batch).logits, trainer.whole_model()(**batch).logits)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="of processors")
def test_bf16_trains_on_a_processor(masked_model, text, tmp_path):
    trainer = trainer_for(masked_model, tmp_path, weight=5.0, steps=1, text=text, precision="bf16")
    trainer.train()
    assert trainer.args.bf16
    assert trainer.state.global_step == 1


def test_an_objective_that_holds_weights_is_refused_where_they_are_shared_out(masked_model, tmp_path, monkeypatch):
    class Holding(LanguageModelling):
        works_sharded = False

    def as_with_fsdp(self):
        create(self)
        self.is_fsdp_enabled = True

    create = DebiasingTrainer.create_accelerator_and_postprocess
    monkeypatch.setattr(DebiasingTrainer, "create_accelerator_and_postprocess", as_with_fsdp)
    arguments = training_arguments(FineTuning(max_steps=1, precision="fp32"), tmp_path, SETTINGS, torch.device("cpu"))
    term = UNC3Regularizer(torch.tensor([5, 6]), 16, weight=1.0)
    with pytest.raises(InputError, match=r"Holding does more with the model than call it.*ddp\.yaml"):
        DebiasingTrainer(objective=WithUNC3(Holding(masked_model), term), model=masked_model.model, args=arguments)
