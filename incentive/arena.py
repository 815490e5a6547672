"""`incentive judge A B`: which of two models a judge prefers, on general prompts; Arena-Hard's and AlpacaEval's figures.

    DIR/  evaluation.json  a/ b/ (answers)  judge.jsonl (the judge's replies)  judged.jsonl.zst  metrics.jsonl  results.json

Kept from the paper (appendix D): only the final answer is shown, so that thinking is neither rewarded nor punished as length.
A side is a model, or a file of answers in the form of AlpacaEval's outputs or Arena-Hard's model answers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from incentive import chat, measure
from incentive.answers import Count, speaker, write_results
from incentive.asker import Asker, asker, key_of
from incentive.config import ConfigError, Sampling
from incentive.files import RunError, file_hash, write_lines
from incentive.judge import Judged, both_orders, pair_messages, verdict, weighted, win_rate
from incentive.ledger import fold
from incentive.preferences import Judge
from incentive.proxy import Helpful
from incentive.records import Problem, hash64
from incentive.stage import Stage
from incentive.stages import benchmark
from incentive.tasks import SHIPPED, distinct
from incentive.tasks.hub import Fault, Hub, Item, question_text
from incentive.tasks.jsonl import content
from incentive.tasks.rows import Row, Source, read

AGAIN = 100  # pairs that are asked once more in the same order, to see how far the judge agrees with itself
RARE = 0.1  # of the pairs: where the other side is the longer more seldom, length cannot be told from quality
PROGRAMS = ("world", "proxy")

SETS = {
    "arena-hard": Source(
        "lmarena-ai/arena-hard-auto", "15f3746e21432264ce9b453999bde4f3c946d2e6", ("data/arena-hard-v2.0/question.jsonl",)
    ),
    "alpaca-eval": Source(
        "tatsu-lab/alpaca_eval", "2edc6fad8be6b14ea7230aabfd08188da6b8b814", ("alpaca_eval_gpt4_baseline.json",)
    ),
}  # fmt: skip


# prompts and answers


def _posed(row: Row) -> Item:
    """AlpacaEval (`instruction`), Arena-Hard 0.1 (`turns`) and 2.0 (`prompt`), or a line of one's own (`prompt`)."""
    if isinstance(row.get("turns"), list) and row["turns"]:
        asked = row["turns"][0].get("content")
    else:
        asked = row["instruction"] if "instruction" in row else row["prompt"]
    question = question_text(asked)
    tags = {k: str(row[k]) for k in ("category", "subcategory", "dataset", "language") if row.get(k)}
    return Item(question, "", id=_id(row), tags=tags)


def _id(row: Row) -> str | None:
    found = row.get("uid") or row.get("question_id") or row.get("id")
    return str(found) if found else None


def prompts(name: str, n: int | None) -> list[Problem]:
    """The prompts of a task of the world (its test split), a known set, or a file.

    Raises:
        TaskError: there is no such set or file, or it cannot be read.
    """
    if name in SHIPPED:
        return distinct(SHIPPED[name], 0, "test", n or 100)
    hub = Hub(SETS.get(name, Source(name)), _posed, name=name, hold="test")
    return [hub.posed(line) for line in hub.lines[:n]]


def _said(row: Row) -> str:
    """A row's answer: AlpacaEval's `output`, or the assistant's turn of Arena-Hard 0.1 (`choices`) and 2.0 (`messages`)."""
    said: Any = row.get("output")
    if said is None and isinstance(row.get("choices"), list):
        said = row["choices"][0]["turns"][0]["content"]
    if said is None and isinstance(row.get("messages"), list):
        said = next((m["content"] for m in reversed(row["messages"]) if m.get("role") == "assistant"), None)
    if isinstance(said, dict):
        said = said.get("answer")
    if not isinstance(said, str):
        raise Fault("no answer")
    return said


def read_answers(path: Path, problems: Sequence[Problem]) -> list[str]:
    """The answers of a file to the prompts, found by the prompt's text or by its id.

    Raises:
        TaskError: the file cannot be read.
        RunError: a row holds no answer, or a prompt has none.
    """
    by: dict[str, str] = {}
    for n, row in enumerate(read(Source(str(path))).rows):
        try:
            said = _said(row)
        except (Fault, KeyError, IndexError, TypeError, AttributeError):
            raise RunError(
                f"{path}: row {n} holds no answer\nWrite AlpacaEval's instruction and output, or Arena-Hard's answers."
            ) from None
        asked = row.get("instruction", row.get("prompt"))
        for key in (content(asked) if isinstance(asked, str) else None, _id(row)):
            if key:
                by.setdefault(key, said)
    found = [by.get(content(p.prompt), by.get(p.id.rpartition("/")[2])) for p in problems]
    if None in found:
        missing = problems[found.index(None)]
        raise RunError(
            f"{path}: {found.count(None)} of {len(problems)} prompts have no answer, the first is {chat.text_of(missing.prompt)[:60]!r}\n"
            "Give the answers to these --prompts."
        )
    return [x for x in found if x is not None]


