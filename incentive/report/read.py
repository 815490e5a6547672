"""A run directory as data. Whatever is missing or torn is None or left out: a report must open on any run."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import zstandard

from incentive import config, ledger
from incentive.records import Group, group_from_json

Kind = Literal["rl", "pretrain", "sft", "eval", "curate", "prefer", "reward", "other"]
Row = dict[str, Any]
SECTIONS = {
    "zero-longer": "longer",
    "cold-start": "cold",
    "rejection-sampling": "reject",
    "r1-reasoning": "reasoning",
    "r1": "general",
}
_KEY = re.compile(r"\b[0-9a-f]{16}\b")  # of an artifact


@dataclass(frozen=True)
class StageFiles:
    """One stage's folder."""

    name: str
    dir: Path
    kind: Kind
    section: dict[str, Any]  # its settings
    rows: list[Row]  # metrics.jsonl
    torn: int  # lines of it that could not be read
    about: dict[str, Any]  # stage.json
    done: dict[str, Any]  # done.json; {} while it is not
    results: dict[str, Any]  # results.json of an evaluation, by task
    told: dict[str, Any]  # results.json as it stands
    parameters: int | None

    def series(self, key: str) -> list[tuple[float, float]]:
        """(step, value) of the rows that have the key."""
        found = []
        for row in self.rows:
            value = row.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                found.append((float(row["step"]), float(value)))
        return found

    def keys(self, pattern: str) -> list[str]:
        """First groups of the pattern over the rows' keys, in order of appearance."""
        found = (re.fullmatch(pattern, key) for row in self.rows for key in row)
        return list(dict.fromkeys(m[1] for m in found if m))

    def rollouts(self) -> dict[int, Path]:
        """Step -> file, in order."""
        found = {
            int(m[1]): p for p in (self.dir / "rollouts").glob("*.jsonl.zst") if (m := re.match(r"(\d+)\.", p.name))
        }
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class RunFiles:
    """Everything of a run that the page shows."""

    dir: Path
    about: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    done: bool
    preflight: list[dict[str, Any]]
    controls: dict[str, Any]
    skills: dict[str, Any]
    limits: dict[str, Any]
    stages: list[StageFiles]  # in the order of the flow
    aside: list[str]  # folders of stages under other settings
    contamination: dict[str, Any]

    def of(self, kind: Kind) -> list[StageFiles]:
        return [s for s in self.stages if s.kind == kind]

    @property
    def cores(self) -> int:
        cores = self.environment.get("cores")
        return cores if isinstance(cores, int) and cores > 0 else int(self.config.get("threads") or 1)

    @property
    def price(self) -> float:
        default = config.Run.model_fields["price_per_core_hour"].default
        price = self.config.get("price_per_core_hour", default)
        return float(price) if isinstance(price, int | float) else float(default)

    @property
    def parameters(self) -> int | None:
        """Of the first model: a student, which comes last, has fewer."""
        return next((s.parameters for s in self.stages if s.parameters), None)

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Name -> results by task: `before` first, `after` last; summary.json stands in for a lost results.json."""
        found = {s.name: s.results for s in self.stages if s.results}
        for name in ("before", "after"):
            if name not in found and tested(self.summary.get(name)):
                found[name] = tested(self.summary[name])
        return dict(sorted(found.items(), key=lambda item: (item[0] != "before", item[0] == "after")))

    def costs(self, stage: StageFiles) -> ledger.Costs | None:
        """The ledger of a stage, or None where its metrics do not allow one."""
        scorings = 0
        if (
            stage.kind == "rl"
        ):  # old log-probs once a rollout feeds several updates; the reference's where there is a KL
            scorings = int(stage.section.get("steps_per_generation", 1) > 1) + int(stage.section.get("beta", 0.001) > 0)
        parameters = stage.parameters or self.parameters or 0
        try:
            return ledger.fold(stage.dir / "metrics.jsonl", parameters, self.cores, self.price, scorings=scorings)
        except (OSError, ledger.LedgerError):
            return None


def read_json(path: Path) -> Any:
    """The content of a JSON file; None where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def fields(value: Any) -> dict[str, Any]:
    """The value as an object; empty where it is none."""
    return value if isinstance(value, dict) else {}


def tested(value: Any) -> dict[str, Any]:
    """Results by task: the entries that are results."""
    return {k: v for k, v in fields(value).items() if isinstance(v, dict) and "pass@1" in v}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _rows(path: Path) -> tuple[list[Row], int]:
    """(rows with a step, lines that are none)."""
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except OSError:
        return [], 0
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows, len(lines) - len(rows)


def _parameters(stage: Path) -> int | None:
    checkpoints = sorted(stage.glob("checkpoints/step-*"))
    folders = [stage / "model", stage / "best", *reversed(checkpoints)]
    return next((n for folder in folders if (n := ledger.count_parameters(folder))), None)


def base_parameters(base: Any) -> int | None:
    """Of the base that the run started from: shipped in the package, or a folder that is still there."""
    if not isinstance(base, str) or not base:
        return None
    shipped = Path(__file__).parent.parent / "assets" / base
    return next((n for folder in (shipped, Path(base)) if (n := ledger.count_parameters(folder))), None)


