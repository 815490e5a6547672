"""What came out: the headline, the evaluation, controls, the base model's skills."""

from __future__ import annotations

import re
from typing import Any

from incentive import ledger
from incentive.report import svg, whole
from incentive.report.markup import (
    Html,
    amount,
    details,
    esc,
    factor,
    figure,
    join,
    plain,
    real,
    section,
    share,
    span,
    table,
    tag,
)
from incentive.report.paper import title as model_name
from incentive.report.read import RunFiles, StageFiles, base_parameters, fields
from incentive.report.standing import models, tasks_of
from incentive.report.svg import Dot, Series

Results = dict[str, Any]
SHIPPED = "base-mini"  # the base whose corpus is ours to vouch for
MARKS = {"ok": "✓", "pass": "✓", "info": "·", "warning": "!", "warn": "!", "error": "✗", "stop": "✗", "fail": "✗"}


def money(value: float) -> str:
    return f"${value:,.2f}" if value >= 1 else f"${value:.4f}"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


# headline


def _base(run: RunFiles) -> str:
    return plain(run.config.get("base") or "a base model").removeprefix("…/")


def _steps(stage: StageFiles) -> int:
    return max((row["step"] for row in stage.rows), default=0)


def _story(run: RunFiles) -> Html:
    """What was trained, from what, on which problems, in a few sentences."""
    trained, base, found = run.of("rl"), _base(run), models(run)
    size = run.parameters or base_parameters(run.config.get("base"))
    model = f"the language model {base}" if run.config.get("base") else "a language model"
    model += f", {size / 1e6:.2f} million parameters," if size else ""
    if found or len(trained) > 1:
        return whole.story(run, model)
    if not trained:
        made = run.of("pretrain")
        if made:
            done = f"{_steps(made[0]):,} updates of next-token prediction on made-up documents"
            return esc(f"A base model made from nothing: {done}.")
        evaluated = f"An evaluation of {model.rstrip(',')}."
        return esc(evaluated if run.evaluations() else "A run that has not begun to learn.")
    stage = trained[-1]
    section_ = stage.section
    tasks, rewards = list(section_.get("tasks") or {}), list(section_.get("rewards") or {})
    texts = [f"{model[0].upper()}{model[1:]} was trained by reinforcement alone"]
    texts.append(f" on {_and(tasks)}" if tasks else "")
    steps, asked = _steps(stage), section_.get("max_steps")
    group = section_.get("num_generations")
    texts.append(f": {steps:,} updates" + (f" of {asked:,}" if isinstance(asked, int) and asked > steps else ""))
    texts.append(f", {group} answers to each problem. " if group else ". ")
    if rewards:
        texts.append(f"What paid was {_and(rewards)}; no worked solution was shown to it, ")
        texts.append("and nothing told it how to think.")
    if base == SHIPPED:
        texts.append(" The habits of checking and trying again lie in its corpus; ")
        texts.append("reward decides which of them it uses.")
    return esc("".join(texts))


def _change(was: str, now: str) -> Html:
    return join([tag("span", was, cls="was"), tag("span", "→", cls="to"), tag("span", now, cls="is")])


def _card(task: str, old: Results | None, new: Results | None) -> Html:
    """One task's big number, with its interval and what changed beside it."""
    first, last = old or new or {}, new or old or {}
    now = share(last.get("pass@1"), 0)
    big = _change(share(first.get("pass@1"), 0), now) if old and new else tag("span", now, cls="was" if old else "is")
    spans = [s for s in (span(r.get("ci95"), 0) for r in (old, new) if r) if s]
    interval = f"pass@1; 95% interval {' → '.join(spans)}" if spans else "pass@1"
    if not (old and new):
        interval += ", before training" if old else ""
    pairs = []
    for name, key in (("length", "mean_tokens"), ("reflections", "reflections_per_response")):
        if old and new and (by := factor(old.get(key), new.get(key))):
            pairs.append(tag("span", tag("b", by), f" {name} ({amount(old[key])} → {amount(new[key])})"))
    return tag(
        "div",
        tag("h3", task),
        tag("p", big, cls="big"),
        tag("p", interval, cls="note"),
        tag("p", join(pairs, " "), cls="pair") if pairs else "",
        cls="card",
    )


