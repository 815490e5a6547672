"""Making a data set out of a policy's answers: sample, verify, filter, rewrite, deduplicate, decontaminate.

Kept from the paper (B.3.2, B.3.3): several samples a prompt at temperature 1, only right ones kept, a judge where no rule
checks, thoughts with mixed languages, long paragraphs or code blocks dropped, rewriting, rows of other data added, counts
and token statistics by domain. Added: after a rewrite the answer is checked again, and what is dropped is dropped for one
named reason, the first that applies. Rows are text, so that a student with another tokenizer can learn from them.

A batch of 64 problems is written whole or not at all; a stage that is killed goes on with the next batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from incentive import chat, curation, rewards
from incentive.config import Curate
from incentive.curation import Held, Text
from incentive.files import RunError, file_hash, read_lines, write_atomic, write_folder, write_json, write_lines
from incentive.keys import Artifact
from incentive.records import Group, Problem, Sample, Score
from incentive.stage import Stage
from incentive.stages.sft import Sampler, Show, tokens_of
from incentive.tasks import Mixture

Row = dict[str, Any]  # prompt (text or messages), response, domain; tokens; of sampled ones id and key too
Rewrite = Callable[[Problem, str], str | None]
Judge = Callable[[Problem, str], bool | None]

ROWS_A_FILE = 10_000


def curate(
    stage: Stage,
    section: Curate,
    start: Artifact | None = None,
    data: Collection[Artifact] = (),
    *,
    task: Mixture,
    template: str = "mini",
    first: int = 0,
    form: rewards.Reward = rewards.format_,
    judges: dict[str, Judge] | None = None,
    rewrite: Rewrite | None = None,
    held: Held = Held(),  # noqa: B008
    spent: Callable[[], dict[str, float]] = dict,
    show: Show = lambda _: None,
) -> Artifact:
    """Curate train problems' answers into dataset/, results.json and results.md.

    Args:
        data: folders of further rows (`rows_at`), added as they are, then deduplicated and decontaminated with the rest.
        first: the first problem's index.
        form: what an answer's form must be, 1 where it is.
        judges: task name -> (problem, answer) -> right, in place of the task's own check; None is no verdict.
        rewrite: (problem, response) -> new response, or None to drop it.
        held: evaluation sets that no row may share content with.
        spent: what calls cost since it was last asked, for the ledger: `Client.row`.

    Raises:
        RunError: nothing was left, or rows of `data` are faulty.
    """
    assert start is not None
    checks = _Checks(task, judges or {}, section.concurrency)
    sampler = Sampler(start, section, task, template, "curate.sampling.max_tokens")
    right = rewards.accuracy(task.check, checks.all)
    grade = rewards.each({"accuracy": right, "form": form}, {"accuracy": 1.0, "form": 1.0})
    batches = stage.dir / "batches"

    def count(text: str) -> int:
        return len(sampler.tokenizer.encode(text, add_special_tokens=False)) + 1  # the stop token

    done = _resumed(stage, batches)
    heads = [read_lines(p)[0] for p in _files(batches)]
    sampled, total = sum(h["tokens"] for h in heads), sum(h["rows"] for h in heads)
    rest = () if section.tokens and sampled >= section.tokens else sampler.batches(stage.seed, grade, first, done)
    began = time.monotonic()
    for n, groups in enumerate(rest, done + 1):
        took = {"time/sample": time.monotonic() - began}
        began = time.monotonic()
        kept, counts = _readable(groups, section)
        rows = _rewritten(kept, rewrite, section, checks, counts)
        for row in rows:
            row["tokens"] = count(row["response"])
        tokens, prompt = tokens_of(groups)
        sampled, total = sampled + tokens, total + len(rows)
        stage.rollouts(n, kept)
        row = {"step": n, "kept": len(rows), "tokens/sampled": tokens, "tokens/prompt": prompt, **spent()}
        stage.record(row | took | {"time/curate": time.monotonic() - began})
        write_lines(batches / f"{n:06d}.jsonl.zst", [{"tokens": tokens, "rows": len(rows), "counts": counts}, *rows])
        reached = min(64 * n, section.problems)
        show({"phase": stage.dir.name, "done": reached, "total": section.problems, "kept": total})
        if stage.stopping:
            raise stage.stopped(n)
        if section.tokens and sampled >= section.tokens:
            break
        began = time.monotonic()
    return _finish(stage, section, batches, data, held, count)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.jsonl.zst"))


def _resumed(stage: Stage, batches: Path) -> int:
    """How many batches are done, without a gap; what was written of a further one is forgotten."""
    numbers = [int(p.name.split(".")[0]) for p in _files(batches)]
    done = next((i for i, n in enumerate(numbers) if n != i + 1), len(numbers))
    for path in _files(batches)[done:]:
        path.unlink()
    stage.truncate(done)
    return done


class _Checks:
    """Whether an answer is right: by the task's rule or, for the tasks named, by a judge, several calls at a time."""

    def __init__(self, task: Mixture, judges: dict[str, Judge], concurrency: int):
        self.task, self.judges, self.pool = task, judges, concurrency
        if unknown := set(judges) - set(task.tasks):
            raise RunError(
                f"a judge for {', '.join(sorted(unknown))}, which is no task; there are: {', '.join(task.tasks)}"
            )

    def right(self, problem: Problem, answer: str | None) -> bool | None:
        if answer is None:
            return False
        judge = self.judges.get(problem.tags["task"])
        return self.task.check(problem, answer) if judge is None else judge(problem, answer)

    def all(self, problem: Problem, answers: list[str]) -> list[bool | None]:
        if self.judges.get(problem.tags["task"]) is None:
            return self.task.checks(problem, answers)
        return self.each(lambda a: self.right(problem, a), answers)

    def each(self, call: Callable[[Any], Any], items: Collection[Any]) -> list[Any]:
        """The results of a call on each item, in order."""
        if self.pool == 1:
            return [call(x) for x in items]
        with ThreadPoolExecutor(self.pool) as pool:
            return list(pool.map(call, items))


