"""The page is well formed, self-contained and accessible, and text of data stays text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser

import pytest

from equiframe.record import RunRecord
from equiframe.report import comparison_page, run_page
from equiframe.report.page import _environment
from equiframe.report.responses import Compared, Responses

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Elements with their attributes and text; balance is checked on the way."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]


@pytest.fixture(scope="module")
def parsed(pages):
    return {kind: Page(source) for kind, source in pages.items()}


@pytest.fixture(params=["audit", "evaluate", "debias", "responses", "comparison"])
def page(request, parsed):
    return parsed[request.param]


def scripts(page, kind=None):
    return [script["text"] for script in page.all("script") if script.get("type") == kind]


def test_language_title_and_headings(page):
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    levels = [int(element["tag"][1]) for element in page.all("h1", "h2", "h3", "h4")]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.all("title")[0]["text"] == page.all("h1")[0]["text"]


def test_every_table_has_a_name_and_every_header_a_scope(page):
    tables = page.all("table")
    assert tables
    captions = len(page.all("caption")) + sum("aria-labelledby" in table for table in tables)
    assert captions == len(tables)
    assert all("scope" in header for header in page.all("th"))


def test_ids_are_unique_and_links_arrive(page):
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        if link["href"].startswith("#"):
            assert link["href"][1:] in ids
    for element in page.elements:
        for attribute in ("aria-labelledby", "data-filter"):
            assert element.get(attribute) is None or element[attribute] in ids


def test_plots_are_labelled_and_scrolling_regions_take_focus(page):
    plots = [element for element in page.elements if element.get("class") == "plot"]
    assert plots
    assert all(plot["role"] == "img" and plot["aria-label"] for plot in plots)
    regions = [element for element in page.elements if element.get("class") == "scroll"]
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)
    assert all(button["aria-label"] for button in page.all("button"))


def test_nothing_is_fetched_from_elsewhere(page):
    assert not page.all("link", "img", "iframe", "object", "embed", "form", "base")
    assert not [element for element in page.elements if "src" in element or "srcset" in element]
    citations = [link["href"] for link in page.all("a") if not link["href"].startswith("#")]
    assert all(re.fullmatch(r"https://(aclanthology\.org|arxiv\.org)/[\w./-]+", href) for href in citations)
    assert all("url(" not in style["text"] and "@import" not in style["text"] for style in page.all("style"))


def test_only_the_two_scripts_of_the_page_may_run(page):
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert "default-src 'none'" in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]
    found = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts(page)]
    assert found == allowed
    assert len(found) == 2


def test_text_of_data_stays_text(page):
    assert not [element for element in page.elements if any(name.startswith("on") for name in element)]
    assert {script.get("type") for script in page.all("script")} == {None, "application/json"}
    assert "<img src=x onerror" in page.all("h1")[0]["text"]
    assert "{{7*7}}&amp;" in page.all("h1")[0]["text"]  # neither evaluated nor decoded


def test_figures_are_json(page):
    found = scripts(page, "application/json")
    assert found
    for text in found:
        assert "<" not in text
        assert set(json.loads(text)) == {"data", "layout"}


def test_words_are_modest(page):
    said = " ".join(element["text"] for element in page.all("main")).lower()
    for word in ("unbiased", "debiased", "bias-free", "solved", "proves"):
        assert word not in said


def test_every_benchmark_says_what_it_does_not_show(page):
    sections = [e for e in page.all("section") if e["id"].startswith("section-")]
    assert all("What this does not show." in section["text"] for section in sections)


def headings(page):
    return [element["text"] for element in page.all("h2")]


def test_what_was_not_measured_is_not_shown(parsed):
    audit, evaluate, debias = (headings(parsed[kind]) for kind in ("audit", "evaluate", "debias"))
    assert "Geometry: neural collapse" in audit
    assert not [text for text in audit if "StereoSet" in text]
    assert "StereoSet (dev)" in evaluate
    assert "Geometry: neural collapse" not in evaluate
    assert "Training" in debias
    assert "Training" not in evaluate


def test_comparison_shows_values_changes_and_directions(parsed):
    page = parsed["comparison"]
    verdict = next(e for e in page.all("section") if e["id"] == "verdict")["text"]
    assert "after against before" in verdict
    assert "fell from 60.0 to 55.0 %" in verdict
    assert "rose from 60.0 to 70.0 %" in verdict
    changes = {e["class"]: e["text"] for e in page.all("small") if e.get("class", "").startswith("change")}
    assert changes["change wanted"].startswith("−5.0")
    assert changes["change unwanted"].startswith("+10.0")


def test_strongest_items_can_be_filtered(parsed):
    page = parsed["evaluate"]
    options = [option["value"] for option in page.all("option")]
    assert options[0] == ""
    assert {"gender", "race"} <= set(options)
    rows = [row for row in page.all("tr") if row.get("data-group", "overall") != "overall"]
    assert {row["data-group"] for row in rows} == set(options) - {""}
    assert "Left out." not in page.all("main")[0]["text"]
    assert page.all("label")[0]["text"].startswith("Bias type")


def test_items_without_known_columns_are_left_out(make_record):
    record = make_record("benchmarks")
    bare = record.items["stereoset:dev"].drop(columns="anti_sentence")
    record.items["stereoset:dev"] = bare
    assert 'class="items"' not in run_page(record, title="t")


def test_a_run_that_lacks_a_benchmark_leaves_a_gap(make_record, make_comparison):
    records = {"a": make_record("benchmarks", "collapse"), "b": make_record("collapse", unc3=0.1)}
    page = Page(comparison_page(records, make_comparison(records), title="t"))
    items = next(e for e in page.all("table") if e.get("class") == "items")
    assert "b" in items["text"].split()
    assert [e for e in page.all("span") if e.get("aria-label") == "not measured"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"steps": 1}, "bec with (U)NC3 × 100, 1 step, in 2 s, final loss 2.000."),
        (
            {"unc3_weight": 0.0, "final_loss": None, "outcome": "1 of 16 dimensions was removed."},
            "bec, in 2 s. 1 of 16 dimensions was removed.",
        ),
    ],
)
def test_what_was_done_to_a_model_is_told_in_words(make_record, changed, told):
    record = make_record("training")
    training = record.metrics.training.model_copy(update={"method": "bec", **changed})
    metrics = record.metrics.model_copy(update={"training": training})
    page = Page(run_page(RunRecord(record.provenance, metrics), title="t"))
    assert told in section(page, "Training")
    assert told.partition(", in ")[0] in " ".join(page.all("header")[0]["text"].split())


def test_a_ratio_is_shown_if_only_later_groups_have_one():
    rows = [Compared(f"a, {other}", "1", "2", "1", ratio, "0.1", "0.2", False) for other, ratio in ("b ", "c5")]
    macro = _environment().get_template("responses.html.j2").module.responses
    page = Page(macro(Responses("", {"She": rows}, "", [], []), "id"))
    assert "Ratio [95 %]" in [cell["text"] for cell in page.all("th")]
    assert [cell["text"].strip() for cell in page.all("td")][3::6] == ["", "5"]


def test_fine_tuning_without_logged_steps_is_still_told(make_record):
    record = make_record("collapse", "training")
    bare = RunRecord(record.provenance, record.metrics)
    page = Page(run_page(bare, title="t"))
    assert "final loss 2.000" in section(page, "Training")
    assert "does not show" not in section(page, "Cost in language and time")  # time alone


def test_the_same_record_gives_the_same_page(make_record):
    first, again = (run_page(make_record("benchmarks", "collapse"), title="t") for _ in range(2))
    assert first == again


def test_command_configuration_versions_and_licences_are_told(parsed):
    made = next(e for e in parsed["debias"].all("section") if e["id"] == "made")["text"]
    for text in ("f" * 64, "0" * 64, "equiframe debias <", "2026-01-01", "1,234,567", "MIT", '"model":'):
        assert text.replace("<", "</script>") in made
    made = next(e for e in parsed["comparison"].all("section") if e["id"] == "made")["text"]
    assert "equiframe compare </script>" in made


def section(page, title):
    return next(e["text"] for e in page.all("section") if title in e["text"][:80])


def test_price_stands_together(parsed):
    assert "Cost in language and time" not in headings(parsed["audit"])
    assert headings(parsed["comparison"]).index("Cost in language and time") == 3  # after verdict and both benchmarks
    price = section(parsed["comparison"], "Cost in language and time")
    for text in ("Held-out text: Language-modelling loss", "Webster et al. 2018", "Fine-tuning–1.51.5", "12.512.512.5"):
        assert text in "".join(price.split("\n")).replace("  ", "")
    assert "12.5" not in section(parsed["comparison"], "StereoSet")


def test_collapse_over_the_steps_or_that_only_the_ends_are_known(make_record):
    record = make_record("collapse", "training")
    assert "Over the steps of fine-tuning" in run_page(record, title="t")
    assert "measured only after fine-tuning" not in run_page(record, title="t")
    plain = dataclasses.replace(record, history=record.history.drop(columns="unc3"))
    assert "Over the steps of fine-tuning" not in run_page(plain, title="t")
    assert "measured only after fine-tuning" in run_page(plain, title="t")


def test_a_record_of_an_older_version_has_no_plane(make_record):
    record = make_record("collapse")
    assert "Counterparts in a plane" in run_page(record, title="t")
    older = dataclasses.replace(record, vectors=None)
    assert "Counterparts in a plane" not in run_page(older, title="t")