def _cards(run: RunFiles) -> Html:
    found = run.evaluations()
    old, new = found.get("before", {}), found.get("after", {})
    if by_model := models(run):
        return whole.cards(by_model)
    if not old and not new and found:
        new = list(found.values())[-1]
    tasks = list(dict.fromkeys([*old, *new]))
    shown = tag("div", join(_card(t, old.get(t), new.get(t)) for t in tasks), cls="cards") if tasks else Html("")
    if new or not run.of("rl"):
        return shown
    cards = []
    stage = run.of("rl")[-1]  # not evaluated yet: what the probe says so far
    for task in stage.keys(r"val/([^/]+)/accuracy"):
        if values := stage.series(f"val/{task}/accuracy"):
            at = f"val accuracy so far, a small probe; steps {values[0][0]:.0f} to {values[-1][0]:.0f}"
            big = _change(*(share(y, 0) for _, y in (values[0], values[-1])))
            cards.append(tag("div", tag("h3", task), tag("p", big, cls="big"), tag("p", at, cls="note"), cls="card"))
    return join([shown, tag("div", join(cards), cls="cards") if cards else ""])


def _facts(run: RunFiles) -> Html:
    learning = [s for s in run.stages if s.kind != "eval"]
    costs = [c for s in learning if (c := run.costs(s))]
    total, whole = sum(costs, ledger.Costs()), sum((c for s in run.stages if (c := run.costs(s))), ledger.Costs())
    facts: list[tuple[str, str]] = []
    seconds = real(run.summary.get("train_seconds")) or total.seconds
    if seconds:
        facts.append(("training time", ledger.duration(seconds)))
    if whole.seconds > total.seconds:
        facts.append(("with evaluation", ledger.duration(seconds + whole.seconds - total.seconds)))
    if whole.money or whole.core_hours:
        facts.append((f"cost, at ${run.price:g} a core-hour", money(whole.money)))
    if run.environment:
        facts.append(("CPU cores", f"{run.cores}"))
    tokens = total.tokens_sampled or total.tokens_trained
    if tokens:
        facts.append(("tokens sampled" if total.tokens_sampled else "tokens trained", svg.number(tokens)))
    if run.parameters:
        facts.append(("parameters", svg.number(run.parameters)))
    return tag("dl", join(tag("div", tag("dt", k), tag("dd", v)) for k, v in facts), cls="facts") if facts else Html("")


def _is_about_leaks(item: dict[str, Any]) -> bool:
    said = f"{item.get('what', '')} {item.get('advice', '')}".lower()
    return any(word in said for word in ("contamin", "corpus", "rl prompts"))


def _in_order(item: dict[str, Any]) -> bool:
    return str(item.get("level", "")).lower() in ("ok", "pass", "info")


def _met(run: RunFiles) -> str:
    """What the look at every training set found; empty where a run has none."""
    asked, training = (fields(run.contamination.get(k)) for k in ("evaluation", "training"))
    if not asked or not training:
        return ""
    known = [t for t in training.values() if isinstance(t, dict)]
    met = sum(sum(how.values()) for t in known for how in (t.get("met") or {}).values())
    unknown = _and([name for name, t in training.items() if t is None])
    corpus = ", the base's corpus among them" if training.get("corpus") is not None else ""
    text = f"Every training set of this run ({len(known)}{corpus}) was looked through for the {sum(asked.values()):,} evaluation problems: "
    text += f"they were met {met:,} times, counted by training set." if met else "none was found."
    return text + (f" Not known: {unknown} (no list of what was read)." if unknown else "")


