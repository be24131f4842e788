"""Generation with a model in this process: padding, batches, stops, what is kept; and the probabilities of answers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from equiframe.benchmarks import load_benchmark
from equiframe.config import GenerationOptions
from equiframe.errors import CannotScoreError, InputError, ModelError
from equiframe.generation import score_generated
from equiframe.generation.local import LocalWriter, batches
from equiframe.generation.prompts import decision_templates
from equiframe.generation.score import answer_tokens
from equiframe.generation.writing import cut_at, responses_of
from equiframe.models import LanguageModel
from equiframe.requests import TextCodec
from equiframe.scoring.engine import LocalAnswerer
from equiframe.scoring.self_debias import SelfDebias

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[me] {% endif %}"
)
LENGTH = 6


@pytest.fixture
def prompts(causal_model, text):
    return [tuple(causal_model.tokenizer.encode(line)) for line in text]


def written(language_model, prompts, folder, settings=None, length=LENGTH, budget=4096, progress=None):
    settings = settings or GenerationOptions()
    batched = batches(prompts, settings.samples, length, budget)
    return responses_of(LocalWriter(language_model), prompts, batched, settings, length, folder, progress)


@torch.inference_mode()
def one_at_a_time(language_model, ids, length):
    """The likeliest token after the last one, again and again, without padding and without a cache."""
    found = list(ids)
    for _ in range(length):
        token = int(language_model.model(torch.tensor([found])).logits[0, -1].argmax())
        if token == language_model.tokenizer.eos_token_id:
            break
        found.append(token)
    return language_model.tokenizer.decode(found[len(ids) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("budget", [1, 60, 4096])
def test_batches_say_what_one_prompt_at_a_time_says(causal_model, prompts, tmp_path, side, budget):
    causal_model.tokenizer.padding_side = side
    expected = [[one_at_a_time(causal_model, ids, LENGTH)] for ids in prompts]
    assert written(causal_model, prompts, tmp_path, budget=budget) == expected
    assert len({len(ids) for ids in prompts}) > 3  # so that there is padding
    files = len(list(tmp_path.glob("*.parquet")))
    assert files == {1: 8, 4096: 1}.get(budget, files)
    assert budget != 60 or 1 < files < 8


def test_what_is_kept_is_not_written_again(causal_model, prompts, tmp_path, monkeypatch):
    told = []
    first = written(causal_model, prompts, tmp_path, budget=60, progress=lambda *at: told.append(at))
    assert told[-1] == (8, 8)
    monkeypatch.setattr(type(causal_model.model), "generate", None)
    assert written(causal_model, prompts, tmp_path, budget=60) == first
    with pytest.raises(TypeError):  # another length is another response
        written(causal_model, prompts, tmp_path, length=LENGTH + 1, budget=60)
    damaged = sorted(tmp_path.glob("*.parquet"))[0]
    damaged.write_bytes(b"cut short")
    with pytest.raises(TypeError):
        written(causal_model, prompts, tmp_path, budget=60)


def test_samples_follow_their_seed(causal_model, prompts, tmp_path):
    def sampled(folder, **options):
        settings = GenerationOptions(samples=3, temperature=1.0, **options)
        return written(causal_model, prompts, tmp_path / folder, settings)

    first = sampled("a")
    assert [len(texts) for texts in first] == [3] * 8
    assert any(len(set(texts)) > 1 for texts in first)
    state = torch.random.get_rng_state()
    assert sampled("b") == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sampled("c", seed=1) != first


def test_text_is_cut_at_what_ends_it(causal_model, prompts, tmp_path):
    assert cut_at("one. two? three", ("?", ".")) == "one"
    assert cut_at("one", ("x",)) == "one"
    plain = written(causal_model, prompts, tmp_path)
    letter = next(text[1] for (text,) in plain if len(text) > 1)
    stopped = written(causal_model, prompts, tmp_path, GenerationOptions(stop=(letter,)))
    assert all(letter not in text for (text,) in stopped)


def test_a_batch_that_is_too_large_is_halved(causal_model, prompts, tmp_path, monkeypatch):
    expected = written(causal_model, prompts, tmp_path / "a")
    generate, sizes = LocalWriter._generate, []

    def refuses(self, asked, *rest):
        sizes.append(len(asked))
        if len(asked) > most:
            raise RuntimeError("CUDA out of memory.")
        return generate(self, asked, *rest)

    monkeypatch.setattr(LocalWriter, "_generate", refuses)
    most = 2
    assert written(causal_model, prompts, tmp_path / "b") == expected
    assert max(sizes) == 8
    most = 0
    with pytest.raises(ModelError, match=r"out of memory .*: give a smaller --max-new-tokens or --samples"):
        written(causal_model, prompts, tmp_path / "c")


@pytest.fixture
def answering(causal_model):
    """A model whose window holds a decision, and whose tokenizer has yes and no."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = copy.deepcopy(causal_model.tokenizer)
    tokenizer.add_tokens([" yes", "Yes", " no", "No"])
    tokenizer.model_max_length = 512
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 512, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), initializer_range=0.5, **shape)).eval()
    return LanguageModel("answering", model, tokenizer, "causal")


