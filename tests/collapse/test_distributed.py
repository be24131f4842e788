"""Two and four processes give the statistics, the term and, averaged as DDP does, the gradient of one."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from equiframe.collapse import ClassStatistics, UNC3Regularizer
from equiframe.collapse.regularizer import rows

STEPS, VOCABULARY, DIM = 4, 12, 5
WORDS_OF_RANK = [[2, 5, 0, 7], [5, 11, 0, 0], [7, 0, 0, 0], [11, 2, 0, 5]]
WORDS = torch.tensor([2, 5, 7, 11])
VARIANTS = [{"memory": memory, "through_features": through} for memory in ("run", "ema") for through in (False, True)]


def data(ranks: int):
    """For each step, inputs and token ids per rank. Rank 1 sees other words than rank 0, and once none."""
    generator = torch.Generator().manual_seed(0)
    steps = []
    for step in range(STEPS):
        parts = []
        for rank, words in enumerate(WORDS_OF_RANK[:ranks]):
            ids = torch.tensor([0] if (step, rank) == (2, 1) else words)
            tokens = 9 + 4 * rank
            choice = ids[torch.randint(len(ids), (tokens,), generator=generator)]
            parts.append((torch.randn(tokens, DIM, generator=generator) + 3, choice))
        steps.append(parts)
    return steps


def train(parts_of_step, ranks: int = 1) -> dict[str, torch.Tensor]:
    """A linear encoder and an embedding under the term; values, and gradients averaged over ranks."""
    results = {}
    for number, options in enumerate(VARIANTS):
        generator = torch.Generator().manual_seed(1)
        encoder = torch.randn(DIM, DIM, generator=generator).requires_grad_()
        rows = torch.randn(VOCABULARY, DIM, generator=generator).requires_grad_()
        regularizer = UNC3Regularizer(WORDS, DIM, weight=2.0, **options)
        for step, (inputs, token_ids) in enumerate(parts_of_step):
            value = regularizer(inputs @ encoder, token_ids, rows)
            gradients = torch.autograd.grad(value, [encoder, rows], allow_unused=True)
            results[f"{number}/{step}/value"] = value.detach()
            for name, gradient in zip(("encoder", "rows"), gradients, strict=True):
                if gradient is not None:
                    if ranks > 1:
                        dist.all_reduce(gradient)
                    results[f"{number}/{step}/{name}"] = gradient / ranks
    return results


def collect(parts) -> ClassStatistics:
    statistics = ClassStatistics(WORDS, DIM)
    for features, token_ids in parts:
        statistics.update(features, token_ids)
    return statistics


def shared_out(ranks: int) -> dict[str, torch.Tensor]:
    """Rows of a matrix shared out in each way, and the gradient of something made of them."""
    mesh, results = init_device_mesh("cpu", (ranks,)), {}
    for name, placement in (("rows", Shard(0)), ("columns", Shard(1)), ("copies", Replicate())):
        for number in (2, 7):  # of rows: with four ranks some have none
            matrix = torch.arange(5.0 * number).view(number, 5)
            matrix = distribute_tensor(matrix, mesh, [placement]).requires_grad_()
            found = rows(matrix, torch.tensor([number - 1, 0]))
            found.square().sum().backward()
            results[f"{name} of {number}"] = torch.cat([found.detach(), matrix.grad.full_tensor()])
    return results


def worker(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    mine = [parts[rank] for parts in data(ranks)]
    state = collect(mine).all_reduce().state_dict()
    torch.save((state, train(mine, ranks), shared_out(ranks)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    """What each rank came to."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(worker, args=(request.param, str(folder)), nprocs=request.param, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


def test_statistics_are_those_of_one_process(ranks):
    expected = collect(part for parts in data(len(ranks)) for part in parts).state_dict()
    for state, *_ in ranks:
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-5)


def test_value_and_averaged_gradient_are_those_of_one_process(ranks):
    joined = [tuple(torch.cat(kind) for kind in zip(*parts, strict=True)) for parts in data(len(ranks))]
    expected = train(joined)
    assert any(name.endswith("encoder") for name in expected)
    for _, results, _ in ranks:
        torch.testing.assert_close(results, expected, rtol=1e-5, atol=1e-5)
    for name in (name for name in expected if name.endswith("value")):
        assert len({float(results[name]) for _, results, _ in ranks}) == 1


def test_rows_and_their_gradient_do_not_depend_on_how_a_matrix_is_shared_out(ranks):
    for *_, results in ranks:
        for name, found in results.items():
            number = int(name.split()[-1])
            matrix = torch.arange(5.0 * number).view(number, 5)
            gradient = torch.zeros_like(matrix)
            gradient[[0, -1]] = 2 * matrix[[0, -1]]
            assert torch.equal(found, torch.cat([matrix[[-1, 0]], gradient])), name