def domain_of(problem: Problem) -> str:
    return str(problem.tags.get("domain", problem.tags["task"]))


def _count(counts: dict[str, dict[str, int]], domain: str, what: str, n: int = 1) -> None:
    of = counts.setdefault(domain, {})
    of[what] = of.get(what, 0) + n


def _readable(groups: list[Group], section: Curate) -> tuple[list[Group], dict[str, dict[str, int]]]:
    """The right and readable samples, and by domain how many there were and why others were dropped."""
    counts: dict[str, dict[str, int]] = {}
    kept = []
    for group in groups:
        domain, target = domain_of(group.problem), group.problem.tags.get("language")
        prompt = chat.text_of(group.problem.prompt)
        _count(counts, domain, "problems")
        _count(counts, domain, "samples", len(group.samples))
        good: list[tuple[Sample, Score]] = []
        for sample, score in zip(group.samples, group.scores, strict=True):
            why = "ungraded" if score.total is None else ""
            why = why or ("wrong" if score.parts["accuracy"] != 1 else "form" if score.parts["form"] != 1 else "")
            if not why:
                thinking = chat.split(sample.text)[0]
                why = next(iter(curation.unreadable(thinking, section.readable, target, prompt)), "")
            if not why and section.per_problem and len(good) == section.per_problem:
                why = "more"
            if why:
                _count(counts, domain, why)
            else:
                good.append((sample, score))
        if good:
            kept.append(Group(group.problem, [s for s, _ in good], [c for _, c in good]))
    return kept, counts


def _rewritten(
    groups: list[Group], rewrite: Rewrite | None, section: Curate, checks: _Checks, counts: dict[str, dict[str, int]]
) -> list[Row]:
    """A row for each sample; a rewritten one must still be right and readable."""
    pairs = [(g.problem, s) for g in groups for s in g.samples]

    def made(pair: tuple[Problem, Sample]) -> tuple[str | None, str]:
        problem, sample = pair
        if rewrite is None:
            return sample.text, ""
        text = rewrite(problem, sample.text)
        if text is None:
            return None, "rewrite: none"
        thinking, answer = chat.split(text)
        if not checks.right(problem, answer):
            return None, "rewrite: wrong"
        faults = curation.unreadable(
            thinking, section.readable, problem.tags.get("language"), chat.text_of(problem.prompt)
        )
        return (None, f"rewrite: {faults[0]}") if faults else (text, "")

    rows = []
    for (problem, sample), (text, why) in zip(pairs, checks.each(made, pairs), strict=True):
        if text is None:
            _count(counts, domain_of(problem), why)
            continue
        rows.append(
            {
                "prompt": problem.prompt,
                "response": text,
                "domain": domain_of(problem),
                "id": sample.id,
                "key": problem.key,
            }
        )
    return rows


# the whole set


def rows_at(path: Path) -> Artifact:
    """A folder of `.jsonl.zst` files of rows (`prompt`, `response`, `domain`) as data of a stage, keyed by its content.

    Raises:
        RunError: there is none, or a row is faulty; the message names the file and line.
    """
    files = _all(path)
    if not files:
        raise RunError(f"{path}: no rows here (a folder of .jsonl.zst files)")
    n = sum(len(list(_rows(p))) for p in files)
    return Artifact("dataset", path, key=" ".join(file_hash(p)[:16] for p in files), meta={"rows": n})


def _all(path: Path) -> list[Path]:
    return sorted(path.glob("*.jsonl.zst"))


def _rows(path: Path) -> Iterator[Row]:
    for number, row in enumerate(read_lines(path), 1):
        fault = None
        if not isinstance(row, dict):
            fault = "not an object"
        elif not isinstance(row.get("prompt"), str | list) or not row["prompt"]:
            fault = "no 'prompt', text or a list of messages"
        elif not isinstance(row.get("response"), str) or not row["response"].strip():
            fault = "no 'response', a text"
        if fault:
            raise RunError(f"{path}:{number}: {fault}")
        yield row


