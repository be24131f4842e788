"""A served model: the same answers as here, each failure one line, and a server that dies loses nothing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest
import torch

from equiframe.config import AuditConfig, EvaluateConfig
from equiframe.errors import InputError, ModelError
from equiframe.models import load
from equiframe.record import RunRecord
from equiframe.requests import Embedding, TokenLogProbs, TopTokens
from equiframe.runs.answerers import answerer_of
from equiframe.scoring import served
from equiframe.scoring.engine import LocalAnswerer, answer
from equiframe.scoring.served import connect
from equiframe.scoring.store import AnswerStore


class Server:
    """Speaks like vLLM 0.32, in this process, and as wrongly as a test wants.

    ``spoil`` is given each path and what is to be said, and may change it; statuses in ``failing`` are said first.
    """

    def __init__(self, language_model):
        self.model, self.tokenizer = language_model.model, language_model.tokenizer
        self.card = {"id": "tiny", "root": language_model.name, "max_model_len": 40}
        self.failing, self.asked, self.headers = [], [], []
        self.spoil = lambda path, said: None
        self.lock = threading.Lock()

    def get(self, path):
        return {"/v1/models": {"data": [dict(self.card)]}, "/version": {"version": "0.32.0"}}.get(path)

    def post(self, body):
        ids = body["prompt"]
        if body["model"] != "tiny" or len(ids) + body["max_tokens"] > 40:
            return None
        with self.lock, torch.no_grad():
            logs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        choice = {"text": "", "prompt_logprobs": None, "logprobs": None}
        if body.get("prompt_logprobs") == 0:
            told = [self.entry(logs[at], token) for at, token in enumerate(ids[1:])]
            choice["prompt_logprobs"] = [None, *told]
        if body.get("logprobs"):
            values, tokens = logs[-1].topk(min(body["logprobs"], logs.shape[1]))
            names = [f"token_id:{token}" for token in tokens.tolist()]
            choice["logprobs"] = {"top_logprobs": [dict(zip(names, values.tolist(), strict=True))]}
        return {"choices": [choice]}

    def entry(self, logs, token):
        return {str(token): {"logprob": logs[token].item(), "rank": 1, "decoded_token": self.tokenizer.decode([token])}}


@contextlib.contextmanager
def listening(server, port=0):
    """The address of a server, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(200, server.get(self.path))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.asked.append(body)
                server.headers.append(dict(self.headers))
                status = server.failing.pop(0) if server.failing else 200
            if status is None:
                return  # the connection is closed without an answer
            self.reply(status, server.post(body) if status == 200 else {"error": {"message": "not now"}})

        def reply(self, status, said):
            if said is None:
                status, said = (
                    (404, {"detail": "Not Found"}) if self.command == "GET" else (400, {"message": "too long"})
                )
            server.spoil(self.path, said)
            payload = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def server(causal_model):
    return Server(causal_model)


@pytest.fixture
def url(server):
    with listening(server) as address:
        yield address


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(served, "_PAUSES", (0.0, 0.0))


def requests_of(codec):
    """Texts as they are, other tokens at several of their places, what follows, and nothing at all."""
    texts = [codec.sequence_log_probs(text) for text in ("she is a nurse", "he is a doctor", "she is a nurse")]
    ids = texts[0].input_ids
    last = len(ids) - 1
    return [
        *texts,
        TokenLogProbs(ids, (0, 0, 2, last, 1), (ids[1], 7, 9, 11, ids[2])),
        TokenLogProbs(ids, (), ()),
        *(TopTokens(ids, at, count) for at in range(len(ids)) for count in (1, 5)),
    ]


def test_answers_are_those_of_the_model_itself(url, server, causal_model):
    model = connect(f"server:{url}#tiny")
    requests = requests_of(model.codec)
    expected = answer(causal_model, requests)
    seen = []
    server.asked.clear()
    found = model.answer(requests, lambda done, total: seen.append((done, total)))
    assert found[:5] == [pytest.approx(value, abs=1e-5) for value in expected[:5]]
    assert found[5:] == expected[5:]
    prompts = [(tuple(body["prompt"]), body.get("logprobs")) for body in server.asked]
    assert len(set(prompts)) == len(prompts) == seen[-1][0] == seen[-1][1]
    assert all(type(value) is float for one in found for value in one)


def test_what_is_stored_is_not_asked_again_and_is_the_same(url, server, tmp_path):
    model = connect(f"server:{url}#tiny")
    requests = requests_of(model.codec)
    for _ in range(2):
        with contextlib.closing(AnswerStore(tmp_path / "answers.sqlite", model.fingerprint())) as store:
            found = served.replace(model, store=store).answer(requests)
            asked, server.asked = len(server.asked), []
            assert found == model.answer(requests)
            server.asked = []
    assert asked == 0


