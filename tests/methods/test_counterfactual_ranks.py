"""Counterfactual collapse over two processes: they share the reading before training, and train as one would."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.nn.parallel import DistributedDataParallel

from equiframe.data import DEFAULT_SOURCE
from equiframe.methods import WithCounterfactuals
from equiframe.methods.counterfactual_collapse import CounterfactualCollapse
from equiframe.models import LanguageModel
from equiframe.training.sharding import gather, shard

RANKS = 2
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")


def build(kind, file):
    """A tiny model, host and terms on pairs of their own, and the host's batches, two for each rank."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "conftest.py")
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    model, tokenizer = {"masked": tiny.build_masked, "causal": tiny.build_causal}[kind]()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    lm = LanguageModel("tiny", model, tokenizer, kind)
    off = {"cc1": 0, "cc3": 0, "agreement": 0, "constraint": 0, "language_modelling": 1}
    objectives, pairs = [], []
    for options in (off, {}):
        method = CounterfactualCollapse(text=file, **options)
        pairs.append(method.training_data(lm, source=DEFAULT_SOURCE, max_length=46, seed=0)[0])
        objectives.append(method.objective(lm, pairs[-1], pairing="aligned", feature="decoder-input"))
    collate = method.collator(lm)
    both = WithCounterfactuals(*objectives, pairs[1], collate, weight=0.5, batch_size=2, seed=0)
    batches = [collate(pairs[0].select(range(2 * i, 2 * i + 2)).to_list()) for i in range(RANKS)]
    return model, both.train(), batches


def gradients(model, objective, batch):
    objective(model, batch).loss.backward()
    return {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def worker(rank, kind, file, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    model, objective, batches = build(kind, file)
    states = objective.term.original._states.clone()
    found = gradients(DistributedDataParallel(model), objective, batches[rank])
    model.zero_grad()
    objective.drawn.zero_()
    skeleton = shard(model, FullyShardedDataParallelPlugin(fsdp_version=2, reshard_after_forward=True))
    objective(model, batches[rank]).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    torch.save((states, found, dict(gather(model, skeleton).state_dict())), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_two_ranks_train_as_one_process(kind, tmp_path, monkeypatch):
    file = tmp_path / "text.txt"
    lines = [f"the nurse told her {a} about his {b}" for a in ("father", "brother", "son") for b in ("job", "ball")]
    file.write_text("\n".join(f"{line} {'and ' * (i % 9)}" for i, line in enumerate(lines * 7)) + "\n")
    model, objective, batches = build(kind, str(file))
    assert len(objective._pairs) == len(lines) * 7  # several batches of the reading before training
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    expected: dict[str, torch.Tensor] = {}
    for rank in range(RANKS):
        monkeypatch.setattr(objective, "rows", lambda rank=rank: rows_of_rank(objective, rank))
        model.zero_grad()
        for name, gradient in gradients(model, objective, batches[rank]).items():
            expected[name] = expected.get(name, 0) + gradient / RANKS
    states = objective.term.original._states.clone()
    monkeypatch.undo()
    mp.start_processes(worker, args=(kind, str(file), str(tmp_path)), nprocs=RANKS, start_method="fork")
    for rank in range(RANKS):
        read, found, sharded = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(read, states, rtol=1e-4, atol=1e-5)
        assert set(found) == set(expected)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
        for name, gradient in expected.items():
            torch.testing.assert_close(sharded[name], before[name] - gradient, rtol=1e-3, atol=1e-4)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-2


def rows_of_rank(objective, rank):
    """The pairs that a rank draws first, worked out from the order of all."""
    count = len(objective._pairs)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return order[2 * rank : 2 * rank + 2]
