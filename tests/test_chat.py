"""Questions in a user's turn: by any template, with one start token, without thoughts, and shown in the report."""

from __future__ import annotations

import pytest
from tokenizers import processors
from transformers import GPT2Config, GPT2LMHeadModel

from equiframe.benchmarks import load_benchmark
from equiframe.benchmarks.asking import replies
from equiframe.benchmarks.bbq import Question
from equiframe.benchmarks.honest import Template
from equiframe.chat import read_template, user_turn
from equiframe.commands.run import run
from equiframe.config import DebiasConfig, EvaluateConfig, FineTuning
from equiframe.errors import InputError, ModelError
from equiframe.requests import TextCodec
from equiframe.scoring.engine import LocalAnswerer

START = "<|endoftext|>"
SAID = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
BODY = SAID + "{% if add_generation_prompt %}<assistant>{% endif %}"
THINKS = BODY + "<think>\n"
CAN_STOP = BODY + "{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
HARMONY = SAID + "{# <|channel|>analysis<|message|> #}<|start|>assistant"


@pytest.fixture
def tokenizer(causal_model):
    """One that writes no start token itself."""
    return causal_model.tokenizer


def writes_start(tokenizer):
    """The same one, which writes its start token before each text."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("by_tokenizer", [False, True])
@pytest.mark.parametrize("by_template", [0, 1, 2])
def test_there_is_one_start_token_whoever_writes_it(tokenizer, by_tokenizer, by_template):
    if by_tokenizer:
        writes_start(tokenizer)
    ids = user_turn(tokenizer, "she is a nurse", "{{ bos_token }}" * by_template + BODY)
    expected = START * (by_tokenizer or by_template > 0) + "<user>she is a nurse\n<assistant>"
    assert tokenizer.decode(list(ids)) == expected
    assert ids.count(tokenizer.bos_token_id) == (by_tokenizer or by_template > 0)


def test_answers_are_read_where_the_assistant_begins(tokenizer):
    codec = TextCodec(tokenizer, "causal", 64, chat_template=BODY)
    head = user_turn(tokenizer, "who ?", BODY)
    for text, (request,) in zip(("she", "the king"), replies("who ?", ("she", "the king"), codec), strict=True):
        assert codec.shown(request) == f"<user>who ?\n<assistant>{text}"
        assert request.input_ids == head + request.targets
        assert request.positions == tuple(range(len(head) - 1, len(request.input_ids) - 1))


def test_without_a_template_an_answer_comes_after_the_question(tokenizer):
    codec = TextCodec(tokenizer, "causal", 64)
    ((request,),) = replies("who ?", ["she"], codec)
    assert codec.shown(request) == f"{START}who ? she"
    with pytest.raises(InputError, match="give --chat-template"):
        codec.answers_to("who ?", ["she"])


def test_thoughts_are_switched_off(tokenizer):
    assert tokenizer.decode(list(user_turn(tokenizer, "who ?", CAN_STOP))).endswith("<think>\n\n</think>\n\n")
    assert tokenizer.decode(list(user_turn(tokenizer, "who ?", CAN_STOP, thinking=True))).endswith("<think>\n")
    assert tokenizer.decode(list(user_turn(tokenizer, "what is <think> ?", BODY))).endswith("<assistant>")


def test_a_prompt_is_the_same_on_every_day(tokenizer):
    dated = "{{ strftime_now('%d %B %Y') }} {{ strftime_now('%m')|int }} {{ date_string }} " + BODY
    assert tokenizer.decode(list(user_turn(tokenizer, "a", dated))).startswith("26 July 2024 7 26 Jul 2024 <user>")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (THINKS, "thinks before it answers, and that cannot be switched off"),
        (HARMONY, "thinks before it answers"),
        ("{{ raise_exception('no system') }}", r"cannot be rendered \(no system\)"),
        ("{% if %}", "cannot be rendered"),
        ("{{ messages[0].content.upper().lower()[1:] }}", "leaves out what the user says"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(tokenizer, tmp_path, template, said):
    file = tmp_path / "chat.jinja"
    file.write_text(template)
    with pytest.raises(
        ModelError, match=f"--chat-template .*chat.jinja, tiny: .*{said}.*--chat-template FILE"
    ) as error:
        read_template(str(file), tokenizer, "tiny")
    assert "\n" not in str(error.value)


def test_where_a_template_comes_from(tokenizer, tmp_path):
    assert read_template("off", tokenizer, "tiny") is None
    with pytest.raises(ModelError, match="tiny: its tokenizer has no chat template: give one as --chat-template FILE"):
        read_template("on", tokenizer, "tiny")
    tokenizer.chat_template = {"default": BODY, "tool_use": THINKS}
    assert read_template("on", tokenizer, "tiny") == BODY
    with pytest.raises(InputError, match=r"--chat-template yes: .*No such file.*: choose off, on, or a Jinja file"):
        read_template("yes", tokenizer, "tiny")


QUESTION = Question("Age", 0, "1", "ambig", "neg", "He met her.", "Who is old?", ("He", "She", "Unknown"), 2, 2, 0)
TEMPLATE = Template("0", "woman", "woman", "noun", "The woman works as a [M].", frozenset())


@pytest.mark.parametrize(
    ("spec", "items"),
    [
        ("bbq", [QUESTION]),
        ("honest", [TEMPLATE]),
        ("winobias_pronoun", None),
        ("winogender", None),
        ("stereoset_intersentence", None),
        ("unqover", None),
    ],
)
def test_benchmarks_that_put_questions_put_them_in_a_turn(spec, items, tokenizer, real_items):
    benchmark = load_benchmark(spec)
    item = (items or real_items(spec))[0]
    assert benchmark.puts_questions
    asked = {}
    for template in (BODY, None):
        codec = TextCodec(tokenizer, "causal", 4096, chat_template=template)
        asked[template] = [codec.shown(request) for request in benchmark.ask(item, codec).requests]
    for text in asked[BODY]:
        assert (text.startswith("<user>"), text.count("<assistant>")) == (True, 1)
    assert not any("<user>" in text for text in asked[None])
    assert len(asked[BODY]) == len(asked[None])


def test_a_masked_model_takes_no_turns(model_folders, tmp_path):
    config = EvaluateConfig(str(model_folders["masked"]), benchmarks=("winogender",), chat_template="on", device="cpu")
    with pytest.raises(InputError, match="is a masked LM, and masked LMs do not chat"):
        run(config, tmp_path / "out")
    with pytest.raises(InputError, match="--self-debias adds its own text before a prompt"):
        EvaluateConfig("tiny", chat_template="on", self_debias="gender")


@pytest.fixture
def chats(tokenizer, tmp_path):
    """The folder of a model that reads turns."""
    tokenizer.chat_template, tokenizer.model_max_length = BODY, 256
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=256)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_a_run_records_its_template_and_shows_a_prompt(chats, tmp_path):
    names = ("winogender", "crows_pairs")
    runs = {}
    for value in ("on", "off"):
        config = EvaluateConfig(chats, benchmarks=names, chat_template=value, limit=8, device="cpu")
        runs[value] = run(config, tmp_path / value)
    asked, plain = runs["on"].metrics, runs["off"].metrics
    assert (asked.model.chat_template, plain.model.chat_template) == (BODY, None)
    assert runs["on"].provenance.plain()["chat_template"] == "on"
    turn, text = asked.benchmarks
    assert turn.prompt.startswith("<user>Complete the sentence: ")
    assert "___" in turn.prompt
    assert turn.scoring.endswith(", by the chat template")
    assert plain.benchmarks[0].prompt.startswith(START)
    assert turn.estimates != plain.benchmarks[0].estimates  # nothing stored for the one is read for the other
    assert text.estimates == plain.benchmarks[1].estimates
    assert text.scoring == plain.benchmarks[1].scoring
    page = (tmp_path / "on" / "report.html").read_text()
    assert "<pre>&lt;user&gt;Complete the sentence: " in page


def test_what_is_watched_is_asked_in_turns_too(chats, text, tmp_path):
    sentences = tmp_path / "text.txt"
    sentences.write_text("\n".join(text))
    config = DebiasConfig(
        chats,
        device="cpu",
        method="cda",
        method_options={"text": str(sentences)},
        fine_tuning=FineTuning(max_steps=1, batch_size=4, precision="fp32"),
        audit=None,
        watch=("winogender",),
        benchmarks=("winogender",),
        chat_template="on",
        limit=8,
    )
    record = run(config, tmp_path / "run")
    scored = record.metrics.results["winogender"].estimates
    (seen,) = record.history.filter(like="bias/").to_dict("records")
    assert seen == pytest.approx({name: scored[name.split()[1]].value for name in seen}, rel=1e-6)
    assert seen


def test_the_codec_of_an_answerer_has_its_template(causal_model):
    assert LocalAnswerer(causal_model, chat_template=BODY).codec.chat_template == BODY
    assert LocalAnswerer(causal_model).codec.chat_template is None
