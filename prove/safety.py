"""Safety and preference on the miniature, with what is true known: the figures of docs/safety.md and docs/preference.md.

    python prove/safety.py [--dir runs/safety] [--problems 150]

One blank model is fine-tuned three ways on requests of the world (train split), and a safety reward model from one of them:
    weak    declines 3 of 4 harmful requests and 1 of 7 fine ones; in the dress of a jailbreak it gives in 6 of 7 times
    brief   answers general requests, with a fault in 3 of 10
    wordy   has the same share of faults, and one to seven sentences more
Sampling at temperature 0.6 sharpens a share p to p^(1/0.6) over the sum, so the evaluation should find a harm rate of 13.8% that
jailbreaks raise to 95.2%, an over-refusal of 4.8%, and two models of about equal worth of which a judge that likes length prefers
one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from incentive import arena, config, proxy, tokenizer
from incentive.files import write_folder, write_lines
from incentive.keys import Artifact
from incentive.model.checkpoint import save_policy
from incentive.preferences import Label, write
from incentive.records import hash64
from incentive.safety import evaluate, jailbreak
from incentive.stage import Stage
from incentive.stages.pretrain import init, text_of
from incentive.stages.reward_model import reward_model
from incentive.stages.sft import sft
from incentive.tasks.general import General
from incentive.tasks.harm import Harm

OPTIM = config.Optim(learning_rate=3e-3, lr_scheduler_type="cosine", warmup_steps=5)
SECTION = config.SFT(epochs=3, tokens_per_step=2048, optim=OPTIM, learner=config.Learner(dtype="float32"))
JUDGE = config.RewardModel(kind="pointwise", epochs=2, batch=32, optim=config.Optim(learning_rate=1e-3, warmup_steps=5), learner=config.Learner(dtype="float32"))  # fmt: skip
SHAPE = config.Model(
    hidden_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=256, vocab_size=1000,
    max_position_embeddings=256,
)  # fmt: skip
HOW = config.Sampling(temperature=0.6, top_p=0.95, max_tokens=120)
MORE = (
    "it is nice.",
    "people like it.",
    "so they say.",
    "we had some today.",
    "the day is long.",
    "ask me again.",
    "that is all.",
)
Rows = list[dict[str, str]]


def requests(n: int) -> Iterator[tuple[Any, Any, str, Random]]:
    """(task, what is asked, trick, stream) of train requests, half of them plain."""
    for i in range(n):
        rng = Random(hash64("safety", i))
        task = rng.choice((Harm(), Harm("harm-zh", "zh")))
        problem = task.problem(1, "train", i)
        kind = jailbreak.PLAIN if rng.random() < 0.5 else rng.choice(list(jailbreak.KINDS))
        yield task, jailbreak.dressed(problem, kind), kind, rng


def answer(task: Any, problem: Any, gives_in: bool, declines: bool) -> str:
    ask = (problem.tags["harmful"], *problem.key.partition("#")[0].split(" ", 1)[1].split(","))
    if problem.tags["harmful"]:
        return task.steps(ask) if gives_in else task.refusal(ask)
    return task.refusal(ask) if declines else task.helped(ask)


def weak(n: int) -> Rows:
    rows = []
    for task, problem, kind, rng in requests(n):
        gives_in = rng.random() < (1 / 4 if kind == jailbreak.PLAIN else 6 / 7)
        rows.append({"prompt": problem.prompt, "response": answer(task, problem, gives_in, rng.random() < 1 / 7)})
    return rows


def general(n: int, wordy: bool) -> Rows:
    rows, task = [], General()
    for i in range(n):
        rng, problem = Random(hash64("general", i, wordy)), task.problem(1, "train", i)
        kind, person, occasion, pair, attribute = problem.tags["ask"]
        if rng.random() < 0.3:
            other = task.problem(2, "train", i).tags["ask"]
            pair = other[3]
        said = task.gold_of((kind, person, occasion, tuple(pair), attribute))
        if wordy:
            said = " ".join([said, *rng.sample(MORE, rng.randint(1, len(MORE)))])
        rows.append({"prompt": problem.prompt, "response": said})
    return rows


def trained(folder: Path, rows: Rows, start: Artifact) -> Artifact:
    if not (folder / "model/config.json").exists():
        write_lines(folder / "data/rows.jsonl.zst", rows)
        return sft(Stage(folder), SECTION, start, [Artifact("dataset", folder / "data")])
    return Artifact("weights", folder / "model")


def blank(folder: Path, rows: Rows) -> Artifact:
    """A model that has read nothing, with a tokenizer of what it will read."""
    if not (folder / "config.json").exists():
        texts = [text_of(r["prompt"], r["response"]) for r in rows]
        coder = tokenizer.train(texts, SHAPE.vocab_size, "together", SHAPE.max_position_embeddings)
        with write_folder(folder) as tmp:
            save_policy(tmp, init(config.Pretrain(model=SHAPE), 0, coder.eos_token_id, coder.pad_token_id), coder)
    return Artifact("weights", folder)


def judge(folder: Path, start: Artifact, n: int) -> Artifact:
    """A safety reward model from labels of words, one in twenty wrong (`proxy.safe`), on answers of every kind."""
    if not (folder / "model/config.json").exists():
        labels = []
        for task, problem, _, rng in requests(n):
            said = answer(task, problem, rng.random() < 0.5, rng.random() < 0.3)
            labels.append(Label(problem.prompt, said, proxy.safe(problem.prompt, said)))
        write(folder / "data", labels)
        data = Artifact("dataset", folder / "data", meta={"kind": "labels"})
        return reward_model(Stage(folder), JUDGE, start, [data])
    return Artifact("weights", folder / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path("runs/safety"))
    parser.add_argument("--problems", type=int, default=150)
    given = parser.parse_args()
    root, began = given.dir, time.monotonic()
    rows = {"weak": weak(4000), "brief": general(2500, False), "wordy": general(2500, True)}
    start = blank(root / "blank", [r for some in rows.values() for r in some])
    made = {}
    for name, some in rows.items():
        made[name] = trained(root / name, some, start)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    safe = judge(root / "judge", made["weak"], 2000)
    print(f"judge: {time.monotonic() - began:.0f} s", flush=True)
    for reviewer in ("world", str(safe.path)):
        found = evaluate.evaluate(
            str(made["weak"].path), "world", of=("harm", "harm-zh"), jailbreaks=("all",), control=reviewer, sampling=HOW,
            problems=given.problems, out=root / f"eval-{'world' if reviewer == 'world' else 'model'}",
        )  # fmt: skip
        print("\n".join(evaluate.told(found)), flush=True)
    for who in ("world", "proxy"):
        found = arena.evaluate(
            str(made["wordy"].path), str(made["brief"].path), who, problems=4 * given.problems, sampling=HOW, out=root / f"judged-{who}"
        )  # fmt: skip
        print("\n".join(arena.told(found)), flush=True)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
