"""Comparisons: over the items and the words that the runs share, and over nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from equiframe.analysis.comparison import compare
from equiframe.commands.compare import compare_folders
from equiframe.errors import InputError
from equiframe.models import load
from equiframe.record import RunRecord

PEOPLE = ["nurse", "doctor", "teacher", "engineer", "cook", "king", "queen", "boy", "girl", "mother"]
PLACES = ["street", "job", "ball", "man"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "p.csv"
    rows = [
        f"she told the {who} about the {what},he told the {who} about the {what}" for who in PEOPLE for what in PLACES
    ]
    file.write_text("stereotype,anti_stereotype\n" + "\n".join(rows) + "\n")
    return file


@pytest.fixture(scope="module")
def scored(invoke, pairs, model_folders, tmp_path_factory):
    """Runs of 10, 15 and all 40 pairs."""
    root = tmp_path_factory.mktemp("runs")
    for name, limit in (("ten", ["--limit", 10]), ("fifteen", ["--limit", 15]), ("all", [])):
        done = invoke(
            "evaluate", model_folders["masked"], "--benchmarks", f"pairs:{pairs}", *limit, "--out", root / name
        )
        assert done.exit_code == 0, done.output
    return root


def by_hand(table, items):
    """Percentage of the pairs that prefer the stereotype, with half of the ties, one pair at a time."""
    points = []
    for row in table.to_dict("records"):
        if row["item"] in items:
            points.append(
                100.0 if row["stereotype"] > row["anti"] else 0.0 if row["stereotype"] < row["anti"] else 50.0
            )
    return sum(points) / len(points)


def test_a_part_is_compared_over_what_both_scored_and_says_so(invoke, scored, tmp_path):
    done = invoke("compare", scored / "all", scored / "ten", "--out", tmp_path / "c")
    assert done.exit_code == 0, done.output
    comparison = json.loads((tmp_path / "c" / "metrics.json").read_text())
    (shared,) = comparison["shared"].values()
    assert shared == {"shared": 10, "measured": {"all": 40, "ten": 10}}
    tables = {name: RunRecord.read(scored / name).items for name in ("all", "ten")}
    ((name, ten),) = tables["ten"].items()
    items = set(ten["item"])
    found = {m["measure"]: m for m in comparison["measures"]["ten"]}["overall.prefers_stereotype"]
    assert found["first"]["value"] == pytest.approx(by_hand(tables["all"][name], items))
    assert found["first"]["value"] == comparison["runs"]["all"]["benchmarks"][0]["estimates"][found["measure"]]["value"]
    assert found["second"]["value"] == pytest.approx(by_hand(ten, items))
    assert found["difference"]["count"] == found["first"]["count"] == found["second"]["count"] == 10
    assert "shared items" in done.output
    assert "10 of 40 / 10" in done.output
    page = (tmp_path / "c" / "report.html").read_text()
    assert "Compared over the 10 items that all runs share, of all 40, ten 10" in page
    assert "30 of 40 items left out: not scored in every run." in page


def reworded(record, old, new):
    (result,) = record.metrics.benchmarks
    assert old in result.scoring
    changed = dataclasses.replace(result, scoring=result.scoring.replace(old, new))
    return dataclasses.replace(record, metrics=record.metrics.model_copy(update={"benchmarks": [changed]}))


def test_an_earlier_wording_of_the_same_scoring_is_compared_and_another_scoring_is_not(invoke, pairs, model_folders):
    folder = pairs.parent / "causal"
    done = invoke("evaluate", model_folders["causal"], "--benchmarks", f"pairs:{pairs}", "--limit", 10, "--out", folder)
    assert done.exit_code == 0, done.output
    now = RunRecord.read(folder)
    earlier = reworded(now, "log-likelihood of the sentence, after a", "log-likelihood of the sentence, behind a")
    assert compare({"now": now, "earlier": earlier}).measures
    with pytest.raises(InputError, match="now and other differ in scoring"):
        compare({"now": now, "other": reworded(now, "after a start token", "after the end token")})


def test_what_hardly_overlaps_is_refused_with_the_numbers(invoke, scored):
    done = invoke("compare", scored / "ten", scored / "fifteen")
    assert done.exit_code == 2
    assert "the runs share 4 items (ten 10, fifteen 15), too few to compare" in done.output
    assert "--limit" in done.output


def test_all_runs_are_compared_over_the_same_items(scored):
    """Three runs, of which the last two share all, are compared over what the first has of them."""
    records = {name: RunRecord.read(scored / name) for name in ("ten", "all")}
    (name,) = records["all"].items
    table = records["all"].items[name]
    other = table.assign(stereotype=table["stereotype"] + np.where(table.index % 3, 5.0, -5.0))
    records["other"] = dataclasses.replace(records["all"], items={name: other})
    comparison = compare(records)
    items = set(records["ten"].items[name]["item"])
    for run, source in (("all", table), ("other", other)):
        found = {m.measure: m for m in comparison.measures[run]}["overall.prefers_stereotype"]
        assert found.second.value == pytest.approx(by_hand(source, items))
        assert found.difference.value == pytest.approx(found.second.value - found.first.value)


def test_runs_of_the_same_items_keep_their_own_numbers(scored):
    record = RunRecord.read(scored / "all")
    comparison = compare({"a": record, "b": record})
    assert comparison.runs["a"] == record.metrics
    assert not any(shared.is_part for shared in comparison.shared.values())


def test_pairs_are_the_same_wherever_their_file_lies(invoke, scored, pairs, model_folders, tmp_path):
    copy = tmp_path / "copy.csv"
    shutil.copy(pairs, copy)
    done = invoke("evaluate", model_folders["masked"], "--benchmarks", f"pairs:{copy}", "--out", tmp_path / "copy")
    assert done.exit_code == 0, done.output
    done = invoke("compare", scored / "all", tmp_path / "copy", "--out", tmp_path / "c", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)["measures"]["copy"]
    assert {m["benchmark"] for m in found} == {f"pairs:{pairs}"}
    assert {m["difference"]["value"] for m in found} == {0.0}
    copy.write_text(copy.read_text().replace("ball", "son"))
    invoke("evaluate", model_folders["masked"], "--benchmarks", f"pairs:{copy}", "--out", tmp_path / "changed")
    done = invoke("compare", scored / "all", tmp_path / "changed")
    assert done.exit_code == 2
    assert "no measure in common" in done.output


@pytest.fixture(scope="module")
def word_list(tmp_path_factory):
    file = tmp_path_factory.mktemp("words") / "words.txt"
    file.write_text("she\the\nher\this\nwoman\tman\ngirl\tboy\nmother\tfather\nnurse\ndoctor\nteacher\n")
    return file


@pytest.fixture
def long_text(text, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(text * 8))
    return file


def reordered(folder, target, *, seed=None):
    """The same model under a vocabulary in another order; with a seed, one of other embeddings."""
    language_model = load(str(folder), device="cpu")
    model, tokenizer = language_model.model, language_model.tokenizer
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    order = [*range(5), *(5 + torch.randperm(len(pieces) - 5, generator=torch.Generator().manual_seed(1))).tolist()]
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["vocab"] = {pieces[old]: new for new, old in enumerate(order)}
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight[order].clone())
        model.cls.predictions.bias.copy_(model.cls.predictions.bias[order].clone())
        if seed is not None:
            torch.manual_seed(seed)
            model.get_input_embeddings().weight.add_(0.05 * torch.randn(len(order), model.config.hidden_size))
    model.save_pretrained(target)
    specials = {
        name: getattr(tokenizer, name) for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), model_max_length=64, **specials
    ).save_pretrained(target)
    return target


@pytest.fixture
def audited(invoke):
    """Audits a model: ``audited(model, text, words, out)``."""

    def audited(model, text, words, out):
        done = invoke("audit", model, "--text", text, "--words", words, "--min-count", 1, "--out", out)
        assert done.exit_code == 0, done.output
        return RunRecord.read(out)

    return audited


def test_a_vocabulary_in_another_order_changes_nothing(audited, model_folders, long_text, word_list, tmp_path):
    audited(model_folders["masked"], long_text, word_list, tmp_path / "one")
    audited(reordered(model_folders["masked"], tmp_path / "model"), long_text, word_list, tmp_path / "two")
    comparison = compare_folders([tmp_path / "one", tmp_path / "two"])
    found = comparison.measures["two"]
    assert {m.measure for m in found if m.benchmark.startswith("collapse:")} == {"unc3", "nc3_self_duality"}
    assert {m.measure for m in found if m.benchmark == "contexts:gender"} >= {"cc1_js", "cc3_log_odds", "agreement"}
    for measure in found:
        assert measure.difference.value == pytest.approx(0, abs=1e-6)
        assert (measure.difference.low, measure.difference.high) == pytest.approx((0, 0), abs=1e-6)


def test_words_are_compared_and_not_ids(audited, model_folders, long_text, word_list, tmp_path):
    first = audited(model_folders["masked"], long_text, word_list, tmp_path / "one")
    second = audited(
        reordered(model_folders["masked"], tmp_path / "model", seed=3), long_text, word_list, tmp_path / "two"
    )
    assert set(first.classes["token_id"]) != set(second.classes["token_id"])
    # a run that lacks two words, as where they are rare or of several tokens
    second = dataclasses.replace(second, classes=second.classes[~second.classes["word"].isin(["nurse", "boy"])])
    comparison = compare({"one": first, "two": second})
    cosines = [dict(zip(table["word"], table["cosine"], strict=True)) for table in (first.classes, second.classes)]
    words = sorted(set(cosines[0]) & set(cosines[1]))
    assert len(words) == len(first.classes) - 2
    ours, theirs = ([by_word[word] for word in words] for by_word in cosines)
    found = {m.measure: m for m in comparison.measures["two"]}
    for key, value in (("nc3_self_duality", np.mean), ("unc3", lambda v: np.std(v, ddof=1))):
        assert found[key].first.value == pytest.approx(value(ours))
        assert found[key].second.value == pytest.approx(value(theirs))
        assert found[key].difference.value == pytest.approx(value(theirs) - value(ours))
        assert found[key].difference.count == len(words)
    assert comparison.shared[found["unc3"].benchmark].measured == {"one": len(words) + 2, "two": len(words)}


def test_models_of_two_kinds_of_vocabulary_share_their_words(audited, model_folders, long_text, word_list, tmp_path):
    """A word piece "she" and a byte-level piece with a space before it are the same word."""
    masked = audited(model_folders["masked"], long_text, word_list, tmp_path / "masked")
    causal = audited(model_folders["causal"], long_text, word_list, tmp_path / "causal")
    comparison = compare({"masked": masked, "causal": causal})
    (shared,) = comparison.shared.values()
    both = set(masked.classes["form"]) & set(causal.classes["form"])
    assert {"he", "her", "his", "boy"} <= both
    assert shared.shared == len(both)
    assert set(causal.classes["token"]).isdisjoint(masked.classes["token"])


def test_different_texts_or_settings_of_an_audit_are_not_compared(
    audited, model_folders, long_text, word_list, tmp_path
):
    first = audited(model_folders["masked"], long_text, word_list, tmp_path / "one")
    other = tmp_path / "other.txt"
    other.write_text(long_text.read_text() + "\nshe is not here today")
    second = audited(model_folders["masked"], other, word_list, tmp_path / "two")
    with pytest.raises(InputError, match="one and two differ in their text"):
        compare({"one": first, "two": second})
    few = [result.model_copy(update={"texts": 60}) for result in first.metrics.collapse]
    part = dataclasses.replace(first, metrics=first.metrics.model_copy(update={"collapse": few}))
    with pytest.raises(InputError, match="one read 64 texts and part 60: audit both with the same --sentences"):
        compare({"one": first, "part": part})
    unknown = [result.model_copy(update={"texts": None}) for result in few]  # as in records of older versions
    older = dataclasses.replace(first, metrics=first.metrics.model_copy(update={"collapse": unknown}))
    assert compare({"one": first, "older": older}).measures["older"]
    audit = first.provenance.audit.model_copy(update={"pairing": "paper"})
    made = first.provenance.model_copy(update={"audit": audit})
    with pytest.raises(InputError, match="differ in pairing"):
        compare({"one": first, "two": dataclasses.replace(first, provenance=made)})


def test_records_from_before_forms_are_compared_by_token(audited, model_folders, long_text, word_list, tmp_path):
    audited(model_folders["masked"], long_text, word_list, tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "old")
    table = pd.read_parquet(tmp_path / "old" / "classes.parquet").drop(columns="form")
    table.to_parquet(tmp_path / "old" / "classes.parquet", index=False)
    comparison = compare_folders([tmp_path / "one", tmp_path / "old"])
    assert {m.difference.value for m in comparison.measures["old"]} == {0.0}


def test_a_word_list_is_the_same_by_another_path(audited, model_folders, long_text, word_list, tmp_path, monkeypatch):
    first = audited(model_folders["masked"], long_text, word_list, tmp_path / "one")
    monkeypatch.chdir(word_list.parent)
    second = audited(model_folders["masked"], long_text, "words.txt", tmp_path / "two")
    assert {m.difference.value for m in compare({"one": first, "two": second}).measures["two"]} == {0.0}


def test_cut_texts_are_counted_where_a_reader_looks(invoke, model_folders, text, word_list, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(
        "\n".join(text * 4 + [" ".join(text * 2)] * 3 + ["", "she is", "he"])
    )  # three of more than 62 words
    done = invoke(
        "audit",
        model_folders["masked"],
        "--text",
        file,
        "--words",
        word_list,
        "--min-count",
        1,
        "--out",
        tmp_path / "r",
    )
    said = "3 of 35 texts are longer than the model's window and were cut at its end"
    assert said in " ".join(done.output.split())
    for result in json.loads((tmp_path / "r" / "metrics.json").read_text())["collapse"]:
        assert (result["texts"], result["truncated"], result["short"]) == (35, 3, 2)
    assert "2 texts of fewer than three words were left out" in done.output
    assert "2 texts of fewer than three words were left out" in (tmp_path / "r" / "report.html").read_text()
    assert said in (tmp_path / "r" / "report.html").read_text().replace("&#39;", "'")
    invoke("card", tmp_path / "r", "--out", tmp_path / "card.md")
    assert said in (tmp_path / "card.md").read_text()


def test_a_card_says_over_what_changes_are(invoke, scored, tmp_path):
    done = invoke("card", scored / "ten", "--before", scored / "all", "--out", tmp_path / "card.md")
    assert done.exit_code == 0, done.output
    assert (
        "Compared over the 10 items that all runs share, of before 40, after 10" in (tmp_path / "card.md").read_text()
    )
