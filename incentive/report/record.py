"""What a run was: its settings beside the paper's, its cost, its surroundings, its lineage, its files."""

from __future__ import annotations

import itertools
import json
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from incentive import config, ledger
from incentive.report import svg
from incentive.report.curves import PHASES
from incentive.report.lineage import keys
from incentive.report.markup import Html, details, esc, figure, join, plain, section, share, table, tag
from incentive.report.outcome import money
from incentive.report.read import RunFiles, StageFiles
from incentive.report.sources import fact

VERDICTS = {"as": "as the paper", "differs": "differs", "open": "paper open"}


# settings


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_value(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return plain(json.dumps(value) if isinstance(value, bool) else value)


def flat(node: dict[str, Any], model: type[BaseModel] | None) -> list[tuple[str, Any, str]]:
    """(dotted key, value, what it means) of a section; meanings come from the settings' own docstrings."""
    out: list[tuple[str, Any, str]] = []
    for key, value in node.items():
        info = model.model_fields.get(key) if model else None
        inner = info.annotation if info else None
        deeper = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
        if isinstance(value, dict) and (deeper or model is None):
            out += [(f"{key}.{k}", v, text) for k, v, text in flat(value, deeper)]
        else:
            text = (info.description or "") if info else ""
            out.append((key, value, text.replace("`", "").replace("->", "→")))
    return out


_MODELS: dict[str, type[BaseModel]] = {"rl": config.RL, "eval": config.Eval, "pretrain": config.Pretrain}


def _settings(name: str, node: dict[str, Any]) -> Html:
    model = _MODELS.get(name, config.Run if not name else None)
    rows: list[list[object]] = []
    marks, known = [], False
    for key, value, meaning in flat(node, model):
        says = fact(name, key)
        known = known or says is not None
        verdict = says.verdict(value) if says else ""
        label = Html(f"<code>{esc(key)}</code>" + (f"<br><small>{esc(meaning)}</small>" if meaning else ""))
        badge = tag("span", VERDICTS[verdict], cls=f"tagged {verdict}") if verdict else ""
        rows.append([label, _value(value), says.text if says else "", says.source if says else "", badge])
        marks.append(verdict)
    if known:
        return table(["setting", "this run", "paper", "where", ""], rows, marks=marks)
    return table(["setting", "this run"], [row[:2] for row in rows])


def settings(run: RunFiles) -> Html:
    """The resolved settings; those of the RL method beside the paper's."""
    if not run.config:
        return Html("")
    sections = {k: v for k, v in run.config.items() if isinstance(v, dict)}
    top = {k: v for k, v in run.config.items() if k not in sections}
    note = (
        "Everything in config.toml, defaults included, beside R1-Zero's values; differences are marked, and what the "
        "paper leaves open is our choice. Numbers in brackets: sections of the project's fact sheet on the paper."
    )
    parts: list[str] = [tag("p", note, cls="note"), tag("h3", "Run"), _settings("", top)]
    for name, node in sorted(sections.items(), key=lambda item: item[0] != "rl"):
        title = {"rl": "Reinforcement", "eval": "Evaluation", "pretrain": "Pretraining"}.get(name, name)
        shown = _settings(name, node)
        parts.append(details(f"{title} [{name}]", shown, open_=name == "rl"))
    return section("settings", "Settings, beside the paper's", *parts)


# cost


def cost(run: RunFiles) -> Html:
    """The ledger of every stage and of the run."""
    costs = {s.name: c for s in run.stages if s.rows and (c := run.costs(s))}
    broken = [s.name for s in run.stages if s.rows and s.name not in costs]
    if not costs and not broken:
        return Html("")
    total = sum(costs.values(), ledger.Costs())
    cores = f"{run.cores} core" + ("s" if run.cores != 1 else "")
    rate = f"${run.price:g} a core-hour, the run's stated price"
    notes = [
        f"Time and tokens are measured; the run held {cores}, busy or not. Money: {rate}. FLOPs are an estimate, 2 a "
        "weight and token forward and 6 forward and backward, without attention's own products. "
        f"Energy is an estimate at {ledger.WATTS_PER_CORE:g} W a core.",
        "Start-up is not in it, nor are steps that a kill threw away"
        + ("." if run.of("pretrain") else ", nor the making of the base model."),
    ]
    if not run.parameters:
        notes.append("No weights lie in this run yet, so FLOPs could not be counted.")
    if broken:
        notes.append(f"The metrics of {', '.join(broken)} cannot be costed.")
    parts: list[str] = [tag("p", longest(run, costs))] if len(costs) > 3 and total.seconds else []
    parts += [_ledger(costs, total)] if costs else []
    parts += [tag("p", n, cls="note") for n in notes]
    phases = [(name, list(_phases(c).items())) for name, c in costs.items()]
    ends = {
        name: f"{ledger.duration(c.seconds)}, {share(c.seconds / total.seconds, 0)}"
        for name, c in costs.items()
        if c.seconds
    }
    chart = svg.bar_chart(
        phases, about="wall time of each stage by phase", x_format=ledger.duration, colours=PHASES, ends=ends
    )
    parts.append(tag("div", figure(chart, "Wall time by phase"), cls="wide"))
    for name, c in costs.items():
        if c.phases:
            parts.append(details(f"Ledger of {name}", table(["", ""], ledger.table(c))))
    return section("cost", "What it cost", *parts)


def _ledger(costs: dict[str, ledger.Costs], total: ledger.Costs) -> Html:
    """A row a stage and, where there are several, one for all of them."""

    def row(name: str, c: ledger.Costs) -> list[object]:
        tokens = [f"{n:,}" for n in (c.tokens_prompt, c.tokens_sampled, c.tokens_trained)]
        part = share(c.seconds / total.seconds if total.seconds else None, 0)
        energy = f"{c.energy_wh:.2f} Wh"
        return [name, ledger.duration(c.seconds), part, f"{c.core_hours:.3f}", *tokens, f"{c.flops:.2e}", energy, money(c.money)]  # fmt: skip

    columns = ["stage", "wall time", "share", "core-hours", "prompt tokens", "sampled", "trained", "FLOPs", "energy", "money"]  # fmt: skip
    rows = [row(n, c) for n, c in costs.items()]
    whole = [row("together", total)] if len(costs) > 1 else []
    return table(columns, [*rows, *whole], "numbers", [*([""] * len(rows)), "total"])


AIM = 20 * 60.0  # seconds that the whole of r1-mini is to take on two cores


def longest(run: RunFiles, costs: dict[str, ledger.Costs]) -> str:
    """How long the whole took and where most of it went."""
    total = sum(costs.values(), ledger.Costs()).seconds
    evaluated = {s.name for s in run.of("eval")}
    name = max(costs, key=lambda n: costs[n].seconds)
    phases = _phases(costs[name])
    most = max(phases, key=lambda p: phases[p])
    tested = sum(c.seconds for n, c in costs.items() if n in evaluated)
    text = f"{ledger.duration(total)} in all. The longest stage is {name}, {ledger.duration(costs[name].seconds)} or {share(costs[name].seconds / total, 0)}"  # fmt: skip
    text += f", most of it {most} ({share(phases[most] / costs[name].seconds, 0)})." if len(phases) > 1 else "."
    if evaluated:
        text += f" Evaluation took {share(tested / total, 0)}."
    if run.about.get("recipe") == "r1-mini" and run.done:
        over = total - AIM
        text += f" The aim is 20 minutes on two cores; this is {ledger.duration(abs(over))} {'over' if over > 0 else 'under'} it, on {run.cores}."  # fmt: skip
    return text


def _phases(c: ledger.Costs) -> dict[str, float]:
    named = {k: v for k, v in c.phases.items() if v > 0}
    rest = c.seconds - sum(named.values())
    if not named:  # pretraining and the like: a step is its update
        return {"update": c.seconds}
    ordered = {k: named[k] for k in sorted(named, key=lambda k: (list(PHASES).index(k) if k in PHASES else 9, k))}
    return ordered | ({"other": rest} if rest > 0.005 * c.seconds else {})


# surroundings


def _changes(run: RunFiles) -> list[str]:
    """What differed between starts of this run: such a run may not repeat bit for bit."""
    starts = [*(e for e in run.environment.get("earlier") or [] if isinstance(e, dict)), run.environment]
    noted = {"schema", "platform", "cores", "commit", "earlier"}
    out = []
    for old, new in itertools.pairwise(starts):
        keys = [k for k in {**old, **new} if k not in noted and old.get(k) != new.get(k)]
        out += [f"resumed with another {k}: {plain(old.get(k))}, then {plain(new.get(k))}" for k in keys]
    return out


def warnings(run: RunFiles) -> list[str]:
    out = _changes(run)
    for stage in run.stages:
        if stage.torn:
            out.append(f"{stage.name}: {stage.torn} line(s) of metrics.jsonl could not be read and are left out")
        lost = [(r["step"], k) for r in stage.rows for k in r.get("nonfinite") or {}]
        if lost:
            out.append(
                f"{stage.name}: {len(lost)} value(s) were not finite; the first is {lost[0][1]} at step {lost[0][0]}"
            )
        ungraded = sum(y for _, y in stage.series("ungraded"))
        if ungraded:
            out.append(f"{stage.name}: {ungraded:.0f} sample(s) could not be graded and were left out of their groups")
    out += [f"{name}: made under other settings and set aside" for name in run.aside]
    if not run.done:
        out.append("the run is not finished: it has no done.json")
    return out


FILES = (
    "config.toml",
    "environment.json",
    "run.json",
    "preflight.json",
    "summary.json",
    "controls.json",
    "skills.json",
    "limits.json",
    "contamination.json",
    "table.md",
    "done.json",
)
STAGE_FILES = {
    "stage.json": "what its key hashes",
    "metrics.jsonl": "a row for every step",
    "rollouts": "every stored answer, graded",
    "checkpoints": "weights and exact training state",
    "best": "the weights that did best on val",
    "best.json": "their step",
    "results.json": "the evaluation",
    "model": "the final weights, Hugging Face format",
    "done.json": "written last",
}


def _link(path: str, folder: bool = False) -> Html:
    return Html(
        f'<a href="{esc(quote(path))}{"/" if folder else ""}"><code>{esc(path)}{"/" if folder else ""}</code></a>'
    )


def _files(run: RunFiles) -> Html:
    rows: list[list[object]] = [[_link(name), ""] for name in FILES if (run.dir / name).exists()]
    for stage in run.stages:
        rows += [_file(stage, name, text) for name, text in STAGE_FILES.items() if (stage.dir / name).exists()]
    return table(["file", "what"], rows) if rows else Html("")


def _file(stage: StageFiles, name: str, text: str) -> list[object]:
    path = stage.dir / name
    if name == "rollouts":
        text = f"{text}: {len(stage.rollouts())} file(s)"
    return [_link(f"{stage.name}/{name}", path.is_dir()), text]


def surroundings(run: RunFiles) -> Html:
    env = {k: v for k, v in run.environment.items() if k != "earlier" and v is not None}
    seed = run.about.get("seed", run.config.get("seed"))
    rows = [["seed", _value(seed)]] if seed is not None else []
    if run.about.get("created"):
        rows.append(["begun", plain(run.about["created"])])
    rows += [[k, _value(v)] for k, v in env.items()]
    told = warnings(run)
    parts: list[str] = []
    if told:
        items = join(tag("li", tag("span", "!", cls="mark"), t) for t in told)
        parts += [tag("h3", "Warnings"), tag("ul", items, cls="list")]
    if lineage := keys(run):
        parts += [tag("h3", "Lineage"), lineage]
    if rows:
        parts += [tag("h3", "Environment and seed"), table(["", ""], rows)]
    if files := _files(run):
        note = tag("p", "Relative to the folder of this page.", cls="note")
        parts.append(details("Files of this run", note, files))
    return section("record", "Record", *parts)
