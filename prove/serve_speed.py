"""Tokens a second over `incentive serve`, at 1 and 32 clients, plain and streamed; the engine alone beside it.

    python prove/serve_speed.py [MODEL]

Every client sends one request after the other; each answer is 200 tokens whatever it says (`ignore_eos`).
"""

from __future__ import annotations

import http.client
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from bridge import served  # beside this file

from incentive import engine
from incentive.config import Engine
from incentive.model.checkpoint import load_policy, resolve
from incentive.recipes import settle
from incentive.records import Request

PROMPT, TOKENS = "User: use 3,7,25 to make 46\nAssistant:", 200


def client(port: int, answers: int, stream: bool, seed: int, first: list[float]) -> None:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    for n in range(answers):
        asked = {"prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True, "stream": stream, "seed": 1000 * seed + n}
        began = time.monotonic()
        link.request("POST", "/v1/completions", json.dumps(asked))
        answer = link.getresponse()
        answer.readline()
        first.append(time.monotonic() - began)
        answer.read()
    link.close()


def over_the_server(port: int, clients: int, answers: int, stream: bool) -> tuple[float, float]:
    """(tokens a second, median seconds to the first token)."""
    first: list[float] = []
    threads = [threading.Thread(target=client, args=(port, answers, stream, n, first)) for n in range(clients)]
    began = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return clients * answers * TOKENS / (time.monotonic() - began), float(np.median(first))


def alone(model: str, rows: int) -> float:
    """The engine with as many rows in one call, on the same threads; its answers may end earlier."""
    settle(2)
    policy, tokenizer = load_policy(model)
    player = engine.local(policy, tokenizer, resolve(model), Engine(), share=True)
    ids = np.array(tokenizer.encode(PROMPT, add_special_tokens=False))
    asked = [Request(str(r), ids, (2 * r, 2 * r + 1), TOKENS, 1.0) for r in range(rows)]
    list(player.sample(asked))  # compiles
    began = time.monotonic()
    samples = list(player.sample(asked))
    return sum(len(s.ids) for s in samples) / (time.monotonic() - began)


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "base-mini"
    with tempfile.TemporaryDirectory() as folder:
        server, port = served(Path(folder), model)
        try:
            over_the_server(port, 2, 2, False)
            for clients, answers in ((1, 20), (32, 8)):
                for stream in (False, True):
                    speed, first = over_the_server(port, clients, answers, stream)
                    told = f", first token after {1000 * first:.0f} ms" if stream else ""
                    print(
                        f"{clients:3} clients, {'streamed' if stream else 'plain':8} {speed:8,.0f} tokens/s{told}",
                        flush=True,
                    )
        finally:
            server.terminate()
            server.wait(20)
    print(f" 32 requests of 2 answers in one call of the engine {alone(model, 32):8,.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
