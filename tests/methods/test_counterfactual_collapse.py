"""Counterfactual collapse: its data, its terms against plain loops over texts read alone, resumption, whole runs."""

from __future__ import annotations

import gc
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from equiframe.config import DebiasConfig
from equiframe.data import DEFAULT_SOURCE
from equiframe.errors import DataError, InputError, ModelError
from equiframe.methods import WithCounterfactuals, WithUNC3, load_method
from equiframe.methods.counterfactual_collapse import CounterfactualCollapse, OriginalModel, group_ids
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.models import load
from equiframe.models.pairs import Role
from equiframe.runs.debias import UNC3Options, debias
from equiframe.runs.terms import AddedTerms
from equiframe.training import FineTuning
from equiframe.words import WordSet

LINES = (
    "the nurse told her father about his job",
    "the teacher met his sister in the street",
    "the man said that his brother is a doctor and he likes a ball",
    "the doctor and the nurse told her brother about her son",
    "the engineer has his job and the king met his daughter",
)
LEFT_OUT = ("the ball is in the street", "his job", " ".join(["she is a nurse"] * 9))
WEIGHTS = ("cc1", "cc3", "agreement", "constraint", "language_modelling")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n".join([*LEFT_OUT, *LINES]) + "\n")
    return str(file)


def rows_of(lm, file, seed=0, **options):
    return CounterfactualCollapse(text=file, **options).training_data(
        lm, source=DEFAULT_SOURCE, max_length=46, seed=seed
    )[0]


def objective_of(lm, file, **options):
    method = CounterfactualCollapse(text=file, **options)
    rows = rows_of(lm, file)
    objective = method.objective(lm, rows, pairing="aligned", feature="decoder-input")
    return objective, rows, method.collator(lm)(rows.to_list())


def only(name, value=1.0):
    return {**dict.fromkeys(WEIGHTS, 0.0), name: value}


