"""Measuring a model, asking it, and comparing two: what the commands `eval`, `sample` and `compare` do.

A result is `{"tasks": {task: {..., "by_problem": {key: share of right answers}}}}`; problems pair by their content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from incentive import chat, measure
from incentive.config import ConfigError, Sampling
from incentive.records import Group, Request, Sample, hash64
from incentive.stage import Stage

Result = dict[str, Any]


class CompareError(ValueError):
    """Two things cannot be compared; the message says why."""


def model_folder(name: str) -> str:
    """A run directory stands for the last model it made."""
    path = Path(name)
    if not (path / "run.json").is_file():
        return name
    made = [p for p in path.glob("*/model") if (p / "config.json").is_file() and ".old-" not in p.parent.name]
    if not made:
        raise CompareError(
            f"{name}: this run has not finished a model yet\nIts checkpoints are in {name}/*/checkpoints."
        )
    return str(max(made, key=lambda p: (p / "config.json").stat().st_mtime))


def open_model(model: str, threads: int) -> tuple[Any, Any]:
    from incentive import engine
    from incentive.config import Engine
    from incentive.model.checkpoint import load_policy, resolve
    from incentive.recipes import settle

    settle(threads)
    folder = resolve(model_folder(model))
    policy, tokenizer = load_policy(folder)
    return engine.local(policy, tokenizer, folder, Engine.model_validate({})), tokenizer


def shares(groups: list[Group]) -> dict[str, float]:
    """Share of right answers by the problem's content."""
    return {g.problem.key: sum(s.parts.get("accuracy", 0.0) > 0 for s in g.scores) / len(g.scores) for g in groups}


def fits(player: Any, tokenizer: Any, prompt: str, max_tokens: int) -> list[int]:
    """The prompt's ids.

    Raises:
        ConfigError: prompt and answer do not fit into the model's context.
    """
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    context = getattr(player.policy.config, "max_position_embeddings", None)
    if context and len(ids) + max_tokens > context:
        raise ConfigError(
            f"the prompt has {len(ids)} tokens and --max-tokens is {max_tokens}; the model's context is {context}\n"
            f"Lower --max-tokens to {max(0, context - len(ids))}, or shorten the problem."
        )
    return list(ids)


def measure_model(
    model: str,
    names: list[str],
    problems: int,
    samples: int,
    seed: int,
    split: Any,
    how: Sampling,
    template: str,
    threads: int,
    count: Callable[[str, int, int], None] = lambda *_: None,
) -> Result:
    """Evaluate a model on the first `problems` distinct problems of each task."""
    from incentive.tasks import distinct, find

    if split not in ("test", "val"):
        raise ConfigError(f"--split {split!r}: choose test or val")
    found = {name: find(name) for name in names}
    asked = {name: distinct(task, seed, split, problems) for name, task in found.items()}
    player, tokenizer = open_model(model, threads)
    from incentive.stages.evaluate import ask, results

    out: Result = {"model": model, "split": split, "seed": seed, "template": template, **how.model_dump(), "tasks": {}}
    for name, task in found.items():
        longest = max((chat.render(template, p.prompt, tokenizer) for p in asked[name]), key=len)
        fits(player, tokenizer, longest, how.max_tokens)
        done, total = 0, problems * samples

        def each(_: Sample, name: str = name, total: int = total) -> None:
            nonlocal done
            done += 1
            count(name, done, total)

        groups = ask(player, tokenizer, task, asked[name], samples, how, seed, template, each)
        out["tasks"][name] = results(groups, task) | {"by_problem": shares(groups)}
    return out


def ask_model(
    model: str, problem: str, n: int, seed: int, how: Sampling, template: str, threads: int
) -> Iterator[Sample]:
    """Answers to one problem as they finish."""
    import numpy as np

    player, tokenizer = open_model(model, threads)
    ids = fits(player, tokenizer, chat.render(template, problem, tokenizer), how.max_tokens)
    seeds = tuple(hash64("sample", seed, problem, i) for i in range(n))
    yield from player.sample(
        [
            Request(
                "asked", np.asarray(ids, dtype=np.int64), seeds, how.max_tokens, how.temperature, how.top_p, how.top_k
            )
        ]
    )


