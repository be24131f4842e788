"""The command as a user meets it: help, one-line errors with exit code 2, JSON for machines."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from equiframe.printing import make_console, print_table
from equiframe.record import Metrics, RunRecord


@pytest.fixture
def sentences(tmp_path, text):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(text * 8))
    return file


@pytest.fixture
def words(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("she\the\nher\this\nwoman\tman\nnurse\n")
    return file


def test_help_names_every_verb_and_ends_in_examples(invoke):
    out = invoke("--help").output
    for verb in ("audit", "evaluate", "debias", "compare", "demo"):
        assert verb in out
        assert "Example: equiframe" in invoke(verb, "--help").output


def test_a_name_with_brackets_or_colons_is_printed_as_it_is(capsys):
    names = ["BEC [lr=3e-5]", "pairs:a[/b].csv", "x:key:y"]
    print_table(make_console(), ["", names[0]], [[name, "0.3 [0.1, 0.5]"] for name in names])
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert printed.count(names[0]) == 2


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from equiframe import cli; print([m for m in ('torch', 'transformers', 'pandas')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_audit_writes_a_record_and_prints_json(invoke, masked_model, model_folders, sentences, words, tmp_path):
    out = tmp_path / "run"
    done = invoke("audit", model_folders["masked"], "--text", sentences, "--words", words, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    printed = Metrics.model_validate(json.loads(done.stdout))
    record = RunRecord.read(out)
    assert record.metrics == printed
    assert [c.class_set for c in printed.collapse] == ["vocabulary", str(words)]
    assert set(record.classes["word"]) <= {"she", "he", "her", "his", "woman", "man", "nurse"}
    both = record.classes.merge(record.vectors, on="token_id").set_index("token_id")
    assert 2 <= len(both) == len(record.vectors)
    means, embeddings = (np.stack(both[name]) for name in ("mean", "embedding"))
    assert means.dtype == embeddings.dtype == np.float32
    lengths = np.linalg.norm(means, axis=1)
    assert lengths == pytest.approx(both["norm"], rel=1e-5)
    cosines = (means * embeddings).sum(axis=1) / lengths / np.linalg.norm(embeddings, axis=1)
    assert cosines == pytest.approx(both["cosine"], abs=1e-5)
    assert all(token in both["partners"][partner] for token, found in both["partners"].items() for partner in found)
    assert (out / "report.html").read_text().startswith("<!")
    assert record.provenance.files[0].sha256


def test_debias_then_compare(invoke, model_folders, sentences, words, tmp_path, gap_folder):
    for name, weight in (("plain", 0), ("unc3", 5)):
        done = invoke(
            *("debias", model_folders["masked"], "--unc3", weight, "--out", tmp_path / name, "--max-steps", 3),
            *("--text", sentences, "--words", words, "--data", gap_folder),
            *("--batch-size", 4),
        )
        assert done.exit_code == 0, done.output
        assert "overall.loss" in done.stdout
        assert "overall.perplexity" not in done.stdout
        assert "The report has 1 more." in done.stdout
        assert (tmp_path / name / "model" / "model.safetensors").exists()
        assert not (tmp_path / name / "checkpoints").exists()
    plain, term = RunRecord.read(tmp_path / "plain"), RunRecord.read(tmp_path / "unc3")
    assert plain.metrics.training.steps == term.metrics.training.steps == 3
    assert "unc3" in term.history
    assert "unc3" not in plain.history
    assert plain.metrics.model.fingerprint != term.metrics.model.fingerprint
    done = invoke("compare", tmp_path / "plain", tmp_path / "unc3", "--out", tmp_path / "both", "--json")
    assert done.exit_code == 0, done.output
    compared = json.loads(done.stdout)["measures"]["unc3"]
    assert {c["measure"] for c in compared} >= {"overall.loss", "unc3"}
    assert (tmp_path / "both" / "report.html").exists()
    exported = tmp_path / "results.json"
    assert invoke("export", tmp_path / "plain", "--out", exported).stdout == f"{exported}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("audit", "./nowhere"), "no such directory"),
        (("evaluate", "builtin:mini-mlm", "--benchmarks", "stereosett"), "stereoset"),
        (("debias", "builtin:mini-mlm", "--method", "bek"), "bec"),
        (("debias", "builtin:mini-mlm", "--unc3", "-1"), "--unc3"),
        (("debias", "builtin:mini-mlm", "--epochs", "0"), "--epochs"),
        (("compare", "nowhere", "elsewhere"), "not a finished run"),
        (("evaluate", "builtin:mini-mlm", "--benchmarks", ""), "nothing to score"),
        (("debias", "builtin:mini-mlm", "--multi-token", "middle"), "--multi-token"),
        (("audit", "builtin:mini-mlm", "--epochs", "3"), "--epochs"),
        (("audit",), "--model needs a value. See equiframe audit --help"),
        (("audit", "m", "n"), "too many values: n. See equiframe audit --help"),
        (("audit", "m", "--device"), "--device needs a value"),
        (("evaluate", "m", "--limit", "1.5"), "--limit 1.5: give a whole number above 0"),
        (("evaluate", "m", "--suite", "nlu", "--benchmarks", "stereoset,crows_pairs"), "cannot be combined"),
        (("adit",), "audit"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(invoke, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert done.output.startswith("error: ")
    assert "Traceback" not in done.output
    assert [p for p in Path(tmp_path).rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_a_word_list_with_no_known_word(invoke, model_folders, sentences, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("qqqqzzzz\nxxyyzz\n")
    out = tmp_path / "run"
    done = invoke("audit", model_folders["masked"], "--text", sentences, "--words", words, "--out", out)
    assert done.exit_code == 2
    assert not out.exists()


def test_an_existing_folder_is_not_touched(invoke, model_folders, sentences, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine").write_text("keep")
    done = invoke("audit", model_folders["masked"], "--text", sentences, "--out", out)
    assert done.exit_code == 2
    assert "exists" in done.output
    assert (out / "mine").read_text() == "keep"


def test_benchmarks_says_where_data_comes_from(invoke, tmp_path, monkeypatch):
    (tmp_path / "hurtlex_EN.tsv").write_text("")
    rows = {row["name"]: row for row in json.loads(invoke("benchmarks", "--json").stdout)}
    assert (rows["honest"]["data"], rows["seat"]["data"], rows["bias_nli"]["data"]) == (
        "authors, wheel",
        "authors",
        "hub, wheel",
    )
    assert (rows["cola"]["data"], rows["cola"]["suite"], rows["cola"]["fine_tunes"]) == ("hub", "nlu", True)
    rows = {row["name"]: row for row in json.loads(invoke("benchmarks", "--json", "--data", tmp_path).stdout)}
    assert (rows["honest"]["data"], rows["cola"]["data"]) == ("user, wheel", "hub")
    for split in ("train", "dev"):
        (tmp_path / f"glue/CoLA/{split}.tsv").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"glue/CoLA/{split}.tsv").write_text("")
    rows = {row["name"]: row for row in json.loads(invoke("benchmarks", "--json", "--data", tmp_path).stdout)}
    assert (rows["cola"]["data"], rows["sst2"]["data"]) == ("user", "hub")
    assert "honest" in invoke("benchmarks").stdout


def test_a_suite_leaves_out_what_has_no_data(invoke, model_folders, tmp_path, monkeypatch):
    from equiframe.benchmarks import registry

    kept = {name: registry.BENCHMARKS[name] for name in ("lpbs", "honest")}
    monkeypatch.setattr(registry, "BENCHMARKS", kept)
    out = tmp_path / "run"
    result = invoke("evaluate", model_folders["masked"], "--suite", "fairness", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert [found["benchmark"] for found in json.loads(result.stdout)["benchmarks"]] == ["lpbs"]
    assert "hurtlex/EN is missing" in json.loads((out / "config.json").read_text())["left_out"]["honest"]
    assert "honest was skipped: hurtlex/EN is missing" in result.stderr
    both = invoke("evaluate", model_folders["masked"], "--suite", "nlu", "--benchmarks", "lpbs")
    assert (both.exit_code, "cannot be combined" in both.stderr) == (2, True)


def test_a_benchmark_of_which_nothing_remains_is_left_out_with_the_reason(invoke, model_folders, tmp_path):
    known, unknown = tmp_path / "known.csv", tmp_path / "unknown.csv"
    known.write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\n")
    unknown.write_text("stereotype,anti_stereotype\nшы is a nurse,ёж is a nurse\n")
    evaluate = ("evaluate", str(model_folders["masked"]), "--benchmarks")
    done = invoke(*evaluate, f"pairs:{unknown},pairs:{known}", "--out", str(tmp_path / "run"))
    assert done.exit_code == 0, done.output
    record = RunRecord.read(tmp_path / "run")
    assert [result.benchmark for result in record.metrics.benchmarks] == [f"pairs:{known}"]
    assert "have the same tokens" in record.provenance.left_out[f"pairs:{unknown}"]
    assert f"pairs:{unknown} was skipped: " in done.output
    done = invoke(*evaluate, f"pairs:{unknown}", "--out", str(tmp_path / "none"))
    assert done.exit_code == 2
    assert "have the same tokens" in done.output
    assert not (tmp_path / "none").exists()


def test_set_gives_options_of_the_method(invoke, model_folders, sentences, words, tmp_path):
    common = ("debias", model_folders["masked"], "--method", "cda", "--max-steps", 1, "--batch-size", 4)
    common += ("--text", sentences, "--words", words, "--benchmarks", "")
    options = ("--set", f"text={sentences}", "--set", "sides=one", "--set", "names=true")
    done = invoke(*common, *options, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    record = RunRecord.read(tmp_path / "run")
    assert record.provenance.method_options == {"text": str(sentences), "sides": "one", "names": "true"}
    assert record.metrics.training.method == "cda"
    assert "text.txt" in {file.name for file in record.provenance.files}
    for wrong, said in (
        ("sides", "--set sides: write it as NAME=VALUE"),
        ("sides=three", "cda.sides: "),
        ("side=one", "cda has no option 'side'. Available: text, sides, bias, names"),
    ):
        done = invoke(*common, "--set", wrong, "--out", tmp_path / "wrong")
        assert (done.exit_code, said in done.output.replace("\n", " ")) == (2, True), done.output
        assert not (tmp_path / "wrong").exists()


def test_terms_added_to_a_method(invoke, model_folders, sentences, words, tmp_path):
    common = ("debias", model_folders["causal"], "--method", "cda", "--set", f"text={sentences}", "--max-steps", 1)
    common += ("--batch-size", 4, "--text", sentences, "--words", words, "--benchmarks", "", "--cc-set")
    done = invoke(*common, f"text={sentences}", "--cc", 0.5, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    record = RunRecord.read(tmp_path / "run")
    assert record.metrics.training.method == "cda + counterfactual-collapse"
    assert (record.provenance.plain()["cc"], record.provenance.plain()["cc_options"]) == (0.5, {"text": str(sentences)})
    assert {"language_modelling", "pairs/cc1", "pairs/constraint"} <= set(record.history)
    assert [found.bias for found in record.metrics.contexts] == ["gender"]
    for arguments, said in (
        ((f"text={sentences}",), "--cc-set has no effect without --cc. Add the weight of the terms, such as --cc 1"),
        (("pair=3", "--cc", 1), "counterfactual-collapse has no option 'pair'"),
        (("pairs=3", "--cc", -1), "--cc -1: give a number of 0 or more"),
    ):
        done = invoke(*common, *arguments, "--out", tmp_path / "wrong")
        assert (done.exit_code, said in " ".join(done.output.split())) == (2, True), done.output
        assert not (tmp_path / "wrong").exists()


def test_a_projection_is_a_method_that_trains_nothing(invoke, model_folders, sentences, words, tmp_path):
    from equiframe.models import load

    out = tmp_path / "run"
    arguments = ("debias", model_folders["masked"], "--method", "sentence-debias", "--set", f"text={sentences}")
    arguments += ("--set", "components=2", "--text", sentences, "--words", words, "--benchmarks", "")
    done = invoke(*arguments, "--out", out)
    assert done.exit_code == 0, done.output
    record = RunRecord.read(out)
    training = record.metrics.training
    assert (training.method, training.steps, training.final_loss) == ("sentence-debias", 2, None)
    assert list(record.history["step"]) == [1, 2]
    assert 0 < record.history["explained"].sum() <= 1 + 1e-9
    assert record.provenance.model_before != record.metrics.model.fingerprint
    saved = load(str(out / "model"), device="cpu")
    assert saved.fingerprint() == record.metrics.model.fingerprint
    assert int(saved.model.base_model.output_projection.trace().round()) == 16 - 2
    done = invoke(*arguments, "--unc3", 1, "--out", tmp_path / "wrong")
    assert done.exit_code == 2
    assert "leave out --unc3" in done.output.replace("\n", " ")
    assert not (tmp_path / "wrong").exists()


def test_a_limit_scores_items_spread_over_the_data(invoke, model_folders, tmp_path):
    columns = "sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators"
    rows = [f",{i},she is a nurse {w},he is a nurse {w},stereo,gender,x,x,x"[1:] for i, w in enumerate("abcdefgh")]
    (tmp_path / "crows_pairs_anonymized.csv").write_text("\n".join([f",{columns}", *rows]) + "\n")
    common = ("evaluate", model_folders["masked"], "--benchmarks", "crows_pairs", "--data", tmp_path)
    done = invoke(*common, "--limit", 3, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    items = RunRecord.read(tmp_path / "run").items["crows_pairs"]
    parts = ({0, 1}, {2, 3, 4}, {5, 6, 7})  # of eight
    assert all(int(item) in part for item, part in zip(items["item"], parts, strict=True))
    done = invoke(*common, "--limit", 0, "--out", tmp_path / "none")
    assert (done.exit_code, "--limit 0: give a whole number above 0" in done.output) == (2, True)


def test_heads_are_fine_tuned_as_said(invoke, model_folders, tmp_path):
    lines = "".join(f"gj04\t{i % 2}\t\tshe is a nurse {word}\n" for i, word in enumerate("abcdefgh"))
    (tmp_path / "glue" / "CoLA").mkdir(parents=True)
    for split in ("train", "dev"):
        (tmp_path / "glue" / "CoLA" / f"{split}.tsv").write_text(lines)
    common = ("evaluate", model_folders["masked"], "--benchmarks", "cola", "--data", tmp_path)
    heads = ("--head", "max_steps=2", "--head", "batch_size=4")
    done = invoke(*common, *heads, "--limit", 4, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    record = RunRecord.read(tmp_path / "run")
    assert record.provenance.plain()["heads"] == {"max_steps": "2", "batch_size": "4"}
    assert "2 steps" in record.metrics.benchmarks[0].scoring
    assert len(record.items["cola"]) == 4
    done = invoke(*common, "--head", "max_step=2", "--out", tmp_path / "wrong")
    assert (done.exit_code, "head has no option 'max_step'" in done.output) == (2, True)


def test_version(invoke):
    assert invoke("--version").stdout.strip() == importlib.metadata.version("equiframe")


def test_the_completion_script_completes_commands(invoke, tmp_path):
    script = tmp_path / "equiframe.bash"
    done = invoke("completion", "bash")
    assert done.exit_code == 0, done.output
    script.write_text(done.stdout)
    code = f'source {script}; COMP_WORDS=(equiframe ev); COMP_CWORD=1; _equiframe; echo "${{COMPREPLY[@]}}"'
    bash = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert bash.stdout.split() == ["evaluate"]
    for shell in ("zsh", "fish"):
        assert "evaluate" in invoke("completion", shell).stdout


def test_offline_downloads_nothing(invoke, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("requests.Session.request", None)  # calling it would end in another error
    done = invoke("evaluate", "builtin:mini-mlm", "--benchmarks", "seat", "--offline", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "HF_HUB_OFFLINE is set (as --offline does)" in done.output
    assert len(done.output.strip().splitlines()) == 1