def _is_file(side: str) -> bool:
    return side.endswith((".json", ".jsonl")) or (side.endswith((".csv", ".parquet")) and Path(side).is_file())


def _key(side: str) -> str:
    if not _is_file(side):
        return key_of(side)
    if not Path(side).is_file():
        raise RunError(f"{side}: no such file of answers")
    return file_hash(Path(side))


# judges


def by_world(problem: Problem, a: str, b: str) -> int:
    """The world's own truth on two final answers: its rubric on general requests, right or wrong on the other tasks."""
    task: Any = SHIPPED[problem.tags["task"]]
    worth = getattr(task, "worth", None) or (lambda p, x: float(task.check(p, x)))
    gap = worth(problem, a) - worth(problem, b)
    return (2 if abs(gap) > 0.3 else 1 if gap else 0) * (1 if gap > 0 else -1)


Asked = tuple[Problem, str, str]


def _by_program(who: str, pairs: Sequence[Asked], seed: int) -> tuple[list[Judged], list[int | None]]:
    liking: Judge = Helpful(seed)

    def judge(problem: Problem, first: str, second: str) -> int | None:
        if who == "world":
            return by_world(problem, chat.summary(first), chat.summary(second))
        said = liking(problem.prompt, first, second)
        return None if said is None else int(said)

    judged = []
    for p, a, b in pairs:
        first, second = judge(p, a, b), judge(p, b, a)
        judged.append(Judged(first, None if second is None else -second))
    return judged, [judge(*pairs[i]) for i in _once_more(len(pairs), seed)]


def _by_asking(client: Asker, pairs: Sequence[Asked], seed: int) -> tuple[list[Judged], list[int | None]]:
    shown = [(p.prompt, a, b) for p, a, b in pairs]
    judged = both_orders(client, shown)
    again = [(pair_messages(*shown[i]), 1) for i in _once_more(len(pairs), seed)]
    return judged, [verdict(r.text) for r in client.ask_all(again)]


def _once_more(n: int, seed: int) -> list[int]:
    """Which pairs are asked again."""
    return sorted(Random(hash64("again", seed)).sample(range(n), min(n, AGAIN)))


# the evaluation


def evaluate(
    a: str, b: str, judge: str, *, of: str = "general", problems: int | None = None, seed: int = 0,
    sampling: Sampling | None = None, template: str | None = None, out: Path | None = None, threads: int = 2,
    device: str = "cpu", count: Count = lambda *_: None,
) -> dict[str, Any]:  # fmt: skip
    """Sample the answers of both sides, ask the judge in both orders, and say who is preferred.

    Answers and the judge's replies are kept in `out`; the same call goes on where it was stopped, and pays for nothing twice.

    Args:
        judge: `world` (the rubric of the world's tasks), `proxy` (the miniature's judge), a model, or an endpoint's .toml.
        of: a task of the world, `arena-hard`, `alpaca-eval`, or a file of prompts.

    Raises:
        ConfigError, TaskError, RunError, CheckpointError, CompareError: the user's to mend.
    """
    asked = prompts(of, problems)
    if judge == "world" and of not in SHIPPED:
        raise ConfigError(
            f"--judge world knows the world's tasks alone, not {of}\nGive a model or an endpoint's .toml."
        )
    world = of in SHIPPED
    template = template or ("mini" if world else None)
    how = sampling or Sampling(temperature=0.6, top_p=0.95, max_tokens=320 if world else 32768)
    about = {
        "a": _key(a), "b": _key(b), "judge": judge if judge in PROGRAMS else key_of(judge), "prompts": f"{hash64(*[p.key for p in asked]):016x}", "seed": seed,
        "template": template, **how.model_dump(),
    }  # fmt: skip
    names = [Path(x).stem if _is_file(x) else Path(x).resolve().name for x in (a, b)]
    directory = out or Path("evals") / f"{names[0]}-against-{names[1]}-{Path(of).stem}"
    with benchmark.opened(directory, about) as stage:
        said: dict[str, list[str]] = {}
        for label, side in (("a", a), ("b", b)):
            if _is_file(side):
                said[label] = read_answers(Path(side), asked)
            else:
                model = speaker(side, template, threads, device)
                groups = model.answer(Stage(directory / label), asked, 1, how, seed, label, count)
                said[label] = [g.samples[0].text for g in groups]
        pairs = list(zip(asked, said["a"], said["b"], strict=True))
        began = time.monotonic()
        judged, again, spent, name = _verdicts(judge, pairs, seed, directory, threads, device)
        stage.truncate(0)
        stage.record({"step": 1, **spent, "time/judge": time.monotonic() - began})
        _keep(directory / "judged.jsonl.zst", pairs, judged)
        head = {"a": a, "b": b, "judge": name, "prompts": of, "seed": seed, "template": template, **how.model_dump()}
        cost = {"paid": fold(directory / "metrics.jsonl", 0, 1, 0.0).paid, "calls": spent.get("calls/made", 0)}
        return write_results(directory, head | results(name, pairs, judged, again, seed) | {"cost": cost})