def test_another_model_of_the_same_name_is_not_mixed_with_the_first(url, server, tmp_path):
    requests = requests_of(connect(f"server:{url}#tiny").codec)
    for spoilt in (False, True):
        if spoilt:
            with torch.no_grad():
                server.model.transformer.ln_f.bias += 5 * torch.randn(16, generator=torch.Generator().manual_seed(0))
        model = connect(f"server:{url}#tiny")
        with contextlib.closing(AnswerStore(tmp_path / "answers.sqlite", model.fingerprint())) as store:
            stored = served.replace(model, store=store)
            if not spoilt:
                stored.answer(requests)
                continue
            with pytest.raises(
                ModelError, match=r"log-probabilities of a text differ by .* nats .*delete .*answers\.sqlite"
            ):
                stored.answer(requests)


def test_what_passes_is_waited_for_and_what_does_not_is_said(url, server):
    model = connect(f"server:{url}#tiny", concurrency=1)
    requests = requests_of(model.codec)[:1]
    expected = model.answer(requests)
    for failing in ([503, 429], [None], [500]):
        server.failing = list(failing)
        assert model.answer(requests) == expected
    server.failing = [503] * 3
    with pytest.raises(ModelError, match=r"no longer answers .503 Service Unavailable: not now.: start it again"):
        model.answer(requests)
    server.failing, server.asked = [400], []
    with pytest.raises(ModelError, match=r"refuses a request .400 Bad Request: not now"):
        model.answer(requests)
    assert len(server.asked) == 1


def test_one_line_says_that_it_takes_too_long(url, server):
    model = connect(f"server:{url}#tiny", timeout=5)
    server.spoil = lambda path, said: time.sleep(0.3)
    with pytest.raises(ModelError, match=r"no longer answers .it takes too long"):
        served.replace(model, timeout=0.05).answer(requests_of(model.codec)[:1])


def only(path, change):
    """Change what is said there of the first choice."""
    return lambda asked, said: change(said["choices"][0]) if asked == path and "choices" in said else None


def spoil_log_probs(change):
    def spoiled(choice):
        if choice["prompt_logprobs"] is not None:
            choice["prompt_logprobs"] = change(choice["prompt_logprobs"])

    return only("/v1/completions", spoiled)


def with_value(value):
    return lambda told: [None, *({token: {"logprob": value} for token in entry} for entry in told[1:])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: None, "does not return prompt log-probabilities"),
        (lambda told: told[:-1], "of them for a prompt of"),
        (lambda told: [None, *({"999": entry} for entry in told[1:])], "none for token"),
        (lambda told: [None, *([None] * (len(told) - 1))], "none for token"),
        (with_value(0.7), "0.7 as one of them"),
        (with_value(math.nan), "nan as one of them"),
        (with_value("-1"), "'-1' as one of them"),
        (with_value(-30.0), "for a token that has"),
    ],
    ids=["none", "length", "other ids", "empty", "positive", "nan", "text", "other places"],
)
def test_wrong_log_probabilities_are_refused_before_the_run(url, server, change, message):
    server.spoil = spoil_log_probs(change)
    with pytest.raises(ModelError, match=re.escape(message)):
        connect(f"server:{url}#tiny")


@pytest.mark.parametrize("name", ["nurse", "7"])
def test_tokens_without_ids_are_refused(url, server, name):
    def spoiled(choice):
        if choice["logprobs"] is not None:
            choice["logprobs"]["top_logprobs"] = [{name: -1.0}]

    server.spoil = only("/v1/completions", spoiled)
    with pytest.raises(ModelError, match="most probable tokens by id"):
        connect(f"server:{url}#tiny")


def test_another_tokenizer_is_noticed(url, server):
    def renamed(told):
        return [None, *({token: {**said, "decoded_token": "x"} for token, said in entry.items()} for entry in told[1:])]

    server.spoil = spoil_log_probs(renamed)
    with pytest.raises(ModelError, match=r"is 'x' to the server and '.*' to the tokenizer used here"):
        connect(f"server:{url}#tiny")
    with pytest.raises(ModelError, match=r"--tokenizer \./missing cannot be loaded here"):
        connect(f"server:{url}#tiny", tokenizer="./missing")


def test_a_root_that_is_not_here_needs_a_tokenizer(url, server, model_folders):
    server.card["root"] = "/models/elsewhere"
    with pytest.raises(ModelError, match=r"the tokenizer of /models/elsewhere.* give --tokenizer"):
        connect(f"server:{url}#tiny")
    assert connect(f"server:{url}#tiny", tokenizer=str(model_folders["causal"])).root == "/models/elsewhere"