def read_first(table, is_chat):
    prompt = table["prompt"][0]
    return f"[user] {prompt}\n[me] " if is_chat else f"{prompt}\nAnswer:"


def test_a_spelling_that_the_tokenizer_does_not_know_is_no_answer():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "yes": 1, "no": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    assert answer_tokens(TextCodec(tokenizer, "causal", 8)) == ((1,), (2,))


@torch.inference_mode()
@pytest.mark.parametrize("is_chat", [True, False])
def test_decisions_are_read_from_the_probabilities_of_the_first_token(answering, is_chat):
    settings = GenerationOptions(groups=("gender",), max_new_tokens=3)
    asked = LocalAnswerer(answering, chat_template=TEMPLATE if is_chat else None)
    result, table = score_generated(asked, load_benchmark("decisions"), settings=settings, limit=4)
    yes, no = answer_tokens(answering.codec)
    decode = answering.tokenizer.decode
    assert {decode([token]) for token in yes} == {" yes", "Yes"}
    assert {decode([token]) for token in no} == {" no", "No"}
    assert len(table) == 8
    assert result.available == len(decision_templates()) > 4
    for row in table.to_dict("records"):
        read = f"[user] {row['prompt']}\n[me] " if is_chat else f"{row['prompt']}\nAnswer:"
        ids = answering.tokenizer.encode(read)
        probabilities = answering.model(torch.tensor([ids])).logits[0, -1].double().softmax(0).numpy()
        of_yes, of_no = probabilities[list(yes)].sum(), probabilities[list(no)].sum()
        is_no = int(row["template"].split("-")[1]) > 6
        share = (of_no if is_no else of_yes) / (of_yes + of_no)
        assert row["favourable"] == row["probability"] == pytest.approx(share, rel=1e-4)
        assert row["yes"] == pytest.approx(of_yes / (of_yes + of_no), rel=1e-4)
    assert result.generated.chat_template is is_chat
    assert result.prompt == read_first(table, is_chat)
    assert result.scoring.startswith("the probability of the favourable answer")
    women, men = (table[table["group"] == group]["favourable"].to_numpy() for group in ("women", "men"))
    found = result.estimates["men_vs_women.favourable_difference"]
    assert found.value == pytest.approx(100 * np.mean(men - women))


def test_prompts_that_do_not_fit_are_left_out_and_counted(causal_model, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("she told {group}\n" + "the woman met the man in the street " * 9 + "{group}\n")
    settings = GenerationOptions(groups=("gender",), max_new_tokens=4)
    result, table = score_generated(causal_model, load_benchmark(f"templates:{path}"), settings=settings)
    assert result.excluded == {"prompt and response are longer than the model's window": 2}
    assert table["response"].map(type).eq(str).all()
    assert result.generated.chat_template is False
    path.write_text("the woman met the man in the street " * 9 + "{group}\n")
    with pytest.raises(CannotScoreError, match=r"all responses are left out: prompt and response .* \(2 of 2\)"):
        score_generated(causal_model, load_benchmark(f"templates:{path}"), settings=settings)


def test_models_that_write_no_text(masked_model, causal_model):
    with pytest.raises(CannotScoreError, match="decisions needs a model that writes text"):
        score_generated(masked_model, load_benchmark("decisions"))
    corrected = LocalAnswerer(causal_model, self_debias=SelfDebias.against("gender", causal_model.tokenizer))
    with pytest.raises(CannotScoreError, match="Self-Debias corrects probabilities"):
        score_generated(corrected, load_benchmark("decisions"))
    with pytest.raises(InputError, match="--samples 2: the most probable tokens are always the same"):
        GenerationOptions(samples=2)
    with pytest.raises(InputError, match="an empty text ends every response"):
        GenerationOptions(stop=("",))
