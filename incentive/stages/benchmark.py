"""A model on a suite: pass@1 as the mean over k answers, majority vote, intervals; every answer kept; resumable.

    DIR/  evaluation.json  metrics.jsonl  rollouts/000001.jsonl.zst ...  results.json

The work is cut into blocks of whole problems, the same on every start. A block's answers are written when it is done,
whole or not at all, and a resume does the first missing block anew from its seeds: the same blocks give the same bits, so a
killed evaluation ends with the same results.json. An answer that could not be graded counts as wrong, and is counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from incentive import chat, measure, rewards
from incentive.config import Sampling
from incentive.engine.base import Engine
from incentive.files import RunError, dumps, write_json
from incentive.records import Group, Problem, Sample
from incentive.stage import Stage
from incentive.stages.evaluate import gather, requests, thinking_of

BLOCK = 1024  # answers that are sampled together and stored as one file


@dataclass(frozen=True)
class Part:
    """One task of a suite."""

    name: str
    problems: list[Problem]
    k: int
    sampling: Sampling
    grading: Callable[[], contextlib.AbstractContextManager[tuple[rewards.Grade, str]]]
    vote: Callable[[Sample], str | None] | None  # None: answers of this kind have no majority

    def blocks(self) -> list[list[Problem]]:
        size = max(1, BLOCK // self.k)
        return [self.problems[i : i + size] for i in range(0, len(self.problems), size)]


@contextlib.contextmanager
def opened(directory: Path, about: dict[str, Any]) -> Iterator[Stage]:
    """The folder of an evaluation, new or of one that was cut off.

    Raises:
        RunError: it belongs to an evaluation with other settings, or another process is at work in it.
    """
    path = directory / "evaluation.json"
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise RunError(f"{path}: damaged\nGive another --out, or remove that folder.") from None
        asked = json.loads(dumps(about))
        if differ := [k for k in asked if stored.get(k) != asked[k]]:
            k = differ[0]
            raise RunError(
                f"{directory} holds an evaluation with another {k}: {_short(stored.get(k))}, not {_short(asked[k])}\n"
                "Give another --out, or remove that folder."
            )
    elif directory.exists() and any(directory.iterdir()):
        raise RunError(f"{directory} holds other files\nGive another --out.")
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{directory}: another process evaluates here\nWait for it, or give another --out."
            ) from None
        if not path.exists():
            write_json(path, about)
        yield Stage(directory)
    finally:
        os.close(fd)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."


def finished_blocks(stage: Stage) -> int:
    """How many blocks are done: rollouts from 1 on without a gap, each with its row of metrics."""
    path = stage.dir / "metrics.jsonl"
    rows = set()
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            rows.add(json.loads(line)["step"])
    n = 0
    while n + 1 in rows and (stage.dir / f"rollouts/{n + 1:06d}.jsonl.zst").exists():
        n += 1
    return n


def run(
    stage: Stage,
    parts: Sequence[Part],
    player: Engine,
    tokenizer: Any,
    seed: int,
    template: str,
    count: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Sample and grade what is missing; the results of every part by its name."""
    found = answered(stage, parts, player, tokenizer, seed, template, count)
    return {part.name: results(groups, part) for part, groups in found}