def _kind(section: dict[str, Any], rows: list[Row], results: dict[str, Any]) -> Kind:
    if "num_generations" in section or any("reward" in row for row in rows[:50]):
        return "rl"
    if results or {"samples", "split"} <= section.keys() or any("time/evaluate" in row for row in rows[:1]):
        return "eval"
    if section.get("kind") in ("pairwise", "pointwise"):
        return "reward"
    if "readable" in section or "threshold" in section:
        return "curate" if "readable" in section else "prefer"
    if "epochs" in section:
        return "sft"
    return "pretrain" if "documents" in section or any("nll" in row for row in rows[:50]) else "other"


def _stage(folder: Path, settings: dict[str, Any]) -> StageFiles:
    about, done = fields(read_json(folder / "stage.json")), fields(read_json(folder / "done.json"))
    rows, torn = _rows(folder / "metrics.jsonl")
    told = fields(read_json(folder / "results.json"))
    results = tested(told)
    section = fields(fields(about.get("of")).get("section"))
    kind = _kind(section, rows, results)
    own = fields(settings.get("r1")).get(SECTIONS.get(folder.name, folder.name), settings.get(kind))
    section = {**fields(own), **section}  # stage.json leaves out what counts in no key, max_steps say
    return StageFiles(folder.name, folder, kind, section, rows, torn, about, done, results, told, _parameters(folder))


def inputs(stage: StageFiles) -> list[str]:
    """Keys of what a stage was made from."""
    of = given(stage)
    found = [of.get("start"), *(of.get("data") or [] if isinstance(of.get("data"), list) else [])]
    found += stage.done.get("inputs") or []
    return list(dict.fromkeys(k for k in found if isinstance(k, str) and k))


def given(stage: StageFiles) -> dict[str, Any]:
    """Its inputs by name, as its key hashes them."""
    return fields(fields(stage.about.get("of")).get("inputs"))


def graders(stage: StageFiles) -> list[str]:
    """What of its inputs looks like a key but is neither weights nor data: a reward model in a grade, say."""
    more = (v for name, v in given(stage).items() if name not in ("start", "data") and isinstance(v, str))
    return [k for text in more for k in _KEY.findall(text) if k not in inputs(stage)]


def makers(stages: Iterable[StageFiles]) -> dict[str, StageFiles]:
    """Stages by the key of what they made."""
    return {s.done["artifact"]: s for s in stages if isinstance(s.done.get("artifact"), str)}


def _in_order(stages: list[StageFiles]) -> list[StageFiles]:
    """After what they were made from, as the recipe runs them: `before` ahead of all, other evaluations in the end."""
    made = makers(stages)
    parents = {s.name: [made[k] for k in (*inputs(s), *graders(s)) if k in made and made[k] is not s] for s in stages}
    used = {p.name for s in stages if s.kind != "eval" for p in parents[s.name]}
    found: dict[str, StageFiles] = {}

    def depth(stage: StageFiles, seen: frozenset[str] = frozenset()) -> int:
        up = [p for p in parents[stage.name] if p.name not in seen | {stage.name}]
        return max((1 + depth(p, seen | {stage.name}) for p in up), default=0)

    def visit(stage: StageFiles, seen: frozenset[str] = frozenset()) -> None:
        for p in parents[stage.name]:
            if p.name not in found and p.name not in seen:
                visit(p, seen | {stage.name})
        found.setdefault(stage.name, stage)

    ends = [s for s in stages if s.kind == "eval" or s.name not in used]
    for stage in sorted(ends, key=lambda s: (s.kind == "eval", -depth(s) if s.kind != "eval" else depth(s), s.name)):
        visit(stage)
    for stage in stages:  # in a circle, which only a torn file can tell of
        found.setdefault(stage.name, stage)
    return sorted(found.values(), key=lambda s: (s.name != "before", s.name == "after"))


def _skills(folder: Path, stages: list[StageFiles]) -> dict[str, Any]:
    places = [folder, *(s.dir for s in stages), *(s.dir / "model" for s in stages)]
    for place in places:
        if found := fields(read_json(place / "skills.json")):
            return found
    return next((s.done["meta"]["skills"] for s in stages if fields(fields(s.done.get("meta")).get("skills"))), {})


def read_run(folder: Path) -> RunFiles:
    """Read a run directory, finished or not."""
    settings = _toml(folder / "config.toml")
    subfolders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    aside = [p.name for p in subfolders if ".old-" in p.name]
    live = [p for p in subfolders if p.name not in aside]
    marks = ("stage.json", "metrics.jsonl", "results.json")
    stages = _in_order([_stage(p, settings) for p in live if any((p / m).exists() for m in marks)])
    preflight = read_json(folder / "preflight.json")
    return RunFiles(
        dir=folder,
        about=fields(read_json(folder / "run.json")),
        config=settings,
        environment=fields(read_json(folder / "environment.json")),
        summary=fields(read_json(folder / "summary.json")),
        done=(folder / "done.json").exists(),
        preflight=[p for p in preflight if isinstance(p, dict)] if isinstance(preflight, list) else [],
        controls=fields(read_json(folder / "controls.json")),
        skills=_skills(folder, stages),
        limits=fields(read_json(folder / "limits.json")),
        stages=stages,
        aside=aside,
        contamination=fields(read_json(folder / "contamination.json")),
    )


def groups(path: Path, limit: int) -> Iterator[Group]:
    """The first `limit` groups of a rollout file. It reads no further: an evaluation stores very many answers."""
    try:
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            for line in islice(file, limit):
                yield group_from_json(json.loads(line))
    except (OSError, ValueError, KeyError, TypeError, zstandard.ZstdError):
        return