def read(name: str, measured: Callable[[str], Result]) -> Result:
    """The result behind a name: a run (its `after`, else its `before`), an evaluation stage, a JSON file, or a model.

    Raises:
        CompareError: it is none, or its results are not complete.
    """
    path = Path(name)
    if (path / "evaluation.json").is_file():
        path = path / "results.json"
        if not path.is_file():
            raise CompareError(f"{name}: this evaluation is not finished\nGo on with the command that began it.")
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            by = {t: {str(k): float(v) for k, v in r["by_problem"].items()} for t, r in found["tasks"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CompareError(f"{name}: not the output of `incentive eval --json`") from None
        return {"name": name, "tasks": {t: {"by_problem": b} for t, b in by.items()}}
    if (path / "run.json").is_file():
        stages = [path / s for s in ("after", "before") if (path / s / "results.json").is_file()]
        if not stages:
            raise CompareError(
                f"{name}: this run has no finished evaluation\nFinish it, or compare two models with --task."
            )
        path = stages[0]
    if (path / "stage.json").is_file() or (path / "results.json").is_file():
        return _stage(path) | {"name": str(path)}
    return measured(name)


def _stage(path: Path) -> Result:
    """The headline answers of an evaluation stage: each task's first rollout."""
    if not (path / "results.json").is_file():
        raise CompareError(f"{path}: this evaluation is not finished")
    first: dict[str, int] = {}
    for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "task" in row:
            first.setdefault(row["task"], row["step"])
    return {"tasks": {t: {"by_problem": shares(Stage(path).read_rollouts(s))} for t, s in first.items()}}


def differences(a: Result, b: Result, only: list[str] | None = None) -> dict[str, Any]:
    """B less A in the share of right answers, task by task.

    Raises:
        CompareError: they have no task in common.
    """
    names = [t for t in a["tasks"] if t in b["tasks"] and (not only or t in only)]
    if not names:
        raise CompareError(
            f"no task in common: A has {', '.join(a['tasks']) or 'none'}; B has {', '.join(b['tasks']) or 'none'}"
        )
    out: dict[str, Any] = {}
    for task in names:
        x, y = a["tasks"][task]["by_problem"], b["tasks"][task]["by_problem"]
        same = [k for k in x if k in y]
        row: dict[str, Any] = {"paired": len(same), "problems": [len(x), len(y)]}
        pairs = [x[k] for k in same] or list(x.values()), [y[k] for k in same] or list(y.values())
        for label, values in zip("ab", pairs, strict=True):
            row[label] = sum(values) / len(values)
            row[f"{label}_ci95"] = list(measure.share_interval(values))
        row["difference"] = row["b"] - row["a"]
        if len(same) > 1:
            found = measure.paired_difference(pairs[1], pairs[0])
            row |= {"ci95": [found.low, found.high], "p": found.p}
        out[task] = row
    return out


def told(found: dict[str, Any], a: str, b: str) -> list[str]:
    """The comparison in words."""
    lines = [f"A = {a}", f"B = {b}"]
    for task, row in found.items():
        lines.append(f"{task}: right answers A {row['a']:.1%}, B {row['b']:.1%}")
        if "p" in row:
            low, high = row["ci95"]
            verdict = "no clear difference" if low <= 0 <= high else ("B is better" if low > 0 else "A is better")
            p = f"p = {row['p']:.4f}" if row["p"] > 0.0001 else "p < 0.0002"
            points = f"{100 * row['difference']:+.1f} points, 95% interval {100 * low:+.1f} to {100 * high:+.1f}"
            lines.append(f"  B - A = {points}, {p}: {verdict}")
            of = f"of {row['problems'][0]} and {row['problems'][1]} " if {row["paired"]} != {*row["problems"]} else ""
            lines.append(f"  paired on {row['paired']} {of}problems that both were asked")
        else:
            same = "no problem" if not row["paired"] else "one problem only"
            (la, ha), (lb, hb) = row["a_ci95"], row["b_ci95"]
            alone = f"A {la:.1%} to {ha:.1%}, B {lb:.1%} to {hb:.1%} (95% intervals)"
            lines.append(f"  not paired ({same} in common), so no test: {alone}")
            lines.append("  ask both the same problems: the same --seed, --split and --problems")
    return lines


def told_alone(found: Result) -> list[str]:
    """What `measure_model` found, in words."""
    lines = []
    for name, result in found["tasks"].items():
        low, high = result["ci95"]
        asked = f"{result['problems']} {found['split']} problems, {result['samples']} answers each"
        lines += [
            f"{name}: {asked}, T {found['temperature']:g}, top-p {found['top_p']:g}",
            f"  right answers (pass@1)  {result['pass@1']:.1%}   95% interval {low:.1%} to {high:.1%}",
            *(f"  {k:22}  {v:.1%}" for k, v in result.items() if k.startswith(("pass@", "maj@")) and k != "pass@1"),
            f"  in the required form    {result['format']:.1%}",
            f"  ended by itself         {result['stop']['stop']:.1%}",
            f"  tokens an answer        {result['mean_tokens']:.1f}",
            f"  reflections an answer   {result['reflections_per_response']:.2f}",
        ]
    return lines
