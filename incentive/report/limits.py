"""The plots of R1's limits, from limits.json: a part of a run's report, or a page of their own."""

from __future__ import annotations

from typing import Any

from incentive.report import svg
from incentive.report.document import document
from incentive.report.markup import Html, amount, details, esc, figure, join, plain, section, share, span, table, tag
from incentive.report.svg import Dot, Series

Told = dict[str, Any]
CENTRES = (0.125, 0.375, 0.625, 0.875)  # of the difficulty's four parts


def limits(found: Told) -> Html:
    """The section of a run's report; nothing where there is no limits.json, a line where it cannot be read."""
    if not found:
        return Html("")
    try:
        asked = (
            f"{found['problems']} {found['split']} problems a task, {found['samples']} answers each, temperature "
            f"{found['temperature']:g}, top-p {found['top_p']:g}, at most {found['max_tokens']} tokens."
        )
        parts: list[Html] = []
        for name, told in found["limits"].items():
            parts += [_PARTS[name](told)] if name in _PARTS and told else []
            parts += [_against(found["against"])] if name == "overthinking" and "against" in found else []
    except (KeyError, TypeError, ValueError, AttributeError):
        parts, asked = [], "limits.json is not what this version writes; measure again."
    return section("limits", "Limits", tag("p", asked, cls="note"), *parts)


def page(found: Told) -> str:
    """A page of the plots alone."""
    head = tag("header", tag("p", plain(found["model"]), cls="kicker"), tag("h1", "Limits, measured"))
    return document(f"{plain(found['model'])} – limits", [head, tag("main", limits(found))], "limits.json")


def _charts(*figures: Html) -> Html:
    return tag("div", join(figures), cls="charts")


def _interval(told: Told | None) -> str:
    if not told:
        return "–"
    low, high = told["ci95"]
    return f"{amount(told['mean'])} ({amount(low)} to {amount(high)})"


def _dot(value: float, ci95: list[float], colour: int, hollow: bool = False) -> Dot:
    return Dot("", value, ci95[0], ci95[1], colour, hollow)


def _points(told: Told) -> str:
    low, high = told["ci95"]
    return f"{100 * told['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), p = {told['p']:.4f}"


# overthinking


def _overthinking(tasks: Told) -> Html:
    lines, bars = [], []
    for n, (name, told) in enumerate(tasks.items()):
        bins = [(x, b["tokens"]) for x, b in zip(CENTRES, told["bins"].values(), strict=True) if b["tokens"]]
        points = [(x, b["mean"]) for x, b in bins]
        lines.append(Series(name, points, n + 1, "dots", [tuple(b["ci95"]) for _, b in bins]))
        if told["before"]:
            bars.append(
                (name, [("up to the right answer", told["before"]["mean"]), ("after it", told["after"]["mean"])])
            )
    rows = []
    for name, told in tasks.items():
        for label, b in told["bins"].items():
            right = share(b["right"]) if b["right"] is not None else "–"
            rows.append([f"{name}, {label}", f"{b['answers']:,}", right, *(_interval(b[k]) for k in ("tokens", "tokens_right", "after"))])  # fmt: skip
    whole = [
        [name, share(t["right"]), _interval(t["tokens"]), share(t["appeared"]), _interval(t["after"]), share(t["after_share"]),
         share(t["abandoned"]), share(t["repeated"]), t["rule"]]
        for name, t in tasks.items()
    ]  # fmt: skip
    return join([
        tag("h3", "Overthinking"),
        _charts(
            figure(
                svg.line_chart(lines, about="tokens against difficulty", x_label="difficulty: share of the other answers that are wrong"),
                "Tokens against difficulty", "Mean of an answer with its 95% interval over problems.",
            ),
            figure(
                svg.bar_chart(bars, about="thinking before and after the right answer appeared", width=480),
                "Where the thinking goes", "Mean tokens of thinking of the answers in which the right answer appears.",
            ),
        ),
        table(["task", "right", "tokens", "right answer appears", "tokens after it", "of the thinking", "then given up", "repeated tries", "rule"], whole, "numbers"),
        details("By difficulty", table(["", "answers", "right", "tokens", "of right answers", "after the right answer appeared"], rows, "numbers")),
    ])  # fmt: skip


def _against(other: Told) -> Html:
    rows = []
    for name, told in other["tasks"].items():
        tokens = told["tokens"]
        low, high = tokens["ci95"]
        fewer = f"{tokens['difference']:+.1f} ({low:+.1f} to {high:+.1f}), p = {tokens['p']:.4f}"
        rows.append([name, told["paired"], share(told["right"]["before"]), _points(told["right"]), amount(tokens["before"]), fewer])  # fmt: skip
    if not rows:
        return tag("p", f"Against {plain(other['name'])}: no task has two problems in common.", cls="note")
    note = f"Against {plain(other['name'])}, paired over problems; 95% intervals."
    columns = ["task", "problems", "right, there", "difference here, points", "tokens, there", "difference here"]
    return join([tag("p", note, cls="note"), table(columns, rows, "numbers")])


