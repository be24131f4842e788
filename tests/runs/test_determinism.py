"""The same seed gives the same bits; other thread counts give the same numbers within a stated tolerance."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from equiframe.benchmarks import load_benchmark
from equiframe.commands.run import run
from equiframe.config import AuditOptions, DebiasConfig, FineTuning, UNC3Options
from equiframe.errors import InputError

TOLERANCE = 1e-4
"""Of weights after a few steps, of metrics, and of scores in nats (docs/reliability.md)."""


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def files(text, tmp_path):
    sentences, words = tmp_path / "text.txt", tmp_path / "words.txt"
    sentences.write_text("\n".join(text * 8))
    words.write_text("she\the\nher\this\n")
    return sentences, words


def test_audits_while_training_change_no_bit_and_end_at_the_last_audit(model_folders, files, tmp_path):
    sentences, words = files
    records = []
    for steps in (0, 2):
        config = DebiasConfig(
            benchmarks=(),
            model=str(model_folders["masked"]),
            method="dropout",
            method_options={"text": str(sentences)},
            fine_tuning=FineTuning(max_steps=4, batch_size=8, precision="fp32", audit_steps=steps),
            audit=AuditOptions(text=str(sentences), words=str(words)),
        )
        records.append(run(config, tmp_path / f"run-{steps}"))
    alone, watched = records
    assert alone.metrics.model.fingerprint == watched.metrics.model.fingerprint
    seen = watched.history.set_index("step").filter(like="collapse/").dropna(how="all")
    assert list(seen.index) == [1, 2, 4]
    assert not set(seen) & set(alone.history)
    final = {f"collapse/{key}": value for key, value in watched.metrics.collapse[1].values.items() if value is not None}
    assert {"collapse/nc1_cdnv_mean", "collapse/unc3", "collapse/nc4_agreement"} <= set(seen)
    assert seen.loc[4].dropna().to_dict() == pytest.approx(final, rel=1e-6)


def test_scores_while_training_change_no_bit_and_end_at_the_last_score(model_folders, files, tmp_path):
    sentences, _ = files
    pairs = tmp_path / "pairs.csv"
    people = ("nurse", "doctor", "teacher", "cook", "king", "girl")
    pairs.write_text("stereotype,anti_stereotype\n" + "".join(f"she is a {who},he is a {who}\n" for who in people))
    benchmark = f"pairs:{pairs}"
    records = []
    for watch in ((), (benchmark,)):
        config = DebiasConfig(
            benchmarks=(benchmark,),
            watch=watch,
            limit=4,
            model=str(model_folders["masked"]),
            method="dropout",
            method_options={"text": str(sentences)},
            fine_tuning=FineTuning(max_steps=3, batch_size=8, precision="fp32"),
            audit=None,
        )
        records.append(run(config, tmp_path / f"run-{len(watch)}"))
    alone, watched = records
    assert alone.metrics.model.fingerprint == watched.metrics.model.fingerprint
    assert not set(alone.history.filter(like="bias/"))
    seen = watched.history.set_index("step").filter(like="bias/").dropna(how="all")
    assert list(seen.index) == [1]  # then every 50 steps
    config = dataclasses.replace(config, fine_tuning=dataclasses.replace(config.fine_tuning, audit_steps=3))
    often = run(
        dataclasses.replace(config, audit=AuditOptions(text=str(sentences), words=str(files[1]))), tmp_path / "often"
    )
    (result,) = often.metrics.benchmarks
    last = often.history.set_index("step").filter(like="bias/").loc[3]
    expected = {f"bias/{benchmark} {key}": result.estimates[key].value for key in load_benchmark(benchmark).headline}
    assert last.to_dict() == pytest.approx(expected, rel=1e-6)
    assert expected
    page = (tmp_path / "often" / "report.html").read_text()
    assert "(scored during training)" in page


def test_what_fine_tunes_itself_or_does_not_train_is_not_watched(model_folders, tmp_path):
    config = DebiasConfig(model=str(model_folders["masked"]), watch=("cola",))
    with pytest.raises(InputError, match="--watch cola: this benchmark fine-tunes the model itself"):
        run(config, tmp_path / "run")


def test_bits_of_a_seed_and_numbers_of_threads(model_folders, files, tmp_path, monkeypatch, threads):
    sentences, words = files
    config = DebiasConfig(
        benchmarks=(),
        model=str(model_folders["masked"]),
        method="cda",
        method_options={"text": str(sentences)},
        unc3=UNC3Options(weight=5.0),
        unc3_words=str(words),
        fine_tuning=FineTuning(max_steps=4, batch_size=8, precision="fp32"),
        audit=AuditOptions(text=str(sentences), words=str(words)),
    )
    found = []
    for number, count in enumerate((1, 1, 2)):
        threads(count)
        monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path / f"cache-{number}"))
        record = run(config, tmp_path / f"run-{number}")
        found.append((record, load_file(tmp_path / f"run-{number}" / "model" / "model.safetensors")))
    (first, weights), (again, weights_again), (other, weights_other) = found
    assert first.metrics.model.fingerprint == again.metrics.model.fingerprint
    assert first.metrics.collapse == again.metrics.collapse
    assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
    for name in weights:
        torch.testing.assert_close(weights_other[name], weights[name], rtol=0, atol=TOLERANCE)
    for mine, theirs in zip(first.metrics.collapse, other.metrics.collapse, strict=True):
        for key, value in mine.values.items():
            close = None if value is None else pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE)
            assert theirs.values[key] == close
