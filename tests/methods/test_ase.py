"""ASE and EWC: what is trained on, by hand; each term against plain loops; and whole runs."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
from torch import nn

from equiframe.data import DataSource
from equiframe.errors import DataError, InputError
from equiframe.methods import WithUNC3
from equiframe.methods.ase import ASE, PronounObjective, gender_direction
from equiframe.methods.ewc import ElasticWeights
from equiframe.methods.method import load_method
from equiframe.models import load
from equiframe.runs.debias import UNC3Options, debias
from equiframe.training import DebiasingTrainer, FineTuning
from equiframe.training.arguments import training_arguments
from equiframe.training.trainer import complete_checkpoint
from equiframe.words import WordSet

# One pronoun each; every word but the professions in the third is one token of the masked LM.
LINES = (
    "the nurse and the doctor said that she works",
    "a teacher told the man about his job",
    "the librarian , a nurse , likes her job and the librarians",
    "the engineer met her father in the street",
    "the man said that he likes a ball",
)
LEFT_OUT = ("the woman met the man", "she told her father about the job", "he and she and he", "too short")


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("\n".join([*LEFT_OUT, *LINES]) + "\n")
    return str(file)


def rows_of(lm, file, max_length=64, **options):
    return ASE(text=file, **options).training_data(lm, source=DataSource(), max_length=max_length, seed=0)[0]


def pieces(lm, row):
    return lm.tokenizer.convert_ids_to_tokens(row["input_ids"])


def bare(token):
    return token.replace("Ġ", "")


def objective_of(lm, file, **options):
    method = ASE(text=file, **options)
    rows = rows_of(lm, file)
    batch = method.collator(lm)([dict(row) for row in rows])
    return method.objective(lm, rows, pairing="aligned", feature="decoder-input"), rows, batch


@contextlib.contextmanager
def padding_on(lm, side):
    before, lm.tokenizer.padding_side = lm.tokenizer.padding_side, side
    yield
    lm.tokenizer.padding_side = before


# ----------------------------------------------------------------------------------------------------------- data


def test_sentences_and_counterfactuals_with_pronoun_and_professions(masked_model, file):
    found = []
    for row in rows_of(masked_model, file):
        tokens = pieces(masked_model, row)
        assert len(row["neutral"]) == len(tokens)
        neutral = [token for token, flag in zip(tokens, row["neutral"], strict=True) if flag]
        found.append((" ".join(tokens[1:-1]).replace(" ##", ""), tokens[row["place"]], "".join(neutral)))
    librarian = "l##i##b##r##a##r##i##a##n"
    assert found == [
        ("the nurse and the doctor said that she works", "she", "nursedoctor"),
        ("the nurse and the doctor said that he works", "he", "nursedoctor"),
        ("a teacher told the man about his job", "his", "teacher"),
        ("a teacher told the woman about her job", "her", "teacher"),
        (LINES[2], "her", f"{librarian}nurse{librarian}##s"),
        (LINES[2].replace("her", "his"), "his", f"{librarian}nurse{librarian}##s"),
        ("the engineer met her father in the street", "her", "engineer"),
        ("the engineer met his mother in the street", "his", "engineer"),
        ("the man said that he likes a ball", "he", ""),
        ("the woman said that she likes a ball", "she", ""),
    ]


def test_a_causal_model_has_the_same_places(causal_model, file):
    rows = rows_of(causal_model, file)
    assert len(rows) == 6  # " she" is two tokens of this model, so that lines with "he" are left out too
    for row in rows:
        tokens = pieces(causal_model, row)
        assert bare(tokens[row["place"]]) in ("his", "her")
        neutral = [bare(token) for token, flag in zip(tokens, row["neutral"], strict=True) if flag]
        words = causal_model.tokenizer.decode(row["input_ids"]).split()
        professions = [word for word in words if word.startswith(("teacher", "librarian", "nurse", "engineer"))]
        assert "".join(neutral) == "".join(professions)
        assert professions


def test_a_pronoun_of_several_tokens_is_left_out(masked_model, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("the nurse likes himself\nthe nurse told him about it\nthe nurse said she works\n")
    rows = rows_of(masked_model, str(file))
    assert [pieces(masked_model, row)[row["place"]] for row in rows] == ["she", "he"]
    file.write_text("the nurse likes himself\n")
    with pytest.raises(DataError, match=r"a\.txt: no sentence with one gendered pronoun"):
        rows_of(masked_model, str(file))


@pytest.mark.parametrize("max_length", range(4, 10))
def test_a_pronoun_that_is_cut_is_left_out(masked_model, tmp_path, max_length):
    file = tmp_path / "a.txt"
    file.write_text("a nurse said she works\na nurse said himself works\n")
    if max_length < 6:  # [CLS] a nurse said she [SEP]
        with pytest.raises(DataError, match="no sentence"):
            rows_of(masked_model, str(file), max_length)
    else:  # never "h" of "h ##i ##m ##s ##e ##l ##f", whatever is left of it
        rows = rows_of(masked_model, str(file), max_length)
        assert [(row["place"], pieces(masked_model, row)[4]) for row in rows] == [(4, "she"), (4, "he")]
        assert all(len(row["input_ids"]) <= max_length for row in rows)


def test_a_causal_model_is_not_asked_for_the_first_token(causal_model, masked_model, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("she is a nurse\n")
    assert len(rows_of(masked_model, str(file))) == 2
    with pytest.raises(DataError, match="no sentence"):
        rows_of(causal_model, str(file))


@pytest.mark.parametrize("side", ["right", "left"])
def test_places_and_professions_stand_whatever_the_side_of_padding(language_model, file, side):
    rows = rows_of(language_model, file)
    with padding_on(language_model, side):
        batch = ASE().collator(language_model)([dict(row) for row in rows])
    assert set(batch) == {"input_ids", "attention_mask", "place", "neutral"}
    assert batch["attention_mask"].min() == 0
    for i, row in enumerate(rows):
        assert batch["input_ids"][i, batch["place"][i]] == row["input_ids"][row["place"]]
        kept = [t for t, flag in zip(row["input_ids"], row["neutral"], strict=True) if flag]
        assert batch["input_ids"][i][batch["neutral"][i].bool()].tolist() == kept
        assert batch["attention_mask"][i, 0] == 1
    assert (batch["neutral"] * (1 - batch["attention_mask"])).sum() == 0


# ---------------------------------------------------------------------------------------------------------- terms


def pronoun_by_hand(lm, rows):
    """Each sentence alone, from the model's plain logits, in float64."""
    total = 0.0
    for row in rows:
        ids, place = torch.tensor(row["input_ids"]), row["place"]
        target = ids[place].item()
        if lm.kind == "masked":
            ids[place] = lm.tokenizer.mask_token_id
        asked = place if lm.kind == "masked" else place - 1
        scores = lm.model(input_ids=ids[None]).logits[0, asked].detach().double()
        total -= (scores[target] - torch.log(torch.exp(scores).sum())).item()
    return total / len(rows)


