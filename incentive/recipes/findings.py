"""What the arms of `controls-mini` say: a digest of each, then tables, curves and one paragraph from the digests."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from incentive import chat, measure
from incentive.config import load_toml
from incentive.files import write_atomic
from incentive.recipes.controls import SEEDS, TASKS, UNSEEN
from incentive.records import Group, hash64
from incentive.stage import Stage
from incentive.tasks.countdown import LIMIT
from incentive.tasks.expression import OPS

LABELS = {
    "coin": "a coin for a reward",
    "format": "format reward alone",
    "blind": "base that cannot verify",
    "sft-1": "SFT on own right answers, one round",
    "sft-3": "SFT on own right answers, three rounds",
    "sft-3-long": "SFT on own right answers, three rounds, three times the sampled tokens",
    "zero-other-base": "RL from another base seed",
    "dose-0": "RL, dose 0%",
    "dose-0-hot": "RL, dose 0%, temperature 1.3",
    "dose-10": "RL, dose 10%",
    "dose-50": "RL, dose 50%",
}
Table = dict[str, Any]


def digest(folder: Path) -> dict[str, Any]:
    """What a finished arm adds to the findings: small, so that all arms' figures can lie beside the page made from them.

    Returns:
        `config` and `environment` of the run; for each evaluation (`before`, `after`) its `results`; for each task
        `right`, the right answers to each problem in order, `problems`, a hash of the problems' keys in that order, and
        `decomposition`.
    """
    out: dict[str, Any] = {"config": load_toml(folder / "config.toml")}
    base, arms = Path(out["config"]["base"]), folder.resolve().parent
    if base.is_relative_to(arms):  # another arm made it: said without where it lies on this machine
        out["config"]["base"] = base.relative_to(arms).as_posix()
    out["environment"] = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    for when in ("before", "after"):
        if not (path := folder / when / "results.json").exists():
            continue
        results = json.loads(path.read_text(encoding="utf-8"))
        found = out[when] = {"results": results, "right": {}, "problems": {}, "decomposition": {}}
        for n, task in enumerate(results):
            groups = Stage(folder / when).read_rollouts(n + 1)
            found["right"][task] = [sum(bool(s.parts.get("accuracy")) for s in g.scores) for g in groups]
            found["problems"][task] = f"{hash64(*(g.problem.key for g in groups)):016x}"
            if task in TASKS and results[task]["samples"] <= 16:
                found["decomposition"][task] = decomposition(groups)
    return out


@lru_cache(maxsize=64)
def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _results(root: Path, arm: str, when: str) -> dict[str, Any] | None:
    return _read(root / f"{arm}.json").get(when, {}).get("results")


def _percent(x: float | None) -> str:
    return "-" if x is None else f"{100 * x:.1f}%"


def _told(result: dict[str, Any]) -> str:
    low, high = result["ci95"]
    return f"{_percent(result['pass@1'])} ({_percent(low)} to {_percent(high)})"


def paired(root: Path, a: tuple[str, str], b: tuple[str, str], task: str) -> measure.Difference:
    """Accuracy of a minus that of b, each (arm, when), on the problems that both answered.

    Raises:
        ValueError: they answered different problems.
    """
    (x, y) = (_read(root / f"{arm}.json")[when] for arm, when in (a, b))
    if x["problems"][task] != y["problems"][task]:
        raise ValueError(f"{a} and {b} answered different problems of {task}")
    n, m = (found["results"][task]["samples"] for found in (x, y))
    return measure.paired_difference([r / n for r in x["right"][task]], [r / m for r in y["right"][task]])


@lru_cache(maxsize=4096)
def chains(numbers: tuple[int, ...], target: int) -> tuple[int, int]:
    """(left-to-right chains within 0..99, those that reach the target), the two orders of a first sum or product as one."""
    total = right = 0

    def go(value: int, rest: tuple[int, ...]) -> None:
        nonlocal total, right
        if not rest:
            total, right = total + 1, right + (value == target)
            return
        for i in dict(zip(rest, range(len(rest)), strict=True)).values():
            left = rest[:i] + rest[i + 1 :]
            for f in OPS.values():
                if 0 <= (v := f(value, rest[i])) <= LIMIT:
                    go(v, left)

    pairs = {(numbers[i], numbers[j]): (i, j) for i in range(len(numbers)) for j in range(len(numbers)) if i != j}
    for (x, y), (i, j) in pairs.items():
        left = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
        for op, f in OPS.items():
            if (op == "-" or x <= y) and 0 <= (v := f(x, y)) <= LIMIT:
                go(v, left)
    return total, right


def enumerator(numbers: tuple[int, ...], target: int, tries: int) -> float:
    """Chance that `tries` distinct chains, drawn evenly, hold one that is right."""
    total, right = chains(tuple(sorted(numbers)), target)
    tries = min(tries, total)
    return 1 - math.comb(total - right, tries) / math.comb(total, tries) if tries else 0.0


def decomposition(groups: list[Group]) -> dict[str, float | None]:
    """Success of one try, tries a response, the check's quality, and an even enumerator given as many tries."""
    first, each, count, even, checks = [], [], [], [], []
    for g in groups:
        numbers, target = tuple(g.problem.tags["numbers"]), g.problem.tags["target"]
        for s in g.samples:
            found = measure.tries(chat.split(s.text)[0])
            checks.append((found, target))
            count.append(len(found))
            even.append(enumerator(numbers, target, len(found)))
            each += [t.right(target) for t in found]
            if found:
                first.append(found[0].right(target))
    quality = measure.check_quality(checks)
    mean = lambda xs: sum(xs) / len(xs) if xs else None  # noqa: E731
    return {
        "first": mean(first), "each": mean(each), "tries": mean(count), "even": mean(even),
        "precision": quality.precision, "recall": quality.recall,
    }  # fmt: skip


