"""A made-up run directory in the real schema, for tests of the report and for looking at it:

python tests/report_fixture.py DIR
"""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import zstandard

from incentive import chat, config, measure
from incentive.files import write_json
from incentive.records import Group, Problem, Sample, Score, to_json
from incentive.stage import Stage

TASKS = ("countdown3", "countdown4")
EVIL = "<script>alert('owned')</script><img src=x onerror=alert(1)> wait \ud800\u202e"
BEFORE = {"countdown3": (0.352, 41.3, 0.74), "countdown4": (0.118, 58.2, 0.91)}
AFTER = {"countdown3": (0.923, 88.6, 2.97), "countdown4": (0.547, 171.4, 6.02)}


def weights(folder: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file that is nothing but its header."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


def problem(task: str, split: str, i: int) -> Problem:
    rng = Random(f"{task}{split}{i}")
    numbers = [rng.randint(1, 25) for _ in range(3 if task == "countdown3" else 4)]
    target = sum(numbers)
    return Problem(
        f"{i}:{task}/{split}/0/{i}",
        f"countdown:{sorted(numbers)}={target}",
        f"use {','.join(map(str, numbers))} to make {target}",
        "+".join(map(str, numbers)),
        {"task": task, "numbers": numbers, "target": target},
    )


def sample(rng: Random, p: Problem, index: int, skill: float) -> tuple[Sample, Score]:
    """A response in the corpus's style: with skill it checks and goes on."""
    numbers, target = p.tags["numbers"], p.tags["target"]
    lines = []
    for turn in range(1 + int(rng.random() * 6 * skill)):
        a, b, *_ = rng.sample(numbers, len(numbers))
        op = rng.choice("-*")
        value = a - b if op == "-" else a * b
        lines.append(
            (rng.choice((" wait\n", " hmm\n", " retry\n")) if turn else "") + f"{a}{op}{b}={value}?{target} no"
        )
    good = rng.random() < 0.25 + 0.7 * skill
    if good:
        lines.append(f" wait\n{p.answer}={target}?{target} yes")
    text = chat.perfect("".join(lines), p.answer if good else "none")
    n = 12 + len(text) // 2
    stop = "length" if rng.random() < 0.03 else "stop"
    parts = {"accuracy": float(good), "format": 1.0}
    ids = np.ones(n, dtype=np.int64)
    one = Sample(
        f"{p.id}/{index}",
        p.id,
        ids[:9],
        ids,
        ids.astype(bool),
        np.full(n, -0.5, np.float32),
        1.0,
        stop,
        (1, 1),
        index,
        text,
    )
    return one, Score(sum(parts.values()), parts)


def group(rng: Random, p: Problem, n: int, skill: float) -> Group:
    made = [sample(rng, p, i, skill) for i in range(n)]
    return Group(p, [s for s, _ in made], [s for _, s in made])


def row(rng: Random, step: int, progress: float) -> dict[str, Any]:
    grow = 1 / (1 + math.exp(-8 * (progress - 0.4)))

    def noisy(low: float, high: float, spread: float = 0.04) -> float:
        return max(0.0, low + (high - low) * grow + (high - low) * spread * rng.gauss(0, 1))

    three, four = min(1.0, noisy(0.31, 0.93)), noisy(0.1, 0.56)
    length = noisy(45, 128)
    return {
        "step": step,
        "reward": 0.99 + (three + four) / 2,
        "reward_std": 0.5,
        "rewards/accuracy/mean": (three + four) / 2,
        "rewards/format/mean": noisy(0.8, 0.995),
        "rewards/accuracy/countdown3": three,
        "rewards/accuracy/countdown4": four,
        "completions/mean_length": length,
        "completions/max_length": 256.0,
        "completions/clipped_ratio": noisy(0.004, 0.03),
        "frac_reward_zero_std": noisy(0.22, 0.41),
        "frac_solved_groups": noisy(0.02, 0.37),
        "frac_unsolved_groups": noisy(0.2, 0.04),
        "ungraded": 0.0,
        "emergence/reflections_per_response": noisy(0.7, 4.2),
        "emergence/reflections_per_1k_tokens": noisy(15, 33),
        "emergence/paper_words_per_response": noisy(0.55, 3.3),
        "emergence/wait_per_response": noisy(0.4, 2.9),
        "emergence/tries_per_response": noisy(1.3, 4.8),
        "emergence/recoveries": noisy(0.05, 0.52),
        "tokens/sampled": round(length * 512),
        "tokens/prompt": 32 * 14,
        "tokens/trained": round((length + 14) * 512),
        "loss": rng.gauss(0, 0.01),
        "grad_norm": noisy(0.9, 0.3, 0.2),
        "learning_rate": 4e-4,
        "ratio": 1.0,
        "clip_ratio": 0.0,
        "kl": noisy(0.0, 0.06),
        "entropy": noisy(0.62, 0.21),
        "sampler_mismatch": 0.0041 + 0.0004 * rng.random(),
        "time/sample": noisy(1.2, 2.0),
        "time/reward": 0.05,
        "time/score": 0.21,
        "time/update": noisy(0.7, 1.1),
        "time/step": 3.5 + 0.4 * rng.random(),
    }


def results(before: bool, task: str, hot: bool) -> dict[str, Any]:
    accuracy, tokens, words = (BEFORE if before else AFTER)[task]
    accuracy -= 0.03 * hot
    top = 0.82 if before else 0.97
    passes = {f"pass@{2**e}": accuracy + (top - accuracy) * (1 - 0.6**e) for e in range(5)}
    return {
        "problems": 200,
        "samples": 16,
        **passes,
        "maj@16": min(1.0, accuracy + 0.06),
        "ci95": list(measure.wilson(200 * accuracy, 200)),
        "format": 0.84 if before else 0.998,
        "responses": 3200,
        "mean_tokens": tokens,
        "reflections_per_response": words,
        "reflections_per_1k_tokens": 1000 * words / tokens,
        "paper_reflections_per_response": 0.8 * words,
        "paper_reflections_per_1k_tokens": 800 * words / tokens,
        "wait_per_response": 0.6 * words,
        "tries_per_response": 1 + words,
        "recoveries": 0.06 if before else 0.51,
        "check": {"precision": 0.981, "recall": 0.993, "checked": 4120, "tries": 6000},
        "stop": {"stop": 0.992, "length": 0.008},
        "ungraded": 0,
        "temperature": 1.0 if hot else 0.6,
        "top_p": 1.0 if hot else 0.95,
    }


def evaluation(run: Path, name: str) -> None:
    stage, before = Stage(run / name), name == "before"
    out: dict[str, Any] = {}
    for n, task in enumerate(TASKS):
        rng = Random(f"{name}{task}")
        stage.rollouts(2 * n + 1, [group(rng, problem(task, "test", i), 16, 0.1 if before else 0.9) for i in range(24)])
        out[task] = results(before, task, False) | {"t1": results(before, task, True)}
        stage.record(
            {"step": n + 1, "task": task, "tokens/sampled": 150_000, "tokens/prompt": 2800, "time/evaluate": 9.5}
        )
    write_json(run / name / "results.json", out)
    start = "base0123" if before else "zero4567"
    write_json(run / name / "stage.json", {"key": name, "of": {"inputs": {"start": start}}})
    done = {"schema": 1, "key": name, "artifact": f"{name}-key", "steps": None, "kind": "eval", "path": "results.json"}
    write_json(run / name / "done.json", done | {"inputs": [start], "meta": {}})


CONTROLS = {
    "paragraph": "With 256 answers the base solves nearly what Zero solves: RL sharpened what it could do.",
    "tables": [
        {
            "title": "The same budget, spent otherwise",
            "note": "Test pass@1; 95% intervals.",
            "columns": ["", "countdown3", "countdown4"],
            "rows": [
                ["RL", "92.3%", "54.7%"],
                ["SFT on own right samples, 3 rounds", "61.0%", "24.1%"],
                ["random reward", "34.8%", "11.2%"],
            ],
        }
    ],
    "curves": [
        {
            "title": "pass@k of base and Zero, countdown4",
            "x": "k, answers drawn",
            "y": "share of problems with a right answer",
            "logx": True,
            "series": [
                {"name": "base", "points": [[2**e, 1 - 0.9 * 0.72**e] for e in range(9)]},
                {"name": "Zero", "points": [[2**e, 1 - 0.45 * 0.75**e] for e in range(9)]},
            ],
        }
    ],
}


def make_run(run: Path, steps: int = 120, asked: int = 120, finished: bool = True, rollouts: bool = True) -> Path:
    """Write a run of `steps` RL updates; unfinished runs lack the after-evaluation, controls and summary."""
    run.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"recipe": "zero-mini", "seed": 7, "base": "/home/somebody/models/base-mini", "eval": {}}
    data["rl"] = {
        "max_steps": asked,
        "ref_sync_steps": 40,
        "optim": {"learning_rate": 4e-4},
        "sampling": {"max_tokens": 256},
    }
    settings = config.build(data)
    (run / "config.toml").write_text(config.to_toml(settings))
    write_json(
        run / "run.json", {"schema": 1, "recipe": "zero-mini", "seed": 7, "created": "2026-01-05T10:00:00+00:00"}
    )
    env = {
        "schema": 1,
        "incentive": "0.1.0",
        "torch": "2.13.0",
        "python": "3.12.3",
        "cpu": "A CPU",
        "cores": 2,
        "threads": 2,
    }
    write_json(run / "environment.json", env | {"earlier": [env | {"torch": "2.12.0"}]})
    preflight = [
        {"level": "ok", "what": "0 of 400 test problems occur in the base's corpus or in the RL prompts", "advice": ""},
        {"level": "warn", "what": "31% of groups carry no signal", "advice": "raise rl.num_generations"},
    ]
    write_json(run / "preflight.json", preflight)
    evaluation(run, "before")
    rng, zero = Random(steps), run / "zero"
    (zero / "rollouts").mkdir(parents=True)
    weights(zero / ("model" if finished else "best"), {"model.embed_tokens.weight": [512, 128], "layers": [6000, 128]})
    stage = Stage(zero)
    section = {
        k: v for k, v in settings.rl.model_dump(mode="json").items() if k not in ("max_steps", "save_steps", "keep")
    }
    write_json(
        zero / "stage.json",
        {"key": "k" * 16, "of": {"stage": "zero", "section": section, "inputs": {"start": "base0123"}}},
    )
    probe = {f"val/{t}/accuracy": 0.3 for t in TASKS} | {"val/accuracy": 0.3, "time/evaluate": 1.4}
    stage.record({"step": 0} | probe)
    for step in range(1, steps + 1):
        made = row(rng, step, step / asked)
        if step % 10 == 0:
            for t in TASKS:
                made[f"val/{t}/accuracy"] = max(
                    0.0, min(1.0, made[f"rewards/accuracy/{t}"] + 0.03 + 0.03 * rng.gauss(0, 1))
                )
                made[f"val/{t}/mean_length"] = made["completions/mean_length"] * (0.7 if t == "countdown3" else 1.3)
            made["val/accuracy"], made["time/evaluate"] = 0.5, 1.4
        stage.record(made)
        if rollouts and (step % 20 == 0 or step == 1):
            skill = step / asked
            stage.rollouts(
                step, [group(rng, problem(t, "train", step * 100 + i), 16, skill) for i in range(5) for t in TASKS]
            )
    if rollouts:  # what a model may say, and what a report must not do with it
        bad = problem("countdown3", "train", 1)
        one, score = sample(rng, bad, 0, 1.0)
        told = {**to_json(one), "text": f"<think>{EVIL}</think><answer>{EVIL}</answer>"}
        line = json.dumps({"problem": to_json(bad) | {"prompt": EVIL}, "samples": [told], "scores": [to_json(score)]})
        (zero / "rollouts/000001.jsonl.zst").write_bytes(zstandard.compress(line.encode() + b"\n"))
    if not finished:
        with (zero / "metrics.jsonl").open("a") as file:
            file.write('{"step": 12, "rew')
        return run
    done = {"schema": 1, "key": "k" * 16, "artifact": "zero4567", "steps": asked, "kind": "weights", "path": "model"}
    write_json(zero / "done.json", done | {"inputs": ["base0123"], "meta": {}})
    evaluation(run, "after")
    write_json(run / "controls.json", CONTROLS)
    skills = {"arithmetic": {"value": 0.994, "ci95": [0.989, 0.997], "n": 2000}}
    skills["check: precision of yes"] = {"value": 0.981, "ci95": [0.969, 0.989], "n": 800}
    tasks = {"countdown3": {"pass@1": 0.34, "ci95": [0.29, 0.4], "mean_tokens": 42.0, "reflections_per_response": 0.7}}
    write_json(run / "skills.json", {"skills": skills, "tasks": tasks})
    write_json(run / "summary.json", {"train_seconds": 462.0, "steps": steps})
    write_json(run / "done.json", {"schema": 1})
    return run


if __name__ == "__main__":
    from incentive.report import write_report

    print(write_report(make_run(Path(sys.argv[1]))))
