"""What was learned from: curated rows, what was dropped and why, judged pairs, reward models, contamination."""

from __future__ import annotations

from typing import Any

from incentive.report import svg
from incentive.report.markup import Html, amount, figure, join, plain, real, section, share, span, table, tag
from incentive.report.paper import domain_of, title
from incentive.report.read import RunFiles, StageFiles, fields
from incentive.report.svg import Series

Dict = dict[str, Any]
REASONS = {
    "wrong": "wrong answer", "form": "not in the required form", "more": "enough of this problem", "ungraded": "not gradable",
    "length": "too short or long", "language": "mixed language", "paragraph": "long paragraph", "code": "code block",
}  # fmt: skip


def _count(value: Any) -> str:
    return f"{value:,.0f}" if real(value) is not None else "–"


# curation


def _rows_table(told: Dict) -> Html:
    """Rows, turns and tokens by domain, the paper's table 5 beside them."""
    whole = real(fields(told.get("total")).get("tokens")) or 0.0
    rows: list[list[object]] = []
    for name, d in [*fields(told.get("domains")).items(), ("together", fields(told.get("total")))]:
        paper = domain_of(name)
        part = (real(d.get("tokens")) or 0.0) / whole if whole else None
        theirs = (
            [f"{paper.title}: {paper.rows:,}", f"{paper.mean_tokens:,.0f}", share(paper.share)]
            if paper
            else ["804,745", "5,355", "100%"]
            if name == "together"
            else ["–", "–", "–"]
        )
        turns = f"{d['turns']:.1f}" if real(d.get("turns")) is not None else "–"
        rows.append([plain(name), _count(d.get("rows")), turns, amount(d.get("mean_tokens")), share(part), *theirs])
    heads = ["domain", "rows", "turns", "mean tokens", "of all tokens", "paper's rows", "mean tokens", "of all tokens"]
    return table(heads, rows, "numbers", [*([""] * (len(rows) - 1)), "total"])


def _dropped(told: Dict) -> Html:
    """Of what was sampled or added, how much was kept, and why the rest was dropped."""
    whole = fields(told.get("total"))
    reasons = sorted(fields(whole.get("dropped")), key=lambda r: -fields(whole["dropped"])[r])
    rows: list[list[object]] = []
    for name, d in [*fields(told.get("domains")).items(), ("together", whole)]:
        gone = fields(d.get("dropped"))
        counts = [
            d.get("problems"),
            d.get("samples"),
            d.get("added"),
            d.get("rows"),
            *(gone.get(r, 0) for r in reasons),
        ]
        rows.append([plain(name), *map(_count, counts)])
    heads = ["domain", "problems", "sampled", "added", "kept", *(plain(REASONS.get(r, r)) for r in reasons)]
    return table(heads, rows, "numbers", [*([""] * (len(rows) - 1)), "total"])


def _curated(stage: StageFiles) -> list[Html]:
    told = stage.told
    if not fields(told.get("domains")):
        return []
    bars = [
        (plain(name), [("kept", real(d.get("rows")) or 0.0), *((REASONS.get(r, r), float(n)) for r, n in fields(d.get("dropped")).items())])
        for name, d in told["domains"].items()
    ]  # fmt: skip
    gone = fields(fields(told.get("total")).get("dropped"))
    order = ["kept", *(REASONS.get(r, r) for r in sorted(gone, key=lambda r: -gone[r]))]
    bars = [(label, sorted(parts, key=lambda p: order.index(p[0]))) for label, parts in bars]
    paints = {part: (3, 0, 2, 1, 5, 4, 6)[min(i, 6)] for i, part in enumerate(order)}
    chart = svg.bar_chart(bars, about=f"what {stage.name} kept and dropped", colours=paints)
    held = ", ".join(f"{plain(k)} {v:,}" for k, v in fields(told.get("held")).items())
    note = f"Tokens of the response, its stop token included. None of it shares {told.get('ngram', 10)} words in a row, a prompt or a key with the evaluation problems ({held})."  # fmt: skip
    return [
        tag("h3", f"{title(stage.name)}: what was kept"),
        tag("p", note if held else "Tokens of the response, its stop token included.", cls="note"),
        _rows_table(told),
        tag("div", figure(chart, "Kept and dropped, by domain"), cls="wide"),
        _dropped(told),
    ]


# pairs and labels


def _judged(stage: StageFiles) -> list[Html]:
    counts, judge, lengths = (fields(stage.told.get(k)) for k in ("counts", "judge", "lengths"))
    if not counts:
        return []
    said = ", ".join(f"{k.replace('_', ' ')} {_count(v)}" for k, v in counts.items())
    parts = [tag("h3", f"{title(stage.name)}: what reward models learn from"), tag("p", f"{said}.".capitalize())]
    if judge.get("pairs"):
        rows: list[list[object]] = [
            ["two calls on a pair agree", share(judge.get("agreement"))],
            ["two calls that showed it in different orders agree", share(judge.get("swapped"))],
            ["pairs on which all calls agree", f"{share(judge.get('unanimous'))} ({span(judge.get('unanimous_ci95'))})"],
            ["mean verdict for what was shown first (0: no liking for a place)", f"{real(judge.get('first_place')) or 0:+.3f}"],
        ]  # fmt: skip
        parts += [
            tag("p", f"The judge beside itself, on {_count(judge['pairs'])} pairs:", cls="note"),
            table(["", ""], rows),
        ]
    if lengths:
        pairs = [["before balancing", "_before"], ["in the data", ""]]
        cells = [[n, amount(lengths.get(f"chosen{k}")), amount(lengths.get(f"rejected{k}")), share(lengths.get(f"chosen_longer{k}"))] for n, k in pairs]  # fmt: skip
        parts.append(table(["length of an answer", "chosen", "rejected", "chosen is longer"], cells, "numbers"))
    return parts