def along_by_hand(lm, rows, direction, power):
    """|h . g| of each token of a profession, h of the sentence alone."""
    found = []
    for row in rows:
        ids = torch.tensor(row["input_ids"])
        if lm.kind == "masked":
            ids[row["place"]] = lm.tokenizer.mask_token_id
        states = lm.model.base_model(input_ids=ids[None]).last_hidden_state[0].detach().double()
        for flag, state in zip(row["neutral"], states, strict=True):
            if flag:
                found.append(abs(sum(a * b for a, b in zip(state.tolist(), direction.tolist(), strict=True))) ** power)
    return found


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pronoun_and_orthogonality_are_the_formula(language_model, file, power, reduction):
    objective, rows, batch = objective_of(
        language_model, file, power=power, orthogonality=reduction, orthogonality_weight=0.7, ewc_weight=0
    )
    out = objective(language_model.model, batch)
    along = along_by_hand(language_model, rows, objective.direction, power)
    pronoun = pronoun_by_hand(language_model, rows)
    orthogonality = sum(along) / (len(along) if reduction == "mean" else 1)
    assert len(along) > 10
    assert out.parts["pronoun"].item() == pytest.approx(pronoun, rel=1e-5)
    assert out.parts["orthogonality"].item() == pytest.approx(orthogonality, rel=1e-4)
    assert out.loss.item() == pytest.approx(pronoun + 0.7 * orthogonality, rel=1e-5)
    assert set(out.parts) == {"pronoun", "orthogonality"}
    assert not any(part.requires_grad for part in out.parts.values())
    assert objective.pronoun_loss(language_model.model, batch).item() == pytest.approx(pronoun, rel=1e-5)


def test_orthogonality_by_hand(masked_model):
    states = torch.tensor([[[3.0, 1.0], [0.0, -2.0], [5.0, 4.0]], [[1.0, 7.0], [1.0, 1.0], [2.0, -1.0]]])
    neutral = torch.tensor([[1, 1, 0], [0, 0, 1]]).bool()
    for power, total in ((1, 1 + 2 + 1), (2, 1 + 4 + 1)):
        for reduction, expected in (("sum", total), ("mean", total / 3)):
            method = ASE(power=power, orthogonality=reduction)
            objective = PronounObjective(masked_model, method, torch.tensor([0.0, 1.0]))
            assert objective._orthogonality(states, neutral).item() == pytest.approx(expected)
            assert objective._orthogonality(states, neutral & False).item() == 0