def answered(
    stage: Stage,
    parts: Sequence[Part],
    player: Engine,
    tokenizer: Any,
    seed: int,
    template: str,
    count: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[tuple[Part, list[Group]]]:
    """Sample and grade what is missing; the answers of every part, problems in their order."""
    done = finished_blocks(stage)
    stage.truncate(done)
    step = 0
    for part in parts:
        total, seen = len(part.problems) * part.k, 0
        blocks = part.blocks()
        groups: list[Group] = []
        missing = step + len(blocks) > done
        with part.grading() if missing else contextlib.nullcontext((_never, "")) as (grade, _):
            for problems in blocks:
                step += 1
                if step > done:

                    def each(_: Sample, name: str = part.name, total: int = total) -> None:
                        nonlocal seen
                        seen += 1
                        count(name, seen, total)

                    _block(stage, step, part, problems, grade, player, tokenizer, seed, template, each)
                else:
                    seen += len(problems) * part.k
                groups += stage.read_rollouts(step)
        yield part, groups


def _never(_problem: Problem, _samples: list[Sample]) -> Any:
    raise AssertionError("every block of this part is done")


def _block(
    stage: Stage, step: int, part: Part, problems: list[Problem], grade: rewards.Grade, player: Engine, tokenizer: Any,
    seed: int, template: str, each: Callable[[Sample], None],
) -> None:  # fmt: skip
    """One block from its seeds to the disk; its row of metrics first, its answers last."""
    began = time.monotonic()
    wanted = requests(problems, part.k, part.sampling, seed, template, tokenizer)
    groups = gather(player.sample(wanted), problems, grade, part.k, each)
    sampled = sum(len(s.ids) for g in groups for s in g.samples)
    prompt = sum(len(r.prompt_ids) for r in wanted)
    row = {"step": step, "task": part.name, "tokens/sampled": sampled, "tokens/prompt": prompt}
    stage.record({**row, "time/evaluate": time.monotonic() - began})
    stage.rollouts(step, [_light(g) for g in groups])


def _light(group: Group) -> Group:
    """What is kept: texts and scores, with the tokens counted. The token streams of 2,000 answers of 32,768 tokens are
    gigabytes; so can be the hidden tests of programs, whose hash stands in for them."""
    problem, none = group.problem, np.zeros(0, dtype=np.int64)
    if isinstance(problem.answer, dict):
        told = f"sha256:{hashlib.sha256(dumps(problem.answer).encode()).hexdigest()}"
        problem = dataclasses.replace(problem, answer=told)
    scores = [
        dataclasses.replace(score, parts={**score.parts, "tokens": float(len(sample.ids))})
        for sample, score in zip(group.samples, group.scores, strict=True)
    ]
    samples = [
        dataclasses.replace(
            s, prompt_ids=none, ids=none, mask=none.astype(np.bool_), sampler_logp=none.astype(np.float32)
        )
        for s in group.samples
    ]
    return Group(problem, samples, scores)


def results(groups: list[Group], part: Part) -> dict[str, Any]:
    """What the graded answers of one part say. Every interval is a 95% one, with the problem as its unit."""
    right = [[s.parts.get("accuracy", 0.0) > 0 for s in g.scores] for g in groups]
    k, share = part.k, [sum(r) / len(r) for r in right]
    scores, samples = [s for g in groups for s in g.scores], [s for g in groups for s in g.samples]
    out: dict[str, Any] = {"problems": len(groups), "samples": k, "pass@1": sum(share) / len(share)}
    out["ci95"] = list(measure.share_interval(share))
    for n in sorted({2**e for e in range(1, 20) if 2**e <= k} | {k} - {1}):
        out[f"pass@{n}"] = measure.mean_pass_at_k([(k, sum(r)) for r in right], n)
    if part.vote is not None:
        agreed = [measure.maj_at_k([part.vote(s) for s in g.samples], r) for g, r in zip(groups, right, strict=True)]
        out[f"cons@{k}"] = sum(agreed) / len(agreed)
        out[f"cons@{k}_ci95"] = list(measure.share_interval(agreed))
    out["marked"] = sum(s.parts.get("marked", s.parts.get("format", 0.0)) for s in scores) / len(scores)
    out["ungraded"] = sum(s.total is None for s in scores)
    out["stop"] = {kind: sum(s.stop == kind for s in samples) / len(samples) for kind in ("stop", "length")}
    out["mean_tokens"] = sum(s.parts["tokens"] for s in scores) / len(scores)
    out["reflections_per_response"] = sum(measure.reflections(thinking_of(s.text)) for s in samples) / len(samples)
    if any("instructions" in s.parts for s in scores):
        asked = sum(s.parts["instructions"] for s in scores)
        out["prompt_loose"] = sum(s.parts["loose"] for s in scores) / len(scores)
        out["instruction_strict"] = sum(s.parts["followed"] for s in scores) / asked
        out["instruction_loose"] = sum(s.parts["followed_loose"] for s in scores) / asked
    out["by"] = _by(groups, share)
    out["by_problem"] = {g.problem.key: x for g, x in zip(groups, share, strict=True)}
    return out


def _by(groups: list[Group], share: list[float]) -> dict[str, dict[str, Any]]:
    """pass@1 by level, subject and difficulty, where the data says them."""
    out: dict[str, dict[str, Any]] = {}
    for tag in ("level", "subject", "difficulty"):
        found: dict[str, list[float]] = {}
        for g, x in zip(groups, share, strict=True):
            if tag in g.problem.tags:
                found.setdefault(str(g.problem.tags[tag]), []).append(x)
        if 1 < len(found) <= 40:
            out[tag] = {name: {"problems": len(v), "pass@1": sum(v) / len(v)} for name, v in sorted(found.items())}
    return out


def opens_thinking(template: str, tokenizer: Any) -> bool:
    """Whether a prompt ends with an opened thought, as R1's chat template does."""
    return chat.render(template, "x", tokenizer).rstrip().endswith(chat.THINK)
