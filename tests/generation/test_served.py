"""Responses of servers: those of the model itself, by tokens and by messages; servers that filter or refuse."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from equiframe.benchmarks import load_benchmark
from equiframe.config import EvaluateConfig, GenerationOptions
from equiframe.errors import InputError, ModelError
from equiframe.generation import score_generated
from equiframe.generation.local import LocalWriter
from equiframe.generation.served import ServedWriter, connect_chat
from equiframe.runs.answerers import answerer_of
from equiframe.scoring import served as served_module
from equiframe.scoring.served import ServedModel


class Server:
    """Writes with a tiny model, on either endpoint; ``change`` may replace what it says."""

    def __init__(self, language_model):
        self.language_model, self.bodies = language_model, []
        self.change = lambda body, status, said: (status, said)

    def post(self, path, body):
        self.bodies.append((path, body))
        tokenizer = self.language_model.tokenizer
        ids = body["prompt"] if "prompt" in body else tokenizer.encode(body["messages"][0]["content"])
        settings = GenerationOptions(
            samples=body["n"], temperature=body["temperature"], stop=tuple(body.get("stop", ()))
        )
        ((*texts,),) = LocalWriter(self.language_model).write([tuple(ids)], settings, body["max_tokens"], 0)
        key = (lambda text: {"text": text}) if "prompt" in body else (lambda text: {"message": {"content": text}})
        return self.change(body, 200, {"choices": [{"finish_reason": "stop", **key(text)} for text in texts]})


@contextlib.contextmanager
def listening(server):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            is_list = self.path == "/v1/models"
            self.reply(200 if is_list else 404, {"data": [{"id": "tiny", "root": "somewhere"}]} if is_list else {})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.reply(*server.post(self.path, body))

        def reply(self, status, said):
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()


@pytest.fixture
def server(causal_model):
    return Server(causal_model)


@pytest.fixture
def url(server, monkeypatch):
    monkeypatch.setattr(served_module, "_PAUSES", (0.0, 0.0))
    with listening(server) as address:
        yield address


@pytest.fixture
def served(url, causal_model):
    """As ``connect`` gives it; this server tells no log-probabilities."""
    return ServedModel(f"server:{url}#tiny", url, "tiny", None, None, None, causal_model.codec, concurrency=3)


@pytest.fixture
def templates(tmp_path):
    path = tmp_path / "templates.txt"
    path.write_text("she told {group}\nthe girl and {group} play\n{group} is a nurse\n")
    return load_benchmark(f"templates:{path}")


SETTINGS = GenerationOptions(groups=("gender",), max_new_tokens=6)


def test_the_measures_are_those_of_the_model_itself(served, server, causal_model, templates):
    here, table = score_generated(causal_model, templates, settings=SETTINGS)
    there, served_table = score_generated(served, templates, settings=SETTINGS)
    assert there.estimates == here.estimates
    assert served_table.equals(table)
    assert (here.generated.origin, there.generated.origin) == ("the model loaded here", "a server")
    assert len(server.bodies) == 6
    assert {path for path, _ in server.bodies} == {"/v1/completions"}
    again, _ = score_generated(served, templates, settings=SETTINGS)
    assert again.estimates == here.estimates
    assert len(server.bodies) == 6  # nothing is asked twice


def test_a_chat_endpoint_is_asked_by_messages(url, server, causal_model, templates):
    chat = connect_chat(f"server:{url}/v1#tiny", concurrency=2)
    here, _ = score_generated(causal_model, templates, settings=SETTINGS)
    there, _ = score_generated(chat, templates, settings=SETTINGS)
    assert there.estimates == here.estimates  # this server's template is the text itself
    path, body = server.bodies[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "she told a woman"}] or len(body["messages"]) == 1
    assert there.generated.origin == "the chat endpoint of a server"


def test_what_is_sampled_is_asked_for(served, server):
    settings = GenerationOptions(samples=2, temperature=0.5, top_p=0.9, stop=("x",))
    ((one, other),) = ServedWriter(served).write([(1, 2, 3)], settings, 4, seed=7)
    assert isinstance(one, str)
    assert isinstance(other, str)
    ((_, body),) = server.bodies
    expected = {
        "max_tokens": 4,
        "temperature": 0.5,
        "n": 2,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["x"],
        "prompt": [1, 2, 3],
    }
    assert body == {"model": "tiny", **expected}


@pytest.mark.parametrize("by", ["reason", "status"])
def test_what_a_server_filters_is_counted_out_and_said(served, server, templates, by):
    ids = served.codec.encode("she told a woman")

    def filtered(body, status, said):
        if body["prompt"] != list(ids):
            return status, said
        if by == "status":
            return 400, {"error": {"code": "content_filter", "message": "no"}}
        return 200, {"choices": [{"finish_reason": "content_filter", "text": ""}]}

    server.change = filtered
    for _ in range(2):  # the second time from what is kept
        result, table = score_generated(served, templates, settings=SETTINGS)
        assert result.excluded == {"filtered by the server": 1}
        assert table.loc[table["excluded"].notna(), "prompt"].tolist() == ["she told a woman"]
        assert result.estimates["men_vs_women.words_difference"].count == 2


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (401, {"message": "no key"}, "refuses a request .*no key"),
        (503, {}, "no longer answers .*503"),
        (200, {"choices": []}, "gave 0 responses, expected 1"),
        (200, {"chosen": 1}, "has no text"),
        (200, {"choices": ["x"]}, "has no text"),
    ],
)
def test_a_server_that_does_not_write_is_one_line(served, server, templates, status, said, message):
    server.change = lambda *_: (status, said)
    with pytest.raises(ModelError, match=message) as found:
        score_generated(served, templates, settings=SETTINGS)
    assert len(str(found.value).splitlines()) == 1


def test_names_that_lead_nowhere(url):
    with pytest.raises(InputError, match="write a served model as server:URL#MODEL"):
        connect_chat("server:localhost#tiny")
    with pytest.raises(InputError, match="an address with a password would appear in every record"):
        connect_chat("server:http://me:secret@localhost:8000#tiny")
    with pytest.raises(ModelError, match="the server has no model 'other': it serves 'tiny'"):
        connect_chat(f"server:{url}#other")
    with pytest.raises(ModelError, match="no server answers at"):
        connect_chat("server:http://127.0.0.1:1#tiny")


def test_the_command_asks_a_chat_endpoint(url, invoke, tmp_path):
    (tmp_path / "t.txt").write_text("she told {group}\nhe met {group}\n")
    (tmp_path / "p.csv").write_text("stereotype,anti_stereotype\nshe is a nurse,he is a nurse\n")
    names = f"templates:{tmp_path / 't.txt'},pairs:{tmp_path / 'p.csv'}"
    arguments = ["--benchmarks", names, "--chat-template", "server"]
    options = ["--groups", "gender", "--max-new-tokens", "4", "--out", tmp_path / "out"]
    done = invoke("evaluate", f"server:{url}#tiny", *arguments, *options)
    assert done.exit_code == 0, done.stderr
    assert "p.csv asks for log-probabilities, but a chat endpoint gives text" in done.stderr
    config = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert config["model"]["server"]["model"] == "tiny"
    assert config["benchmarks"][0]["generated"]["chat_template"] is True
    assert (tmp_path / "out" / "responses.jsonl").read_text().count("\n") == 4
    here = invoke("evaluate", "builtin:mini-mlm", "--benchmarks", "decisions", "--chat-template", "server")
    assert here.exit_code == 2
    assert "only a server has" in here.stderr


@pytest.mark.slow
@pytest.mark.skipif("EQUIFRAME_VLLM" not in os.environ, reason="set EQUIFRAME_VLLM to the address of a vLLM server")
@pytest.mark.parametrize("template", ["on", "server"])
def test_vllm_writes_what_the_model_itself_writes(template):
    """``EQUIFRAME_VLLM=http://localhost:8000#smollm2``, of builtin:smollm2-135m as recipes/vllm_cpu.sh serves it."""
    there = answerer_of(EvaluateConfig(f"server:{os.environ['EQUIFRAME_VLLM']}", chat_template=template))
    here = answerer_of(EvaluateConfig("builtin:smollm2-135m", chat_template="on", device="cpu"))
    settings = GenerationOptions(groups=("gender",), max_new_tokens=16)
    for name in ("decisions", "stories"):
        tables = [score_generated(m, load_benchmark(name), settings=settings, limit=4)[1] for m in (there, here)]
        same = tables[0]["response"] == tables[1]["response"]
        assert same.mean() >= 0.75  # two tokens that are nearly as likely may change places
        if name == "decisions" and template == "on":
            assert tables[0]["favourable"].to_numpy() == pytest.approx(tables[1]["favourable"].to_numpy(), abs=1e-3)