def moved(lm):
    """The model with other weights, as in training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


# ----------------------------------------------------------------------------------------------------------- oracle


def softmax(scores, left_out=()):
    kept = [0.0 if i in left_out else math.exp(s - max(scores)) for i, s in enumerate(scores)]
    return [k / sum(kept) for k in kept]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def smooth(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def logits_of(lm, rows):
    """By pair, sequence and place: the logits of a sequence read alone, in float64."""
    found = []
    for row in rows:
        found.append([])
        for ids, roles, _ in row["readings"]:
            if lm.kind == "masked":
                ids = [lm.tokenizer.mask_token_id if role else token for token, role in zip(ids, roles, strict=True)]
            with torch.no_grad():
                found[-1].append(lm.model(torch.tensor([ids])).logits[0].double().tolist())
    return found


def by_hand(lm, rows, now, before, least=1.0):
    """Every term, from loops over pairs and places."""
    groups = set(group_ids(lm, "gender").tolist())
    shift = 1 if lm.kind == "causal" else 0
    js, neutral, agreement, kept, met, language = [], [], [], [], [], []
    for row, scores, original in zip(rows, now, before, strict=True):
        at = {}
        for number, (ids, roles, partners) in enumerate(row["readings"]):
            for place, role in enumerate(roles):
                if role == Role.UNREAD:
                    continue
                s, o, own, other = scores[number][place], original[number][place], ids[place + shift], partners[place]
                at.setdefault((number, role), []).append((s, o, own, other))
                if role == Role.NEUTRAL:
                    neutral.append(smooth(s[own] - s[other]))
                if role in (Role.KEPT, Role.AGREEING):
                    kept.append(kl(softmax(o), softmax(s)))
                if number < 2:
                    language.append(-math.log(softmax(s)[own]))
        for (s, o, *_), (s2, o2, *_) in zip(at.get((0, 2), []), at.get((1, 2), []), strict=True):
            p, q, p0, q0 = (softmax(x, groups) for x in (s, s2, o, o2))
            m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
            js.append((kl(p, m) + kl(q, m)) / 2)
            m0 = [(a + b) / 2 for a, b in zip(p0, q0, strict=True)]
            met.append((kl(m0, p) + kl(m0, q)) / 2)
        for (s, o, own, other), (s2, o2, *_) in zip(at.get((0, 4), []), at.get((1, 4), []), strict=True):
            goal = max(least, (o[own] - o[other] + o2[other] - o2[own]) / 2)
            agreement += [smooth(s[own] - s[other] - goal), smooth(s2[other] - s2[own] - goal)]
    assert min(map(len, (js, neutral, agreement, kept, language))) > 1
    return {
        "cc1": np.mean(js),
        "cc3": np.mean(neutral),
        "agreement": np.mean(agreement),
        "constraint": np.mean(kept) + np.mean(met),
        "language_modelling": np.mean(language),
    }


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_each_term_is_the_formula(language_model, file, least):
    objective, rows, batch = objective_of(language_model, file, language_modelling=0.5, least_agreement=least)
    before = logits_of(language_model, rows)
    moved(language_model)
    expected = by_hand(language_model, rows, logits_of(language_model, rows), before, least)
    out = objective(language_model.model, batch)
    assert list(out.parts) == list(expected)
    for name, value in expected.items():
        assert out.parts[name].item() == pytest.approx(value, rel=1e-4), name
    weights = {"cc1": 20, "cc3": 2, "agreement": 4, "constraint": 1, "language_modelling": 0.5}
    total = sum(weights[name] * value for name, value in expected.items())
    assert out.loss.item() == pytest.approx(total, rel=1e-4)
    assert not any(part.requires_grad for part in out.parts.values())


def test_before_training_the_constraint_is_only_that_the_two_meet(language_model, file):
    objective, rows, batch = objective_of(language_model, file, **only("constraint"))
    logits = logits_of(language_model, rows)
    expected = by_hand(language_model, rows, logits, logits)["constraint"]
    assert 0 < expected < 0.1
    assert objective(language_model.model, batch).loss.item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_term_can_stand_alone(language_model, file, name):
    full = objective_of(language_model, file, language_modelling=1.0)[0]
    objective, _, batch = objective_of(language_model, file, **only(name, 3.0))
    moved(language_model)
    expected = full(language_model.model, batch).parts[name]
    out = objective(language_model.model, batch)
    assert list(out.parts) == [name]
    assert out.loss.item() == pytest.approx(3 * expected.item(), rel=1e-5)
    assert (objective.original is None) == (name not in ("agreement", "constraint"))


@pytest.mark.parametrize("name", WEIGHTS)
def test_gradients_are_differences(language_model, file, name):
    objective, _, batch = objective_of(language_model, file, **only(name))
    moved(language_model)
    parameters = list(language_model.model.parameters())
    gradients = torch.autograd.grad(objective(language_model.model, batch).loss, parameters, allow_unused=True)
    length = sum(float(g.double().square().sum()) for g in gradients if g is not None) ** 0.5
    sides = []
    for step in (1e-3, -2e-3):  # along the gradient, forth and then back beyond the start
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter += step / length * gradient
        sides.append(objective(language_model.model, batch).loss.item())
    assert length > 0.01
    assert (sides[0] - sides[1]) / 2e-3 == pytest.approx(length, rel=2e-2)


def test_places_are_those_of_the_batch_in_any_order(language_model, file):
    objective, rows, batch = objective_of(language_model, file)
    moved(language_model)
    collate = CounterfactualCollapse().collator(language_model)
    whole = objective(language_model.model, batch).parts
    order = [3, 0, 4, 2, 1]
    shuffled = objective(language_model.model, collate(rows.select(order).to_list())).parts
    for name, part in whole.items():
        assert shuffled[name].item() == pytest.approx(part.item(), rel=1e-4)
    one = objective(language_model.model, collate([rows[2]])).parts
    assert all(torch.isfinite(part) for part in one.values())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_on_the_right_whatever_the_tokenizer_does(language_model, file, side):
    language_model.tokenizer.padding_side = side
    rows = rows_of(language_model, file)
    batch = CounterfactualCollapse().collator(language_model)(rows.to_list())
    assert len(batch["input_ids"]) == len(rows) * (3 if language_model.kind == "masked" else 2)
    assert batch["attention_mask"][:, 0].all()
    assert not batch["attention_mask"].all()
    assert not (batch["roles"] * (1 - batch["attention_mask"])).any()
    assert batch["row"].tolist() == list(range(len(rows)))


def test_a_masked_lm_reads_no_token_that_is_asked(masked_model, file):
    objective, _, batch = objective_of(masked_model, file)
    read = []
    handle = masked_model.model.bert.embeddings.word_embeddings.register_forward_pre_hook(
        lambda _, a: read.append(a[0])
    )
    objective(masked_model.model, batch)
    handle.remove()
    assert (read[0][batch["roles"] > 0] == masked_model.tokenizer.mask_token_id).all()
    assert torch.equal(read[0][batch["roles"] == 0], batch["input_ids"][batch["roles"] == 0])


# ------------------------------------------------------------------------------------------------------------- data


def test_sentences_that_make_a_pair(language_model, file):
    rows = rows_of(language_model, file)
    decode = language_model.tokenizer.decode
    texts = {decode(row["input_ids"], skip_special_tokens=True).replace(" ##", "") for row in rows}
    assert texts == set(LINES)
    assert rows["row"][:] == list(range(len(LINES)))
    assert len(rows_of(language_model, file, pairs=2)) == 2
    assert rows_of(language_model, file, seed=0).to_list() == rows.to_list()
    assert rows_of(language_model, file, seed=1)["input_ids"][:] != rows["input_ids"][:]


def test_texts_in_turn(language_model, tmp_path, monkeypatch):
    for name, profession in (("a", "nurse"), ("b", "doctor")):
        lines = [f"the {profession} met his brother in the {word}" for word in ("street", "job", "ball")]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    rows, files = CounterfactualCollapse(text="a+b").training_data(
        language_model, source=DEFAULT_SOURCE, max_length=46, seed=0
    )
    texts = [language_model.tokenizer.decode(row) for row in rows["input_ids"]]
    assert ["nurse" in text for text in texts] == [True, False] * 3
    assert [file.name for file in files] == ["a", "b"]


def test_no_pair_at_all(language_model, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("the ball is in the street\n")
    with pytest.raises(DataError, match=r"text\.txt: no sentence of 5 to 32 words and at most 46 tokens"):
        rows_of(language_model, str(file))


@pytest.mark.parametrize(
    ("bias", "line"),
    [("religion", "the mosque and the ball in the street"), ("race", "an african nurse is in the street with a ball")],
)
def test_other_groups(causal_model, tmp_path, bias, line):
    file = tmp_path / "text.txt"
    file.write_text(line + "\n" + LINES[0] + "\n")
    rows = rows_of(causal_model, str(file), bias=bias)
    assert [causal_model.tokenizer.decode(row[1:]) for row in rows["input_ids"]] == [line]


def test_words_of_the_groups_and_names(causal_model):
    ids = set(group_ids(causal_model, "gender").tolist())
    words = {causal_model.tokenizer.decode([i]).strip() for i in ids}
    assert {"he", "his", "her", "sister"} <= words
    assert "nurse" not in words


# ---------------------------------------------------------------------------------------------------- original model


def test_the_original_is_not_moved_by_training(language_model, file):
    objective, _, batch = objective_of(language_model, file)
    logits = objective.original(batch["row"])
    with torch.no_grad():
        read = language_model.model(
            **{
                "input_ids": batch["input_ids"]
                if language_model.kind == "causal"
                else torch.where(batch["roles"] > 0, language_model.tokenizer.mask_token_id, batch["input_ids"]),
                "attention_mask": batch["attention_mask"],
            }
        ).logits[batch["roles"] > 0]
    torch.testing.assert_close(logits, read, rtol=1e-4, atol=1e-5)
    moved(language_model)
    torch.testing.assert_close(objective.original(batch["row"]), logits, rtol=0, atol=0)


def test_its_states_go_with_it(language_model, file, temporary):
    rows = rows_of(language_model, file)
    original = OriginalModel(language_model, rows, CounterfactualCollapse().collator(language_model))
    (folder,) = temporary.iterdir()
    size = sum(bool(role) for row in rows["readings"] for _, roles, _ in row for role in roles) * 16 * 4
    assert (folder / "states").stat().st_size == size
    assert original.state_dict() == {}
    del original
    gc.collect()
    assert list(temporary.iterdir()) == []


def test_logits_that_are_made_otherwise_are_refused(causal_model, file):
    head = causal_model.model.lm_head
    handle = head.register_forward_hook(lambda module, arguments, out: 3 * out.tanh())
    with pytest.raises(ModelError, match="its logits are not its output embedding times"):
        objective_of(causal_model, file)
    handle.remove()


# -------------------------------------------------------------------------------------------------------------- runs


def run(lm, folder, method, *, weight=0.0, added=None, steps=3, **fine_tuning):
    return debias(
        lm,
        method,
        UNC3Options(weight=weight, through_features="lora_rank" in fine_tuning),
        FineTuning(max_steps=steps, **{"precision": "fp32", "batch_size": 2, **fine_tuning}),
        WordSet.builtin("gender").resolve(lm.tokenizer),
        folder / "checkpoints",
        added=added,
    )


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_a_whole_run(language_model, file, tmp_path, weight):
    before = language_model.fingerprint()
    done = run(language_model, tmp_path, load_method("counterfactual-collapse", {"text": file}), weight=weight)
    assert done.language_model.fingerprint() != before
    assert {"cc1", "cc3", "agreement", "constraint"} <= set(done.history)
    assert ("unc3" in done.history) == (weight > 0)
    assert [file.name for file in done.files] == ["text.txt"]


def test_it_learns(language_model, file, tmp_path):
    moved(language_model)
    method = load_method("counterfactual-collapse", {"text": file, "constraint": "0.1"})
    history = run(language_model, tmp_path, method, steps=40, batch_size=5, learning_rate=1e-2).history
    for name in ("cc1", "cc3", "agreement"):
        assert history[name].iloc[-1] < 0.7 * history[name].iloc[0], name


def test_lora(language_model, file, tmp_path):
    pytest.importorskip("peft")
    before = language_model.fingerprint()
    done = run(language_model, tmp_path, load_method("counterfactual-collapse", {"text": file}), lora_rank=2)
    assert done.language_model.fingerprint() != before


def test_half_precision_begins_with_the_same_numbers(language_model, model_folders, file, tmp_path):
    first = []
    for precision in ("fp32", "bf16"):
        fresh = load(str(model_folders[language_model.kind]), device="cpu")
        method = load_method("counterfactual-collapse", {"text": file})
        history = run(fresh, tmp_path / precision, method, batch_size=5, precision=precision).history
        first.append(history[["cc3", "agreement", "cc1", "constraint"]].iloc[0].to_numpy())
    np.testing.assert_allclose(*first, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("host", ["cda", "bec", "ase"])
def test_the_terms_beside_a_host(language_model, file, gap_folder, tmp_path, host):
    options = {"cda": {"text": file}, "ase": {"text": file, "ewc_weight": 0}}.get(host, {})
    alone = load_method(host, options)
    added = AddedTerms(load_method("counterfactual-collapse", {"text": file}), 0.5)
    done = debias(
        language_model,
        alone,
        UNC3Options(weight=5.0),
        FineTuning(max_steps=2, batch_size=4, precision="fp32"),
        WordSet.builtin("gender").resolve(language_model.tokenizer),
        tmp_path / "checkpoints",
        added=added,
        source=gap_folder if host == "bec" else None,
    )
    assert done.result.method == f"{host} + counterfactual-collapse"
    first = done.history.iloc[0]
    parts = {name.partition("/")[2]: first[name] for name in done.history if name.startswith("pairs/")}
    assert set(parts) == {"cc1", "cc3", "agreement", "constraint"}
    pairs = 20 * parts["cc1"] + 2 * parts["cc3"] + 4 * parts["agreement"] + parts["constraint"]
    hosts = first["pronoun"] + first["orthogonality"] if host == "ase" else first["language_modelling"]
    assert first["loss"] == pytest.approx(hosts + 0.5 * pairs + 5 * first.get("unc3", 0.0), rel=1e-3)


def combined(lm, file, **options):
    term, rows, _ = objective_of(lm, file)
    host = objective_of(lm, file, **only("language_modelling"))[0]
    collate = CounterfactualCollapse().collator(lm)
    return WithCounterfactuals(host, term, rows, collate, **{"weight": 1.0, "batch_size": 2, "seed": 3, **options})


def test_the_pairs_count_once_a_step_whatever_the_batch_weighs(language_model, file):
    host = LanguageModelling(language_model)
    term, rows, batch = objective_of(language_model, file)
    assert term.weight(batch) == len(rows)
    collate = CounterfactualCollapse().collator(language_model)
    both = WithCounterfactuals(host, term, rows, collate, weight=0.5, batch_size=len(rows), seed=0).eval()
    torch.manual_seed(0)
    alone = host(language_model.model, batch)
    torch.manual_seed(0)
    out = both(language_model.model, batch)
    assert both.weight(batch) == host.weight(batch)
    assert out.term.item() == pytest.approx(0.5 * term(language_model.model, batch).loss.item(), rel=1e-4)
    assert (out.loss - out.term).item() == pytest.approx(alone.loss.item(), rel=1e-4)


def test_accumulated_batches_of_pairs_are_one_batch_where_their_places_are_as_many(causal_model, tmp_path):
    file = tmp_path / "text.txt"
    names = ("father", "brother", "son", "king")
    fresh = load(causal_model.name, device="cpu")
    for module in (*causal_model.model.modules(), *fresh.model.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    file.write_text("".join(f"the nurse told her {name} about his job\n" for name in names))
    whole = run(
        causal_model,
        tmp_path / "whole",
        load_method("counterfactual-collapse", {"text": str(file)}),
        steps=1,
        batch_size=4,
    )
    parts = run(
        fresh,
        tmp_path / "parts",
        load_method("counterfactual-collapse", {"text": str(file)}),
        steps=1,
        batch_size=2,
        accumulation=2,
    )
    for name in ("cc1", "cc3", "agreement", "constraint", "loss"):
        assert parts.history[name].iloc[0] == pytest.approx(whole.history[name].iloc[0], rel=1e-4), name


def rows_drawn(objective, batches):
    drawn = []
    for _ in range(batches):
        drawn += objective.rows()
        objective.drawn += objective._batch_size
    return drawn


def test_each_pair_is_drawn_once_before_any_is_drawn_again(language_model, file):
    drawn = rows_drawn(combined(language_model, file), 5)
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == [0, 1, 2, 3, 4]
    assert drawn[:5] != drawn[5:]
    assert any(combined(language_model, file, seed=seed).rows() != drawn[:2] for seed in range(4, 8))
    assert rows_drawn(combined(language_model, file, batch_size=1), 10) == drawn  # batches of half the size


def test_ranks_draw_other_pairs(language_model, file, monkeypatch):
    alone = rows_drawn(combined(language_model, file, batch_size=4), 3)
    objective = combined(language_model, file)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    both = []
    for step in range(3):
        objective.drawn.fill_(4 * step)
        for rank in (0, 1):
            monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
            both += objective.rows()
    assert both == alone


def test_the_draw_is_kept_with_a_checkpoint(language_model, file):
    objective = combined(language_model, file)
    assert list(objective.state_dict()) == ["drawn"]
    batch = objective_of(language_model, file)[2]
    objective.train()
    with_unc3 = WithUNC3(objective, torch.nn.Identity())
    assert with_unc3.works_sharded
    objective(language_model.model, batch)
    assert objective.drawn.item() == 2
    objective.eval()
    objective(language_model.model, batch)
    assert objective.drawn.item() == 2


@pytest.mark.parametrize("is_added", [False, True])
def test_a_resumed_run_is_an_unbroken_one(language_model, model_folders, file, tmp_path, is_added):
    terms = load_method("counterfactual-collapse", {"text": file})
    method = load_method("cda", {"text": file}) if is_added else terms
    added = AddedTerms(terms) if is_added else None
    whole = run(language_model, tmp_path / "whole", method, added=added, steps=7, save_steps=3)

    class Stopped(Exception):
        pass

    def stop(done, total):
        if done == 5:
            raise Stopped

    arguments = (
        UNC3Options(),
        FineTuning(max_steps=7, precision="fp32", batch_size=2, save_steps=3),
        WordSet.builtin("gender").resolve(language_model.tokenizer),
        tmp_path / "stopped",
    )
    with pytest.raises(Stopped):
        debias(
            load(str(model_folders[language_model.kind]), device="cpu"), method, *arguments, added=added, progress=stop
        )
    assert Path(tmp_path / "stopped" / "checkpoint-3" / "complete").exists()
    fresh = load(str(model_folders[language_model.kind]), device="cpu")
    resumed = debias(fresh, method, *arguments, added=added)
    assert resumed.language_model.fingerprint() == whole.language_model.fingerprint()
    np.testing.assert_array_equal(resumed.history["loss"], whole.history["loss"])


def test_a_projection_has_no_loss_to_add_to(masked_model, file, tmp_path):
    added = AddedTerms(load_method("counterfactual-collapse", {"text": file}))
    with pytest.raises(InputError, match="leave out --cc"):
        run(masked_model, tmp_path, load_method("inlp"), added=added)
    with pytest.raises(InputError, match="--cc -1: give a number of 0 or more"):
        DebiasConfig("model", cc=-1)


@pytest.mark.parametrize("wrong", [{"cc1": "-1"}, {"bias": "age"}, {"pairs": "0"}, {"names": "perhaps"}])
def test_options_are_checked(wrong):
    with pytest.raises(InputError, match=f"counterfactual-collapse.{next(iter(wrong))}"):
        load_method("counterfactual-collapse", wrong)


def test_nothing_to_train_on():
    with pytest.raises(InputError, match="every weight is 0"):
        load_method("counterfactual-collapse", dict.fromkeys(WEIGHTS, 0))
