"""Preference records: reading, writing, and the making of pairs by a judge that is not to be trusted."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import fmean

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from incentive import chat
from incentive.files import RunError
from incentive.preferences import Label, Pair, balanced, make_pairs, read_labels, read_pairs, write

PAIR = '{"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1.5, "more": 1}'


# --- files ---------------------------------------------------------------------------------------------------------


def test_records_come_back(tmp_path: Path) -> None:
    pairs = [
        Pair("p\n", "<think>t</think>a", "b\U0001f600", 1.25),
        Pair([{"role": "user", "content": "é"}], "", "c", 2.0),
    ]
    labels = [Label("p", "r", True), Label("q", "", False)]
    write(tmp_path / "pairs", pairs)
    write(tmp_path / "labels", labels)
    assert read_pairs(tmp_path / "pairs") == pairs
    assert read_labels(tmp_path / "labels") == labels


def test_all_files_of_a_folder_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(PAIR.replace('"p"', '"2"') + "\n\n" + PAIR.replace('"p"', '"3"'))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(PAIR.encode()))
    assert [p.prompt for p in read_pairs(tmp_path)] == ["p", "2", "3"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "p", "chosen": "a", "rejected": "b"}', "'margin' is missing"),
        (PAIR.replace("1.5", "true"), "'margin' must be a number"),
        (PAIR.replace("1.5", "NaN"), "'margin' must be a number"),
        (PAIR.replace("1.5", "-1"), "'margin' must be a number"),
        (PAIR.replace('"a"', "7"), "'chosen' must be text"),
        (PAIR.replace('"a"', '"\\ud800"'), "'chosen' must be text"),
        (PAIR.replace('"p"', "[]"), "'prompt' must be text or a list of messages"),
        (PAIR.replace('"p"', '[{"role": "user"}]'), "'prompt' must be text or a list of messages"),
        ("[1]", "not an object"),
        ('{"prompt": ', "not valid JSON"),
    ],
)
def test_a_faulty_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(f"{PAIR}\n{line}\n")
    with pytest.raises(RunError, match=f"x.jsonl:2: {said}"):
        read_pairs(tmp_path)


def test_no_files_and_torn_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no \.jsonl"):
        read_pairs(tmp_path)
    (tmp_path / "x.jsonl.zst").write_bytes(zstandard.compress(PAIR.encode() * 1000)[:-9])
    with pytest.raises(RunError, match=r"x\.jsonl\.zst"):
        read_pairs(tmp_path)


# --- the making of pairs -------------------------------------------------------------------------------------------


def response(summary: str, thinking: str = "hm") -> str:
    return chat.perfect(thinking, summary)


def candidates(n: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """The better answer has the larger number."""
    rng = Random(seed)
    return [
        (f"p{i}", *(response(f"{rng.randrange(100)} {'so ' * rng.randrange(9)}{i}") for _ in "ab")) for i in range(n)
    ]  # type: ignore[misc]


def honest(_: object, first: str, second: str) -> float:
    gap = int(first.split()[0]) - int(second.split()[0])
    return max(-2, min(2, round(gap / 20)))


def test_better_answers_are_chosen() -> None:
    made = make_pairs(candidates(300), honest, tolerance=1.0)
    number = lambda text: int(chat.summary(text).split()[0])  # noqa: E731
    assert len(made.pairs) > 100
    assert all(number(p.chosen) - number(p.rejected) >= 30 and p.margin == 2 for p in made.pairs)
    assert made.judge["agreement"] == made.judge["swapped"] == made.judge["unanimous"] == 1.0
    assert made.judge["first_place"] == pytest.approx(0, abs=0)


def test_a_liking_for_the_first_place_makes_no_pair() -> None:
    """Two calls of four are swapped, so the liking cancels in every mean; and it is measured."""
    made = make_pairs(candidates(200), lambda *_: 2.0)
    assert made.pairs == []
    assert made.counts["unclear"] == made.counts["candidates"] - made.counts["same"] == made.judge["pairs"]
    assert made.judge["first_place"] == 2.0
    assert made.judge["swapped"] == 0.0
    assert made.judge["agreement"] == pytest.approx(1 / 3)


def test_orders_are_drawn_at_random_half_of_them_swapped() -> None:
    asked: list[str] = []

    def judge(prompt: object, first: str, _: str) -> float:
        asked.append(f"{prompt}{first}")
        return 0.0

    make_pairs([(p, response("1"), response("2")) for p in "pq"], judge)
    assert sorted(asked) == ["p1", "p1", "p2", "p2", "q1", "q1", "q2", "q2"]
    orders = set()
    for seed in range(40):
        asked.clear()
        make_pairs([("p", response("1"), response("2"))], judge, seed=seed)
        orders.add("".join(asked))
    assert len(orders) == 6  # all ways to swap two of four


def test_everything_dropped_is_counted() -> None:
    a, b = response("90"), response("10")
    given = [
        ("p", a, b),
        ("p", b, a),
        ("p", a, response(" 90 ", "other")),
        ("q", "<think>open", b),
        ("r", a, response("nan")),
    ]
    judge = lambda prompt, x, y: None if prompt == "r" else honest(prompt, x, y)  # noqa: E731
    made = make_pairs(given, judge, tolerance=1.0)
    assert made.counts == {"candidates": 5, "empty": 1, "same": 1, "repeated": 1, "no_verdict": 1, "unclear": 0, "length": 0, "kept": 1}  # fmt: skip
    assert made.pairs == [Pair("p", a, b, 2.0)]
    with pytest.raises(ValueError, match="from -2 to 2"):
        make_pairs(given, lambda *_: 3.0)
    with pytest.raises(ConnectionError):
        make_pairs(given, lambda *_: (_ for _ in ()).throw(ConnectionError()))


def test_the_threshold_is_not_included() -> None:
    verdicts = {"p": 1.0, "q": 1.25}
    given = [(p, response("90"), response("10")) for p in verdicts]
    judge = lambda prompt, x, y: verdicts[prompt] * (1 if x > y else -1)  # noqa: E731
    made = make_pairs(given, judge, tolerance=1.0)
    assert [p.prompt for p in made.pairs] == ["q"]
    assert make_pairs(given, judge, tolerance=1.0, threshold=0.5).counts["kept"] == 2


def test_workers_and_repetition_change_nothing() -> None:
    noisy = lambda prompt, x, y: honest(prompt, x, y) * (len(prompt + x) % 3 > 0)  # noqa: E731
    one = make_pairs(candidates(200), noisy)
    assert one == make_pairs(candidates(200), noisy, workers=8)
    assert one.pairs != make_pairs(candidates(200), noisy, seed=1).pairs
    assert sum(v for k, v in one.counts.items() if k != "candidates") == one.counts["candidates"]


def test_a_judge_that_likes_length_is_balanced() -> None:
    longer = lambda x, y: 2.0 if len(x) > len(y) else -2.0  # noqa: E731
    made = make_pairs(candidates(400), lambda p, x, y: longer(x, y) if int(p[1:]) % 3 else honest(p, x, y))
    before = made.lengths["chosen_before"] / made.lengths["rejected_before"]
    after = made.lengths["chosen"] / made.lengths["rejected"]
    assert before > 1.2
    assert abs(after - 1) <= 0.021
    assert made.counts["length"] > 0
    assert made.counts["kept"] > 50


texts = st.integers(0, 60).map(lambda n: response("x" * n + "."))
pairs_of = st.lists(st.tuples(texts, texts), max_size=40).map(
    lambda xs: [Pair(f"p{i}", a, b, 2.0) for i, (a, b) in enumerate(xs)]
)


@settings(max_examples=300, deadline=None)
@given(pairs_of, st.sampled_from([0.0, 0.02, 0.1]))
def test_balanced_is_within_tolerance_and_drops_from_the_heavier_side(pairs: list[Pair], tolerance: float) -> None:
    kept = balanced(pairs, tolerance)
    assert [p for p in pairs if p in kept] == kept  # in order
    size = lambda text: len(chat.summary(text))  # noqa: E731
    gaps = [size(p.chosen) - size(p.rejected) for p in kept]
    if kept:
        mean = fmean((size(p.chosen) + size(p.rejected)) / 2 for p in kept)
        assert abs(fmean(gaps)) <= tolerance * mean + 1e-9
    assert {p.prompt for p in balanced(pairs[::-1], tolerance)} == {p.prompt for p in kept}  # order plays no part
    assert sum(p.chosen == p.rejected for p in kept) == sum(p.chosen == p.rejected for p in pairs)  # equal ones stay
    if abs(sum(size(p.chosen) - size(p.rejected) for p in pairs)) == 0:
        assert kept == pairs