def test_an_adapter_has_the_window_of_its_base_model(url, server):
    def as_adapter(path, said):
        if path == "/v1/models":
            (card,) = said["data"]
            said["data"] = [{**card, "id": "base"}, {**card, "max_model_len": None, "parent": "base"}]

    server.spoil = as_adapter
    assert connect(f"server:{url}#tiny").codec.window == 38


def test_names_and_addresses_that_lead_nowhere(url, server):
    for name in ("server:localhost:8000#tiny", f"server:{url}", f"server:{url}#", "server:#tiny"):
        with pytest.raises(InputError, match="write a served model as server:URL#MODEL"):
            connect(name)
    with pytest.raises(ModelError, match="the server has no model 'large': it serves 'tiny'"):
        connect(f"server:{url}#large")
    with pytest.raises(ModelError, match="has no OpenAI-compatible endpoint: its /v1/models says 404 Not Found"):
        connect(f"server:{url}/api#tiny")
    with pytest.raises(InputError, match="--concurrency 0"):
        connect(f"server:{url}#tiny", concurrency=0)
    with pytest.raises(ModelError, match=r"no server answers at http://127.0.0.1:9"):
        connect("server:http://127.0.0.1:9#tiny")
    with pytest.raises(ModelError, match=r"no server answers at http://local host"):
        connect("server:http://local host:8000#tiny")
    with pytest.raises(InputError, match="an address with a password would appear in every record"):
        connect("server:http://me:secret@localhost:8000#tiny")
    assert connect(f"server:{url}/v1/#tiny").url == url


def test_a_key_is_sent_to_the_server_alone(url, server, monkeypatch):
    monkeypatch.setenv(served.KEY, "secret")
    model = connect(f"server:{url}#tiny")
    assert server.headers[-1]["Authorization"] == "Bearer secret"
    assert "secret" not in repr(model)
    monkeypatch.delenv(served.KEY)
    connect(f"server:{url}#tiny")
    assert "Authorization" not in server.headers[-1]


def test_what_it_does_not_answer_is_refused(url):
    model = connect(f"server:{url}#tiny")
    with pytest.raises(InputError, match="does not answer Embedding"):
        model.answer([Embedding((1, 2))])
    with pytest.raises(InputError, match=r"a sequence has 39 tokens, but .* reads 1 to 38"):
        model.answer([TokenLogProbs((0,) * 39, (0,), (0,))])
    assert model.answer([TokenLogProbs((0,) * 38, (37,), (5,))])  # the longest, and a target after it


def test_the_fingerprint_follows_what_the_server_says(url, server):
    found = [connect(f"server:{url}#tiny").fingerprint()]
    for key, value in (("revision", "abc"), ("max_model_len", 40)):
        server.card[key] = value
        found.append(connect(f"server:{url}#tiny").fingerprint())
    assert found[0] != found[1] == found[2]


PAIRS = "stereotype,anti_stereotype\n" + "".join(
    f"she is a {work},he is a {work}\n" for work in ("nurse", "doctor", "cook", "teacher", "king", "queen", "boy")
)


@pytest.fixture
def evaluate(invoke, tmp_path):
    """The command on a small file of pairs."""
    (tmp_path / "pairs.csv").write_text(PAIRS)

    def run(model, out, *options):
        arguments = ("evaluate", model, "--benchmarks", f"pairs:{tmp_path / 'pairs.csv'}", "--out", str(tmp_path / out))
        done = invoke(*arguments, *options)
        return done, tmp_path / out

    return run


def metrics(folder):
    """The numbers of a run, without its times."""
    found = json.loads((folder / "metrics.json").read_text())
    for benchmark in found["benchmarks"]:
        del benchmark["seconds"]
    return found


def test_the_command_finds_what_the_model_itself_says(invoke, url, server, evaluate, causal_model):
    done, out = evaluate(f"server:{url}#tiny", "served")
    assert done.exit_code == 0, done.output
    done, local = evaluate(causal_model.name, "local")
    assert done.exit_code == 0, done.output
    one, other = RunRecord.read(out), RunRecord.read(local)
    pd.testing.assert_frame_equal(*(next(iter(record.items.values())) for record in (one, other)), atol=1e-4)
    model = one.metrics.model
    assert (model.kind, model.architecture, model.vocabulary) == ("causal", None, len(server.tokenizer))
    assert model.server.model_dump() == {
        "url": url,
        "model": "tiny",
        "root": causal_model.name,
        "revision": None,
        "version": "0.32.0",
        "tokenizer": causal_model.name,
        "window": 38,
    }
    assert "in the precision of its server" in one.metrics.benchmarks[0].scoring
    assert f"{causal_model.name}, on a server, version 0.32.0" in (out / "report.html").read_text()
    for command in (["card", str(out)], ["export", str(out), "--out", str(out / "results.json")]):
        done = invoke(*command)
        assert done.exit_code == 0, done.output
    assert json.loads((out / "results.json").read_text())["config"]["model"] == "local-completions"