def _preflight(run: RunFiles) -> Html:
    """The sentence on unseen test problems, with what the run's own checks say."""
    split = (run.config.get("eval") or {}).get("split", "test")
    leaks = [p for p in run.preflight if _is_about_leaks(p)]
    sound = all(map(_in_order, leaks))
    ours = sound and (_base(run) == SHIPPED or bool(run.of("pretrain")))
    if told := _met(run):
        text = told + (" They are val problems, which tuning may look at." if split != "test" else "")
    elif split != "test":
        text = "These are val problems, which tuning may look at; RL draws from train only."
    elif ours:
        text = (
            "The test problems were never in the base's corpus nor in RL: a hash of a problem's content decides its "
            "split, and both draw from train only."
        )
    else:
        text = (
            "The test problems were never in RL: a hash of a problem's content decides its split, and RL draws from "
            "train only. What the base model had read before is not known here."
        )
    if not leaks and not told:
        text += " This run records no check of it."
    items = []
    for item in [*leaks, *(p for p in run.preflight if p not in leaks)]:
        mark = MARKS.get(str(item.get("level", "")).lower(), "·")
        advice = f" — {item['advice']}" if item.get("advice") else ""
        items.append(tag("li", tag("span", mark, cls="mark"), plain(f"{item.get('what', '')}{advice}")))
    listed = tag("ul", join(items), cls="list") if items else ""
    if len(items) > 4:
        bad = sum(not _in_order(p) for p in run.preflight)
        head = f"{len(items)} checks before the first step: {f'{bad} to look at' if bad else 'all in order'}"
        listed = details(head, listed, open_=bad > 0)
    return join([tag("p", text), esc(listed) if listed else Html("")])


def headline(run: RunFiles) -> Html:
    recipe = plain(run.about.get("recipe") or run.config.get("recipe") or "a run")
    seed = run.about.get("seed", run.config.get("seed"))
    told = [f"recipe {recipe}", f"seed {seed}" if seed is not None else "", str(run.about.get("created") or "")[:10]]
    kicker = " · ".join(t for t in [*told, "" if run.done else "not finished"] if t)
    title = "What the model learned" if run.of("rl") else "What this run did"
    found = run.evaluations()
    old, new = found.get("before", {}), found.get("after", {})
    both = [t for t in old if t in new]
    if by_model := models(run):
        title = whole.headline(by_model)
    elif both:
        t = both[0]
        a, b = share(old[t]["pass@1"], 0), share(new[t]["pass@1"], 0)
        title = f"{t}: from {a} right to {b}, by reward alone" if run.of("rl") else f"{t}: from {a} right to {b}"
    return tag(
        "header",
        tag("p", kicker, cls="kicker"),
        tag("h1", title),
        tag("p", _story(run), cls="lead"),
        _cards(run),
        _facts(run),
        _preflight(run) if run.of("rl") or found else "",
    )


# evaluation


def _metrics(results: list[Results]) -> list[tuple[str, str, str]]:
    """(name, key path, kind) of the table's rows, for what the results hold."""
    keys = list(dict.fromkeys(k for r in results for k in r))
    passes = sorted((k for k in keys if k.startswith("pass@")), key=lambda k: int(k[5:]))
    votes = [k for k in keys if k.startswith("maj@")]
    kept = [passes[0], passes[-1]] if len(passes) > 1 else passes
    rows = [(k, k, "share") for k in [*kept, *votes]]
    rows += [
        ("mean tokens", "mean_tokens", "amount"),
        ("reflections per response", "reflections_per_response", "amount"),
        ("reflections per 1,000 tokens", "reflections_per_1k_tokens", "amount"),
        ("paper's words per response", "paper_reflections_per_response", "amount"),
        ("“wait” per response", "wait_per_response", "amount"),
        ("tries per response", "tries_per_response", "amount"),
        ("recoveries", "recoveries", "share"),
        ("precision of its “yes”", "check.precision", "share"),
        ("recall of its “yes”", "check.recall", "share"),
        ("words in the prompt's language", "language.share", "share"),
        ("consistent thoughts", "language.consistent", "share"),
        ("thoughts without a word", "language.wordless", "share"),
        ("well-formed", "format", "share"),
        ("ended by itself", "stop.stop", "share"),
        ("cut at the length cap", "stop.length", "share"),
        ("not gradable", "ungraded", "amount"),
        ("of its problems, seen in training", "contaminated.met", "amount"),
    ]
    return [row for row in rows if any(_at(r, row[1]) is not None for r in results)]