# reward models


def _share(value: Any) -> str:
    d = fields(value)
    return f"{share(d.get('share'))} ({span(d.get('ci95'), 0)}; {_count(d.get('n'))})" if real(d.get("share")) is not None else "–"  # fmt: skip


def _signed(value: Any) -> str:
    x = real(value)
    return "–" if x is None else f"{x:+.2f}".replace("-", "−")


def _reliability(stage: StageFiles) -> str:
    bins = [
        b for b in fields(stage.told.get("calibration")).get("bins") or [] if real(fields(b).get("share")) is not None
    ]
    if not bins:
        return ""
    low = 0.5 if stage.told.get("kind") == "pairwise" else 0.0
    seen = [(float(b["probability"]), float(b["share"])) for b in bins]
    bounds = [(float(b["ci95"][0]), float(b["ci95"][1])) for b in bins]
    series = [Series("ideal", [(low, low), (1.0, 1.0)], 0, "dash"), Series("measured", seen, 4, "dots", bounds, label=False)]  # fmt: skip
    return svg.line_chart(
        series, about=f"calibration of {stage.name}", x_label="what the model says", y_format=svg.percent, y_low=0.0, y_high=1.0,
        legend=(("dots", "share that is so, with its 95% interval", 4),),
    )  # fmt: skip


def _reward_models(stages: list[StageFiles]) -> list[Html]:
    found = [s for s in stages if s.told]
    if not found:
        return []
    rows: list[tuple[str, Any]] = [
        ("scores", lambda t: "the summary alone" if t.get("scores") == "summary" else "the whole response"),
        ("trained on, held out by prompt", lambda t: f"{_count(t.get('trained'))}, {_count(t.get('held_out'))}"),
        ("right on held-out ones (95% interval; n)", lambda t: _share(t.get("accuracy"))),
        ("area under the curve", lambda t: amount(t.get("auc"))),
        ("unsafe answers called safe", lambda t: _share(t.get("false_safe"))),
        ("safe answers called unsafe", lambda t: _share(t.get("false_unsafe"))),
        ("calibration error", lambda t: share(fields(t.get("calibration")).get("ece"))),
        ("… of a calibrated model on as many", lambda t: share(fields(t.get("calibration")).get("ece_if_calibrated"))),
        ("correlation of score and length", lambda t: _signed(fields(t.get("length")).get("score"))),
        ("… within pairs", lambda t: _signed(fields(t.get("length")).get("score_within_pairs"))),
        ("… in the data itself", lambda t: _signed(fields(t.get("length")).get("chosen", fields(t.get("length")).get("label")))),
        ("right where the better is shorter", lambda t: _share(fields(t.get("length")).get("accuracy_chosen_shorter"))),
        ("right where the better is longer", lambda t: _share(fields(t.get("length")).get("accuracy_chosen_longer"))),
    ]  # fmt: skip
    shown = [[name, *(say(s.told) for s in found)] for name, say in rows]
    shown = [r for r in shown if any(c != "–" for c in r[1:])]
    charts = join(figure(_reliability(s), f"Calibration of {s.name}", "On held-out records.") for s in found)
    return [
        tag("h3", "Reward models, on held-out records"),
        table(["", *(s.name for s in found)], shown, "numbers"),
        tag("div", charts, cls="charts") if charts else Html(""),
    ]


# contamination


def _contamination(run: RunFiles) -> list[Html]:
    """Every training set beside every evaluation set."""
    asked, training = fields(run.contamination.get("evaluation")), fields(run.contamination.get("training"))
    if not asked or not training:
        return []
    rows: list[list[object]] = []
    for name, found in training.items():
        if found is None:
            rows.append([plain(name), "–", "not known: its base has no list of what it read"])
            continue
        met = {t: how for t, how in fields(fields(found).get("met")).items() if isinstance(how, dict)}
        told = [f"{plain(t)}: {sum(how.values())} of {asked.get(t)} ({', '.join(f'{k} {n}' for k, n in how.items())})" for t, how in met.items()]  # fmt: skip
        rows.append([plain(name), _count(fields(found).get("rows")), "; ".join(told) or "0 problems met"])
    sizes = ", ".join(f"{plain(t)} {n:,}" for t, n in asked.items())
    note = (
        f"Every training set beside every evaluation set ({sizes} problems), before each training stage: a shared run of "
        f"{run.contamination.get('ngram')} words, prompts that are near-duplicates (from {run.contamination.get('near')} on), or, where a "
        "task makes its problems itself, their key. What an RL stage or a reward model draws counts as its training set."
    )
    return [
        tag("h3", "Training sets beside evaluation sets"), tag("p", note, cls="note"),
        table(["training set", "texts", "evaluation problems met"], rows),
    ]  # fmt: skip


def data(run: RunFiles) -> Html:
    """The section; nothing where the run curated and judged nothing."""
    parts = [p for s in run.of("curate") for p in _curated(s)]
    parts += [p for s in run.of("prefer") for p in _judged(s)]
    parts += _reward_models(run.of("reward"))
    parts += _contamination(run)
    return section("data", "What it learned from", *parts)