def test_orthogonality_is_not_taken_in_bf16(masked_model):
    states, direction = torch.randn(1, 50, 64), nn.functional.normalize(torch.randn(64), dim=0)
    objective = PronounObjective(masked_model, ASE(), direction)
    here = torch.ones(1, 50).bool()
    with torch.autocast("cpu", torch.bfloat16):
        found = objective._orthogonality(states, here)
    torch.testing.assert_close(found, (states @ direction).abs().mean(), rtol=1e-6, atol=1e-6)


def test_a_batch_in_bf16_autocast_is_near_float32(language_model, file):
    objective, _, batch = objective_of(language_model, file, fisher_sentences=2)
    exact = objective(language_model.model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = objective(language_model.model, batch)
    assert rough.loss.dtype == torch.float32
    torch.testing.assert_close(rough.loss, exact.loss, rtol=2e-2, atol=2e-2)


def test_features_are_words_in_sight_with_their_own_ids(masked_model, file):
    objective, _, batch = objective_of(masked_model, file, ewc_weight=0)
    out = objective(masked_model.model, batch)
    seen = batch["attention_mask"].bool() & (batch["input_ids"] > 4)
    seen[torch.arange(len(seen)), batch["place"]] = False
    assert torch.equal(out.token_ids, batch["input_ids"][seen])
    assert out.features.shape == (len(out.token_ids), 16)
    assert out.features.requires_grad


def test_gender_direction_is_the_plain_loop(language_model):
    lm, sides = language_model, ([], [])
    for pair in WordSet.builtin("gender").pairs:
        for side, word in zip(sides, pair, strict=True):
            before, ids = (lm.tokenizer(text)["input_ids"] for text in ("The word is", f"The word is {word}"))
            states = lm.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0].detach().double()
            last = len(ids) - (lm.kind == "masked")  # without [SEP]
            first = len(before) - (lm.kind == "masked")
            named = zip(states[first:last], lm.tokenizer.convert_ids_to_tokens(ids[first:last]), strict=True)
            inside = [state for state, token in named if bare(token)]  # a space alone is no part of the word
            side.append(sum(inside) / len(inside))
    female, male = (sum(side) / len(side) for side in sides)
    expected = (male - female) / sum((male - female) ** 2) ** 0.5
    for side in ("right", "left"):
        with padding_on(lm, side):
            found = gender_direction(lm)
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


def test_the_direction_is_found_where_it_was_planted(masked_model):
    lm, axis = masked_model, nn.functional.normalize(torch.randn(16), dim=0)
    groups = WordSet.builtin("gender").groups
    tokens = lm.tokenizer.convert_ids_to_tokens(range(len(lm.tokenizer)))
    sign = torch.tensor([float(token in groups["male"]) - float(token in groups["female"]) for token in tokens])

    def planted(module, args, kwargs, out):
        return type(out)(last_hidden_state=5 + sign[kwargs["input_ids"]][..., None] * axis)

    handle = lm.model.base_model.register_forward_hook(planted, with_kwargs=True)
    torch.testing.assert_close(gender_direction(lm), axis, rtol=1e-4, atol=1e-4)
    handle.remove()


def test_a_slow_tokenizer_is_refused(masked_model, file, monkeypatch):
    monkeypatch.setattr(type(masked_model.tokenizer), "is_fast", property(lambda self: False))
    with pytest.raises(InputError, match="use a model with a fast tokenizer"):
        rows_of(masked_model, file)