def _at(result: Results, path: str) -> Any:
    value: Any = result
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _columns(found: dict[str, dict[str, Results]], task: str) -> dict[str, Results]:
    """Column -> results: every evaluation at the headline's sampling, then each at temperature 1."""
    out = {name: by_task[task] for name, by_task in found.items() if task in by_task}
    hot = {f"{name}, T = 1": r["t1"] for name, r in out.items() if isinstance(r.get("t1"), dict)}
    return out | hot


def _table(columns: dict[str, Results]) -> Html:
    results = list(columns.values())
    rows: list[list[object]] = []
    for name, path, kind in _metrics(results):
        cells: list[object] = []
        for r in results:
            value = _at(r, path)
            said = share(value) if kind == "share" else amount(value)
            if path == "pass@1" and (s := span(r.get("ci95"))):
                said = Html(f"{esc(said)} <small>({esc(s)})</small>")
            cells.append(said)
        if {"before", "after"} <= columns.keys():
            a, b = _at(columns["before"], path), _at(columns["after"], path)
            scored = kind == "amount" or path.startswith(("pass@", "maj@"))
            cells.insert(list(columns).index("after") + 1, factor(a, b) if scored else "")
        rows.append([name, *cells])
    heads = list(columns)
    if {"before", "after"} <= columns.keys():
        heads.insert(heads.index("after") + 1, "change")
    return table(["", *heads], rows, "numbers")


def _pass_curve(task: str, columns: dict[str, Results]) -> str:
    series, names = [], [n for n in columns if "T = 1" not in n]
    for name, r in columns.items():
        points = sorted((float(k[5:]), float(v)) for k, v in r.items() if k.startswith("pass@") and real(v) is not None)
        hot = "T = 1" in name
        place = names.index(name.removesuffix(", T = 1"))
        colour = 0 if name.startswith("before") else len(names) - place  # the last is blue
        if len(points) > 1:
            series.append(Series(name, points, colour, "dash" if hot else "line"))
    return svg.line_chart(
        series, about=f"pass@k of {task}", x_label="k, answers drawn", y_format=svg.percent, y_high=1.0, log_x=True
    )


def evaluation(run: RunFiles) -> Html:
    many = models(run)
    found = {model_name(m): by_task for m, by_task in many.items()} or run.evaluations()
    tasks = tasks_of(many) or list(dict.fromkeys(t for by_task in found.values() for t in by_task))
    if not tasks:
        return Html("")
    some = next(r for by_task in found.values() for r in by_task.values())
    said = [
        f"{some['problems']} problems a task, {some.get('samples', '?')} answers each." if some.get("problems") else "",
        f"Headline at temperature {some['temperature']:g}, top-p {some.get('top_p', 1):g}; T = 1 beside it."
        if some.get("temperature") is not None
        else "",
        "pass@k is unbiased; maj@k is a majority vote; intervals are 95%, with a problem as the unit.",
    ]
    parts: list[str] = [tag("p", " ".join(s for s in said if s), cls="note")]
    tables = {task: _columns(found, task) for task in tasks}
    note = "Chance of at least one right answer among k."
    if many:  # the stage table has the scores
        for task, columns in tables.items():
            chart = tag("div", figure(_pass_curve(task, columns), f"pass@k, {task}", note), cls="wide")
            parts.append(details(plain(task), chart, _table(columns)))
        return section("evaluation", "Every benchmark in full", *parts)
    parts.append(tag("div", figure(_dumbbells(found, tasks), "pass@1, with 95% intervals"), cls="wide"))
    charts = [figure(_pass_curve(task, columns), f"pass@k, {task}", note) for task, columns in tables.items()]
    parts.append(tag("div", join(charts), cls="charts"))
    for task, columns in tables.items():
        parts += [tag("h3", task), _table(columns)]
    return section("evaluation", "Before and after", *parts)