def _drops(rows: list[Row], section: Curate, held: Held) -> list[str]:
    """For each row why it is dropped, empty where it stays."""
    why = [""] * len(rows)
    seen: set[str] = set()
    for i, row in enumerate(rows):
        key = curation.same(f"{chat.text_of(row['prompt'])}\n{row['response']}")
        why[i] = "duplicate" if key in seen else ""
        seen.add(key)
    if section.near < 1:
        left = [i for i, w in enumerate(why) if not w]
        texts = [f"{chat.text_of(rows[i]['prompt'])}\n{rows[i]['response']}" for i in left]
        for i, near in zip(left, curation.near_duplicates(texts, section.near), strict=True):
            why[i] = "" if near is None else "near-duplicate"
    left = [i for i, w in enumerate(why) if not w]
    for i, shared in zip(left, curation.contaminated([Text.of_row(rows[i]) for i in left], held), strict=True):
        why[i] = "" if shared is None else f"contaminated: {shared.set}"
    return why


def _finish(
    stage: Stage, section: Curate, batches: Path, data: Collection[Artifact], held: Held, count: Callable[[str], int]
) -> Artifact:
    """Deduplicate and decontaminate the rows of all batches and of the other data; write what is left."""
    counts: dict[str, Counter[str]] = {}
    rows: list[Row] = []
    for path in _files(batches):
        head, *more = read_lines(path)
        rows += more
        for domain, of in head["counts"].items():
            counts.setdefault(domain, Counter()).update(of)
    for artifact in data:
        for path in _all(artifact.path):
            for row in _rows(path):
                rows.append({"domain": "general", **row, "tokens": count(row["response"])})
                counts.setdefault(rows[-1]["domain"], Counter())["added"] += 1
    kept: list[Row] = []
    for row, why in zip(rows, _drops(rows, section, held), strict=True):
        if why:
            counts[row["domain"]][why] += 1
        else:
            kept.append(row)
    results = summary(kept, counts) | {"held": {name: len(texts) for name, texts in held.sets.items()}, "ngram": held.n}
    write_json(stage.dir / "results.json", results)
    write_atomic(stage.dir / "results.md", markdown(results))
    if not kept:
        told = ", ".join(f"{why} {n}" for why, n in sum(counts.values(), Counter()).most_common() if why not in _SIZES)
        raise RunError(f"curation left no row to learn from ({told or 'there was none'})")
    with write_folder(stage.dir / "dataset") as folder:
        for at in range(0, len(kept), ROWS_A_FILE):
            write_lines(folder / f"{at // ROWS_A_FILE + 1:06d}.jsonl.zst", kept[at : at + ROWS_A_FILE])
    return Artifact("dataset", stage.dir / "dataset", meta={"kept": len(kept), "results": results})


# what it is made of

_SIZES = ("problems", "samples", "added")


def summary(rows: list[Row], counts: dict[str, Counter[str]]) -> dict[str, Any]:
    """By domain and in total: rows, turns, tokens (the paper's table 5), and why other samples were dropped.

    Tokens are the response's, its stop token included, in the policy's tokenizer.
    """
    domains = list(dict.fromkeys([*counts, *(r["domain"] for r in rows)]))

    def told(mine: list[Row], count: Counter[str]) -> dict[str, Any]:
        sized = [r["tokens"] for r in mine]
        turns = [1 if isinstance(r["prompt"], str) else sum(m["role"] == "user" for m in r["prompt"]) for r in mine]
        return {
            "rows": len(mine),
            "turns": sum(turns) / len(turns) if turns else None,
            "tokens": sum(sized),
            "mean_tokens": sum(sized) / len(sized) if sized else None,
            **{name: count[name] for name in _SIZES},
            "dropped": {why: n for why, n in sorted(count.items()) if why not in _SIZES},
        }

    by = {d: told([r for r in rows if r["domain"] == d], counts.get(d, Counter())) for d in domains}
    return {"domains": by, "total": told(rows, sum(counts.values(), Counter()))}


def markdown(results: dict[str, Any]) -> str:
    """The two tables, for results.md: what was kept, and what was dropped and why."""
    every = {**results["domains"], "**total**": results["total"]}
    whole = results["total"]["tokens"]

    def number(x: float | None, digits: int = 1) -> str:
        return "" if x is None else f"{x:,.{digits}f}"

    lines = ["| domain | rows | turns | mean tokens | share of tokens |", "|---|---|---|---|---|"]
    for name, d in every.items():
        share = f"{d['tokens'] / whole:.1%}" if whole else ""
        lines.append(f"| {name} | {d['rows']:,} | {number(d['turns'])} | {number(d['mean_tokens'])} | {share} |")
    reasons = list(results["total"]["dropped"])
    lines += [
        "",
        f"| domain | problems | sampled | added | {' | '.join([*reasons, 'kept'])} |",
        "|---" * (len(reasons) + 5) + "|",
    ]
    for name, d in every.items():
        cells = [
            name,
            *(f"{d[size]:,}" for size in _SIZES),
            *(f"{d['dropped'].get(r, 0):,}" for r in reasons),
            f"{d['rows']:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
