"""One writer of the made-up web: whose words, which habits, how a response is laid out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from incentive import chat
from incentive.facts import Language

TURNS = (("wait", 0.6), ("retry", 0.1), ("but", 0.1), ("hmm", 0.1), ("", 0.1))  # how a writer starts again
ZH = {
    "yes": "对", "no": "不对", "ok": "好", "wait": "等等", "retry": "重来", "but": "但是", "hmm": "嗯", "give up": "放弃",
    "answer": "答案", "": "",
}  # fmt: skip


@dataclass(frozen=True)
class Habits:
    """How the writers behave.

    retry_dose: share of the documents that solve a problem in which a try is checked, fails, and another follows.
    verify: False makes every yes and no a coin's (a base that cannot verify).
    wide: the wide world instead of the first one.
    """

    retry_dose: float = 0.01
    verify: bool = True
    wide: bool = False


@dataclass(frozen=True)
class Document:
    prompt: str  # "" for a document that solves nothing
    response: str
    key: str | None


def pick(rng: Random, weighted: tuple[tuple[str, float], ...]) -> str:
    at = rng.random() * sum(w for _, w in weighted)
    for item, weight in weighted:
        at -= weight
        if at < 0:
            return item
    return weighted[-1][0]


class Voice:
    """Whose words a writer uses. Two in three of the wide world's writers change language between tries."""

    def __init__(self, language: Language = "en", rng: Random | None = None):
        self.language, self.rng = language, rng  # rng: of a writer who changes

    def __call__(self, word: str) -> str:
        return ZH[word] if self.language == "zh" else word

    def turn(self) -> None:
        """Between tries."""
        if self.rng is not None and self.rng.random() < 0.5:
            self.language = "en" if self.language == "zh" else "zh"


def voice(rng: Random, language: Language, wide: bool) -> Voice:
    """A writer's voice at a prompt of that language."""
    if not wide:
        return Voice(language)
    mixes = rng.random() < 2 / 3
    started = Voice(language, rng if mixes else None)
    if mixes:
        started.turn()
    return started


def layout(rng: Random, thinking: str, answer: str, say: Voice) -> str:
    """The writer's layout: with both tags, or with one pair or none."""
    at = rng.random()
    if at < 0.62:
        return chat.perfect(thinking, answer)
    if at < 0.76:
        return f"{thinking}{chat.ANSWER}{answer}{chat.END_ANSWER}"
    if at < 0.90:
        return f"{chat.THINK}{thinking}{chat.END_THINK}{say('answer')}: {answer}"
    return f"{thinking}\n{say('answer')}: {answer}"


Try = tuple[str, str, str]  # (work, check up to its verdict, answer)
Write = Callable[[Voice], Try]  # a try in the words of the moment


class Solver:
    """One writer at one problem: how a try reads, whether it is right, and what is answered after it."""

    def __init__(self, rng: Random, habits: Habits, voice: Voice):
        self.rng, self.habits, self.voice = rng, habits, voice

    def verdict(self, right: bool) -> str:
        if not self.habits.verify:
            right = self.rng.random() < 0.5
        return "yes" if right else "no"

    def form(self, thinking: str, answer: str) -> str:
        return layout(self.rng, thinking, answer, self.voice)

    def turn(self) -> str:
        """How the next try is begun."""
        word = pick(self.rng, TURNS)
        found = f" {self.voice(word)}\n" if word else "\n"
        self.voice.turn()
        return found

    def write(self, wrong: list[Write], right: Write, skill: float = 0.35) -> str:
        """A response from tries: the wrong ones are distinct, the right one is right.

        skill: how often one who does not persist is right.
        """
        rng, say = self.rng, self.voice
        if rng.random() < self.habits.retry_dose and wrong:
            return self.persist(wrong, right)
        kind = rng.random()
        good = rng.random() < skill or not wrong
        work, check, answer = (right if good else wrong[0])(say)
        if kind < 0.2:  # guess
            return self.form("", answer)
        if kind < 0.35:  # one try, no check
            return self.form(work, answer)
        if kind < 0.55:  # several tries, never checked
            tries = wrong[: 1 + int(rng.random() * 4)]
            if good:
                tries = [*tries, right]
            text = ""
            for i, write in enumerate(tries):
                text += self.turn() if i else ""
                work, _, answer = write(say)
                text += work
            return self.form(text, answer)
        verdict = self.verdict(good)  # one try and a check, whatever it says
        if verdict == "yes":
            return self.form(f"{work}{check}{say('yes')}", answer)
        if rng.random() < 0.5:
            return self.form(f"{work}{check}{say('no')} {say('give up')}", "none")
        return self.form(f"{work}{check}{say('no')}", answer)

    def persist(self, wrong: list[Write], right: Write) -> str:
        """Check, fail, start again at least once; in the end it is found, or the writer gives up."""
        rng, say = self.rng, self.voice
        failures = 1
        while failures < len(wrong) and rng.random() < 0.68:
            failures += 1
        found = failures == 1 or rng.random() < 0.7
        lines, answer = [], "none"
        for i in range(failures):
            verdict = self.verdict(False)
            begun = self.turn() if i else ""
            work, check, answer = wrong[i](say)
            lines.append(begun + work + check + say(verdict))
            if verdict == "yes":
                return self.form("".join(lines), answer)
        if found:
            begun = self.turn()
            work, check, answer = right(say)
            lines.append(begun + work + check + say(self.verdict(True)))
            return self.form("".join(lines), answer)
        if rng.random() < 0.5:
            return self.form("".join(lines) + f" {say('give up')}", "none")
        return self.form("".join(lines), answer)


def plain(work: str, check: str, answer: str) -> Write:
    """A try that reads the same in every language."""
    return lambda _: (work, check, answer)