def _main(root: Path) -> Iterator[Table]:
    rows = []
    for arm in sorted(path.stem for path in root.glob("zero-*.json")):
        before, after = _results(root, arm, "before"), _results(root, arm, "after")
        if not before or not after:
            continue
        for task in TASKS:
            b, a = before[task], after[task]
            gain = paired(root, (arm, "after"), (arm, "before"), task)
            rows.append([
                arm, task, _told(b), _told(a), f"+{100 * gain.mean:.1f} ({100 * gain.low:.1f} to {100 * gain.high:.1f})",
                f"{b['mean_tokens']:.0f} -> {a['mean_tokens']:.0f} (x{a['mean_tokens'] / b['mean_tokens']:.1f})",
                f"{b['reflections_per_response']:.2f} -> {a['reflections_per_response']:.2f} "
                f"(x{a['reflections_per_response'] / max(b['reflections_per_response'], 1e-9):.1f})",
            ])  # fmt: skip
    if rows:
        yield {
            "title": "R1-Zero on the test split",
            "note": "pass@1 at temperature 0.6, top-p 0.95, 4 answers to each of 1,000 problems, 95% intervals over problems; the gain is paired.",
            "columns": ["run", "task", "before", "after", "gain, points", "tokens", "reflections a response"],
            "rows": rows,
        }  # fmt: skip


def _arms(root: Path) -> Iterator[Table]:
    zero, rows = f"zero-{SEEDS[0]}", []
    for arm in (zero, *LABELS):
        after, before = _results(root, arm, "after"), _results(root, arm, "before")
        if not after or not before:
            continue
        row = [LABELS.get(arm, "R1-Zero")]
        for task in TASKS:
            row += [_percent(before[task]["pass@1"]), _told(after[task])]
            if arm == zero or not _results(root, zero, "after"):
                row.append("")
            else:
                d = paired(root, (arm, "after"), (zero, "after"), task)
                row.append(f"{100 * d.mean:+.1f} ({100 * d.low:.1f} to {100 * d.high:.1f})")
        task = after[TASKS[0]]
        rows.append([*row, f"{task['mean_tokens']:.0f}", f"{task['reflections_per_response']:.2f}"])
    if rows:
        yield {
            "title": "Controls",
            "note": "RL arms have the same updates and answers, the SFT arms as many sampled tokens where nothing else is said. The difference is to R1-Zero's first seed on the same problems, in points, paired, with its 95% interval.",
            "columns": ["arm", "3 numbers: base", "after", "against R1-Zero", "4 numbers: base", "after", "against R1-Zero", "tokens (3)", "reflections (3)"],
            "rows": rows,
        }  # fmt: skip


