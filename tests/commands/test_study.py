"""A study on a tiny model: its cells, going on after a stop, sharing cells, and what its tables say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from filelock import FileLock
from scipy.stats import spearmanr

from equiframe.analysis import study as study_figures
from equiframe.analysis.study import CellKey
from equiframe.commands import study as module
from equiframe.commands.study import cells, run_study
from equiframe.config import EvaluateConfig, FineTuning, StudyConfig, UNC3Options, read_config
from equiframe.data import locate
from equiframe.errors import DataError, InputError, RunError
from equiframe.options import validated
from equiframe.record import BenchmarkResult, Metrics, ModelDescription, Provenance, RunRecord, StudyCell, StudyResult
from equiframe.report import study_tables
from equiframe.uncertainty import Estimate


@pytest.fixture(scope="module", autouse=True)
def _wheel():
    try:
        locate("winogender/statistics")
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture
def content(model_folders, gap_folder, text, tmp_path):
    sentences = tmp_path / "text.txt"
    sentences.write_text("\n".join(text * 8))
    words = tmp_path / "words.txt"
    words.write_text("she\the\nher\this\nwoman\tman\nnurse\n")
    return {
        "models": [str(model_folders["masked"])],
        "methods": [{"method": "bec", "unc3": 5.0, "fine_tuning": {"max_steps": 3}}],
        "seeds": [0, 1],
        "benchmarks": {"winogender": "overall.prefers_male", "lpbs": "overall.difference"},
        "understanding": {"lm_loss": "overall.loss", "winogender": "overall.prefers_male"},
        "kept": {"winogender": "occupation.correlation"},
        "fine_tuning": {"max_steps": 2, "learning_rate": 1e-3, "precision": "fp32"},
        "unc3_words": str(words),
        "audit": {"text": str(sentences), "words": str(words), "sentences": 0},
        "data": str(gap_folder),
    }


def made(content):
    return validated(StudyConfig, content, of="study")


@pytest.fixture
def spec(content):
    return made(content)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQUIFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "RESAMPLES", 100)


def by_key(result):
    return {(f.method, f.arm, f.kind, f.name): f for f in result.figures}


def test_from_file_to_tables_and_on_after_a_stop(invoke, content, spec, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    out = tmp_path / "out"
    done = invoke("study", str(file), "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "With (U)NC3 minus without" in done.output
    cells = sorted(folder.name for folder in (out / "cells").iterdir())
    assert len(cells) == 6
    assert not (out / "cells" / cells[0] / "model").exists()
    first = json.loads((out / "study.json").read_text())
    assert {"tables.md", "tables.tex", "report.html", "figures.csv", "study.yaml"} <= {p.name for p in out.iterdir()}
    assert not list(out.glob("*.partial"))
    markdown = (out / "tables.md").read_text()
    for table in study_tables(StudyResult.model_validate(first)).values():
        assert all(f"| {text} " in markdown for text in table.to_numpy().ravel())  # as they are, 0.070 not 0.07

    # a cell lost is a cell run again, and the numbers are those of before
    shutil.rmtree(out / "cells" / cells[0])
    (out / "study.json").unlink()
    result = run_study(spec, out)
    assert result is not None
    assert json.loads((out / "study.json").read_text()) == first

    # the figures, each from the records by hand
    figures = by_key(result)
    records = {
        (arm, seed): RunRecord.read(out / "cells" / module._cell_name(CellKey(spec.models[0], method, arm, seed)))
        for method, arm in (("", "before"), ("bec", "plain"), ("bec", "unc3"))
        for seed in (0, 1)
    }
    assert records["plain", 0].provenance.plain()["fine_tuning"]["max_steps"] == 3
    assert records["plain", 0].provenance.plain()["unc3"]["weight"] == 0

    def value(arm, seed, benchmark, key):
        found = {r.benchmark: r for r in records[arm, seed].metrics.benchmarks}
        return found[benchmark].estimates[key].value

    assert {f.arm for f in result.figures if f.sd is None and f.kind in ("bias", "understanding", "kept")} == {"before"}
    gains = {}
    for benchmark, key in spec.benchmarks.items():
        ideal = {"winogender": 50.0, "lpbs": 0.0}[benchmark]
        far = {
            arm: np.mean([abs(value(arm, seed, benchmark, key) - ideal) for seed in (0, 1)])
            for arm in ("before", "plain", "unc3")
        }
        for arm in ("plain", "unc3"):
            gains[benchmark, arm] = 1 - far[arm] / far["before"]
            assert figures["bec", arm, "gain", benchmark].value == pytest.approx(gains[benchmark, arm])
    for arm in ("plain", "unc3"):
        mean = np.mean([gains[b, arm] for b in spec.benchmarks])
        assert figures["bec", arm, "mean gain", ""].value == pytest.approx(mean)
        before, after = (
            np.array([value(a, seed, "lm_loss", "overall.loss") for seed in (0, 1)]) for a in ("before", arm)
        )
        assert figures["bec", arm, "change", "lm_loss"].value == pytest.approx((after - before).mean())
        assert figures["bec", arm, "understanding", "lm_loss"].sd == pytest.approx(after.std(ddof=1))
        before, after = (
            np.mean([value(a, seed, "winogender", "overall.prefers_male") for seed in (0, 1)]) for a in ("before", arm)
        )
        name = "winogender overall.prefers_male"  # a benchmark that counts twice
        assert figures["bec", arm, "change", name].value == pytest.approx(after - before)
        # a loss in nats is no part of the mean in points, and what must be kept is none of understanding
        assert figures["bec", arm, "mean change", ""].value == pytest.approx(after - before)
    for benchmark in ("winogender", "lpbs"):
        alone, with_term, change = (
            figures["bec", arm, "gain", benchmark].value for arm in ("plain", "unc3", "difference")
        )
        assert change == pytest.approx(with_term - alone)
    difference = figures["bec", "difference", "mean gain", ""]
    both = [figures["bec", arm, "mean gain", ""].value for arm in ("plain", "unc3")]
    assert difference.value == pytest.approx(both[1] - both[0])
    assert difference.low <= difference.value <= difference.high
    with_term, alone = (
        np.mean([value(arm, seed, "lm_loss", "overall.loss") for seed in (0, 1)]) for arm in ("unc3", "plain")
    )
    assert figures["bec", "difference", "change", "lm_loss"].value == pytest.approx(with_term - alone)
    (headline,) = json.loads((out / "headline.json").read_text())
    mean = figures["bec", "plain", "mean gain", ""]
    assert (headline["gain"], headline["gain_low"]) == pytest.approx((100 * mean.value, 100 * mean.low))
    assert headline["nlu_change"] == pytest.approx(figures["bec", "plain", "mean change", ""].value)
    assert list(headline["kept"]) == ["winogender occupation.correlation"]
    assert (headline["benchmarks"], headline["seeds"]) == (["winogender", "lpbs"], [0, 1])
    against = figures["bec − bec + (U)NC3", "against", "mean gain", ""]
    assert against.value == pytest.approx(-difference.value)
    assert (against.low, against.high) == pytest.approx((-difference.high, -difference.low))
    winogender, lpbs = (figures["", "before", "bias", name].ideal for name in ("winogender", "lpbs"))
    assert (winogender, lpbs) == (50.0, 0.0)
    table = pd.read_csv(out / "figures.csv")
    assert len(table) == len(result.figures)
    assert "<script>" in (out / "report.html").read_text()


def test_finished_cells_of_another_study_are_found_before_any_work(spec, content, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run_study(spec, out)
    first, last = (
        out / "cells" / module._cell_name(CellKey(spec.models[0], *key))
        for key in (("", "before", 0), ("bec", "unc3", 1))
    )
    shutil.rmtree(first)  # the next command would have to make it again
    monkeypatch.setattr(module, "run", None)
    changed = {**content["fine_tuning"], "learning_rate": 2e-3}
    with pytest.raises(InputError, match="was made with fine_tuning"):
        run_study(made({**content, "fine_tuning": changed}), out)

    config = json.loads((last / "config.json").read_text())
    said = f"{re.escape(spec.models[0])} in float32 changed between .* and .*{last.name}"
    (last / "config.json").write_text(json.dumps({**config, "model_before": "0" * 64}))
    with pytest.raises(InputError, match=said):
        run_study(spec, out)
    config["files"] = [{**file, "sha256": "0" * 64} for file in config["files"]]
    (last / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"of bec changed between .* and .*{last.name}"):
        run_study(spec, out)


def test_one_model_may_be_read_in_several_ways():
    """On a GPU a model is scored in the precision of its file, and trained in float32; LoRA keeps it as it is."""
    seen = {}

    def check(fingerprint, precision="float32", **made):
        about = ModelDescription(name="m", kind="masked", vocabulary=9, fingerprint="f", precision=precision)
        record = RunRecord(
            Provenance(model_before=fingerprint, **made), Metrics(verb="evaluate", model=about, benchmarks=[])
        )
        module._check_contents(CellKey("m", "", "before", 0), record, Path(fingerprint), seen)

    check("a", "bfloat16")
    check("b")
    check("c", fine_tuning={"lora_rank": 8})
    check("d", "bfloat16", self_debias="gender")
    check("b")
    with pytest.raises(InputError, match="m in bfloat16 changed between a and e"):
        check("e", "bfloat16")


def test_an_older_record_had_the_defaults_of_options_that_came_later(spec):
    config = cells(spec)[CellKey(spec.models[0], "bec", "plain", 0)]
    recorded = config.plain()
    older = {**recorded, "fine_tuning": {k: v for k, v in recorded["fine_tuning"].items() if k != "lora_rank"}}
    del older["chat_template"], older["watch"], older["generation"]
    assert module._with_defaults(older, config) == recorded
    changed = module._with_defaults({**older, "fine_tuning": {"max_steps": 4}}, config)
    assert changed["fine_tuning"] != recorded["fine_tuning"]


def test_a_limit_holds_for_every_cell(content, tmp_path):
    result = run_study(made({**content, "limit": 30, "seeds": [0]}), tmp_path / "out")
    assert result is not None
    for folder in (tmp_path / "out" / "cells").iterdir():
        assert {file.stem: len(pd.read_parquet(file)) for file in (folder / "items").iterdir()} == {
            "winogender": 30,
            "lpbs": 30,
            "lm_loss": 8,
        }


def test_cells_that_another_process_works_on_are_left_to_it(spec, tmp_path):
    out = tmp_path / "out"
    (out / "cells").mkdir(parents=True)
    name = module._cell_name(CellKey(spec.models[0], "bec", "plain", 0))
    with FileLock(out / "cells" / f"{name}.lock"):
        assert run_study(spec, out) is None
        assert not (out / "study.json").exists()
        assert len([p for p in (out / "cells").iterdir() if p.is_dir()]) == 5
    assert run_study(spec, out) is not None


def test_what_fails_is_named_and_the_rest_is_kept(content, tmp_path):
    content["methods"].append(
        {"method": "bec", "label": "too fast", "fine_tuning": {"learning_rate": 1e38, "max_steps": 3}}
    )
    with pytest.raises(RunError, match=r"of 10 cells failed, and the finished ones are kept: .*\(.*too-fast"):
        run_study(made(content), tmp_path / "out")
    assert len(list((tmp_path / "out" / "cells").glob("*seed?"))) >= 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": []}, "study.seeds: "),
        ({"methods": []}, "study.methods: "),
        ({"sseds": [1]}, "study has no option 'sseds'. Available: models, "),
        ({"audit": {"sentence": 3}}, "study.audit has no option 'sentence'"),
        ({"headline": "cda"}, "headline of the study: 'cda' is not one of its methods: bec"),
        ({"verb": "audit"}, "'audit' is not a verb that fits here. Add a line such as verb: study"),
        ({"methods": [{"method": "bec", "weight": 3}]}, "study.methods.0 has no option 'weight'"),
        ({"fine_tuning": {"seed": 7}}, "fine_tuning in the study: seed has no effect here. Give seeds to the study"),
        ({"heads": {"seed": 7}}, "heads in the study: seed has no effect here"),
        ({"methods": [{"method": "bec", "fine_tuning": {"seed": 7}}]}, "fine_tuning of bec in the study: seed has no"),
        ({"unc3": {"weight": 7}}, "unc3 in the study: weight has no effect here. Give each method its weight as unc3"),
        ({"methods": [{"method": "bec", "term": {"weight": 7}}]}, "term of bec in the study: weight has no effect"),
        (
            {"methods": [{"method": "bec", "label": "before"}]},
            "methods of the study: 'before' is the name of another row",
        ),
        (
            {"methods": [{"method": "bec"}, {"method": "bec", "label": "bec + (U)NC3", "unc3": 0}]},
            r"methods of the study: 'bec \+ \(U\)NC3' is the name of another row",
        ),
    ],
)
def test_a_file_that_does_not_fit_names_the_field(content, change, said, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**content, **change}))
    with pytest.raises(InputError, match=rf"study\.yaml: {said}"):
        read_config(file, kind=StudyConfig)


@pytest.mark.parametrize("text", ["models: [", "\x00", "- 1", ""])
def test_a_file_that_is_no_study(text, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises((InputError, DataError), match=r"study\.yaml"):
        read_config(file, kind=StudyConfig)
    with pytest.raises(DataError, match=r"nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml", kind=StudyConfig)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": [1, 1]}, "contains a duplicate"),
        ({"methods": [{"method": "bek"}]}, "did you mean 'bec'"),
        ({"methods": [{"method": "bec", "options": {"colour": 1}}]}, "bec has no option 'colour'"),
        ({"methods": [{"method": "bec", "fine_tuning": {"steps": 3}}]}, "fine_tuning has no option 'steps'"),
        ({"fine_tuning": {"learning_rate": "fast"}}, "fine_tuning.learning_rate"),
        ({"benchmarks": {"crows_pairs:shared": "overall.metric"}}, "write crows_pairs"),
        ({"kept": {"crows_pairs:shared": "overall.metric"}}, "write crows_pairs"),
        ({"methods": [{"method": "self-debias", "options": {"bais": "race"}}]}, "self-debias has no option 'bais'"),
        ({"methods": [{"method": "self-debias", "unc3": 5}]}, "self-debias trains nothing, so unc3 has no effect"),
        (
            {"methods": [{"method": "bec", "unc3": 0, "term": {"memory": "ema"}}]},
            "bec: term has no effect without a weight. Give one as unc3, or remove term",
        ),
        (
            {"methods": [{"method": "self-debias"}], "kept": {"cola": "overall.matthews"}},
            "cola fine-tunes the model, but Self-Debias only corrects probabilities",
        ),
        (
            {"methods": [{"method": "bec", "label": "A + B"}, {"method": "cda", "label": "a-b"}]},
            "the same folder, .*-a-b",
        ),
        ({"methods": [{"method": "self-debias", "cc_options": {"pairs": 8}}]}, "so cc_options has no effect"),
        ({"methods": [{"method": "inlp", "cc": 5}]}, "inlp trains nothing, so cc has no effect"),
        ({"methods": [{"method": "inlp", "fine_tuning": {"epochs": 5}}]}, "inlp trains nothing, so fine_tuning has no"),
    ],
)
def test_options_are_checked_before_any_work(content, change, said, tmp_path):
    with pytest.raises(InputError, match=said):
        run_study(made({**content, **change}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"benchmarks": {"lpbs": "overall.differenc"}}, "lpbs has no measure 'overall.differenc'. Available: "),
        ({"benchmarks": {"lm_loss": "overall.loss"}}, "lm_loss overall.loss has no ideal, so it has no fairness gain"),
        ({"kept": {"stereoset_intersentence:likelihood": "overall.ss"}}, "has no numbers (it was not measured)"),
    ],
)
def test_a_measure_that_is_missing_is_found_at_the_first_cell(content, change, said, tmp_path, monkeypatch):
    ran = []

    estimates = {
        "lpbs": {"overall.difference": Estimate(1.0, 0.5, 1.5, 40, "nats", 0.0)},
        "lm_loss": {"overall.loss": Estimate(4.0, 3.5, 4.5, 40, "nats")},
    }

    def measured(config, folder, progress):
        ran.append(folder)
        results = [BenchmarkResult(name, 1, "", (), 40, {}, found, 1.0) for name, found in estimates.items()]
        description = ModelDescription(name="m", kind="masked", vocabulary=9, fingerprint="f")
        return RunRecord(Provenance(), Metrics(verb="evaluate", model=description, benchmarks=results))

    monkeypatch.setattr(module, "run", measured)
    content |= {"understanding": {}, "kept": {}, **change}
    with pytest.raises(InputError, match=re.escape(said)):
        run_study(made(content), tmp_path / "out")
    assert len(ran) == 1


def test_what_has_no_loss_has_no_arm_with_the_term(content):
    content["methods"] = [
        {"method": "sentence-debias"},
        {"method": "self-debias", "options": {"bias": "gender"}},
        {"method": "bec", "unc3": "auto", "term": {"memory": "ema"}},
        {"method": "bec", "label": "no term", "unc3": 0},
    ]
    configs = cells(made(content))
    arms = [(key.method, key.arm) for key in configs if key.seed == 0]
    assert arms == [
        ("", "before"),
        ("sentence-debias", "plain"),
        ("self-debias", "plain"),
        ("bec", "plain"),
        ("bec", "unc3"),
        ("no term", "plain"),
    ]
    of_seed = {(method, arm): config for (_, method, arm, seed), config in configs.items() if seed == 0}
    assert of_seed["self-debias", "plain"].self_debias == "gender"
    assert isinstance(of_seed["self-debias", "plain"], EvaluateConfig)
    assert (of_seed["bec", "unc3"].unc3.weight, of_seed["bec", "unc3"].unc3.memory) == ("auto", "ema")
    assert of_seed["bec", "plain"].unc3 == UNC3Options()
    assert of_seed["sentence-debias", "plain"].fine_tuning == FineTuning(seed=0)


def test_settings_of_a_term_that_is_not_there_do_not_make_another_cell(content):
    """A cell without the term is recorded by older versions with the settings of the other arm."""
    config = next(config for key, config in cells(made(content)).items() if key.arm == "plain")
    recorded = {**config.plain(), "unc3": {**config.plain()["unc3"], "memory": "ema"}, "unc3_words": "w.txt"}
    folder = Path("cell")

    def record(options):
        about = ModelDescription(name="m", kind="masked", vocabulary=9, fingerprint="f")
        return RunRecord(Provenance.model_validate(options), Metrics(verb="debias", model=about))

    module.check_same(record(recorded), config, folder)
    recorded["unc3"]["weight"] = 1.0
    with pytest.raises(InputError, match="cell was made with unc3"):
        module.check_same(record(recorded), config, folder)


def test_terms_of_counterfactual_collapse_beside_a_method(content):
    content["methods"] = [{"method": "bec", "label": "with pairs", "unc3": 0, "cc": 0.5, "cc_options": {"pairs": 8}}]
    configs = cells(made(content))
    (config,) = [config for key, config in configs.items() if key.method == "with pairs" and key.seed == 0]
    assert (config.method, config.cc, config.cc_options) == ("bec", 0.5, {"pairs": 8})
    content["methods"][0]["cc_options"] = {"pair": 8}
    with pytest.raises(InputError, match="counterfactual-collapse has no option 'pair'"):
        cells(made(content))


def test_latex_shows_captions_headers_and_cells_unchanged():
    table = pd.DataFrame([{"": "a_b & c", "lm_loss": "5 %"}])
    text = module._latex("Gain, %: C:\\m{1}", table)
    assert r"\caption{Gain, \%: C:\textbackslash{}m\{1\}}" in text
    assert r" & lm\_loss \\" in text
    assert r"a\_b \& c & 5 \% \\" in text


def test_arms_are_compared_on_the_same_draws():
    """Two arms that differ by 1.5 on every draw differ by 1.5 with an interval of no width."""
    draws = np.random.default_rng(0).normal(size=100)

    def arm(kind, shift):
        value = study_figures._Value(shift, draws + shift)
        return study_figures._Arm("bec", kind, {}, [], changes={"cola": ("%", value)}, means={"pooled gain": value})

    found = list(study_figures._minus("m", "bec", "difference", arm("unc3", 2.0), arm("plain", 0.5)))
    assert [(f.kind, f.name, f.unit) for f in found] == [("pooled gain", "", "share"), ("change", "cola", "%")]
    assert [end for f in found for end in (f.value, f.low, f.high)] == pytest.approx([1.5] * 6)


def test_a_gain_that_is_undefined_is_no_part_of_the_mean_nor_of_its_interval():
    at_ideal = study_figures._Value(np.nan, np.array([-9.0, np.nan, -9.0]))
    known = [
        study_figures._Value(0.2, np.array([0.1, 0.2, 0.3])),
        study_figures._Value(0.4, np.array([0.3, 0.4, np.nan])),
    ]
    mean = study_figures._mean([at_ideal, *known])
    assert mean.value == pytest.approx(0.3)
    assert mean.resampled == pytest.approx([0.2, 0.3, 0.3])
    assert np.isnan(study_figures._mean([at_ideal]).value)


def test_rank_correlations_of_collapse_with_bias():
    """By scipy over the cells, a model before fine-tuning once."""

    def cell(model, method, arm, seed, cc1, far):
        return StudyCell(
            model=model,
            method=method,
            arm=arm,
            seed=seed,
            unc3=cc1,
            gain=-far,
            geometry={"CC1 gender": cc1, "NC1": None},
            distances={"lpbs": far},
        )

    cells = [cell("a", "", "before", seed, 0.5, 3.0) for seed in (0, 1)]
    tuned = [("bec", "plain", 1.0), ("cda", "plain", 0.5), ("bec", "unc3", 2.5), ("cda", "unc3", 2.0)]
    cells += [cell("a", method, arm, 0, 0.1 * at, far) for at, (method, arm, far) in enumerate(tuned)]
    found = {f.name: f for f in study_figures._association("a", cells, 0, 200)}
    assert set(found) == {"CC1 gender with pooled gain", "CC1 gender with distance of lpbs"}  # NC1 was not measured
    expected = spearmanr([0.5, 0.0, 0.1, 0.2, 0.3], [3.0, 1.0, 0.5, 2.5, 2.0]).statistic
    figure = found["CC1 gender with distance of lpbs"]
    assert figure.value == pytest.approx(expected)
    assert figure.low < figure.value <= figure.high
    assert found["CC1 gender with pooled gain"].value == pytest.approx(-0.6)
    over_models = {f.name for f in study_figures._association("", cells, 0, 200)}
    assert over_models == {"CC1 gender with distance of lpbs"}  # a gain is relative to one model
    of_seeds = [cell("a", "bec", "plain", seed, 0.1 * seed, 1.0 - 0.1 * seed) for seed in range(6)]
    assert not list(study_figures._association("a", of_seeds, 0, 200))  # one method alone says nothing of collapse
