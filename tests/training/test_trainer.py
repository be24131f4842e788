"""Fine-tuning: parts logged, resumed as if never stopped, stopped by a loss that is not finite."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding

from equiframe.collapse import UNC3Regularizer
from equiframe.errors import InputError, ModelError
from equiframe.methods import ObjectiveOutput, Settings, WithUNC3
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.objective import Objective
from equiframe.models import load, output_embedding
from equiframe.training import DebiasingTrainer, FineTuning
from equiframe.training.arguments import training_arguments
from equiframe.training.trainer import complete_checkpoint

SETTINGS = Settings(epochs=1, learning_rate=1e-3, batch_size=4, max_length=32, unc3_weight=10.0, seed=1)


def trainer_for(lm, folder, *, weight, steps=6, save_steps=3, text=None, precision="fp32"):
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
    with pytest.raises(InputError, match="--precision fp16 needs a GPU"):
        training_arguments(FineTuning(precision="fp16"), tmp_path, SETTINGS, torch.device("cpu"))


def test_an_interrupted_checkpoint_is_not_resumed(tmp_path):
    for step, is_whole in ((9, True), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if is_whole:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert complete_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"max_steps": -1}, {"learning_rate": 0.0}, {"lora_rank": -1}])
def test_impossible_settings_name_their_option(wrong):
    with pytest.raises(InputError, match="--"):
        FineTuning(**wrong)


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
