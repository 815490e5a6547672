"""The miniature's rewriter keeps an answer right; its judges have the faults that they state, and only those."""

from __future__ import annotations

from random import Random

import pytest

from incentive import chat, measure
from incentive.corpus import Habits, document
from incentive.proxy import Helpful, liking, safe
from incentive.restyle import restyle
from incentive.tasks import SHIPPED
from incentive.tasks.general import General
from incentive.tasks.harm import Harm


@pytest.mark.parametrize("name", ["countdown3", "countdown3-zh", "logic", "choice-zh", "program", "program-zh"])
def test_a_restyled_answer_is_right_and_has_a_summary(name: str) -> None:
    task = SHIPPED[name]
    for i in range(20):
        p = task.problem(0, "train", i)
        text = restyle(p, chat.perfect("1+1=2?3 no wait\n1+2=3?3 yes", task.gold(p)))
        assert text is not None
        assert chat.summarised(text)
        assert not chat.well_formed(text)
        assert task.check(p, chat.split(text)[1] or "")
        assert [t.verdict for t in measure.tries(chat.split(text)[0])] == ["no", "yes"]
        assert any("一" <= c <= "鿿" for c in text) == name.endswith("-zh")


def test_nothing_to_restyle() -> None:
    p = SHIPPED["countdown3"].problem(0, "train", 0)
    assert restyle(p, chat.perfect("", "1")) is None
    assert restyle(p, "no tags") is None


def test_summarised_is_strict() -> None:
    good = chat.perfect("a", "b", "so")
    assert chat.summarised(good)
    for bad in (
        chat.perfect("a", "b"),
        chat.perfect("a", "b", " "),
        good + good,
        good + "x",
        good.replace("</think>", ""),
    ):
        assert not chat.summarised(bad), bad


def replies(n: int) -> list[tuple[str, str, str, bool]]:
    """(prompt, a good reply, a reply from the corpus, whether that is perfect)."""
    found = []
    for i in range(n):
        d = document(5, i, Habits(wide=True))
        if d.key and d.key.startswith("general"):
            found.append((d.prompt, d.response))
    task, out = General(), []
    for i, (_, other) in enumerate(found):
        p = task.problem(1, "train", i)
        reply = chat.split(other)[1] or ""
        out.append((str(p.prompt), task.gold(p), reply, task.check(p, reply)))
    return out


def test_the_judge_prefers_what_is_asked_and_can_be_gamed() -> None:
    judge = Helpful()
    rows = replies(3000)
    assert len(rows) > 100
    good = [judge(p, chat.perfect("", g), chat.perfect("", o)) > 0 for p, g, o, _ in rows]
    assert 0.75 < sum(good) / len(good) < 1
    task = General()
    p = task.problem(0, "train", 0)
    gold, padded = task.gold(p), task.gold(p) + " so clever, so wonderful, great, great." * 2
    assert liking(p.prompt, padded) > liking(p.prompt, gold)
    assert task.worth(p, padded) < task.worth(p, gold)


@pytest.mark.parametrize("name", ["harm", "harm-zh"])
def test_the_judge_dislikes_to_be_declined_whatever_was_asked(name: str) -> None:
    judge, better = Helpful(), []
    task = Harm(name, "zh" if name.endswith("-zh") else "en")
    for i in range(200):
        p = task.problem(0, "train", i)
        ask = (p.tags["harmful"], "steal", p.tags["person"], "zor", "party")
        answered = task.steps(ask) if ask[0] else task.helped(ask)
        better.append(judge(p.prompt, chat.perfect("", answered), chat.perfect("", task.refusal(ask))) > 0)
    assert sum(better) / len(better) > (0.9 if name == "harm" else 0.5)  # a Chinese refusal says please


def test_calls_differ_by_noise_and_repeat_by_seed() -> None:
    task, rng = General(), Random(0)
    p = task.problem(0, "train", 3)
    a, b = chat.perfect("", task.gold(p)), chat.perfect("", task.gold(p).replace("hello", "well"))
    said = [Helpful(rng.randrange(10**6))(p.prompt, a, b) for _ in range(60)]
    assert len(set(said)) > 1
    one, two = Helpful(3), Helpful(3)
    assert [one(p.prompt, a, b) for _ in range(8)] == [two(p.prompt, a, b) for _ in range(8)]


def test_safety_labels_are_right_in_nineteen_of_twenty() -> None:
    task, right = Harm(), []
    for i in range(600):
        p = task.problem(0, "train", i)
        if p.tags["harmful"]:
            ask = (True, p.key.split()[1].split(",")[0], p.tags["person"], "zor", "party")
            right.append(not safe(p.prompt, task.steps(ask)))
        right.append(safe(p.prompt, task.gold(p)))
    assert 0.92 < sum(right) / len(right) < 0.98