def _decomposed(root: Path) -> Iterator[Table]:
    arm, rows = f"zero-{SEEDS[0]}", []
    for when in ("before", "after"):
        found = _results(root, arm, when)
        for task in TASKS if found else ():
            d = _read(root / f"{arm}.json")[when]["decomposition"][task]
            assert found
            rows.append([
                task, when, _percent(found[task]["pass@1"]), _percent(d["first"]), _percent(d["each"]), f"{d['tries']:.2f}",
                _percent(d["even"]), _percent(d["precision"]), _percent(d["recall"]),
            ])  # fmt: skip
    if rows:
        yield {
            "title": "What changed: tries, or how good a try is",
            "note": "An even enumerator draws as many distinct chains as the model made tries, and checks without fault.",
            "columns": ["task", "", "pass@1", "first try right", "a try right", "tries", "even enumerator", "check: precision", "recall"],
            "rows": rows,
        }  # fmt: skip


def _unseen(root: Path) -> Iterator[Table]:
    rows = []
    for task in UNSEEN:
        before, after = (_results(root, f"{task}-{who}", "before") for who in ("base", "zero"))
        if before and after:
            d = paired(root, (f"{task}-zero", "before"), (f"{task}-base", "before"), task)
            gain = f"{100 * d.mean:+.1f} ({100 * d.low:.1f} to {100 * d.high:.1f})"
            rows.append([task, str(before[task]["problems"]), _told(before[task]), _told(after[task]), gain])
    if rows:
        yield {
            "title": "Difficulty that RL never saw",
            "note": "Five numbers; three and four numbers with targets of 80 to 99 (RL saw 1 to 79). The gain is paired.",
            "columns": ["task", "problems", "base", "R1-Zero", "gain, points"],
            "rows": rows,
        }


def _passk(root: Path) -> tuple[list[Table], list[dict[str, Any]]]:
    before, after = _results(root, "passk-base", "before"), _results(root, "passk-zero", "before")
    if not before or not after:
        return [], []
    curves, rows = [], []
    for task in TASKS:
        ks = sorted(int(k.partition("@")[2]) for k in before[task] if k.startswith("pass@"))
        series = [("base", before[task]), ("R1-Zero", after[task])]
        points = [{"name": name, "points": [[k, r[f"pass@{k}"]] for k in ks]} for name, r in series]
        curves.append({"title": f"pass@k, {task}", "x": "k", "y": "pass@k", "logx": True, "series": points})
        rows += [[task, name, *(_percent(r[f"pass@{k}"]) for k in ks)] for name, r in series]
    note = f"Temperature 1, {before[TASKS[0]]['samples']} answers to each of {before[TASKS[0]]['problems']} problems."
    return [{"title": "pass@k", "note": note, "columns": ["task", "", *map(str, ks)], "rows": rows}], curves


