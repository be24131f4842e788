"""Weights shared out over two processes train as those of one, and come back whole."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from equiframe.collapse import UNC3Regularizer
from equiframe.errors import InputError
from equiframe.models.adapter import classifier, forward_at
from equiframe.training.sharding import check_version, gather, shard

RANKS, STEPS, WORDS = 2, 3, torch.tensor([6, 9, 17, 30, 55])
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")


def _conftest():
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def batches():
    """Batches of four lines, of which each rank takes two."""
    generator = torch.Generator().manual_seed(0)
    lines = torch.tensor([2, 6, 9, 17, 30, 55, 7, 3])[torch.randint(8, (STEPS, 4, 8), generator=generator)]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in lines]


def train(model, *, of_rank=slice(None), after_forward=lambda: None):
    """Steps of plain SGD under cross-entropy and term; the value of the term at each."""
    term = UNC3Regularizer(WORDS, classifier(model).shape[1], weight=10.0)
    optimizer, values = torch.optim.SGD(model.parameters(), lr=0.1), []
    for batch in batches():
        ids, mask = (batch[name][of_rank] for name in ("input_ids", "attention_mask"))
        read = forward_at(model, {"input_ids": ids, "attention_mask": mask}, torch.ones_like(ids, dtype=torch.bool))
        after_forward()
        loss = F.cross_entropy(read.logits, ids.flatten())
        value = term(read.states, ids.flatten(), classifier(model))
        (loss + value).backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(float(value.detach()))
    return values


def build(kind):
    conftest = _conftest()
    return {"masked": conftest.build_masked, "causal": conftest.build_causal}[kind]()[0]


def worker(rank: int, kind: str, resharded: bool, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    model = build(kind)
    size = sum(p.numel() for p in model.parameters())
    skeleton = shard(model, FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True))
    kept = sum(p.to_local().numel() for p in model.parameters())
    assert isinstance(model, FSDPModule)
    assert kept < 0.7 * size
    seen = []

    def after_forward():
        if resharded:  # as where a user's own plan frees the embedding
            model.reshard()
        seen.append(isinstance(classifier(model), DTensor))

    values = train(model, of_rank=slice(2 * rank, 2 * rank + 2), after_forward=after_forward)
    whole = gather(model, skeleton)
    assert not any(isinstance(p, DTensor) for p in whole.parameters())
    assert whole.get_input_embeddings().weight is classifier(whole)
    torch.save((values, seen, dict(whole.state_dict())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(("kind", "resharded"), [("masked", False), ("masked", True), ("causal", False)])
def test_two_ranks_that_share_the_weights_train_as_one_process(kind, resharded, tmp_path):
    expected = build(kind)
    before = {name: weight.clone() for name, weight in expected.state_dict().items()}
    expected_values = train(expected)
    mp.start_processes(worker, args=(kind, resharded, str(tmp_path)), nprocs=RANKS, start_method="fork")
    moved = max(float((before[name] - weight).abs().max()) for name, weight in expected.state_dict().items())
    for rank in range(RANKS):
        values, seen, state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert seen == [resharded] * STEPS
        assert values == pytest.approx(expected_values, rel=1e-5)
        torch.testing.assert_close(state, dict(expected.state_dict()), rtol=1e-5, atol=1e-6)
    assert moved > 1e-3
    assert expected_values[-1] > 0


def test_the_first_fsdp_is_refused():
    with pytest.raises(InputError, match=r"fsdp_version: 1.*give 2"):
        check_version("1")
