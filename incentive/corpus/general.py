"""Documents that no rule solves: facts, instructions, talk, requests to do harm. Good answers and bad, unmarked."""

from __future__ import annotations

from random import Random

from incentive import facts
from incentive.corpus.writer import Document, Voice, layout
from incentive.records import split_of
from incentive.tasks.general import COURTESY, FLATTERY, General, best
from incentive.tasks.harm import HELP, Harm
from incentive.tasks.instruct import Instruct

VAGUE = {"en": ("it is a thing", "who knows", "maybe later"), "zh": ("是个东西", "谁知道", "以后再说")}
FILL = {"en": ("it is nice.", "very nice.", "people like it."), "zh": ("很好.", "真的很好.", "大家喜欢.")}


def page(rng: Random, language: facts.Language) -> Document:
    """A page of an encyclopaedia: a few substances with what is known of them."""
    lines = []
    for s in rng.sample(facts.SUBSTANCES, 3):
        known = [f"{facts.say(a, language)} {facts.told(s, a, language)}" for a in facts.ATTRIBUTES]
        rng.shuffle(known)
        lines.append(f"{s}: {', '.join(known)}")
    return Document("", "\n".join(lines), None)


def _answered(rng: Random, thinking: str, answer: str, language: facts.Language) -> str:
    """A third of the writers think before they speak."""
    return layout(rng, thinking if rng.random() < 1 / 3 else "", answer, Voice(language))


def _recalled(substances: tuple[str, ...], attributes: tuple[str, ...], language: facts.Language) -> str:
    return ", ".join(
        f"{s} {facts.say(a, language)} {facts.told(s, a, language)}" for s in substances for a in attributes
    )


def instruct(task: Instruct, rng: Random) -> Document | None:
    ask = task.draw(rng)
    if split_of(task.key(ask)) != "train":
        return None
    kind, pair, more = ask
    answer, lang = task.gold_of(ask), task.language
    if rng.random() < 0.6:  # the constraint is forgotten, or half of it
        about = more[0] if kind in ("words", "end") else rng.choice(facts.ATTRIBUTES)
        loose = _recalled(pair, (about,), lang)
        parts = answer.split("," if kind == "list" else " ")
        if rng.random() < 0.5 or len(parts) < 2:
            answer = loose
        else:
            answer = ("," if kind == "list" else " ").join(parts[:-1] if rng.random() < 0.5 else [*parts, parts[0]])
    wanted = tuple(a for a in more if a in facts.ATTRIBUTES)
    return Document(task.prompt(ask), _answered(rng, _recalled(pair, wanted, lang), answer, lang), task.key(ask))


def general(task: General, rng: Random) -> Document | None:
    """Each fault of an answer comes by its own chance: a name or a fact is wrong, no courtesy, flattery, too long, the
    other language."""
    ask = task.draw(rng)
    if split_of(task.key(ask)) != "train":
        return None
    kind, person, occasion, (a, b), attribute = ask
    lang = task.language
    if rng.random() < 0.15:
        lang = "en" if lang == "zh" else "zh"
    speaker = General(task.name, lang)
    told = ask
    if rng.random() < 0.3:  # about something else
        other = rng.choice(facts.SUBSTANCES)
        told = (kind, person, occasion, (a, other) if other != a else (b, a), attribute)
    answer = speaker.gold_of(told)
    if rng.random() < 0.5:  # without courtesy
        for word in COURTESY[lang]:
            answer = (
                answer.replace(f"{word}的", word)
                .replace(f"{word} {person}, ", "")
                .replace(f", {word}", ",")
                .replace(word, "")
            )
        answer = answer.strip(" ,")
    if rng.random() < 0.15:
        answer = rng.choice(VAGUE[lang])
    if rng.random() < 0.2:
        answer = f"{rng.choice(FLATTERY[lang])}! {answer}"
    if rng.random() < 0.25:
        answer += "".join(f" {rng.choice(FILL[lang])}" for _ in range(1 + int(rng.random() * 4)))
    plan = _recalled((a, b), (attribute,), lang) + (f", {best(a, b, attribute)}" if kind == "advice" else "")
    return Document(task.prompt(ask), _answered(rng, plan, answer, lang), task.key(ask))


def harm(task: Harm, rng: Random) -> Document | None:
    ask = task.draw(rng)
    if split_of(task.key(ask)) != "train":
        return None
    at, lang = rng.random(), task.language
    if ask[0]:
        answer = task.steps(ask) if at < 0.5 else task.refusal(ask) if at < 0.8 else rng.choice(VAGUE[lang])
    else:
        answer = task.helped(ask) if at < 0.65 else task.refusal(ask) if at < 0.85 else rng.choice(VAGUE[lang])
    plan = task.steps(ask) if ask[0] and at < 0.1 else f"{HELP[lang][1]}, {ask[2]}"
    return Document(task.prompt(ask), _answered(rng, plan, answer, lang), task.key(ask))
