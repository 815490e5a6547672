"""What `incentive eval MODEL --suite ...` does: suites into parts, a model into an engine, results onto the disk.

The result has the form of `incentive eval --json`, so `incentive compare` pairs two models on it, problem by problem.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from incentive import chat, rewards, suites
from incentive.config import ConfigError, Engine, Sampling
from incentive.files import write_json
from incentive.keys import folder_key
from incentive.records import Problem, Sample, Score
from incentive.stages import benchmark
from incentive.suites import Suite
from incentive.tasks import checks, distinct
from incentive.tasks import find as find_task
from incentive.tasks.base import Task
from incentive.tasks.hub import Hub

PROBLEMS = 0  # seed of the miniature's problems: the same for every model, so that models can be paired


def evaluate(
    model: str,
    names: list[str],
    *,
    data: str | None = None,
    k: int | None = None,
    problems: int | None = None,
    seed: int = 0,
    temperature: float = 0.6,
    top_p: float = 0.95,
    max_tokens: int | None = None,
    template: str | None = None,
    out: Path | None = None,
    threads: int = 2,
    device: str = "cpu",
    count: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Evaluate a model on suites; what is done already in `out` is not done again.

    Args:
        data: a local copy of the one suite's data set.
        k, max_tokens: the suite's by default; answers are cut to what the model's context leaves.
        problems: only so many of each suite or task.
        template: `chat` for data sets where the tokenizer has one, else `r1-zero`; `mini` for the miniature's tasks.

    Raises:
        ConfigError, TaskError, RunError, CheckpointError, RewardError: the user's to mend.
    """
    chosen = [suites.find(name) for name in dict.fromkeys(names)]
    if data is not None and (len(chosen) != 1 or chosen[0].source is None):
        raise ConfigError("--data is a local copy of one suite's data set\nGive one --suite that has a data set.")
    loaded = {s.name: s.load(data) for s in chosen if s.source is not None}
    public = [s for s in chosen if s.source is not None or s.name.startswith(suites.GYM)]  # asked as users ask
    if template is None and len(public) not in (0, len(chosen)):
        raise ConfigError(
            "these suites are asked in different templates\nEvaluate them one by one, or give --template."
        )
    from incentive import engine
    from incentive.compare import model_folder
    from incentive.model.checkpoint import load_policy, resolve
    from incentive.recipes import settle

    settle(threads)
    folder = resolve(model_folder(model))
    policy, tokenizer = load_policy(folder, device=device)
    if template is None:
        template = "mini" if not public else "chat" if getattr(tokenizer, "chat_template", None) else "r1-zero"
    context = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    about: dict[str, Any] = {"model": folder_key(folder), "seed": seed, "template": template, "suites": {}}
    parts: list[benchmark.Part] = []
    longest = 0
    for suite in chosen:
        hub = loaded.get(suite.name)
        asked = _asked(suite, hub, problems, template)
        prompt = _longest(asked, template, tokenizer)
        tokens = min(max_tokens or suite.max_tokens, (context or 2**30) - prompt)
        if tokens < 1:
            raise ConfigError(
                f"{suite.name}: a prompt has {prompt} tokens, and the model's context is {context}\nUse a model with a longer one."
            )
        how = Sampling(temperature=temperature, top_p=top_p, max_tokens=tokens)
        longest = max(longest, prompt + tokens)
        parts += _parts(suite, asked, k or suite.k, how, benchmark.opens_thinking(template, tokenizer))
        about["suites"][suite.name] = _about(suite, hub, asked, k or suite.k, how)
    directory = out or Path("evals") / f"{Path(model).resolve().name}-{'-'.join(s.name for s in chosen)}"
    with benchmark.opened(directory, about) as stage:
        slots = slots_of(policy, longest, directory / "engine.json")
        player = engine.local(policy, tokenizer, folder, Engine(max_num_seqs=slots), share=True)
        found = benchmark.run(stage, parts, player, tokenizer, seed, template, count)
        result = {"name": model, **about, "version": importlib.metadata.version("incentive"), "tasks": found}
        write_json(directory / "results.json", result)
    return result | {"directory": str(directory)}


def _asked(suite: Suite, hub: Hub | None, problems: int | None, template: str) -> dict[str, list[Problem]]:
    """The problems of each task of a suite: a data set whole in its own order, or its first ones. A chat model is told
    where reasoning-gym looks for the answer; R1-Zero's template says so itself."""
    if hub is not None:
        return {suite.name: [hub.posed(x) for x in hub.splits["test"][:problems]]}
    n = problems or suite.problems
    assert n is not None
    found = {name: distinct(find_task(name), PROBLEMS, "test", n) for name in suite.tasks}
    if not suite.name.startswith(suites.GYM) or template != "chat":
        return found
    return {name: [replace(p, prompt=f"{p.prompt}{suites.TAGGED}") for p in ps] for name, ps in found.items()}


def _longest(asked: dict[str, list[Problem]], template: str, tokenizer: Any) -> int:
    """Tokens of the longest prompt."""
    texts = [chat.render(template, p.prompt, tokenizer) for problems in asked.values() for p in problems]
    return max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


def _parts(suite: Suite, asked: dict[str, list[Problem]], k: int, how: Sampling, opened: bool) -> list[benchmark.Part]:
    from incentive.verify import benchmarks

    if suite.name.startswith(suites.GYM):
        return [_puzzles(name, problems, k, how, opened) for name, problems in asked.items()]
    if suite.kind is None:
        return [_shipped(name, problems, k, how) for name, problems in asked.items()]
    kind = suite.kind

    def final(sample: Sample) -> str | None:
        return benchmarks.final(sample.text, opened)

    voted = kind in ("number", "maths", "choice")
    vote = (lambda s: benchmarks.vote(kind, final(s))) if voted else None
    return [
        benchmark.Part(name, problems, k, how, lambda: benchmarks.grading(kind, final), vote)
        for name, problems in asked.items()
    ]


