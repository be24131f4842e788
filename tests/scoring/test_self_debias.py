"""Self-Debias: the correction by hand, and a scored request after its prompt one text at a time."""

from __future__ import annotations

import math

import pytest
import torch

from equiframe.benchmarks import load_benchmark
from equiframe.commands.run import run
from equiframe.config import EvaluateConfig
from equiframe.errors import CannotScoreError, InputError
from equiframe.requests import Embedding, TokenLogProbs
from equiframe.runs.scores import check_corrected
from equiframe.scoring.engine import LocalAnswerer, answer
from equiframe.scoring.self_debias import SelfDebias, debiased_logits


def test_by_hand():
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.1, 0.3, 0.6]])
    found = debiased_logits(p.log(), q.log(), 50.0).exp()
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.3, 0.2 * math.exp(50 * (0.2 - 0.6))]]))


def test_a_prompt_that_changes_nothing_changes_nothing():
    logits = torch.randn(3, 7)
    torch.testing.assert_close(debiased_logits(logits, logits), logits.log_softmax(-1))


@pytest.mark.parametrize("name", ["masked_model", "causal_model"])
def test_answers_are_those_of_one_text_at_a_time(name, request):
    plain = request.getfixturevalue(name)
    debias = SelfDebias(tuple(plain.tokenizer.encode("the man is a", add_special_tokens=False)), decay=20.0)
    model, codec = LocalAnswerer(plain, self_debias=debias), plain.codec
    assert model.codec.window == plain.window - len(debias.prompt)
    asked = []
    for text in ("she is a nurse", "he is a doctor and she is a cook", "she is a nurse and he is a cook"):
        if codec.kind == "causal":
            asked.append(codec.sequence_log_probs(text))
        else:
            ids = list(codec.encode(text))
            target, ids[2] = ids[2], codec.mask_id
            asked.append(TokenLogProbs(tuple(ids), (2,), (target,)))
    size = len(debias.prompt)
    for found, one in zip(model.answer(asked), asked, strict=True):
        with torch.no_grad():
            ids = torch.tensor([one.input_ids])
            behind = torch.tensor([[ids[0, 0], *debias.prompt, *ids[0, 1:]]])
            p = plain.model(input_ids=ids).logits[0].double().softmax(-1)
            q = plain.model(input_ids=behind).logits[0, size:].double().softmax(-1)
        weight = torch.where(p >= q, torch.ones_like(p), (20.0 * (p - q)).exp()) * p
        weight = weight / weight.sum(-1, keepdim=True)
        expected = [float(weight[at, token].log()) for at, token in zip(one.positions, one.targets, strict=True)]
        assert found == pytest.approx(expected, abs=1e-4)
    assert model.answer(asked) != answer(plain, asked)


def test_states_are_not_corrected_so_they_are_not_given(masked_model):
    prompt = tuple(masked_model.tokenizer.encode("the man is a", add_special_tokens=False))
    model = LocalAnswerer(masked_model, self_debias=SelfDebias(prompt))
    with pytest.raises(InputError, match="does not answer Embedding"):
        model.answer([Embedding(masked_model.codec.encode("she is a nurse"))])
    assert not model.codec.has_next_sentence
    assert model.fingerprint() != masked_model.fingerprint()


def test_what_is_not_corrected_is_skipped(model_folders, tmp_path):
    (tmp_path / "p.csv").write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\n")
    names = (f"pairs:{tmp_path / 'p.csv'}", "cola", "decisions")
    config = EvaluateConfig(str(model_folders["causal"]), device="cpu", benchmarks=names, self_debias="gender")
    record = run(config, tmp_path / "run")
    assert list(record.metrics.results) == [names[0]]
    assert record.provenance.left_out == {
        "cola": "cola fine-tunes the model, but Self-Debias only corrects probabilities",
        "decisions": "decisions lets the model write, but Self-Debias only corrects probabilities",
    }
    with pytest.raises(CannotScoreError, match="seat reads states of the model, but Self-Debias only"):
        check_corrected(load_benchmark("seat"))


def test_the_prompts_name_the_bias(causal_model):
    found = SelfDebias.against("religion", causal_model.tokenizer)
    assert causal_model.tokenizer.decode(found.prompt).endswith("because of their religion:\n")
