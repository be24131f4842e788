"""A step of several processes is that of one with all their examples, however unequal their batches."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from datasets import Dataset
from torch.utils.data import DataLoader

from equiframe.collapse import UNC3Regularizer
from equiframe.methods import Settings, WithUNC3
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.models import load, output_embedding
from equiframe.models.encoding import PadRight
from equiframe.training import DebiasingTrainer, FineTuning
from equiframe.training.arguments import training_arguments

RANKS = 2
SETTINGS = Settings(epochs=1, learning_rate=1e-3, batch_size=4, max_length=32, unc3_weight=10.0, seed=1)
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")


class InOrder(DebiasingTrainer):
    """Examples as they stand."""

    def get_train_dataloader(self):
        examples, size = self.train_dataset, self.args.train_batch_size
        return self.accelerator.prepare(DataLoader(examples, size, collate_fn=self.data_collator))


def trained(model, lines, folder, *, batch_size, accumulation=1):
    """Weights and logged steps after three steps on the lines in their order."""
    lm = load(model, device="cpu")
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids = torch.tensor(sorted(set(lm.tokenizer(" ".join(lines))["input_ids"])))
    term = UNC3Regularizer(ids, output_embedding(lm.model).weight.shape[1], weight=5.0)
    pad = PadRight(lm)
    tuning = FineTuning(max_steps=3, batch_size=batch_size, accumulation=accumulation, precision="fp32")
    trainer = InOrder(
        objective=WithUNC3(LanguageModelling(lm), term),
        model=lm.model,
        args=training_arguments(tuning, folder, SETTINGS, torch.device("cpu")),
        train_dataset=Dataset.from_dict({"input_ids": lm.tokenizer(lines)["input_ids"]}),
        data_collator=lambda rows: pad([row["input_ids"] for row in rows]),
    )
    trainer.train()
    return torch.cat([p.detach().flatten() for p in lm.model.parameters()]), trainer.history


def worker(rank: int, model: str, lines: list[str], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
    )
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    torch.save(trained(model, lines, f"{folder}/{rank}", batch_size=4), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_as_one_with_both_their_batches(model_folders, text, tmp_path):
    # the first rank's batches are long, the second's short
    lines = [*text[:4], "an engineer", "the job", "his", "a ball"] * 3
    model = str(model_folders["causal"])
    expected, history = trained(model, lines, tmp_path / "whole", batch_size=8)
    mp.start_processes(worker, args=(model, lines, str(tmp_path)), nprocs=RANKS, start_method="fork")
    for rank in range(RANKS):
        found, logged = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        for step, other in zip(history, logged, strict=True):
            if rank == 0:
                assert other["loss"] == pytest.approx(step["loss"], rel=1e-5)
            parts = ("language_modelling", "unc3", "unc3_weight", "classes_seen")
            assert {part: other[part] for part in parts} == pytest.approx({p: step[p] for p in parts}, rel=1e-4)
