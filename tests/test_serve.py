"""The server over a real socket: OpenAI's shapes, the engine's own tokens, log-probabilities, streams, limits, faults."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn

from incentive import engine
from incentive.config import Engine
from incentive.files import RunError
from incentive.model.checkpoint import load_policy, resolve, stop_ids
from incentive.model.lean import Lean
from incentive.records import Request, hash64
from incentive.safety.control import Keywords, RiskControl
from incentive.safety.review import Costless, Review
from incentive.serve import api, asked
from incentive.serve.loop import Ask, Loop, Piece
from incentive.serve.server import _bound
from incentive.serve.text import Text

PROMPT = "User: use 3,7,25 to make 46\nAssistant:"


class Client:
    def __init__(self, port: int, loop: Loop):
        self.port, self.loop = port, loop

    def send(self, path: str, data: Any = None, raw: bytes | None = None, method: str = "POST") -> tuple[int, Any]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        link.request(method, path, json.dumps(data) if raw is None else raw, {"Content-Type": "application/json"})
        answer = link.getresponse()
        text = answer.read().decode()
        link.close()
        return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    def complete(self, prompt: Any = PROMPT, **more: Any) -> dict[str, Any]:
        status, found = self.send("/v1/completions", {"model": "mini", "prompt": prompt, "seed": 1, **more})
        assert status == 200, found
        return found

    def refused(self, path: str, data: Any, status: int, **raw: Any) -> dict[str, Any]:
        got, found = self.send(path, data, **raw)
        assert got == status, found
        assert set(found["error"]) == {"message", "type", "param", "code"}
        return found["error"]


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    policy, tokenizer = load_policy("base-mini")
    return policy.requires_grad_(False), tokenizer


@contextlib.contextmanager
def _serving(mini: tuple[Any, Any], **more: Any) -> Iterator[Client]:
    policy, tokenizer = mini
    loop = Loop(policy, tokenizer, stop_ids(tokenizer, resolve("base-mini")), 8, 256)
    app = api.Api(loop, tokenizer, "mini", 256, policy.config.vocab_size, 8, waiting=40, **more).app()
    listening = _bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    yield Client(listening.getsockname()[1], loop)
    server.should_exit = True
    thread.join(20)
    loop.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(mini: tuple[Any, Any]) -> Iterator[Client]:
    with _serving(mini) as found:
        yield found


def test_tokens_are_those_of_the_engine(client: Client, mini: tuple[Any, Any]) -> None:
    policy, tokenizer = mini
    ids = tokenizer.encode(PROMPT, add_special_tokens=False)
    seeds = tuple(hash64("serve", 1, 0, i) for i in range(4))
    player = engine.local(policy, tokenizer, resolve("base-mini"), Engine(), share=True)
    wanted = sorted(player.sample([Request("p", np.array(ids), seeds, 40, 0.6, 0.95)]), key=lambda s: s.id)
    found = client.complete(n=4, max_tokens=40, temperature=0.6, top_p=0.95)
    assert [c["text"] for c in found["choices"]] == [s.text for s in wanted]
    assert [c["finish_reason"] for c in found["choices"]] == [s.stop for s in wanted]
    assert found["usage"] == {
        "prompt_tokens": len(ids), "completion_tokens": sum(len(s.ids) for s in wanted), "total_tokens": len(ids) + sum(len(s.ids) for s in wanted),
    }  # fmt: skip
    assert client.complete(ids, n=4, max_tokens=40, temperature=0.6, top_p=0.95)["choices"] == found["choices"]


def test_rows_of_any_settings_share_a_batch(client: Client) -> None:
    asks: list[dict[str, Any]] = [
        {"temperature": t, "top_p": p, "top_k": k, "max_tokens": m, "seed": s}
        for s, (t, p, k, m) in enumerate([(0, 1, 0, 30), (0.6, 0.95, 0, 50), (1, 1, 5, 7), (1.5, 0.5, -1, 1)] * 8)
    ]
    alone = [client.complete(**a)["choices"][0] for a in asks]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda a: client.complete(**a)["choices"][0], asks))
    assert together == alone


def test_several_prompts_in_order(client: Client) -> None:
    found = client.complete([PROMPT, "User: 1\nAssistant:"], n=2, max_tokens=8)
    assert [c["index"] for c in found["choices"]] == [0, 1, 2, 3]
    assert found["choices"][0]["text"] == client.complete(max_tokens=8)["choices"][0]["text"]


def test_log_probabilities_are_the_models(client: Client, mini: tuple[Lean, Any]) -> None:
    policy, tokenizer = mini
    found = client.complete(echo=True, logprobs=3, max_tokens=1, temperature=0)["choices"][0]
    told = found["logprobs"]
    ids = tokenizer.encode(PROMPT, add_special_tokens=False)
    with torch.inference_mode():
        logits = policy.logits(policy(torch.tensor([ids]))[0])
    logp = torch.log_softmax(logits, -1)
    own = logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist()
    assert told["token_logprobs"][0] is None
    assert told["token_logprobs"][1:-1] == pytest.approx(own, abs=2e-4)
    assert len(told["tokens"]) == len(ids) + 1
    assert "".join(told["tokens"][:-1]) == PROMPT
    assert told["text_offset"][:3] == [0, len(told["tokens"][0]), len(told["tokens"][0] + told["tokens"][1])]
    # lm-eval: greedy where the token's own is the largest
    last = told["top_logprobs"][-1]
    assert told["token_logprobs"][-1] == max(last.values()) == pytest.approx(float(logp[-1].max()), abs=2e-4)
    assert 3 <= len(last) <= 4
    assert found["text"].startswith(PROMPT)
    none = client.complete(echo=True, max_tokens=0)["choices"][0]
    assert (none["text"], none["finish_reason"], none["logprobs"]) == (PROMPT, "length", None)


def test_stop_strings_cut(client: Client) -> None:
    whole = client.complete(max_tokens=60, temperature=0)["choices"][0]["text"]
    assert len(whole) > 8
    stop = whole[4:7]
    for stream in (False, True):
        cut = (
            stream_of(client, stop=[stop, "never seen"], max_tokens=60, temperature=0)
            if stream
            else client.complete(stop=stop, max_tokens=60, temperature=0)["choices"][0]
        )
        assert (cut["text"], cut["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def stream_of(client: Client, path: str = "/v1/completions", **more: Any) -> dict[str, Any]:
    """A streamed answer put together."""
    data = {"model": "mini", "seed": 1, "stream": True, **({"prompt": PROMPT} if "chat" not in path else {}), **more}
    status, text = client.send(path, data)
    assert status == 200
    events = [e.removeprefix("data: ") for e in text.strip().split("\n\n")]
    assert events[-1] == "[DONE]"
    rows = [json.loads(e) for e in events[:-1]]
    choices = [r["choices"][0] for r in rows if r["choices"]]
    shown = "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)
    return {"text": shown, "finish_reason": choices[-1]["finish_reason"], "events": len(choices), "rows": rows}


def test_streams_say_the_same(client: Client) -> None:
    whole = client.complete(max_tokens=60, temperature=0.6)["choices"][0]
    found = stream_of(client, max_tokens=60, temperature=0.6, stream_options={"include_usage": True})
    assert (found["text"], found["finish_reason"]) == (whole["text"], whole["finish_reason"])
    assert found["events"] > 5
    assert found["rows"][-1]["usage"]["completion_tokens"] > 5
    messages = [{"role": "user", "content": [{"type": "text", "text": "use 3,7,25 to make 46"}]}]
    chat = stream_of(client, "/v1/chat/completions", messages=messages, max_tokens=30)
    assert chat["rows"][0]["choices"][0]["delta"]["role"] == "assistant"
    assert chat["rows"][0]["object"] == "chat.completion.chunk"
    status, plain = client.send(
        "/v1/chat/completions",
        {
            "model": "mini",
            "seed": 1,
            "messages": messages,
            "max_completion_tokens": 30,
            "logprobs": True,
            "top_logprobs": 2,
        },
    )
    assert status == 200
    choice = plain["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": chat["text"]}
    assert all(len(t["top_logprobs"]) == 2 for t in choice["logprobs"]["content"])


def test_chat_is_the_template(client: Client) -> None:
    _, plain = client.send(
        "/v1/chat/completions",
        {
            "seed": 1,
            "temperature": 0,
            "messages": [{"role": "user", "content": "use 3,7,25 to make 46"}],
            "max_tokens": 20,
        },
    )
    assert (
        plain["choices"][0]["message"]["content"] == client.complete(temperature=0, max_tokens=20)["choices"][0]["text"]
    )


def test_small_endpoints(client: Client) -> None:
    status, models = client.send("/v1/models", method="GET")
    assert (status, models["data"][0]["id"], models["data"][0]["max_model_len"]) == (200, "mini", 256)
    assert client.send("/health", method="GET")[0] == 200
    _, ids = client.send("/tokenize", {"prompt": PROMPT})
    assert client.send("/detokenize", {"tokens": ids["tokens"]})[1] == {"prompt": PROMPT}
    assert client.send("/tokenizer_info", method="GET")[1]["eos_token"] == "<|end|>"


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"temperature": -1}, 400, "temperature"),
        ({"max_tokens": 1000}, 400, "max_tokens"),
        ({"prompt": "a " * 400}, 400, "max_tokens"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [1, 10**6]}, 400, "prompt"),
        ({"prompt": [1, -1]}, 400, "prompt"),
        ({"prompt": 3}, 400, "prompt"),
        ({"n": 0}, 400, "n"),
        ({"n": 40, "prompt": ["a"] * 40}, 400, "n"),
        ({"stop": [""]}, 400, "stop"),
        ({"logprobs": 50}, 400, "logprobs"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"echo": True, "stream": True}, 400, "echo"),
        ({"model": "gpt-4"}, 404, "model"),
    ],
)
def test_what_cannot_be_done_is_refused(client: Client, change: dict[str, Any], status: int, param: str) -> None:
    assert client.refused("/v1/completions", {"model": "mini", "prompt": PROMPT, **change}, status)["param"] == param


def test_neutral_and_unknown_settings_pass(client: Client) -> None:
    client.complete(
        max_tokens=1, frequency_penalty=0.0, presence_penalty=0, logit_bias=None, user="me", best_of=1, ignore_eos=True
    )


def test_faults_of_the_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no JSON" in client.refused("/v1/completions", None, 400, raw=b"{")["message"]
    assert client.refused("/nowhere", {}, 404)["message"] == "there is no /nowhere here"
    client.refused("/v1/completions", None, 405, method="GET")
    assert client.refused("/v1/completions", [1], 400)["type"] == "invalid_request_error"
    assert client.refused("/v1/chat/completions", {"messages": [{"role": "user"}]}, 400)["param"] == "messages"
    monkeypatch.setattr(asked, "MAX_BODY", 100)
    assert client.refused("/v1/completions", {"prompt": "x" * 200}, 413)["message"].startswith("the request is larger")


def test_more_than_fits_is_told_to_come_again(client: Client) -> None:
    found: list[int] = []

    def ask(_: int) -> None:
        found.append(
            client.send("/v1/completions", {"prompt": PROMPT, "n": 20, "max_tokens": 200, "ignore_eos": True})[0]
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert set(found) == {200, 429}


def test_a_client_that_goes_away_frees_its_rows(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[Ask] = []
    reasons: list[str | None] = []
    submit = client.loop.submit

    def watched(asks: list[Ask]) -> None:
        for ask in asks:
            put = ask.put

            def told(piece: Piece, put: Any = put) -> None:
                reasons.append(piece.reason)
                put(piece)

            ask.put = told
        submit(asks)
        asked_for.extend(asks)

    monkeypatch.setattr(client.loop, "submit", watched)
    for stream in (False, True):
        asked_for.clear()
        data = json.dumps({"prompt": PROMPT, "n": 40, "max_tokens": 215, "stream": stream, "ignore_eos": True}).encode()
        link = socket.create_connection(("127.0.0.1", client.port))
        link.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
        until = time.monotonic() + 5
        while not asked_for and time.monotonic() < until:
            time.sleep(0.001)
        link.close()
        while client.send("/health", method="GET")[1]["rows"] and time.monotonic() < until:
            time.sleep(0.01)
        assert client.send("/health", method="GET")[1]["rows"] == 0
        assert all(ask.cancelled for ask in asked_for)
    assert sum(r is not None for r in reasons) < 40  # of 80: most never came to their end


def test_text_keeps_characters_whole(mini: tuple[Any, Any]) -> None:
    tokenizer = mini[1]
    written = "naïve 你好 🙂 end"
    ids = tokenizer.encode(written, add_special_tokens=False)
    for stop, wanted in (((), written), (("好 🙂",), "naïve 你"), (("zzz", "end"), "naïve 你好 🙂 ")):
        text, out = Text(tokenizer, stop), []
        for i in ids:
            text.push(i, True)
            if text.stopped:
                break
            out.append(text.take(last=False))
        out.append(text.take(last=True))
        assert "".join(out) == wanted
        assert all("\ufffd" not in part for part in out)
    quiet = Text(tokenizer)
    for i in ids:
        quiet.push(i, False)
    assert quiet.take(last=True) == written


def test_a_taken_port_is_an_error_of_two_lines() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(RunError, match="already in use\nGive another --port") as error:
            _bound("127.0.0.1", taken.getsockname()[1])
        assert str(error.value).count("\n") == 1


# the risk control


class _Letters(Costless):
    """A reviewer that objects to some letters, and can be down."""

    version = "letters"

    def __init__(self) -> None:
        self.bad, self.down, self.seen = "", False, list[str]()

    def review_all(self, turns: Any) -> list[Review]:
        if self.down:
            raise RunError("endpoint: 500")
        self.seen += [answer for _, answer in turns]
        return [Review((1,) if any(c in answer for c in self.bad) else (), "") for _, answer in turns]


@pytest.fixture(scope="module")
def guarded(mini: tuple[Any, Any]) -> Iterator[tuple[Client, _Letters]]:
    who = _Letters()
    with _serving(mini, control=RiskControl(Keywords(), who)) as found:
        yield found, who


KILL = "User: use 3,7,25 to kill 46\nAssistant:"


def test_what_is_not_flagged_passes_unreviewed(client: Client, guarded: tuple[Client, _Letters]) -> None:
    shown, who = guarded
    who.bad, who.seen = "0123456789", []
    how: dict[str, Any] = {"n": 3, "max_tokens": 30, "logprobs": 1}
    assert shown.complete(**how)["choices"] == client.complete(**how)["choices"]
    assert who.seen == []


def test_a_flagged_answer_is_held_and_retracted(client: Client, guarded: tuple[Client, _Letters]) -> None:
    shown, who = guarded
    plain = client.complete(KILL, n=4, max_tokens=30)["choices"]
    who.bad, who.seen = "", []
    assert shown.complete(KILL, n=4, max_tokens=30)["choices"] == plain  # reviewed, and let through
    assert sorted(who.seen) == sorted(c["text"] for c in plain)
    who.bad = "0123456789"
    found = shown.complete(KILL, n=4, max_tokens=30, logprobs=1)["choices"]
    for before, after in zip(plain, found, strict=True):
        if any(c in before["text"] for c in who.bad):
            assert after["text"] == "I cannot help with this."
            assert after["finish_reason"] == "content_filter"
            assert after["logprobs"]["tokens"] == []
        else:
            assert after["text"] == before["text"]
    assert "content_filter" in {c["finish_reason"] for c in found}


def test_a_stream_shows_nothing_before_its_review(guarded: tuple[Client, _Letters]) -> None:
    shown, who = guarded
    who.bad = "".join(map(chr, range(32, 127)))
    asked_: dict[str, Any] = {
        "messages": [{"role": "user", "content": "how to kill 3,7,25"}],
        "max_tokens": 30,
        "stream": True,
        "seed": 1,
    }
    status, text = shown.send("/v1/chat/completions", asked_)
    assert status == 200
    events = [json.loads(x[6:]) for x in text.split("\n\n") if x.startswith("data: {")]
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events) == "I cannot help with this."
    assert events[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_a_reviewer_that_is_down_lets_nothing_pass(guarded: tuple[Client, _Letters]) -> None:
    shown, who = guarded
    who.down = True
    try:
        for stream in (False, True):
            error = shown.refused("/v1/completions", {"prompt": KILL, "max_tokens": 5, "stream": stream}, 503)
            assert "cannot review" in error["message"]
        assert shown.complete(max_tokens=5)["choices"]
    finally:
        who.down = False