def _dumbbells(found: dict[str, dict[str, Results]], tasks: list[str]) -> str:
    rows = []
    names = list(found)
    for task in tasks:
        dots = []
        for name in names:
            r = found[name].get(task)
            if r and span(r.get("ci95")) and (value := real(r["pass@1"])) is not None:
                low, high = map(float, r["ci95"])
                colour = 0 if name == "before" else len(names) - names.index(name)
                dots.append(Dot(name, value, low, high, colour, hollow=name == "before"))
        rows.append((task, dots))
    return svg.dot_chart(rows, about="pass@1 with 95% intervals")


# controls and skills


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return svg.number(value) if real(value) is not None else plain(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def controls(run: RunFiles) -> Html:
    """Whatever the controls recorded, whichever way it fell."""
    data = run.controls
    parts: list[str] = [tag("p", plain(data["paragraph"]))] if data.get("paragraph") else []
    for t in (t for t in _list(data.get("tables")) if isinstance(t, dict)):
        rows = [[_cell(c) for c in row] for row in _list(t.get("rows")) if isinstance(row, list) and row]
        parts.append(tag("h3", plain(t.get("title", ""))))
        if t.get("note"):
            parts.append(tag("p", plain(t["note"]), cls="note"))
        parts.append(table([_cell(c) for c in _list(t.get("columns"))], rows, "numbers"))
    charts = []
    for c in (c for c in _list(data.get("curves")) if isinstance(c, dict)):
        series = []
        for i, s in enumerate(s for s in _list(c.get("series")) if isinstance(s, dict)):
            pairs = [p for p in _list(s.get("points")) if isinstance(p, list) and len(p) == 2]
            points = [(float(x), float(y)) for x, y in pairs if real(x) is not None and real(y) is not None]
            series.append(Series(plain(s.get("name", "")), points, i + 1))
        values = [y for s in series for _, y in s.points]
        shares = bool(values) and min(values) >= 0 and max(values) <= 1
        chart = svg.line_chart(
            series,
            about=plain(c.get("title", "")),
            x_label=plain(c.get("x", "")),
            log_x=bool(c.get("logx")),
            y_format=svg.percent if shares else svg.number,
            y_high=1.0 if shares else None,
        )
        charts.append(figure(chart, plain(c.get("title", "")), plain(c.get("y", ""))))
    if any(charts):
        parts.append(tag("div", join(charts), cls="charts"))
    return section("controls", "Is it real? Controls", *parts)


SHARES = re.compile(r"value|format|precision|recall|recoveries|accuracy|(pass|maj)@\d+")


def _skill_cell(key: str, value: Any) -> str:
    if key == "ci95":
        return span(value) or "–"
    return share(value) if SHARES.fullmatch(key) else _cell(value)


def _skill_tables(title: str, data: dict[str, Any]) -> list[Html]:
    """A table of the entries that are rows, one of those that are values; deeper ones under their own name."""
    rows = {k: v for k, v in data.items() if isinstance(v, dict) and not any(isinstance(x, dict) for x in v.values())}
    out = [tag("h3", plain(title))] if title else []
    columns = list(dict.fromkeys(k for v in rows.values() for k in v))
    if columns:
        cells = [[plain(n), *(_skill_cell(c, v.get(c)) for c in columns)] for n, v in rows.items()]
        named = {"value": "measured", "ci95": "95% interval", "n": "of"}
        out.append(table(["", *(named.get(c, plain(c).replace("_", " ")) for c in columns)], cells, "numbers"))
    if flat := [[plain(n), _cell(v)] for n, v in data.items() if not isinstance(v, dict | list)]:
        out.append(table(["", "measured"], flat, "numbers"))
    for name, inner in data.items():
        if isinstance(inner, dict) and name not in rows:
            out += _skill_tables(name, inner)
    return out


def skills(run: RunFiles) -> Html:
    """The base model's skills: values or rows by name, in one level or two."""
    tables = _skill_tables("", run.skills)
    if tables:
        note = "Measured on content that its corpus does not hold, before any reinforcement."
        tables.insert(0, tag("p", note, cls="note"))
    return section("skills", "What the base model can do", *tables)
