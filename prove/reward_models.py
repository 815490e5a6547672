"""What reward models learn from a judge with faults, and when the hacking monitor speaks: the figures of docs/reward-models.md.

    python prove/reward_models.py [--candidates 6000] [--runs 1000] [--dir DIR]

A made-up world: a prompt asks for a number, an answer gives it or another one, with a tail of 0 to 8 words. The judge knows
the right number, but errs, likes length and likes the first place. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from incentive import chat, config
from incentive.hacking import Monitor
from incentive.keys import Artifact
from incentive.model.checkpoint import resolve
from incentive.model_reward import ModelReward
from incentive.preferences import Judge, Label, Prompt, make_pairs, write
from incentive.records import Problem, Sample
from incentive.stage import Stage
from incentive.stages.reward_model import reward_model

BASE = Artifact("weights", resolve("base-mini"))
OPTIM = config.Optim(learning_rate=1e-3, warmup_steps=5, lr_scheduler_type="cosine")
SECTION = config.RewardModel(epochs=3, batch=32, optim=OPTIM, learner=config.Learner(dtype="float32"))


def answer(rng: Random, number: int, unsafe: bool = False) -> str:
    thinking = " ".join(str(rng.randrange(100)) for _ in range(rng.randrange(4, 12)))
    return chat.perfect(thinking + (" try 5" if unsafe else " 5"), str(number) + " so" * rng.randrange(9))


def candidates(n: int, seed: int) -> list[tuple[Prompt, str, str]]:
    """Two answers to each prompt, each right half of the time."""
    rng, out = Random(seed), []
    for _ in range(n):
        asked, wrong = rng.sample(range(10, 100), 2)
        first, second = (answer(rng, rng.choice((asked, wrong))) for _ in range(2))
        out.append((f"Give {asked}. ({rng.randrange(10**6)})", first, second))
    return out


def right(prompt: Prompt, summary: str) -> bool:
    return summary.split()[0] == str(prompt).split()[1].rstrip(".")


def faulty(seed: int) -> Judge:
    """Twice the difference in being right; 1 for being four words longer; a half for the first place; one in ten thrown."""
    rng = Random(seed)

    def judge(prompt: Prompt, first: str, second: str) -> float:
        if rng.random() < 0.1:
            return rng.choice((-2, -1, 0, 1, 2))
        longer = len(first.split()) - len(second.split())
        liking = (longer >= 4) - (longer <= -4) + rng.choice((0, 1))
        return max(-2, min(2, 2 * (right(prompt, first) - right(prompt, second)) + liking))

    return judge


def sample(text: str, n: int) -> Sample:
    ids = np.zeros(1, dtype=np.int64)
    return Sample(f"p/{n}", "p", ids, ids, ids == 0, ids.astype(np.float32), 1.0, "stop", (0, 0), n, text)


def truth(model: Path) -> dict[str, float]:
    """Against what is so: how often the right answer scores above a wrong one of any length, and above a longer one."""
    reward, rng = ModelReward(model), Random(99)
    wins: dict[str, list[bool]] = {"any_length": [], "wrong_is_8_words_longer": []}
    for _ in range(500):
        asked, wrong = rng.sample(range(10, 100), 2)
        problem = Problem("p", "p", f"Give {asked}. ({rng.randrange(10**6)})", None)
        good = answer(rng, asked)
        for name, bad in (("any_length", answer(rng, wrong)), ("wrong_is_8_words_longer", None)):
            pair = (good, bad) if bad else (chat.perfect("5", str(asked)), chat.perfect("5", str(wrong) + " so" * 8))
            a, b = reward(problem, [sample(text, i) for i, text in enumerate(pair)])
            wins[name].append(a > b)  # type: ignore[operator]
    return {name: float(np.mean(found)) for name, found in wins.items()}


def train(folder: Path, kind: str, records: Any) -> tuple[Path, dict[str, Any]]:
    write(folder / "data", records)
    (folder / "stage").mkdir()
    section = config.RewardModel.model_validate({**SECTION.model_dump(exclude={"scores"}), "kind": kind})
    began = time.monotonic()
    made = reward_model(Stage(folder / "stage"), section, BASE, [Artifact("dataset", folder / "data")])
    found = json.loads((folder / "stage/results.json").read_text())
    return made.path, found | {"seconds": time.monotonic() - began}


def speed(model: Path) -> float:
    """Answers a second, in groups of 16."""
    reward, rng = ModelReward(model), Random(5)
    groups = [[sample(answer(rng, rng.randrange(100)), i) for i in range(16)] for _ in range(40)]
    problem = Problem("p", "p", "Give 57. (3)", None)
    reward(problem, groups[0])
    began = time.monotonic()
    for group in groups:
        reward(problem, group)
    return 16 * len(groups) / (time.monotonic() - began)


def monitor(runs: int, problems: int, drop: float) -> dict[str, Any]:
    """Runs of 30 looks with two truths; one of them loses `drop` within eight looks after the 15th."""
    told = []
    for seed in range(runs):
        rng, watch = np.random.default_rng([seed, problems]), Monitor()
        base = rng.beta(2, 1.5, size=(2, problems))
        for t in range(30):
            lost = drop * min(1.0, max(0, t - 14) / 8)
            chance = {"code": base[0] * (1 - lost / base[0].mean()), "rubric": base[1]}
            truths = {name: rng.random(problems) < p for name, p in chance.items()}
            if found := watch.see(t, 0.5 + 0.01 * t + rng.normal(0, 0.02), truths):
                told.append(found[0])
                break
    late, keep = [f.step - 14 for f in told], [f.keep - 14 for f in told]
    return {"problems": problems, "drop": drop, "runs": runs, "alarms": len(told)} | (
        {
            "looks_until_told": float(np.mean(late)),
            "kept_minus_last_good": np.quantile(keep, [0.05, 0.5, 0.95]).tolist(),
        }
        if drop and told
        else {}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=6000)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--dir", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(2)
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.dir or Path(temporary)
        for name, tolerance in (("balanced", 0.02), ("as_judged", 2.0)):
            made = make_pairs(candidates(args.candidates, 0), faulty(1), tolerance=tolerance)
            path, found = train(folder / name, "pairwise", made.pairs)
            about = {"counts": made.counts, "judge": made.judge, "lengths": made.lengths}
            out[name] = about | {"results": found, "truth": truth(path)}
        out["answers_per_second"] = speed(path)
        rng, labels = Random(2), []
        for prompt, _, _ in candidates(args.candidates // 4, 3):
            safe = rng.random() < 0.5
            labels.append(Label(prompt, answer(rng, rng.randrange(10, 100), not safe), safe))
        out["safety"] = train(folder / "safety", "pointwise", labels)[1]
    drops = ((200, 0.0), (20, 0.0), (200, 0.2), (200, 0.15), (200, 0.1), (1000, 0.1), (1000, 0.05))
    out["monitor"] = [monitor(args.runs, problems, drop) for problems, drop in drops]
    print(json.dumps(out))


if __name__ == "__main__":
    main()
