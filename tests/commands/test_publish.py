"""Cards, exports and pushes: what the record says, nothing of its data as markup, nothing overwritten."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from equiframe.benchmarks.benchmark import BenchmarkResult
from equiframe.commands import publish
from equiframe.commands.run import run
from equiframe.config import DebiasConfig
from equiframe.errors import InputError, RunError
from equiframe.methods import METHODS, Projection, load_method, what_it_does
from equiframe.models import load
from equiframe.record import (
    CollapseResult,
    FineTunedWith,
    Metrics,
    ModelDescription,
    Provenance,
    RunRecord,
    TrainingResult,
)
from equiframe.report.card import eval_results, model_card
from equiframe.uncertainty import Estimate

HOSTILE = "a|b <script>alert(1)</script> [x](http://y) *z*"


def result(name, key, value, items=20):
    estimate = Estimate(value=value, low=value - 3.92, high=value + 3.92, count=items, unit="%", ideal=50.0)
    return BenchmarkResult(
        benchmark=name,
        version=2,
        scoring="each changed token masked alone",
        files=(),
        items=items,
        excluded={"too long": 1},
        estimates={key: estimate, "gender.count": dataclasses.replace(estimate, low=None, high=None)},
        seconds=1.5,
    )


def record(value, training=None):
    described = ModelDescription(
        name=HOSTILE, kind="masked", architecture="Bert", parameters=7, vocabulary=2, fingerprint="f00"
    )
    metrics = Metrics(
        verb="debias" if training else "evaluate",
        model=described,
        collapse=[
            CollapseResult(
                class_set="fairness",
                classes=2,
                tokens=9,
                values={"unc3": 0.1},
                estimates={"unc3": Estimate(value=0.1, low=0.05, high=0.2, count=9, unit="", ideal=0.0)},
            )
        ],
        benchmarks=[result("crows_pairs:changed", "overall.metric", value)],
        training=training,
    )
    files = [{"name": HOSTILE, "origin": "user", "sha256": "0" * 64, "is_known_version": True, "licence": "MIT"}]
    environment = {"date": "2026-01-02T03:04:05+00:00", "packages": {"torch": "2.0", "transformers": "5.0"}}
    table = pd.DataFrame({"item": [str(i) for i in range(20)], "excluded": [None] * 20})
    config = {"model": "bert-base-uncased", "seed": 3, "files": files, "environment": environment}
    return RunRecord(Provenance.model_validate(config), metrics=metrics, items={"crows_pairs:changed": table})


@pytest.fixture
def runs(tmp_path):
    """A run before, and a debiased one with a model."""
    training = TrainingResult(method="bec", unc3_weight=100.0, steps=3, seconds=1.0, final_loss=2.0)
    for name, made in (("before", record(60.0)), ("after", record(52.0, training))):
        (tmp_path / name).mkdir()
        made.write(tmp_path / name)
    (tmp_path / "after" / "model").mkdir()
    (tmp_path / "after" / "model" / "model.safetensors").touch()
    return tmp_path / "before", tmp_path / "after"


def test_a_card_has_its_numbers_and_no_markup_of_its_data(runs):
    before, after = runs
    assert publish.write_card(after) == after / "model" / "README.md"
    card = ModelCard.load(after / "model" / "README.md")
    (entry,) = card.data.eval_results
    assert (entry.metric_value, entry.metric_type, entry.dataset_type) == (52.0, "overall.metric", "crows_pairs")
    assert entry.metric_args["interval_95"] == [pytest.approx(48.08), pytest.approx(55.92)]
    assert card.data.base_model == "bert-base-uncased"
    assert "52.0 \\[48.1, 55.9\\] | 50 | 20 |" in card.text
    assert "method `bec` and the (U)NC3 term (weight 100) for 3 steps" in " ".join(card.text.split())
    assert "0.100 \\[0.050, 0.200\\]" in card.text
    assert "<script" not in card.text
    assert "a\\|b &lt;script&gt;" in card.text
    assert "\\[x\\](http" in card.text
    assert publish.write_card(before) == before / "README.md"
    assert ModelCard.load(before / "README.md").data.base_model is None


def test_a_benchmark_without_headline_measures_is_on_the_card_too():
    made = record(60.0)
    own = result("my_own", "overall.score", 60.0)
    made = dataclasses.replace(made, metrics=made.metrics.model_copy(update={"benchmarks": [own]}))
    assert [entry.metric_type for entry in eval_results(made)] == list(own.estimates)
    assert "| 60.0 \\[56.1, 63.9\\] |" in model_card(made)


@pytest.mark.parametrize("folder", ["./bert", "../bert", "/models/bert", "runs/before/model"])
def test_a_folder_is_no_base_model_on_the_hub(folder):
    training = TrainingResult(method="bec", unc3_weight=0.0, steps=3, seconds=1.0, final_loss=2.0)
    made = record(52.0, training)
    made = dataclasses.replace(made, provenance=made.provenance.model_copy(update={"model": folder}))
    assert "base_model" not in model_card(made)


def test_a_card_tells_no_changes_to_another_model(runs, tmp_path):
    before, after = runs
    made = RunRecord.read(after)

    def starts_from(fingerprint, model):
        told = {**made.provenance.plain(), "model_before": fingerprint, "model": model}
        folder = tmp_path / f"{fingerprint}-{model}"
        folder.mkdir()
        dataclasses.replace(made, provenance=Provenance.model_validate(told)).write(folder)
        return folder

    bert = "bert-base-uncased"
    for ours, theirs in ((starts_from("e00", "gpt2"), before), (starts_from("e00", bert), after)):
        with pytest.raises(InputError, match="is not a run of the original model"):
            publish.write_card(ours, tmp_path / "card.md", before=theirs)
    for same in (starts_from("f00", "a-copy"), tmp_path / f"e00-{bert}"):  # a copy, and another precision
        publish._check_original(RunRecord.read(before), RunRecord.read(same), before)


def test_a_card_that_exists_is_found_before_runs_are_compared(runs, monkeypatch):
    before, after = runs
    (after / "card.md").write_text("mine")
    monkeypatch.setattr(publish, "compare", None)
    with pytest.raises(RunError, match="exists: choose another --out"):
        publish.write_card(after, after / "card.md", before=before)
    assert (after / "card.md").read_text() == "mine"


def test_a_card_tells_paired_changes(runs, monkeypatch):
    before, after = runs
    asked = {}

    def compared(records):
        asked.update(records)
        from equiframe.record import ComparedMeasure, Comparison
        from equiframe.uncertainty import Difference

        first, second = (r.metrics.benchmarks[0].estimates["overall.metric"] for r in records.values())
        moved = Difference(value=-8.0, low=-9.0, high=-7.0, p_value=0.001, count=20)
        measure = ComparedMeasure(
            benchmark="crows_pairs:changed", measure="overall.metric", first=first, second=second, difference=moved
        )
        return Comparison(
            verb="compare", runs={n: r.metrics for n, r in records.items()}, measures={"after": [measure]}
        )

    monkeypatch.setattr(publish, "compare", compared)
    text = publish.write_card(after, after / "card.md", before=before).read_text()
    assert list(asked) == ["before", "after"]
    assert "Moved in the wanted direction:" in text
    assert "fell from 60.0 to 52.0 %" in text


def test_nothing_is_overwritten(runs):
    _, after = runs
    (after / "model" / "README.md").write_text("mine")
    with pytest.raises(RunError, match="exists"):
        publish.write_card(after)
    with pytest.raises(RunError, match="cannot be written"):
        publish.write_card(after, after / "metrics.json" / "card.md")
    assert (after / "model" / "README.md").read_text() == "mine"


def test_exported_for_the_harness(invoke, runs, tmp_path):
    out = tmp_path / "results.json"
    done = invoke("export", runs[1], "--layout", "lm-eval", "--out", out)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    task = "equiframe_crows_pairs_changed"
    assert found["results"][task] == {
        "alias": task,
        "overall.metric,none": 52.0,
        "overall.metric_stderr,none": pytest.approx(2.0),
        "gender.count,none": 52.0,
        "gender.count_stderr,none": "N/A",
    }
    assert found["versions"] == {task: 2}
    assert found["n-samples"] == {task: {"original": 20, "effective": 19}}
    assert found["config"]["random_seed"] == 3
    assert found["date"] == 1767323045.0


def test_exported_as_model_index(runs, tmp_path):
    publish.export(runs[1], "model-index", tmp_path / "index.yaml")
    (model,) = yaml.safe_load((tmp_path / "index.yaml").read_text())["model-index"]
    assert model["name"] == HOSTILE
    assert model["results"][0]["metrics"][0]["value"] == 52.0


def card_of(folder, record):
    folder.mkdir()
    record.write(folder)
    return ModelCard.load(publish.write_card(folder))


@pytest.mark.parametrize("method", METHODS)
def test_a_card_says_what_the_method_did(method, tmp_path):
    loaded = load_method(method)
    does, steps = what_it_does(loaded), 1 if method == "bec" else 7
    assert does.endswith(".")
    assert len(does) < 150
    is_projection = isinstance(loaded, Projection)
    training = TrainingResult(
        method=method,
        does=does,
        options={"text": "/home/me/gap.txt", "rho": 15.0, "unset": None},
        settings={}
        if is_projection
        else {"learning_rate": 5e-5, "batch_size": steps, "max_length": 128, "seed": 3, "precision": "bf16"},
        outcome="9 of 64 dimensions were removed." if is_projection else "",
        unc3_weight=0.0,
        steps=steps,
        seconds=1.0,
        final_loss=None if is_projection else 2.0,
    )
    text = " ".join(card_of(tmp_path / "run", record(52.0, training)).text.split())
    said = text[: text.index("## Bias")]
    assert f"- What the method does: {does} - Options of the method: text = gap.txt; rho = 15.0." in said.replace(
        "\\_", "_"
    )
    if is_projection:
        assert f"changed against bias with the method `{method}`. No weight was trained" in said
        assert "- Result: 9 of 64 dimensions were removed." in said
        assert "fine-tuned" not in said
        assert "steps" not in said
        assert "- Training" not in said
    else:
        assert (
            f"fine-tuned against bias with the method `{method}` for {'1 step' if steps == 1 else '7 steps'}." in said
        )
        each = "1 example" if steps == 1 else "7 examples"
        assert (
            f"a learning rate of 5e-05 that decays linearly, {each} per step, at most 128 tokens each, bf16, seed 3."
            in said
        )
        assert "`from_pretrained` of transformers loads it like the original model." in said


def test_a_card_says_what_reads_a_projected_model_and_what_self_debias_did(tmp_path):
    made = record(52.0)
    described = made.metrics.model.model_copy(update={"projected": True})
    projected = dataclasses.replace(
        made,
        metrics=made.metrics.model_copy(update={"model": described}),
        provenance=made.provenance.model_copy(update={"self_debias": "gender"}),
    )
    text = " ".join(card_of(tmp_path / "projected", projected).text.split())
    assert "load the model with `equiframe.load` for whatever reads states" in text
    assert "Self-Debias corrected the predictions against gender bias while they were scored." in text
    assert "as it is" not in text
    plain = " ".join(card_of(tmp_path / "plain", made).text.split())
    assert "measured as it is." in plain
    assert "equiframe.load" not in plain
    assert "Self-Debias" not in plain


def test_a_card_tells_of_adapters(tmp_path):
    training = TrainingResult(method="cda", unc3_weight=0.0, steps=3, seconds=1.0, final_loss=2.0)
    made = record(52.0, training)
    made = dataclasses.replace(
        made, provenance=made.provenance.model_copy(update={"fine_tuning": FineTunedWith(lora_rank=4)})
    )
    assert "by LoRA adapters of rank 4 that were merged into the weights." in " ".join(
        card_of(tmp_path / "run", made).text.split()
    )


@pytest.mark.parametrize("method", ["sentence-debias", "inlp"])
def test_a_projected_run_is_published_as_what_was_measured(method, language_model, tmp_path, monkeypatch):
    """From the command to a folder that plain transformers reads; the card from the record alone."""
    sentences, pairs = tmp_path / "text.txt", tmp_path / "pairs.csv"
    people = ("she", "the woman", "her sister"), ("he", "the man", "his brother"), ("a cook", "the nurse", "a doctor")
    jobs = "a nurse", "a doctor", "a teacher", "an engineer", "in the street"
    sentences.write_text("".join(f"{who} is {job}\n" for group in people for who in group for job in jobs))
    pairs.write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\nhe is a doctor,she is a doctor\n")
    options = {"text": str(sentences), **({"classifiers": 1} if method == "inlp" else {})}
    config = DebiasConfig(
        language_model.name,
        audit=None,
        device="cpu",
        method=method,
        method_options=options,
        benchmarks=(f"pairs:{pairs}",),
    )
    made = run(config, tmp_path / "run")
    assert made.metrics.model.projected
    assert made.metrics.training.options["text"] == str(sentences)
    folder = tmp_path / "run" / "model"
    assert "equiframe.load" in (folder / "README.md").read_text()
    auto = AutoModelForMaskedLM if language_model.kind == "masked" else AutoModelForCausalLM
    plain, again = auto.from_pretrained(folder), load(folder, device="cpu")
    assert again.fingerprint() == made.metrics.model.fingerprint
    ids = torch.tensor([language_model.tokenizer("she is a nurse and he is a doctor")["input_ids"]])
    with torch.no_grad():
        original, debiased, bare = (m(ids).logits for m in (language_model.model, again.model, plain))
    torch.testing.assert_close(bare, debiased, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(bare, original, atol=1e-3)
    pairs.unlink()
    sentences.unlink()
    monkeypatch.setattr(publish, "HfApi", Hub)
    monkeypatch.setattr(Hub, "asked", [])
    publish.push(tmp_path / "run", "me/model")
    card = ModelCard.load(folder / "README.md")
    assert f"method `{method}`" in card.text
    assert "equiframe.load" in card.text
    assert card.data.eval_results
    publish.export(tmp_path / "run", "lm-eval", tmp_path / "results.json")
    with pytest.raises(RunError, match="exists"):
        publish.write_card(tmp_path / "run")


class Hub:
    """Notes what it is asked."""

    asked: list = []

    def create_repo(self, repository, **options):
        self.asked.append((repository, options))
        return f"https://hub/{repository}"

    def upload_folder(self, *, folder_path, **options):
        self.asked.append((sorted(path.name for path in folder_path.iterdir()), options["repo_id"]))


def test_pushed_with_its_card_and_private(invoke, runs, monkeypatch):
    monkeypatch.setattr(publish, "HfApi", Hub)
    monkeypatch.setattr(Hub, "asked", [])
    done = invoke("push", runs[1], "me/model")
    assert done.exit_code == 0, done.output
    assert Hub.asked == [
        ("me/model", {"private": True, "exist_ok": True}),
        (["README.md", "model.safetensors"], "me/model"),
    ]
    assert done.stdout == "https://hub/me/model\n"


def test_what_cannot_be_pushed_says_why(runs, monkeypatch):
    with pytest.raises(RunError, match="has no model"):
        publish.push(runs[0], "me/model")
    with pytest.raises(RunError, match="hf auth login"):
        publish.push(runs[1], "no name at all!")
