"""What changed over the steps: accuracy, length, reflection, tries; then the health of the training."""

from __future__ import annotations

from collections.abc import Callable

from incentive.measure import MINI_WORDS, PAPER_WORDS, wilson
from incentive.report import svg
from incentive.report.markup import Html, amount, details, figure, join, section, share, tag
from incentive.report.paper import title
from incentive.report.read import RunFiles, StageFiles
from incentive.report.svg import Point, Series

Legend = tuple[tuple[str, str, int], ...]
INK, TASK, OWN, PAPER = 0, 1, 6, 4  # colours: everything together, the first task, our word list, the paper's


def ends(points: list[Point], say: Callable[[float], str]) -> str:
    """`34.2% → 91.0%`: means of the first and the last points (a tenth of them, five at most)."""
    if len(points) < 2:
        return say(points[0][1]) if points else ""
    n = max(1, min(5, len(points) // 10))
    first, last = (sum(y for _, y in part) / n for part in (points[:n], points[-n:]))
    return f"{say(first)} → {say(last)}"


def tasks_of(stage: StageFiles) -> list[str]:
    names = [*stage.keys(r"rewards/accuracy/(?!mean$)(.+)"), *stage.keys(r"val/([^/]+)/accuracy")]
    asked = list(stage.section.get("tasks") or {})
    return sorted(dict.fromkeys(names), key=lambda n: (asked.index(n) if n in asked else len(asked), n))


def accuracy(stage: StageFiles, size: svg.Size | None = None) -> str:
    """Train accuracy as lines, the probe on val as dots with 95% intervals, a colour for each task."""
    names = tasks_of(stage)
    problems = max(1, int(stage.section.get("eval_problems", 64)) // max(1, len(names)))
    series = []
    for i, task in enumerate(names):
        train = stage.series(f"rewards/accuracy/{task}")
        probe = stage.series(f"val/{task}/accuracy")
        series.append(Series(task, train, TASK + i, smooth=True))
        bounds = [wilson(y * problems, problems) for _, y in probe] if len(probe) <= 40 else None
        if len(probe) <= svg.LIMIT:
            series.append(Series(f"{task} val", probe, TASK + i, "dots", bounds, label=not train))
        else:
            series.append(Series(f"{task} val", probe, TASK + i, "dash", label=not train))
    if not names:
        series = [Series("", stage.series("rewards/accuracy/mean"), TASK, smooth=True)]
    legend: Legend = (("line", "training", INK), ("dots", "held-out val", INK)) if names else ()
    return svg.line_chart(
        series, about=f"accuracy over steps of {stage.name}", y_format=svg.percent, y_high=1.0, legend=legend, size=size
    )


def length(stage: StageFiles, size: svg.Size | None = None) -> str:
    """Mean length of a response: training as a line, the probe by task as dots."""
    series = [Series("training", stage.series("completions/mean_length"), INK, smooth=True)]
    for i, task in enumerate(tasks_of(stage)):
        series.append(Series(f"{task} val", stage.series(f"val/{task}/mean_length"), TASK + i, "dots"))
    return svg.line_chart(series, about=f"mean length over steps of {stage.name}", size=size)


def reflection(stage: StageFiles, size: svg.Size | None = None) -> str:
    own = stage.series("emergence/reflections_per_response")
    paper = stage.series("emergence/paper_words_per_response")
    series = [Series("own list", own, OWN, smooth=True), Series("paper's list", paper, PAPER, smooth=True)]
    return svg.line_chart(series, about=f"reflective words a response over steps of {stage.name}", size=size)


def _one(stage: StageFiles, key: str, about: str, shares: bool = False, colour: int = OWN) -> str:
    series = [Series("", stage.series(key), colour, smooth=True)]
    return svg.line_chart(
        series, about=f"{about} over steps of {stage.name}", y_format=svg.percent if shares else svg.number
    )


def _per_task_ends(stage: StageFiles) -> str:
    said = [(t, ends(stage.series(f"rewards/accuracy/{t}"), share)) for t in tasks_of(stage)]
    return " · ".join(f"{t} {e}" for t, e in said if e) or ends(stage.series("rewards/accuracy/mean"), share)


def _charts(stage: StageFiles) -> Html:
    sampling = stage.section.get("sampling") or {}
    cap, heat = sampling.get("max_tokens"), sampling.get("temperature", 1.0)
    limit = f" Longest allowed: {cap:,} tokens." if isinstance(cap, int) else ""

    def now(key: str, say: Callable[[float], str] = amount) -> str:
        return ends(stage.series(key), say)

    own, paper = ", ".join(MINI_WORDS), ", ".join(PAPER_WORDS)
    words = f"Whole words, fixed before any RL. Own list: {own}. Paper's list: {paper}."
    figures = [
        figure(
            accuracy(stage),
            "Right answers",
            f"Training: answers sampled for the update, at temperature {heat:g}. Val: other problems, at temperature "
            "0.6 and top-p 0.95; bars are 95% intervals with a problem as the unit.",
            _per_task_ends(stage),
        ),
        figure(
            length(stage),
            "Length of a response, in tokens",
            f"The whole response, mostly thinking.{limit}",
            now("completions/mean_length"),
        ),
        figure(reflection(stage), "Reflective words per response", words, now("emergence/reflections_per_response")),
        figure(
            _one(stage, "emergence/reflections_per_1k_tokens", "reflective words per 1,000 tokens"),
            "Reflective words per 1,000 tokens",
            "Own list. Rises only if reflection grows faster than length.",
            now("emergence/reflections_per_1k_tokens"),
        ),
        figure(
            _one(stage, "emergence/wait_per_response", "wait"),
            "“wait” per response",
            "",
            now("emergence/wait_per_response"),
        ),
        figure(
            _one(stage, "emergence/tries_per_response", "tries"),
            "Tries per response",
            "Lines of the thinking that work out a candidate.",
            now("emergence/tries_per_response"),
        ),
        figure(
            _one(stage, "emergence/recoveries", "recoveries", shares=True),
            "Recoveries",
            "Responses whose first try is wrong and a later one right.",
            now("emergence/recoveries", share),
        ),
        figure(_rewards(stage), "Other rewards", "Their mean, unweighted."),
    ]
    return join(figures)


def _rewards(stage: StageFiles) -> str:
    """Every part of the reward but accuracy, which has its own chart."""
    names = stage.keys(r"rewards/(?!accuracy/)(.+)/mean")
    series = [Series(n, stage.series(f"rewards/{n}/mean"), TASK + 2 + i, smooth=True) for i, n in enumerate(names)]
    return svg.line_chart(series, about=f"other rewards over steps of {stage.name}")


PHASES = {"sample": 1, "reward": 2, "score": 3, "update": 4, "evaluate": 5, "other": 0}  # phase -> colour


def _time(stage: StageFiles) -> str:
    """Seconds of each step by phase, stacked."""
    rows = [r for r in stage.rows if "time/step" in r]
    names = list(dict.fromkeys([*list(PHASES)[:-1], *stage.keys(r"time/(?!step$)(.+)")]))
    layers = [(name, [float(r.get(f"time/{name}") or 0) for r in rows]) for name in names]
    rest = [max(0.0, float(r.get("time/step") or 0) - sum(v[i] for _, v in layers)) for i, r in enumerate(rows)]
    whole = sum(float(r.get("time/step") or 0) for r in rows)
    if sum(rest) > 0.02 * whole:
        layers.append(("other", rest))
    steps = [float(r["step"]) for r in rows]
    return svg.area_chart(steps, layers, about=f"seconds of each step of {stage.name}", colours=PHASES)


def _health(stage: StageFiles) -> Html:
    zero = [
        Series("no signal", stage.series("frac_reward_zero_std"), INK, smooth=True),
        Series("all right", stage.series("frac_solved_groups"), 3, smooth=True),
        Series("all wrong", stage.series("frac_unsolved_groups"), 2, smooth=True),
    ]
    figures = [
        figure(_one(stage, "reward", "reward", colour=INK), "Reward", "All parts, weighted."),
        figure(
            _one(stage, "entropy", "entropy", colour=INK),
            "Entropy, nats per token",
            "Near 0 the policy no longer explores.",
        ),
        figure(_one(stage, "grad_norm", "gradient norm", colour=INK), "Gradient norm, before clipping"),
        figure(_one(stage, "completions/clipped_ratio", "cut", True, INK), "Responses cut at the length cap"),
        figure(_one(stage, "clip_ratio", "clipped", True, INK), "Tokens whose gradient the clip removes"),
        figure(
            svg.line_chart(
                zero, about=f"groups without signal over steps of {stage.name}", y_format=svg.percent, y_high=1.0
            ),
            "Groups without signal",
            "All rewards in the group are equal, so it teaches nothing.",
        ),
        figure(
            _one(stage, "kl", "KL", colour=INK),
            "KL to the reference, per token",
            "The k3 estimate. Falls where the reference is renewed.",
        ),
        figure(
            _one(stage, "sampler_mismatch", "sampler mismatch", colour=INK),
            "Sampler and learner",
            "Mean absolute difference of their log-probabilities for the same tokens.",
        ),
        figure(_time(stage), "Seconds of each step"),
    ]
    shown = join(figures)
    return details("Training health", tag("div", shown, cls="charts")) if shown else Html("")


def _pretraining(stage: StageFiles) -> Html:
    loss = "nll" if stage.series("nll") else "loss"
    figures = [
        figure(_one(stage, loss, "loss", colour=TASK), LOSSES[loss], "", ends(stage.series(loss), amount)),
        figure(_one(stage, "accuracy", "accuracy", True, TASK), "Right on the step's records", "", ends(stage.series("accuracy"), share)),
        figure(_one(stage, "grad_norm", "gradient norm", colour=INK), "Gradient norm, before clipping"),
        figure(_one(stage, "learning_rate", "learning rate", colour=INK), "Learning rate"),
    ]  # fmt: skip
    return join(figures)


LOSSES = {"nll": "Loss, nats per token", "loss": "Loss, nats per record"}
ACROSS: tuple[tuple[str, str, str, bool], ...] = (  # key, title, note, whether it is a share
    ("rewards/accuracy/mean", "Right answers", "Training: tasks and temperature may differ between stages.", True),
    ("completions/mean_length", "Length of a response, in tokens", "", False),
    (
        "emergence/consistent",
        "Thoughts in their prompt's language",
        "Share with 95% or more of their words in it.",
        True,
    ),
    ("emergence/reflections_per_response", "Reflective words per response", "", False),
)


def _across(stages: list[StageFiles]) -> Html:
    """The RL stages one after the other on one axis of steps."""
    figures = []
    for key, head, note, shares in ACROSS:
        series, before = [], 0.0
        for i, stage in enumerate(stages):
            points = [(x, y) for x, y in stage.series(key) if x > 0]
            steps = [row["step"] for row in stage.rows if row["step"] > 0]
            first = min(steps, default=1) - 1  # a stage that goes on with another's steps counts on
            name = title(stage.name)
            series.append(Series(name, [(x - first + before, y) for x, y in points], 1 + i % svg.COLOURS, smooth=True))
            before += max(steps, default=0) - first if steps else 0
        chart = svg.line_chart(
            series, about=f"{head} over all RL stages", x_label="RL steps, all stages",
            y_format=svg.percent if shares else svg.number, y_high=1.0 if shares else None,
        )  # fmt: skip
        figures.append(figure(chart, head, note))
    return tag("div", join(figures), cls="charts")


def _block(stage: StageFiles) -> Html:
    """One RL stage: its charts and its health."""
    parts: list[Html] = [tag("div", _charts(stage), cls="charts")]
    if half := svg.window(len(stage.series("reward"))):
        lines = f"Thin lines: every step. Bold: mean of {2 * half + 1} steps. Point at a chart for its values."
        parts.append(tag("p", lines, cls="note"))
    return join([*parts, _health(stage)])


def _named(stage: StageFiles) -> str:
    n = len({row["step"] for row in stage.rows if row["step"] > 0})
    return f"Stage {title(stage.name)}, {n:,} step{'s' if n != 1 else ''}"


def curves(run: RunFiles) -> Html:
    """One block for each stage that learns; where several reinforce, first all of them on one axis, then each to unfold."""
    reinforced = [s for s in run.of("rl") if s.rows]
    tuned = [s for s in run.stages if s.kind in ("pretrain", "sft", "reward", "other") and s.rows and _pretraining(s)]
    parts: list[str] = []
    if len(reinforced) < 2:
        for stage in (s for s in run.stages if s in reinforced or s in tuned):
            shown = _block(stage) if stage.kind == "rl" else tag("div", _pretraining(stage), cls="charts")
            parts += [tag("h3", _named(stage)), shown]
        return section("curves", "While it learned", *parts)
    parts = [tag("h3", "All RL stages, one after the other"), _across(reinforced)]
    parts += [details(_named(s), _block(s), open_=s is reinforced[0]) for s in reinforced]
    parts += [details(_named(s), tag("div", _pretraining(s), cls="charts")) for s in tuned]
    return section("curves", "While it learned", *parts)
