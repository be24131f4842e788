"""The metric of torchmetrics gives what one pass over all samples gives, however they are cut up."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from equiframe.collapse import ClassStatistics, collapse_metrics
from equiframe.errors import InputError

torchmetrics = pytest.importorskip("torchmetrics")

from equiframe.collapse.torchmetrics import CollapseMetrics  # noqa: E402

WORDS, OTHERS = torch.tensor([9, 2, 5, 7]), torch.tensor([1, 3, 4, 6])
VOCABULARY, DIM = 12, 6
ROWS = torch.randn(VOCABULARY, DIM, generator=torch.Generator().manual_seed(7))


def rows():
    return ROWS


def batches(count=6):
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(20 + 3 * i, DIM, generator=generator) + 3,
            torch.randint(VOCABULARY, (20 + 3 * i,), generator=generator),
        )
        for i in range(count)
    ]


def expected(parts, words=WORDS, min_count=5):
    features, token_ids = (torch.cat(kind) for kind in zip(*parts, strict=True))
    seen = ClassStatistics(words, DIM, dtype=torch.float64).update(features, token_ids).seen(min_count)
    return collapse_metrics(seen, ROWS[seen.class_ids])


def metric(words=WORDS, **options):
    return CollapseMetrics(words, DIM, classifier=rows, **options)


def fed(parts, **options):
    made = metric(**options)
    for features, token_ids in parts:
        made.update(features, token_ids)
    return made


def assert_is(found, wanted):
    assert {key: float(value) for key, value in found.items()} == pytest.approx(wanted, rel=1e-5, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("min_count", [1, 12])
def test_batches_are_one_pass(min_count):
    assert len({len(expected(batches(), min_count=count)) for count in (1, 12)}) == 1
    assert_is(fed(batches(), min_count=min_count).compute(), expected(batches(), min_count=min_count))


def test_few_samples_are_not_a_number_under_the_same_keys():
    found = metric(min_count=1000).compute()
    assert found.keys() == expected(batches()).keys()
    assert all(value.isnan() for value in found.values())


def test_reset_forgets_and_classifier_is_asked_anew():
    made = fed(batches())
    made.reset()
    for part in batches()[:3]:
        made.update(*part)
    assert_is(made.compute(), expected(batches()[:3]))
    made.classifier = lambda: -ROWS
    made.update(*batches()[3])
    assert float(made.compute()["nc3_self_duality"]) == pytest.approx(-expected(batches()[:4])["nc3_self_duality"])


def test_forward_gives_the_batch_and_keeps_all():
    made = metric(min_count=1)
    for part in batches():
        assert_is(made(*part), expected([part], min_count=1))
    assert_is(made.compute(), expected(batches(), min_count=1))


def test_merged_states_are_one_pass():
    first, second = fed(batches()[:2]), fed(batches()[2:])
    first.merge_state(second)
    assert_is(first.compute(), expected(batches()))
    with pytest.raises(InputError, match="same words"):
        first.merge_state(metric(OTHERS))


def test_state_is_saved_and_copied():
    made = fed(batches()[:3])
    made.persistent(True)
    again = metric()
    again.load_state_dict(made.state_dict())
    for other in (again, copy.deepcopy(made)):
        for part in batches()[3:]:
            other.update(*part)
        assert_is(other.compute(), expected(batches()))
    assert_is(made.compute(), expected(batches()[:3]))


def test_inference_mode_may_begin_and_end():
    made = metric()
    with torch.inference_mode():
        made.update(*batches()[0])
        made.reset()
    for part in batches():
        made.update(*part)
    assert_is(made.compute(), expected(batches()))


def test_word_sets_in_a_collection_stay_apart():
    collection = torchmetrics.MetricCollection({"words": metric(), "others": metric(OTHERS)}, prefix="val/")
    nothing = torch.full((3,), 11)  # of which neither set has a word
    collection.update(torch.randn(3, DIM), nothing)
    for part in batches():
        collection.update(*part)
    found = collection.compute()
    for name, ids in (("words", WORDS), ("others", OTHERS)):
        mark = f"val/{name}_"
        mine = {key.removeprefix(mark): value for key, value in found.items() if key.startswith(mark)}
        assert_is(mine, expected(batches(), ids))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="repeat"):
        metric(torch.tensor([1, 1]))
    with pytest.raises(InputError, match="two or more words, got 1"):
        metric(torch.tensor([1]))
    made = metric()
    with pytest.raises(InputError, match="features must be"):
        made.update(torch.zeros(2, DIM + 1), torch.zeros(2, dtype=torch.int64))
    made.classifier = lambda: ROWS[:8]
    with pytest.raises(InputError, match="8 rows: give the whole"):
        made.compute()


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    made = fed(batches()[rank::2])
    torch.save((made.compute(), made.samples), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one(tmp_path):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    mp.start_processes(worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    for rank in range(2):
        found, own = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_is(found, expected(batches()))
        torch.testing.assert_close(own, fed(batches()[rank::2]).samples)  # synced for compute alone


def test_without_torchmetrics_the_error_says_how_to_get_it():
    code = "import sys; sys.modules['torchmetrics'] = None; import equiframe.collapse.torchmetrics"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'equiframe[torchmetrics]'" in done.stderr