def paragraph(root: Path) -> str:
    """For a sceptic, from the figures alone; what is not measured yet is not said."""
    out = [
        "The habits are in the base's corpus, as they are in the web: some documents check a try and then try again. RL decides "
        "to use them, and nothing tells it which."
    ]
    zero = f"zero-{SEEDS[0]}"
    main = _results(root, zero, "after")
    if main:
        d, b = (_read(root / f"{zero}.json")[when]["decomposition"][TASKS[0]] for when in ("after", "before"))
        out.append(
            f"On three numbers the first try is right {_percent(b['first'])} of the time before and {_percent(d['first'])} after, "
            f"with {b['tries']:.1f} and {d['tries']:.1f} tries; an even enumerator with as many tries would reach {_percent(d['even'])}, "
            f"the model reaches {_percent(main[TASKS[0]]['pass@1'])}."
        )
    base, after = _results(root, "passk-base", "before"), _results(root, "passk-zero", "before")
    if base and after:
        k = base[TASKS[0]]["samples"]
        for task in TASKS:
            gap = after[task][f"pass@{k}"] - base[task][f"pass@{k}"]
            verdict = "RL goes beyond what sampling the base gives" if gap > 0.02 else (
                "RL sharpens what sampling the base already gives" if gap > -0.02 else "sampling the base more often reaches further than RL"
            )  # fmt: skip
            out.append(
                f"On {task} pass@{k} is {_percent(base[task][f'pass@{k}'])} for the base and {_percent(after[task][f'pass@{k}'])} after: {verdict}."
            )

    def told(*arms: str) -> str:
        """`what: 45.1% and 17.8%` of each arm that is there: three and four numbers."""
        found = [(LABELS[arm], r) for arm in arms if (r := _results(root, arm, "after"))]
        return "; ".join(f"{label} {' and '.join(_percent(r[t]['pass@1']) for t in TASKS)}" for label, r in found)

    if main and (same := told("coin", "format")):
        before = _results(root, zero, "before")
        assert before
        base_ = " and ".join(_percent(before[t]["pass@1"]) for t in TASKS)
        out.append(f"Updates that do not reward right answers, from a base at {base_}: {same}.")
    if without := told("blind", "dose-0", "dose-0-hot"):
        out.append(f"The same RL where the base lacks half of the habit: {without}.")
    if doses := told("dose-10", "dose-50"):
        out.append(f"More of the habit in the corpus: {doses}.")
    if tuned := told("sft-1", "sft-3"):
        out.append(f"Fine-tuning the base on its own right answers, with as many sampled tokens as RL: {tuned}.")
        best = max((a for a in ("sft-1", "sft-3") if _results(root, a, "after")), key=lambda a: sum(
            _results(root, a, "after")[t]["pass@1"] for t in TASKS))  # type: ignore[index]  # fmt: skip
        if main:
            gaps = [paired(root, (best, "after"), (zero, "after"), t) for t in TASKS]
            much = " and ".join(f"{100 * g.mean:+.1f} ({100 * g.low:.1f} to {100 * g.high:.1f})" for g in gaps)
            verdict = (
                "most of what RL reaches can be had without it" if sum(g.mean for g in gaps) < 0 else
                "what RL reaches can be had without it"
            )  # fmt: skip
            out.append(f"The better of these is {much} points from R1-Zero: here {verdict}.")
    if longer := told("sft-3-long"):
        out.append(f"It gains from more: {longer}.")
    if other := _results(root, "zero-other-base", "after"):
        out.append(f"From another base seed: {' and '.join(_percent(other[t]['pass@1']) for t in TASKS)}.")
    return " ".join(out)


def collect(root: Path) -> dict[str, Any]:
    """The content of controls.json, from the digests in a folder; arms that are not done are left out."""
    passk, curves = _passk(root)
    tables = [*_main(root), *_arms(root), *_decomposed(root), *passk, *_unseen(root)]
    return {"paragraph": paragraph(root), "tables": tables, "curves": curves}


def write_page(path: Path, found: dict[str, Any]) -> None:
    """The findings as Markdown."""
    lines = [
        "# Results",
        "",
        "Written by `make prove` from the arms' digests (`docs/results/`).",
        "",
        found["paragraph"],
        "",
    ]
    for t in found["tables"]:
        lines += [
            f"## {t['title']}",
            "",
            t["note"],
            "",
            "| " + " | ".join(t["columns"]) + " |",
            "|" + "---|" * len(t["columns"]),
        ]
        lines += ["| " + " | ".join(map(str, row)) + " |" for row in t["rows"]] + [""]
    write_atomic(path, "\n".join(lines))
