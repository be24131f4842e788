"""MABEL: each loss by hand and by brute force, on one rank and on two, and whole runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from equiframe.collapse import UNC3Regularizer
from equiframe.data import DataSource
from equiframe.errors import DataError, InputError
from equiframe.methods import WithUNC3, load_method
from equiframe.methods.language_modelling import LanguageModelling
from equiframe.methods.mabel import MABEL, alignment_loss, contrastive_loss
from equiframe.models import load
from equiframe.models.adapter import classifier, forward_at
from equiframe.runs.debias import UNC3Options, debias
from equiframe.training import FineTuning
from equiframe.words import WordSet

SHARED = Path(__file__).parents[3] / "shared" / "data"
FORMS = ("mean", "sum", "a2")
WORDS = WordSet("mine", {"female": ("she", "her", "woman"), "male": ("he", "his", "man")})
PAIRS = [
    ("she is a nurse", "she works", "he is a nurse", "he works"),
    ("the man met the king", "a man met a king", "the woman met the queen", "a woman met a queen"),
    ("his sister works as an engineer", "an engineer", "her brother works as an engineer", "an engineer"),
    ("her father told her about the job", "the father told", "his mother told him about the job", "the mother told"),
    ("a girl and a boy play", "the girl likes it", "a boy and a girl play", "the boy likes it"),
]


def cosine(x, y):
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in y))


def brute_contrastive(p, h, p2, h2, temperature):
    """The formula in loops."""
    queries, keys, total = p + p2, h + h2, 0.0
    for i, query in enumerate(queries):
        scores = [cosine(query, key) / temperature for key in keys]
        largest = max(scores)
        total += largest + math.log(sum(math.exp(s - largest) for s in scores)) - scores[i]
    return total / len(queries)


def brute_alignment(p, h, p2, h2, temperature, form):
    n = len(p)
    if form == "a2":
        return sum((a - b) ** 2 for x, y in ((p, p2), (h, h2)) for u, v in zip(x, y, strict=True)
                   for a, b in zip(u, v, strict=True)) / n  # fmt: skip
    total = 0.0
    for i in range(n):
        for j in range(n):
            total += (cosine(p[i], h[j]) / temperature - cosine(p2[i], h2[j]) / temperature) ** 2
    return total / n if form == "sum" else 32 * total / n**2


def vectors(pairs, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, pairs, dim, generator=generator, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(pairs=st.integers(1, 6), dim=st.integers(1, 5), seed=st.integers(0, 10**6), temperature=st.floats(0.02, 5))
def test_losses_are_the_formulas_in_loops(pairs, dim, seed, temperature):
    four = vectors(pairs, dim, seed)
    lists = [view.tolist() for view in four]
    found = contrastive_loss(*four, temperature=temperature)
    assert found.item() == pytest.approx(brute_contrastive(*lists, temperature), rel=1e-9, abs=1e-9)
    for form in FORMS:
        found = alignment_loss(*four, temperature=temperature, form=form)
        assert found.item() == pytest.approx(brute_alignment(*lists, temperature, form), rel=1e-9, abs=1e-9)


def test_losses_by_hand():
    p, h = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    # one pair: x = (p, p'), y = (h, h'); p' = h and h' = p, so only the wrong ones are alike
    assert contrastive_loss(p, h, h, p, temperature=0.5).item() == pytest.approx(2 + math.log1p(math.exp(-2)))
    assert contrastive_loss(p, p, h, h, temperature=0.5).item() == pytest.approx(math.log1p(math.exp(-2)))
    # cos(p, h) = 0 against cos(p', h') = 1
    assert alignment_loss(p, h, p, p, temperature=0.5, form="sum").item() == pytest.approx(4)
    assert alignment_loss(p, h, p, p, temperature=0.5, form="mean").item() == pytest.approx(128)
    assert alignment_loss(p, h, p, p, temperature=0.5, form="a2").item() == pytest.approx(13)
    same = vectors(4)
    assert contrastive_loss(*(torch.ones(4, 6, 3)), temperature=0.05).item() == pytest.approx(math.log(12))
    for form in FORMS:
        assert alignment_loss(same[0], same[1], same[0], same[1], temperature=0.05, form=form).item() == 0


def test_mean_and_sum_agree_at_the_published_batch_and_the_mean_keeps_its_size():
    four = vectors(32)
    mean, total = (alignment_loss(*four, temperature=0.05, form=form) for form in ("mean", "sum"))
    torch.testing.assert_close(mean, total)
    twice = torch.cat([four, four], dim=1)
    torch.testing.assert_close(alignment_loss(*twice, temperature=0.05, form="mean"), mean)
    torch.testing.assert_close(alignment_loss(*twice, temperature=0.05, form="sum"), 2 * total)


def test_what_the_losses_do_not_depend_on():
    four, order = vectors(5), torch.tensor([3, 1, 4, 0, 2])
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    scales = torch.rand(4, 5, 1, dtype=torch.float64) + 0.5
    swapped = four[[2, 3, 0, 1]]
    for other in (four[:, order], four @ rotation, swapped):
        torch.testing.assert_close(contrastive_loss(*other, temperature=0.1), contrastive_loss(*four, temperature=0.1))
        for form in FORMS:
            left, right = (alignment_loss(*v, temperature=0.1, form=form) for v in (other, four))
            torch.testing.assert_close(left, right)
    torch.testing.assert_close(
        contrastive_loss(*(four * scales), temperature=0.1), contrastive_loss(*four, temperature=0.1)
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("orig_sent0,orig_sent1,aug_sent0,aug_sent1\n" + "".join(",".join(four) + "\n" for four in PAIRS))
    return str(path)


def prepared(language_model, **options):
    """The dataset, and a batch of the whole of it."""
    method = MABEL(**options)
    data, _ = method.training_data(language_model, source=DataSource(), max_length=32, seed=0)
    return method, data, dict(method.collator(language_model)(list(data)))


def built(language_model, method, data):
    """The objective, on weights large enough that sentences differ."""
    torch.manual_seed(5)
    for layer in language_model.model.modules():
        if isinstance(layer, nn.Linear | Conv1D) and layer.weight is not classifier(language_model.model):
            nn.init.normal_(layer.weight, std=0.3)
    return method.objective(language_model, data, pairing="aligned", feature="decoder-input")


def test_a_batch_is_the_four_views_one_below_the_other(language_model, file):
    _, data, batch = prepared(language_model, data=file)
    assert data.num_rows == len(PAIRS)
    tokenizer = language_model.tokenizer
    texts = [four[view] for view in range(4) for four in PAIRS]
    for text, ids, mask in zip(texts, batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[mask.bool()].tolist() == tokenizer(text)["input_ids"]
    assert data["input_ids"][1] == tokenizer(PAIRS[1][0])["input_ids"]
    short, _ = MABEL(data=file).training_data(language_model, source=DataSource(), max_length=4, seed=0)
    assert max(len(ids) for column in short.column_names for ids in short[column]) == 4


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_loss_is_made_of_its_parts_sentence_by_sentence(language_model, file, side):
    language_model.tokenizer.padding_side = side
    weights = {"contrastive_weight": 0.7, "align_weight": 0.03, "language_modelling_weight": 0.2}
    method, data, batch = prepared(language_model, data=file, temperature=0.2, alignment="sum", **weights)
    objective = built(language_model, method, data).eval()
    model, ids, mask = language_model.model, batch["input_ids"], batch["attention_mask"]
    torch.manual_seed(2)
    out = objective(model, batch)
    torch.manual_seed(2)
    lm = LanguageModelling(language_model)(model, batch).loss
    torch.testing.assert_close(out.parts["language_modelling"], lm.detach())
    place = 0 if language_model.kind == "masked" else -1
    alone = []
    for row, seen in zip(ids, mask, strict=True):
        states = model(input_ids=row[None], attention_mask=seen[None], output_hidden_states=True).hidden_states
        alone.append(objective.head(states[-1][0][seen.bool()][place]).tolist())
    lists = [alone[i * len(PAIRS) : (i + 1) * len(PAIRS)] for i in range(4)]
    assert out.parts["contrastive"].item() == pytest.approx(brute_contrastive(*lists, 0.2), rel=1e-4)
    assert out.parts["alignment"].item() > 0.01
    assert out.parts["alignment"].item() == pytest.approx(brute_alignment(*lists, 0.2, "sum"), rel=1e-3)
    parts = [out.parts[name].item() for name in ("contrastive", "alignment", "language_modelling")]
    assert out.loss.item() == pytest.approx(sum(w * p for w, p in zip((0.7, 0.03, 0.2), parts, strict=True)))


def test_features_are_those_of_all_four_sentences_unmasked(language_model, file):
    method, data, batch = prepared(language_model, data=file)
    out = built(language_model, method, data)(language_model.model, batch)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    is_word = mask.bool() & ~torch.isin(ids, language_model.special_ids)
    where = is_word if language_model.kind == "masked" else torch.zeros_like(is_word)
    if language_model.kind == "causal":
        where[:, :-1] = is_word[:, 1:]
        expected = ids[:, 1:][is_word[:, 1:]]
    else:
        expected = ids[is_word]
    assert torch.equal(out.token_ids, expected)
    inputs = {"input_ids": ids, "attention_mask": mask}
    torch.testing.assert_close(out.features, forward_at(language_model.model, inputs, where).states)


def test_each_forward_pass_is_counted(language_model, file):
    method, data, batch = prepared(language_model, data=file)
    calls = []
    language_model.model.register_forward_hook(lambda *_: calls.append(1))
    built(language_model, method, data)(language_model.model, batch)
    assert len(calls) == (2 if language_model.kind == "masked" else 1)


def test_trained_alone_each_loss_falls(language_model, file):
    for name in ("contrastive", "align", "language_modelling"):
        weights = dict.fromkeys(("contrastive_weight", "align_weight", "language_modelling_weight"), 0.0)
        method, data, batch = prepared(language_model, data=file, **weights | {f"{name}_weight": 1.0})
        objective = built(language_model, method, data)
        model = language_model.model.train()
        optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=3e-3)
        losses = []
        for _ in range(40):
            out = objective(model, batch)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            losses.append(out.loss.item())
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), name


def test_the_loss_is_float32_under_autocast(masked_model, file):
    method, data, batch = prepared(masked_model, data=file)
    objective = built(masked_model, method, data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = objective(masked_model.model, batch)
    assert out.loss.dtype == torch.float32
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters())


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_a_whole_run(language_model, file, tmp_path, weight):
    before = classifier(language_model.model).detach().clone()
    words = WORDS.resolve(language_model.tokenizer)
    done = debias(
        language_model,
        load_method("mabel", {"data": file}),
        UNC3Options(weight=weight),
        FineTuning(max_steps=3, batch_size=2, precision="fp32"),
        words,
        tmp_path / "checkpoints",
    )
    assert done.result.steps == 3
    assert {"contrastive", "alignment", "language_modelling"} <= set(done.history.columns)
    assert ("unc3" in done.history.columns) == bool(weight)
    after = classifier(done.language_model.model)
    assert not torch.equal(before, after)
    assert after is language_model.model.get_input_embeddings().weight  # tied from the start
    assert not any("head." in name for name in language_model.model.state_dict() if "lm_head" not in name)
    assert [f.name for f in done.files] == ["pairs.csv"]


def test_the_projection_is_trained_and_kept_in_checkpoints(masked_model, file, tmp_path):
    from safetensors.torch import load_file

    words = WORDS.resolve(masked_model.tokenizer)
    tuning = FineTuning(max_steps=2, batch_size=2, precision="fp32", save_steps=1)
    debias(masked_model, MABEL(data=file), UNC3Options(), tuning, words, tmp_path)
    first, second = (load_file(tmp_path / f"checkpoint-{i}" / "objective.safetensors") for i in (1, 2))
    assert set(first) == {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}
    assert not torch.equal(first["head.0.weight"], second["head.0.weight"])


def test_published_settings_and_options():
    assert load_method("mabel") == MABEL("snli+mnli", 0.05, 1.0, "mean", 0.05, 0.1)
    given_ = load_method("mabel", {"alignment": "a2", "temperature": "0.1", "data": "sick"})
    assert given_ == MABEL("sick", 0.1, alignment="a2")
    settings_ = MABEL.settings
    assert (settings_.epochs, settings_.learning_rate, settings_.batch_size) == (2, 5e-5, 32)
    assert (settings_.max_length, settings_.unc3_weight, settings_.seed) == (128, 10.0, 21)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0),
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("align_weight", -1),
        ("contrastive_weight", "nan"),
        ("language_modelling_weight", "much"),
        ("alignment", "a3"),
    ],
)
def test_impossible_options_are_refused(option, value):
    with pytest.raises(InputError, match=rf"mabel.*{option}"):
        load_method("mabel", {option: value})


def test_data_that_is_not_there_or_malformed(masked_model, tmp_path):
    (tmp_path / "bad.csv").write_text("orig_sent0,orig_sent1,aug_sent0,aug_sent1\na,b,c\n")
    for spec, said in (("bad", "no entailment pairs 'bad'"), (str(tmp_path / "bad.csv"), "line 2: found 3 columns")):
        with pytest.raises(DataError, match=said):
            MABEL(data=spec).training_data(masked_model, source=DataSource(), max_length=32, seed=0)


def test_the_real_sick(masked_model):
    if not (SHARED / "sick").is_dir():
        pytest.skip("no shared data")
    method = MABEL(data="sick")
    data, (file,) = method.training_data(masked_model, source=DataSource(SHARED), max_length=32, seed=0)
    assert (data.num_rows, file.name) == (805, "sick/train")


RANKS = 2


def distributed_step(folder, model_folder, rows):
    """Loss, and gradients of model and projection, of some of the pairs; averaged over ranks as DDP does."""
    language_model = load(model_folder, device="cpu")
    method, data, _ = prepared(language_model, data=str(folder / "pairs.csv"), language_modelling_weight=0.0)
    host = built(language_model, method, data)
    ids = torch.arange(5, len(language_model.tokenizer))
    objective = WithUNC3(host, UNC3Regularizer(ids, 16, weight=2.0)).train()
    batch = dict(method.collator(language_model)([data[row] for row in rows]))
    model: nn.Module = language_model.model.eval()  # no dropout
    if dist.is_initialized():  # as the Trainer wraps it
        model = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    out = objective(model, batch)
    out.loss.backward()
    for parameter in host.parameters():
        if dist.is_initialized():
            dist.all_reduce(parameter.grad)
            parameter.grad /= RANKS
    named = [*language_model.model.named_parameters(), *host.named_parameters()]
    parts = {name: out.parts[name] for name in ("contrastive", "alignment", "unc3")}
    return {"loss": out.loss.detach(), **parts}, {name: p.grad for name, p in named if p.grad is not None}


def worker(rank, folder, model_folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    torch.save(distributed_step(folder, model_folder, [2 * rank, 2 * rank + 1]), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_loss_and_gradient_of_one(model_folders, file, tmp_path):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    model_folder = str(model_folders["masked"])
    values, gradients = distributed_step(tmp_path, model_folder, range(4))
    mp.start_processes(worker, args=(tmp_path, model_folder), nprocs=RANKS, start_method="fork")
    assert len(gradients) > 20
    assert min(values["alignment"], values["unc3"]) > 0.1
    assert gradients["head.0.weight"].abs().max() > 0.01
    for rank in range(RANKS):
        their_values, their_gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(their_values, values, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(their_gradients, gradients, rtol=1e-3, atol=1e-4)
