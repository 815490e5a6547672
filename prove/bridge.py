"""lm-eval and inspect, each from an environment of its own, evaluate base-mini over `incentive serve`.

    python -m venv /tmp/bridge && /tmp/bridge/bin/pip install "lm-eval[api]" inspect-ai openai
    python prove/bridge.py /tmp/bridge/bin

What they must report is computed here first, from the weights and the engine: the share of problems where the right
continuation is the likeliest, and the likeliest answers themselves. Exits with 1 where a harness reports something else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch

from incentive import chat, engine
from incentive.config import Engine
from incentive.model.checkpoint import load_policy, resolve
from incentive.model.logp import token_logp
from incentive.records import Request
from incentive.tasks import distinct, find

HERE = Path(__file__).parent / "bridge"
CHOICES, WRITTEN = 100, 40


def data(folder: Path) -> dict[str, float]:
    """Write the three files; what the harnesses must find."""
    policy, tokenizer = load_policy("base-mini")
    task = find("arithmetic")
    problems = distinct(task, 0, "test", CHOICES)
    rows, right = [], 0
    for n, p in enumerate(problems):
        gold = int(task.gold(p))
        options = [gold + d for d in ((0, 1, -1, 10), (1, 0, -1, 10), (1, -1, 0, 10), (1, -1, 10, 0))[n % 4]]
        question = chat.render("mini", p.prompt) + chat.THINK + chat.END_THINK + chat.ANSWER
        rows.append({"question": question, "choices": [f"{o}{chat.END_ANSWER}" for o in options], "answer": n % 4})
        scores = [logp(policy, tokenizer, question, text) for text in rows[-1]["choices"]]
        right += int(np.argmax(scores)) == n % 4
    player = engine.local(policy, tokenizer, resolve("base-mini"), Engine(), share=True)
    asked = problems[:WRITTEN]
    wanted = [
        Request(
            str(i), np.array(tokenizer.encode(chat.render("mini", p.prompt), add_special_tokens=False)), (0,), 120, 0.0
        )
        for i, p in enumerate(asked)
    ]
    said = {int(s.problem_id): s.text for s in player.sample(wanted)}
    # inspect takes the thinking out of an answer and keeps it as reasoning
    until = [said[i].partition(chat.END_ANSWER)[0] for i in range(WRITTEN)]
    lines: dict[str, list[dict[str, Any]]] = {
        "choice": rows,
        "write": [{"question": chat.render("mini", p.prompt), "answer": until[i]} for i, p in enumerate(asked)],
        "inspect": [{"input": p.prompt, "target": said[i].rpartition(chat.END_THINK)[2]} for i, p in enumerate(asked)],
    }
    for name, found in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in found))
    return {"mini_choice": right / CHOICES, "mini_write": 1.0, "inspect": 1.0}


@torch.inference_mode()
def logp(policy: Any, tokenizer: Any, context: str, text: str) -> float:
    """Log-probability of a continuation, from the weights."""
    begun = tokenizer.encode(context, add_special_tokens=False)
    ids = tokenizer.encode(context + text, add_special_tokens=False)
    hidden = policy(torch.tensor([ids]))[0]
    found, _ = token_logp(hidden[len(begun) - 1 : -1], policy.unembed, torch.tensor(ids[len(begun) :]))
    return float(found.sum())


def served(folder: Path, model: str = "base-mini") -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "incentive", "serve", model, "--port", str(port)], cwd=folder)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
            return server, port
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def lm_eval(programs: Path, folder: Path, port: int) -> dict[str, float]:
    """What lm-eval reports. It takes the tokenizer from the server, so it needs neither torch nor transformers."""
    model = f"model=base-mini,base_url=http://127.0.0.1:{port}/v1/completions,num_concurrent=8,tokenizer_backend=remote,max_length=1024"
    command = [
        programs / "lm_eval", "run", "--model", "local-completions", "--model_args", model, "--tasks", "mini_choice,mini_write",
        "--include_path", HERE, "--output_path", "lm_eval",
    ]  # fmt: skip
    subprocess.run(
        command, cwd=folder, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL
    )
    results = json.loads(next(folder.glob("lm_eval/**/results_*.json")).read_text())["results"]
    return {name: next(v for k, v in results[name].items() if re.match(r"(?:acc|exact_match),", k)) for name in results}


def inspect(programs: Path, folder: Path, port: int) -> float:
    command = [
        programs / "inspect", "eval", "mini_inspect.py", "--model", "openai-api/local/base-mini", "--log-dir", "logs", "--log-format",
        "json", "--display", "none",
    ]  # fmt: skip
    shutil.copy(HERE / "mini_inspect.py", folder)  # it takes no path from elsewhere
    told = {"LOCAL_BASE_URL": f"http://127.0.0.1:{port}/v1", "LOCAL_API_KEY": "none"}
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, **told})
    found = json.loads(next(folder.glob("logs/*.json")).read_text())
    metrics = found["results"]["scores"][0]["metrics"]
    return next(metrics[name]["value"] for name in ("accuracy", "mean") if name in metrics)


def main() -> int:
    programs = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wanted = data(folder)
        server, port = served(folder)
        try:
            got = lm_eval(programs, folder, port) | {"inspect": inspect(programs, folder, port)}
        finally:
            server.send_signal(signal.SIGINT)
            code = server.wait(20)
    for key, value in wanted.items():
        print(f"{key:12} computed here {value:.4f}   reported {got[key]:.4f}")
    print(f"the server ended with {code} on Ctrl-C")
    return int(any(abs(got[k] - v) > 1e-9 for k, v in wanted.items()) or code != 0)


if __name__ == "__main__":
    sys.exit(main())
