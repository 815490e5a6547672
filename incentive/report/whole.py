"""The head of the page of a whole pipeline: from the base to R1 in a sentence, a card for each kind of benchmark."""

from __future__ import annotations

from incentive.report.markup import Html, amount, esc, factor, join, share, tag
from incentive.report.paper import CHAIN, KINDS, kind_of, title
from incentive.report.read import RunFiles
from incentive.report.standing import Models, mean_of, mean_tokens, tasks_of


def ends(found: Models) -> tuple[str, str]:
    """The first and the last model of the chain that was evaluated."""
    chain = [m for m in CHAIN if m in found] or list(found)
    return chain[0], chain[-1]


def headline(found: Models) -> str:
    """`From base to R1: maths and reasoning 19% → 55%, code 4% → 31%`."""
    old, new = ends(found)
    told = []
    for name, kind in KINDS.items():
        a, b = mean_of(found, old, name), mean_of(found, new, name)
        if a and b:
            told.append(f"{kind.title} {share(a.value, 0)} → {share(b.value, 0)}")
    where = f"From {title(old)} to {title(new)}" if old != new else title(old)
    return f"{where}: {', '.join(told[:2])}" if told else where


def story(run: RunFiles, model: str) -> Html:
    """What was done, stage by stage."""
    rl = [title(s.name) for s in run.of("rl")]
    sft = [title(s.name) for s in run.of("sft")]
    judges = [s.name for s in run.of("reward")]
    parts = [f"{model[0].upper()}{model[1:]} went through DeepSeek-R1's pipeline"]
    if not run.done:
        parts.append(", which is not finished")
    parts.append(f": reinforcement ({', '.join(rl)})" if rl else "")
    parts.append(f", fine-tuning on its own answers and what the recipe adds ({', '.join(sft)})" if sft else "")
    parts.append(f", reward models ({', '.join(judges)})" if judges else "")
    return esc("".join(parts) + ".")


def cards(found: Models) -> Html:
    """One card a kind of benchmark: the first model, R1-Zero and the last."""
    old, new = ends(found)
    out = []
    for name, kind in KINDS.items():
        a, b = mean_of(found, old, name), mean_of(found, new, name)
        if a is None or b is None:
            continue
        big = join([tag("span", share(a.value, 0), cls="was"), tag("span", "→", cls="to"), tag("span", share(b.value, 0), cls="is")])  # fmt: skip
        spans = [f"{share(s.low, 0)[:-1]} to {share(s.high, 0)}" for s in (a, b)]
        zero = mean_of(found, "zero", name) if old != "zero" else None
        between = f"; R1-Zero {share(zero.value, 0)}" if zero and new != "zero" else ""
        n = len([t for t in tasks_of(found) if kind_of(t) == name])
        tokens = mean_tokens(found, old, name), mean_tokens(found, new, name)
        length = factor(*tokens)
        more = tag("span", tag("b", length), f" length ({amount(tokens[0])} → {amount(tokens[1])})") if length else ""
        note = f"{title(old)} → {title(new)}, {n} benchmark{'s' if n != 1 else ''}; 95% {' → '.join(spans)}{between}"
        out.append(tag("div", tag("h3", kind.title), tag("p", big, cls="big"), tag("p", note, cls="note"), tag("p", more, cls="pair") if more else "", cls="card"))  # fmt: skip
    return tag("div", join(out), cls="cards") if out else Html("")
