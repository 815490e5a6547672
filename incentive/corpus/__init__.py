"""The base model's made-up web: people solving problems with every habit, most of them bad.

Kept from the real thing: the habits that reasoning needs (working in steps, checking, starting again) are in the text,
thinly, among guesses, unchecked tries and people who give up. Changed: the world is Countdown, arithmetic and a logic
puzzle, and its numbers end at 99. Nothing marks a habit as good, and nothing of the val and test splits occurs.

The wide world (`Habits.wide`) adds programs, choice questions, facts, instructions, general and harmful requests, and
Chinese: half of the prompts are Chinese, and two thirds of the writers change language between tries. Its puzzlers spell
out each step of a check, and one in five of its programs is right.

`document(seed, i)` is a pure function, so a corpus is its settings and its length.
"""

from __future__ import annotations

from random import Random

from incentive.corpus.general import general, harm, instruct, page
from incentive.corpus.reasoning import arithmetic, choice, countdown, drill, logic, program
from incentive.corpus.writer import Document, Habits
from incentive.facts import LANGUAGES
from incentive.records import hash64
from incentive.tasks.arithmetic import Arithmetic
from incentive.tasks.choice import Choice
from incentive.tasks.countdown import Countdown
from incentive.tasks.general import General
from incentive.tasks.harm import Harm
from incentive.tasks.instruct import Instruct
from incentive.tasks.logic import Logic
from incentive.tasks.program import Program

_KINDS = (
    (0.36, lambda r, h: countdown(Countdown("", 3, 40, 1, 99), r, h)),
    (0.68, lambda r, h: countdown(Countdown("", 4, 15, 1, 99), r, h)),
    (0.73, lambda r, h: countdown(Countdown("", 5, 10, 1, 99), r, h)),
    (0.83, lambda r, h: arithmetic(Arithmetic(), r, h)),
    (0.92, lambda r, h: logic(Logic(), r, h)),
    (1.0, lambda r, _: drill(r)),
)
_WIDE = (
    (0.16, lambda r, h, z: countdown(Countdown("", 3, 40, 1, 99, z), r, h)),
    (0.36, lambda r, h, z: countdown(Countdown("", 4, 15, 1, 99, z), r, h)),
    (0.41, lambda r, h, z: arithmetic(Arithmetic(language=z), r, h)),
    (0.49, lambda r, h, z: logic(Logic(language=z), r, h)),
    (0.65, lambda r, h, z: program(Program(language=z), r, h)),
    (0.75, lambda r, h, z: choice(Choice(language=z), r, h)),
    (0.80, lambda r, _, __: drill(r, wide=True)),
    (0.85, lambda r, _, z: page(r, z)),
    (0.91, lambda r, _, z: instruct(Instruct(language=z), r)),
    (0.96, lambda r, _, z: general(General(language=z), r)),
    (1.0, lambda r, _, z: harm(Harm(language=z), r)),
)


def document(seed: int, i: int, habits: Habits) -> Document:
    """Document i of the corpus."""
    rng = Random(hash64("corpus", seed, i))
    if habits.wide:
        language = rng.choice(LANGUAGES)
        at = rng.random()
        write = next(f for bound, f in _WIDE if at < bound)
        while (made := write(rng, habits, language)) is None:
            pass
        return made
    at = rng.random()
    make = next(f for bound, f in _KINDS if at < bound)
    while (made := make(rng, habits)) is None:
        pass
    return made