def test_first_names_stay_and_genders_are_as_frequent(masked_model, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("mary said that she works\nmary said that he works\nher job is a job\nhis job is a job\n")
    rows = rows_of(masked_model, str(file))
    asked = [pieces(masked_model, row)[row["place"]] for row in rows]
    assert [asked.count(word) for word in ("she", "he", "her", "his")] == [2, 2, 2, 2]
    assert ["".join(pieces(masked_model, row)).count("m##a##r##y") for row in rows] == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_model_without_a_gender_direction(masked_model):
    for parameter in masked_model.model.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(InputError, match="the same states in this model: choose another --method"):
        gender_direction(masked_model)


# ------------------------------------------------------------------------------------------------------------ EWC


def test_fisher_is_the_mean_of_squared_gradients(language_model, file):
    objective, rows, _ = objective_of(language_model, file, fisher_sentences=4)
    lm, held = language_model, list(language_model.model.parameters())
    expected = [torch.zeros_like(p, dtype=torch.float64) for p in held]
    for at in {10: (0, 2, 5, 7), 6: (0, 1, 3, 4)}[len(rows)]:  # spread evenly
        row = rows[at]
        ids = torch.tensor(row["input_ids"])[None]
        target = ids[:, row["place"]].clone()
        if lm.kind == "masked":
            ids[0, row["place"]] = lm.tokenizer.mask_token_id
        logits = lm.model(input_ids=ids).logits[:, row["place"] - (lm.kind == "causal")]
        lm.model.zero_grad()
        nn.functional.cross_entropy(logits, target).backward()
        for total, p in zip(expected, held, strict=True):
            if p.grad is not None:
                total += p.grad.double() ** 2 / 4
    lm.model.zero_grad()
    assert max(float(total.max()) for total in expected) > 1e-6
    for number, total in enumerate(expected):
        found = objective.elastic.get_buffer(f"fisher_{number}").double()
        torch.testing.assert_close(found, total, rtol=1e-3, atol=1e-9)


def test_the_penalty_by_hand():
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    batches = [{"x": torch.tensor([2.0, 0.0])}, {"x": torch.tensor([0.0, 3.0])}, {"x": torch.tensor([2.0, 1.0])}]
    elastic = ElasticWeights(model, batches, lambda m, b: m(b["x"]).sum())
    # d loss / d w = x, so F = the mean of x squared = (8 / 3, 10 / 3)
    torch.testing.assert_close(elastic.get_buffer("fisher_0"), torch.tensor([[8 / 3, 10 / 3]]))
    assert elastic().item() == 0
    with torch.no_grad():
        model.weight.add_(torch.tensor([[0.5, 3.0]]))
    penalty = elastic()
    assert penalty.item() == pytest.approx(8 / 3 * 0.25 + 10 / 3 * 9)
    penalty.backward()
    torch.testing.assert_close(model.weight.grad, torch.tensor([[2 * 8 / 3 * 0.5, 2 * 10 / 3 * 3]]))


def test_fisher_leaves_the_model_as_it_is_and_is_not_saved():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Linear(3, 1)).train()
    model[0].bias.requires_grad_(False)
    batches = [{"x": torch.ones(3)}] * 3
    first = ElasticWeights(model, batches, lambda m, b: m(b["x"]).sum())
    second = ElasticWeights(model, batches, lambda m, b: m(b["x"]).sum())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (first.state_dict(), list(first.parameters())) == ({}, [])
    names = [name for name, _ in first.named_buffers()]
    assert sorted(names) == sorted(f"{kind}_{i}" for kind in ("before", "fisher") for i in range(3))  # one is frozen
    assert all(torch.equal(first.get_buffer(name), second.get_buffer(name)) for name in names)  # no dropout


def test_frozen_weights_cannot_be_held():
    model = nn.Linear(2, 1)
    elastic = ElasticWeights(model, [{"x": torch.ones(2)}], lambda m, b: m(b["x"]).sum())
    model.requires_grad_(False)
    with pytest.raises(InputError, match=r"frozen: give --set ewc_weight=0, or leave out --lora"):
        elastic()


def test_the_ewc_term_is_weighted(language_model, file):
    objective, _, batch = objective_of(language_model, file, ewc_weight=3.0, orthogonality_weight=0.0)
    at_start = objective(language_model.model, batch)
    assert at_start.parts["ewc"].item() == 0
    with torch.no_grad():
        for parameter in language_model.model.parameters():
            parameter.add_(0.05)
    expected = sum(
        float((objective.elastic.get_buffer(f"fisher_{i}").double() * 0.05**2).sum())
        for i in range(len(list(language_model.model.parameters())))
    )
    out = objective(language_model.model, batch)
    assert out.parts["ewc"].item() == pytest.approx(expected, rel=1e-3)
    assert out.loss.item() == pytest.approx(out.parts["pronoun"].item() + 3 * expected, rel=1e-4)


# ------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("part", ["pronoun", "orthogonality", "ewc"])
def test_each_term_falls_when_trained_alone(language_model, file, part):
    objective, _, batch = objective_of(language_model, file)
    model = language_model.model
    if part == "ewc":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    values = []
    for _ in range(25):
        optimizer.zero_grad()
        if part == "pronoun":
            loss = objective.pronoun_loss(model, batch)
        elif part == "ewc":
            loss = objective.elastic()
        else:
            out = objective(model, batch)
            loss = out.loss - objective.pronoun_loss(model, batch) - 0.5 * objective.elastic()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.6 * values[0]