def test_questions_to_a_served_model_are_put_by_the_template(url, server, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text("<user>{{ messages[0].content }}<assistant>")
    config = EvaluateConfig(f"server:{url}#tiny", chat_template=str(template))
    answerer = answerer_of(config)
    (request,) = answerer.codec.answers_to("who ?", ["she"])
    ((found,), (expected,)) = (
        model.answer([request]) for model in (answerer, LocalAnswerer(load(server.card["root"])))
    )
    assert found == pytest.approx(expected, abs=1e-4)
    assert answerer.codec.shown(request) == "<user>who ?<assistant>she"
    with pytest.raises(ModelError, match="its tokenizer has no chat template"):
        answerer_of(EvaluateConfig(f"server:{url}#tiny", chat_template="on"))


def test_a_server_that_dies_loses_nothing(server, evaluate, monkeypatch):
    with listening(server) as address:
        name, port = f"server:{address}#tiny", int(address.rpartition(":")[2])
        done, whole = evaluate(name, "whole", "--concurrency", "1")
        assert done.exit_code == 0, done.output
        needed, server.asked = len(server.asked), []
    monkeypatch.setenv("EQUIFRAME_CACHE", str(whole / "another-cache"))
    with listening(server, port):
        server.failing = [200] * 8 + [500] * 100
        done, stopped = evaluate(name, "stopped", "--concurrency", "1")
        assert done.exit_code == 2
        assert done.output.count("\n") == 1, done.output
        assert "start it again, then run the same command again to resume" in done.output
        assert not stopped.exists()
        server.failing, answered, server.asked = [], 6, []
    with listening(server, port):
        done, stopped = evaluate(name, "stopped", "--concurrency", "1")
        assert done.exit_code == 0, done.output
        assert len(server.asked) == needed - answered
    assert metrics(stopped) == metrics(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "NAME"], "audit needs the states and weights of a model"),
        (["debias", "NAME"], "debias needs the states and weights of a model"),
        (["evaluate", "NAME", "--device", "cpu"], "--device cpu: this option does not apply to a"),
        (["evaluate", "NAME", "--self-debias", "gender"], "--self-debias gender: this option does not apply to"),
        (["evaluate", "NAME", "--kind", "masked"], "a served model is causal"),
        (["evaluate", "NAME", "--dtype", "bfloat16"], "Remove --kind, --dtype"),
        (["evaluate", "NAME", "--benchmarks", "aul:aula"], "AttentionWeightedLogProbs"),
        (
            ["evaluate", "NAME", "--benchmarks", "cola"],
            "cola fine-tunes the model, but a server does not give its weights",
        ),
        (["evaluate", "builtin:mini-mlm", "--tokenizer", "gpt2"], "--tokenizer gpt2: this option applies only to"),
    ],
)
def test_what_needs_states_says_so_in_one_line(invoke, url, tmp_path, arguments, message):
    given = [f"server:{url}#tiny" if argument == "NAME" else argument for argument in arguments]
    done = invoke(*given, "--out", str(tmp_path / "run"))
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.count("\n") == 1, done.output


def test_seat_says_that_it_needs_states(url, tmp_path, server):
    with pytest.raises(InputError, match="a server gives neither states nor weights"):
        load(f"server:{url}#tiny")
    with pytest.raises(InputError, match="audit needs the states"):
        AuditConfig(f"server:{url}#tiny")


@pytest.mark.slow
@pytest.mark.skipif("EQUIFRAME_VLLM" not in os.environ, reason="set EQUIFRAME_VLLM to the address of a vLLM server")
def test_vllm_says_what_the_model_itself_says():
    """``EQUIFRAME_VLLM=http://localhost:8000#smollm2``, of builtin:smollm2-135m as recipes/vllm_cpu.sh serves it."""
    model, local = connect(f"server:{os.environ['EQUIFRAME_VLLM']}"), load("builtin:smollm2-135m", device="cpu")
    requests = requests_of(model.codec)
    found, expected = model.answer(requests), answer(local, requests)
    assert found[:5] == [pytest.approx(value, abs=1e-2) for value in expected[:5]]
    assert found[5:] == expected[5:]