def _verdicts(
    judge: str, pairs: Sequence[Asked], seed: int, directory: Path, threads: int, device: str
) -> tuple[list[Judged], list[int | None], dict[str, float], str]:
    """What the judge says, what it says when asked again, what that cost, and its name."""
    if judge in PROGRAMS:
        return *_by_program(judge, pairs, seed), {}, judge
    client = asker(judge, directory / "judge.jsonl", threads, device)
    try:
        return *_by_asking(client, pairs, seed), client.spent(), client.name
    finally:
        client.close()


def _keep(path: Path, pairs: Sequence[Asked], judged: Sequence[Judged]) -> None:
    rows = [
        {"id": p.id, "prompt": p.prompt, "a": x, "b": y, "first": j.first, "second": j.second}
        for (p, x, y), j in zip(pairs, judged, strict=True)
    ]
    write_lines(path, rows)


def results(
    judge: str, pairs: Sequence[Asked], judged: Sequence[Judged], again: Sequence[int | None], seed: int = 0
) -> dict[str, Any]:
    """Rates with 95% intervals, and how far the judge agrees with itself.

    Args:
        again: the verdicts of `_once_more` on pairs that were shown in the first order.
    """
    lengths = [(len(chat.summary(a)), len(chat.summary(b))) for _, a, b in pairs]
    found = asdict(win_rate(judge, judged, lengths))
    points = [j.point for j in judged]
    found["p"] = measure.paired_difference(points, [0.5] * len(points)).p
    found["arena"], found["arena_low"], found["arena_high"] = weighted(judged, seed)
    twice = [
        (judged[i].first, y) for i, y in zip(_once_more(len(pairs), seed), again, strict=True)
        if judged[i].first is not None and y is not None
    ]  # fmt: skip
    both = [(j.first, j.second) for j in judged if j.first is not None and j.second is not None]
    found["swapped"], found["again"] = _same(both), _same(twice)
    found["lengths"] = [sum(x) / len(pairs) for x in zip(*lengths, strict=True)]
    found["overlap"] = min(sum(a >= b for a, b in lengths), sum(a <= b for a, b in lengths)) / len(pairs)
    found["by"] = _by(pairs, points)
    return found


def _same(verdicts: Sequence[tuple[int | None, int | None]]) -> dict[str, Any]:
    """Of pairs that were judged twice, how many got the same winner."""
    same = sum((x or 0) * (y or 0) > 0 or (not x and not y) for x, y in verdicts)
    low, high = measure.wilson(same, len(verdicts))
    return {"share": same / len(verdicts) if verdicts else None, "ci95": [low, high], "pairs": len(verdicts)}


def _by(pairs: Sequence[Asked], points: Sequence[float]) -> dict[str, dict[str, Any]]:
    """The rate by language, category and the like, where the prompts say them."""
    out: dict[str, dict[str, Any]] = {}
    for tag in ("language", "category", "subcategory", "dataset"):
        found: dict[str, list[float]] = {}
        for (p, _, _), x in zip(pairs, points, strict=True):
            if tag in p.tags:
                found.setdefault(str(p.tags[tag]), []).append(x)
        if 1 < len(found) <= 40:
            out[tag] = {k: {"prompts": len(v), "rate": sum(v) / len(v)} for k, v in sorted(found.items())}
    return out


def told(found: dict[str, Any]) -> list[str]:
    """The result in words."""

    def within(low: float, high: float) -> str:
        return f"95% interval {low:.1%} to {high:.1%}"

    p = f"p = {found['p']:.4f}" if found["p"] > 0.0001 else "p < 0.0002"
    lines = [
        f"A = {found['a']}", f"B = {found['b']}",
        f"{found['pairs']} prompts of {found['prompts']}, judge {found['judge']}, both orders, final answers alone",
        f"  A is preferred           {found['rate']:.1%}   {within(found['low'], found['high'])}, {p}",
        f"  at equal length          {found['controlled']:.1%}   {within(found['controlled_low'], found['controlled_high'])}",
        f"  Arena-Hard's weights     {found['arena']:.1%}   {within(found['arena_low'], found['arena_high'])}",
        "  characters an answer     A {:.0f}, B {:.0f}".format(*found["lengths"]),
    ]  # fmt: skip
    if found["overlap"] < RARE:
        lines.append(
            f"    one side is the longer in {1 - found['overlap']:.0%} of the pairs: the rate at equal length is a guess"
        )
    for label, key in (("orders swapped, same  ", "swapped"), ("asked again, same     ", "again")):
        s = found[key]
        if s["share"] is not None:
            lines.append(f"  {label}   {s['share']:.1%}   {within(*s['ci95'])} ({s['pairs']} pairs)")
    if found["first"] is not None:
        lines.append(f"  winner was shown first   {found['first']:.1%}")
    if found["silent"]:
        lines.append(f"  calls without verdict, counted as ties: {found['silent']}")
    if found["cost"]["calls"]:
        lines.append(f"  judge's calls            {found['cost']['calls']:,}, paid ${found['cost']['paid']:.4f}")
    return [*lines, f"answers, verdicts and results: {found['directory']}"]