def trainer_of(lm, file, folder):
    objective, rows, _ = objective_of(lm, file, fisher_sentences=3)
    arguments = FineTuning(max_steps=6, batch_size=4, precision="fp32", save_steps=3, learning_rate=1e-3)
    return DebiasingTrainer(
        objective=objective,
        model=lm.model,
        args=training_arguments(arguments, folder, ASE.settings, torch.device("cpu")),
        train_dataset=rows,
        data_collator=ASE().collator(lm),
    )


def test_resumed_run_ends_where_an_unbroken_one_does(language_model, model_folders, file, tmp_path):
    trainer_of(language_model, file, tmp_path / "whole").train()

    def again():
        return load(str(model_folders[language_model.kind]), device="cpu")

    class Stop(Exception):
        pass

    broken = trainer_of(again(), file, tmp_path / "broken")
    step = broken.training_step

    def stop(*args, **kwargs):
        if broken.state.global_step == 4:
            raise Stop
        return step(*args, **kwargs)

    broken.training_step = stop
    with pytest.raises(Stop):
        broken.train()
    resumed = again()
    second = trainer_of(resumed, file, tmp_path / "broken")
    second.train(resume_from_checkpoint=complete_checkpoint(tmp_path / "broken"))
    for mine, theirs in zip(resumed.model.parameters(), language_model.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert second.objective.elastic() > 0


def run(lm, file, folder, weight=0.0, lora=0, **options):
    return debias(
        lm,
        load_method("ase", {"text": file, "fisher_sentences": 3, **options}),
        UNC3Options(weight=weight, through_features=bool(lora)),
        FineTuning(max_steps=3, batch_size=4, precision="fp32", lora_rank=lora),
        WordSet.builtin("gender").resolve(lm.tokenizer),
        folder / "checkpoints",
    )


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_a_whole_run(language_model, file, tmp_path, weight):
    before = language_model.fingerprint()
    done = run(language_model, file, tmp_path, weight)
    assert (done.result.method, done.result.steps) == ("ase", 3)
    assert done.language_model.fingerprint() != before
    assert {"pronoun", "orthogonality", "ewc"} <= set(done.history)
    assert ("unc3" in done.history) == (weight > 0)
    first = done.history.iloc[0]
    total = first["pronoun"] + first["orthogonality"] + 0.5 * first["ewc"] + weight * first.get("unc3", 0.0)
    assert first["loss"] == pytest.approx(total, rel=1e-3)


def test_the_run_of_the_paper_has_neither_orthogonality_nor_ewc(masked_model, file, tmp_path):
    done = run(masked_model, file, tmp_path, 100.0, orthogonality_weight="0", ewc_weight="0")
    assert "ewc" not in done.history
    first = done.history.iloc[0]
    assert first["loss"] == pytest.approx(first["pronoun"] + 100 * first["unc3"], rel=1e-3)


def test_lora_trains_without_ewc_alone(language_model, model_folders, file, tmp_path):
    pytest.importorskip("peft")
    with pytest.raises(InputError, match="leave out --lora"):
        run(language_model, file, tmp_path, lora=2)
    fresh = load(str(model_folders[language_model.kind]), device="cpu")
    done = run(fresh, file, tmp_path, weight=5.0, lora=2, ewc_weight=0)
    assert {"pronoun", "orthogonality", "unc3"} <= set(done.history)


def test_it_is_a_host_of_unc3_like_any_other(masked_model, file):
    from equiframe.collapse import UNC3Regularizer

    objective, _, batch = objective_of(masked_model, file, ewc_weight=0)
    words = torch.tensor(sorted(masked_model.tokenizer.convert_tokens_to_ids(["she", "he", "man", "woman", "nurse"])))
    alone = objective(masked_model.model, batch)
    both = WithUNC3(objective, UNC3Regularizer(words, 16, weight=2.0))(masked_model.model, batch)
    assert both.loss.item() == pytest.approx(alone.loss.item() + 2 * both.parts["unc3"].item(), rel=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"power": "3"}, {"orthogonality": "max"}, {"ewc_weight": "-1"}, {"fisher_sentences": "0"}]
)
def test_options_are_checked(wrong):
    with pytest.raises(InputError, match=f"ase.{next(iter(wrong))}"):
        load_method("ase", wrong)


def test_options_are_given_as_text():
    method = load_method("ase", {"power": "2", "ewc_weight": "0", "orthogonality": "sum"})
    assert method == dataclasses.replace(ASE(), power=2, ewc_weight=0.0, orthogonality="sum")