# the others


def _sensitivity(tasks: Told) -> Html:
    figures, rows = [], []
    for n, (name, told) in enumerate(tasks.items()):
        shown = [(label, w) for label, w in told["wordings"].items()]
        shown += [(f"{k} example" + ("s" if k != "1" else ""), w) for k, w in told["few_shot"].items()]
        dots = [(label, [_dot(w["right"], w["ci95"], n + 1, hollow="example" in label)]) for label, w in shown]
        now = f"spread {100 * told['spread']:.1f} points"
        chart = svg.dot_chart(dots, about=f"right answers of {name} by wording", width=480)
        figures.append(
            figure(chart, f"{name}: right answers by wording", "Hollow: with solved problems before the prompt.", now)
        )
        for label, w in shown:
            against = _points(w["against_own"]) if "against_own" in w else ""
            rows.append([f"{name}, {label}", share(w["right"]), span(w["ci95"]), against, share(w["format"]), Html(f"<code>{esc(w['prompt'])}</code>")])  # fmt: skip
    flips = [f"{name}: {share(t['flips'])} of the problems flip" for name, t in tasks.items()]
    note = f"A problem flips if most answers solve it in one wording and do not in another. {'; '.join(flips)}."
    columns = ["wording", "right", "95%", "against its own, points", "in form", "the first prompt"]
    return join([tag("h3", "Prompt sensitivity"), _charts(*figures), tag("p", note, cls="note"), details("Every wording", table(columns, rows))])  # fmt: skip


def _mixing(tasks: Told) -> Html:
    bars, rows = [], []
    for name, told in tasks.items():
        total = sum(told["words"].values())
        if total:
            bars.append((f"{name} ({told['target']})", [(lang, n / total) for lang, n in told["words"].items()]))
        rows.append(
            [name, told["target"], f"{told['thoughts']:,}", share(told["share"]), share(told["consistent"]), share(told["mixed"]),
             share(told["wordless"]), share(told["right"])]
        )  # fmt: skip
    languages = sorted({lang for _, parts in bars for lang, _ in parts}, key=lambda x: (x not in ("en", "zh"), x))
    chart = svg.bar_chart(
        bars, about="words of the thinking by language", x_format=svg.percent, colours={x: i + 1 for i, x in enumerate(languages)}
    )  # fmt: skip
    columns = [
        "task",
        "prompt",
        "thoughts",
        "words in its language",
        "thoughts wholly in it",
        "mixed",
        "without a word",
        "right",
    ]
    return join([
        tag("h3", "Language mixing"),
        tag("div", figure(chart, "Words of the thinking by language"), cls="wide"),
        table(columns, rows, "numbers"),
    ])  # fmt: skip


def _tools(tasks: Told) -> Html:
    dots, rows = [], []
    for name, told in tasks.items():
        dots.append((f"{name}, alone", [_dot(told["right_alone"], told["ci95_alone"], 2, hollow=True)]))
        dots.append((f"{name}, with its tool", [_dot(told["right"], told["ci95"], 1)]))
        rows.append(
            [name, share(told["right_alone"]), share(told["right"]), _points(told["difference"]), share(told["asks"]), f"{told['calls']:.2f}",
             share(told["errors"]), share(told["right_when_asked"])]
        )  # fmt: skip
    chart = svg.dot_chart(dots, about="right answers with a tool and without")
    columns = ["task", "right, alone", "right, with its tool", "difference, points", "answers that ask", "calls an answer", "calls in vain", "right where asked"]  # fmt: skip
    return join([
        tag("h3", "Tool use"),
        tag("div", figure(chart, "Right answers with the tool and without"), cls="wide"),
        table(columns, rows, "numbers"),
    ])  # fmt: skip


def _structured(tasks: Told) -> Html:
    bars = [(name, list(told["outcomes"].items())) for name, told in tasks.items()]
    chart = svg.bar_chart(bars, about="outcomes of answers in JSON", x_format=svg.percent, width=760)
    rows = [
        [name, f"{t['problems']:,}", share(t["valid"]), span(t["ci95"]), *(share(v) for v in t["outcomes"].values())]
        for name, t in tasks.items()
    ]
    names = list(next(iter(tasks.values()))["outcomes"])
    return join([
        tag("h3", "Structured output"),
        tag("div", figure(chart, "Answers against their JSON Schema"), cls="wide"),
        table(["task", "problems", "valid", "95%", *names], rows, "numbers"),
    ])  # fmt: skip


_PARTS = {
    "overthinking": _overthinking, "sensitivity": _sensitivity, "mixing": _mixing, "tools": _tools, "structured": _structured,
}  # fmt: skip