def _shipped(name: str, problems: list[Problem], k: int, how: Sampling) -> benchmark.Part:
    """A task of the package, graded as in training."""
    task: Task = find_task(name)
    grade = rewards.each(rewards.shipped(task.check, partial(checks, task)), {"accuracy": 1.0, "format": 1.0})

    def vote(sample: Sample) -> str | None:
        answer = chat.split(sample.text)[1]
        return None if answer is None else task.vote_key(answer)

    return benchmark.Part(name, problems, k, how, lambda: contextlib.nullcontext((grade, "task")), vote)


def _puzzles(name: str, problems: list[Problem], k: int, how: Sampling, opened: bool) -> benchmark.Part:
    """A task of reasoning-gym: its scorer on the tagged answer, else on the last box, else on a short final answer."""
    from incentive.verify import benchmarks

    task = find_task(name)

    def answer(sample: Sample) -> str | None:
        tagged, text = chat.split(sample.text)[1], benchmarks.final(sample.text, opened)
        return tagged if tagged is not None or text is None else benchmarks.marked("maths", text)

    def grade(problem: Problem, samples: list[Sample]) -> list[Score]:
        said = [answer(s) for s in samples]
        found = iter(checks(task, problem, [a for a in said if a is not None]))
        right = [False if a is None else next(found) for a in said]
        return [
            Score(None, {"marked": 1.0}, "could not grade") if r is None
            else Score(float(r), {"accuracy": float(r), "marked": float(a is not None)})
            for r, a in zip(right, said, strict=True)
        ]  # fmt: skip

    def vote(sample: Sample) -> str | None:
        found = answer(sample)
        return None if found is None else task.vote_key(found)

    return benchmark.Part(
        name, problems, k, how, lambda: contextlib.nullcontext((grade, "reasoning-gym's scorer")), vote
    )


def _about(suite: Suite, hub: Hub | None, asked: dict[str, list[Problem]], k: int, how: Sampling) -> dict[str, Any]:
    """All of a suite that its results depend on."""
    found: dict[str, Any] = {
        "k": k, **how.model_dump(), "problems": {name: len(problems) for name, problems in asked.items()},
        "suite_k": suite.k, "suite_max_tokens": suite.max_tokens,
    }  # fmt: skip
    if hub is not None:
        found |= {"data": hub.origin, "left_out": hub.left_out, "licence": suite.licence}
        if suite.kind == "code":
            from incentive.verify import sandbox

            with contextlib.suppress(sandbox.SandboxMissing):  # said when grading begins
                found["sandbox"] = sandbox.strongest()
    return found


def slots_of(policy: Any, tokens: int, path: Path) -> int:
    """Rows that decode together: what the free memory holds, at most 256. A resume takes the stored number, so that it
    samples in the same batches."""
    if path.exists():
        return int(json.loads(path.read_text(encoding="utf-8"))["max_num_seqs"])
    from incentive.engine import rows_that_fit

    slots = rows_that_fit(policy, tokens, 256)
    write_json(path, {"max_num_seqs": slots})
    return slots


def told(found: dict[str, Any]) -> list[str]:
    """The results of suites in words; what differs from a suite's own protocol is said."""
    lines = [line for name, about in found["suites"].items() for line in _told_suite(name, about, found["template"])]
    for name, result in found["tasks"].items():
        lines += _told_task(name, result)
    return [*lines, f"answers and results: {found['directory']}"]


def _told_suite(name: str, about: dict[str, Any], template: str) -> list[str]:
    asked = f"k = {about['k']}, T {about['temperature']:g}, top-p {about['top_p']:g}, {about['max_tokens']} tokens"
    lines = [f"{name}: {asked}, template {template}"]
    if about["k"] != about["suite_k"] or about["max_tokens"] != about["suite_max_tokens"]:
        lines.append(f"  not as the suite states it: k = {about['suite_k']}, {about['suite_max_tokens']} tokens")
    if "data" in about:
        left = sum(about["left_out"].values())
        rows = f", {left} rows left out" if left else ""
        lines.append(f"  {about['data']['dataset']} at {about['data']['revision'][:12]}{rows}")
    if "sandbox" in about:
        lines.append(f"  programs ran in the sandbox tier {about['sandbox']}")
    return lines


def _told_task(name: str, result: dict[str, Any]) -> list[str]:
    def interval(key: str) -> str:
        return "   95% interval {:.1%} to {:.1%}".format(*result[key]) if key in result else ""

    lines = [
        f"{name}: {result['problems']} problems, {result['samples']} answers each",
        f"  pass@1            {result['pass@1']:.1%}{interval('ci95')}",
    ]
    for key in (k for k in result if k.startswith(("pass@", "cons@")) and k != "pass@1" and "ci95" not in k):
        lines.append(f"  {key:16}  {result[key]:.1%}{interval(f'{key}_ci95')}")
    for key in ("prompt_loose", "instruction_strict", "instruction_loose"):
        if key in result:
            lines.append(f"  {key.replace('_', ', '):16}  {result[key]:.1%}")
    lines += [
        f"  marked an answer  {result['marked']:.1%}",
        f"  ended by itself   {result['stop']['stop']:.1%}",
        f"  tokens an answer  {result['mean_tokens']:.1f}",
    ]
    if result["ungraded"]:
        lines.append(f"  could not be graded, counted as wrong: {result['ungraded']}")
    return lines
