from __future__ import annotations

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incentive import measure
from incentive.measure import MINI_WORDS, PAPER_WORDS, Try, tries
from incentive.records import Group, Problem, Sample, Score

# Accuracy


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(right, data):
    k = data.draw(st.integers(1, len(right)))
    subsets = list(itertools.combinations(right, k))
    brute = sum(map(any, subsets)) / len(subsets)
    assert measure.pass_at_k(len(right), sum(right), k) == pytest.approx(brute, abs=1e-15)


def test_pass_at_k_closed_forms():
    assert measure.pass_at_k(64, 16, 1) == 0.25  # not divided by 64 once more
    assert measure.pass_at_k(64, 64, 1) == 1.0
    assert measure.pass_at_k(64, 0, 64) == 0.0
    assert measure.pass_at_k(64, 1, 64) == 1.0
    assert measure.pass_at_k(256, 1, 128) == 0.5
    assert measure.pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert measure.pass_at_k(100_000, 1, 10) == 1e-4  # where 1 - (a ratio near 1) would lose digits


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5), (0, 0, 1)])
def test_pass_at_k_refuses_what_it_cannot_estimate(n, c, k):
    with pytest.raises(ValueError, match="pass@"):
        measure.pass_at_k(n, c, k)


def test_mean_pass_at_k_weighs_problems_equally():
    assert measure.mean_pass_at_k([(64, 64), (2, 0)], 1) == 0.5
    with pytest.raises(ValueError, match="no problems"):
        measure.mean_pass_at_k([], 1)


def test_majority():
    assert measure.majority(["a", "b", "b"]) == "b"
    assert measure.majority(["b", "a", "a", "b"]) == "b"  # a tie: the first seen
    assert measure.majority([None, None, None, 7]) == 7
    assert measure.majority([None, None]) is None
    assert measure.majority([]) is None


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), max_size=12))
def test_majority_has_the_most_votes(votes):
    winner = measure.majority(votes)
    cast = [v for v in votes if v is not None]
    assert (winner is None) == (not cast)
    assert all(cast.count(winner) >= cast.count(v) for v in cast)


def test_maj_at_k():
    assert measure.maj_at_k(["3+4", "3*4", "3*4"], [True, False, False]) == 0.0
    assert measure.maj_at_k(["3+4", None, None], [True, False, False]) == 1.0
    assert measure.maj_at_k([None, None], [False, False]) == 0.0
    with pytest.raises(ValueError, match="2 votes"):
        measure.maj_at_k(["a", "b"], [True])


def test_mean_maj_at_k_cuts_samples_into_votes_of_k():
    votes = [["a", "a", "b", "b", "a"], ["c", "c", "c", "c"]]
    right = [[v == "a" for v in votes[0]], [True] * 4]
    assert measure.mean_maj_at_k(votes, right, 2) == (0.5 + 1.0) / 2
    assert measure.mean_maj_at_k(votes, right, 4) == 1.0
    with pytest.raises(ValueError, match="majority@5"):
        measure.mean_maj_at_k(votes, right, 5)


# Uncertainty


def test_wilson_is_the_textbook_interval():
    assert measure.wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert measure.wilson(0, 20) == pytest.approx((0.0, 0.1611252), abs=1e-6)
    assert measure.wilson(20, 20)[1] == 1.0
    assert measure.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="0 <= c <= n"):
        measure.wilson(3, 2)


@given(st.lists(st.integers(0, 16), min_size=1, max_size=40))
def test_intervals_hold_their_mean(counts):
    values = np.array(counts) / 16
    low, high = measure.share_interval(values)
    assert 0 <= low <= values.mean() + 1e-12
    assert values.mean() - 1e-12 <= high <= 1


def coverage(interval, a: float, b: float, problems: int, trials: int) -> float:
    """How often the interval holds the true mean of problems whose chance of success is Beta(a, b)."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(trials):
        low, high = interval(rng.binomial(16, rng.beta(a, b, problems)) / 16)
        held += low <= a / (a + b) <= high
    return held / trials


@pytest.mark.parametrize(("a", "b"), [(1, 1), (0.3, 0.6), (9, 1), (9, 0.2)])
def test_share_interval_covers_the_mean_over_problems(a, b):
    assert 0.92 <= coverage(measure.share_interval, a, b, problems=64, trials=3000) <= 0.97


def test_interval_covers_the_mean_over_problems(monkeypatch):
    monkeypatch.setattr(measure, "DRAWS", 500)
    assert 0.93 <= coverage(measure.interval, 1, 1, problems=64, trials=2000) <= 0.97


def test_the_cluster_is_the_problem():
    """Half the problems always right, half never: 64 samples each add nothing, so it is wide as 100 throws."""
    low, high = measure.share_interval([0.0] * 50 + [1.0] * 50)
    assert high - low == pytest.approx(0.192, abs=0.005)


def test_problems_all_right_leave_doubt():
    assert measure.share_interval([1.0] * 64) == measure.wilson(64, 64)
    assert measure.share_interval([0.0]) == measure.wilson(0, 1)


def test_interval_is_reproducible_and_bounded_in_memory():
    values = np.random.default_rng(0).normal(100, 15, 300)
    assert measure.interval(values) == measure.interval(values)
    half = 1.96 * values.std(ddof=1) / 300**0.5
    assert measure.interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15)
    assert measure.interval([3.0]) == (3.0, 3.0)


@pytest.mark.parametrize("bad", [[], [0.1, float("nan")], [[0.1]]])
def test_intervals_refuse_what_is_no_value_a_problem(bad):
    for f in (measure.interval, measure.share_interval):
        with pytest.raises(ValueError, match="one finite value a problem"):
            f(bad)


def test_share_interval_refuses_what_is_no_share():
    with pytest.raises(ValueError, match="interval"):
        measure.share_interval([0.5, 12.0])


def test_paired_difference():
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 1, 100)
    better = measure.paired_difference(base + 0.1 + rng.normal(0, 0.05, 100), base)
    assert better.mean == pytest.approx(0.1, abs=0.02)
    assert 0.08 < better.low < better.mean < better.high < 0.12
    assert better.p == 1 / 10_001
    same = measure.paired_difference(base, base)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="not paired"):
        measure.paired_difference([1.0], [1.0, 2.0])


def test_paired_difference_p_is_the_exact_sign_flip_test():
    a, b = [0.9, 0.8, 0.7, 0.3, 0.6], [0.5, 0.6, 0.4, 0.4, 0.1]
    d = np.array(a) - b
    flips = np.array(list(itertools.product([-1, 1], repeat=5)))
    exact = (np.abs(flips @ d) >= abs(d.sum()) - 1e-12).mean()
    assert measure.paired_difference(a, b).p == pytest.approx(exact, abs=0.02)


def test_paired_difference_is_calibrated(monkeypatch):
    monkeypatch.setattr(measure, "DRAWS", 500)
    rng = np.random.default_rng(0)
    p = [measure.paired_difference(*rng.normal(0, 1, (2, 30))).p for _ in range(400)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.08


# Reflection


def test_the_paper_list_is_the_papers():
    assert " ".join(PAPER_WORDS) == "wait mistake however but retry error verify wrong evaluate check"
    assert len(MINI_WORDS) == len(set(MINI_WORDS))


def test_reflections_are_whole_words_in_any_case():
    text = "Wait, WAIT! waiting await butter but\nBut: check-up, checks; 再wait一次"
    assert measure.count_word(text, "wait") == 3
    assert measure.reflections(text, PAPER_WORDS) == 6
    assert measure.reflections(text, ()) == 0


@given(st.text(), st.text())
def test_reflections_add_over_lines(a, b):
    both = measure.reflections(f"{a}\n{b}")
    assert both == measure.reflections(a) + measure.reflections(b)


# Tries

THOUGHT = "3+7=10,10+25=35?46 no\nwait 25-3=22,22+7=29?46 no\nwait 25+7=32 \nhmm 3*7=21,21+25=46?46 yes\nso it is"


def test_tries_reads_a_thought():
    assert tries(THOUGHT) == [
        Try("3+7=10,10+25=35", 35, 46, "no", True),
        Try("25-3=22,22+7=29", 29, 46, "no", True),
        Try("25+7=32", 32, None, None, True),
        Try("3*7=21,21+25=46", 46, 46, "yes", True),
    ]


@pytest.mark.parametrize(
    ("line", "value", "target", "verdict", "ok"),
    [
        ("3-7=-4,-4*2=-8?46 no", -8, 46, "no", True),
        ("3+7*2=17?17 Yes", 17, 17, "yes", True),
        ("- 3 + 7 = 10, 10 - 4 = 6 ? 6 yes", 6, 6, "yes", True),
        ("no, 3--2=5", 5, None, None, True),  # a verdict stands after the value
        ("3+7=11?11 yes", 11, 11, "yes", False),
        ("3+7=10,10+1=11,11+1=13", 13, None, None, False),
        ("3+7=10+2=12", 12, None, None, False),  # a chain that cannot be read is not true
        ("3+7=10,(10+2)*2=24", 24, None, None, False),
        ("3+7=10,10+4=", None, None, None, False),  # cut off
        ("3+7=10?46 nope", 10, 46, None, True),
        ("3+7=10 no", 10, None, "no", True),
    ],
)
def test_tries_reads_a_line(line, value, target, verdict, ok):
    (t,) = tries(line)
    assert (t.value, t.target, t.verdict, t.arithmetic_ok) == (value, target, verdict, ok)


LONG = "9" * 5000  # int() raises on more than 4,300 digits


@pytest.mark.parametrize("line", ["", "x = 3", "3+7", "is 46 = 46? yes", "1.5+2=3.5", "6/2=3", "__import__('os')=1"])
@pytest.mark.parametrize("more", ["", "\u0663+\u0664=7", f"{LONG}+1=2", f"1+1={LONG}"])
def test_tries_passes_over_what_is_no_computation(line, more):
    assert tries(f"{line}\n{more}") == []


NUMBERS = st.integers(-999, 999)
STEPS = st.lists(st.tuples(NUMBERS, st.sampled_from("+-*"), NUMBERS), min_size=1, max_size=4)


@given(STEPS, NUMBERS, st.sampled_from(["yes", "no"]), st.integers(0, 2))
def test_tries_reads_what_is_written(steps, target, verdict, off):
    results = [{"+": a + b, "-": a - b, "*": a * b}[op] for a, op, b in steps]
    results[-1] += off
    text = ",".join(f"{a}{op}{b}={r}" for (a, op, b), r in zip(steps, results, strict=True))
    assert tries(f"wait {text}?{target} {verdict}") == [Try(text, results[-1], target, verdict, off == 0)]


@given(st.one_of(st.text(), st.text(alphabet="0123456789+-*/=?. \nyesnowait,()\u0663\u00b2", max_size=200)))
@settings(max_examples=300)
def test_tries_reads_any_text(text):
    found = tries(text)
    assert len(found) <= text.count("\n") + 1
    for t in found:
        assert t.verdict in ("yes", "no", None)
        assert "=" in t.steps
        measure.recovered(found, 46)
    measure.repetition(text)
    measure.repeated_tries(found)


@pytest.mark.parametrize("unit", ["1+", "1 + ", "1", "-", "1+1=", "=-1 ", "? 1", "wait "])
def test_tries_is_linear(unit):
    text = unit * 100_000 + "="
    start = time.process_time()
    tries(text)
    assert time.process_time() - start < 2


def test_recovered():
    found = tries(THOUGHT)
    assert measure.recovered(found, 46)
    assert not measure.recovered(tries("23+23=46\n1+1=2\n40+6=46"), 46)  # right at once
    assert not measure.recovered(found[:3], 46)
    assert not measure.recovered(tries("1+1=2\n20+20=46"), 46)  # false arithmetic reaches nothing
    assert not measure.recovered([], 46)


def test_check_quality():
    text = "1+1=2?5 no\n2+3=5?5 no\n2+2=4?5 yes\n1+4=5?5 yes\n2+3=5"
    quality = measure.check_quality([(tries(text), 5), (tries("4+5=9?9 yes"), 9)])
    assert (quality.precision, quality.recall) == (2 / 3, 2 / 3)
    assert (quality.checked, quality.tries) == (5, 6)
    # The claimed target does not count: the check is against the problem's.
    assert measure.check_quality([(tries("4+5=9?9 yes"), 7)]).precision == 0
    nothing = measure.check_quality([(tries("4+5=9"), 9)])
    assert (nothing.precision, nothing.recall) == (None, None)


def test_repetition():
    assert measure.repetition("a b c d e f g") == 0
    assert measure.repetition("a b c") == 0
    assert measure.repetition("wait " * 103) == pytest.approx(0.99)
    assert measure.repeated_tries(tries("1+1=2\n1+2=3\nwait 1 + 1 = 2\n1+1=2?4 no")) == 0.5
    assert measure.repeated_tries([]) == 0


# Emergence


def test_emergence():
    e = measure.emergence([THOUGHT, "25+21=46?46 yes", ""], [60, 30, 10], [46, 46, None])
    assert e.responses == 3
    assert e.mean_tokens == pytest.approx(100 / 3)
    assert e.reflections_per_response == 1  # wait, wait, hmm
    assert e.reflections_per_1k_tokens == 30
    assert e.paper_reflections_per_response == pytest.approx(2 / 3)
    assert e.paper_reflections_per_1k_tokens == 20
    assert e.wait_per_response == pytest.approx(2 / 3)
    assert e.tries_per_response == pytest.approx(5 / 3)
    assert e.recoveries == 0.5
    assert measure.emergence([THOUGHT], [60]).recoveries is None
    assert measure.emergence([""], [0]).reflections_per_1k_tokens == 0
    for bad in ([THOUGHT], []), ([], []):
        with pytest.raises(ValueError, match="equal"):
            measure.emergence(*bad)


def group(problem_id: str, texts: list[str], right: list[bool], target: int = 46) -> Group:
    problem = Problem(problem_id, f"key-{problem_id}", "make 46", target, {"target": target})
    none = np.zeros(0, np.float32)
    samples = [
        Sample(f"{problem_id}-{i}", problem_id, none, np.arange(len(t)), none, none, 1.0, "stop", (0, 0), i, f"<{t}>")
        for i, t in enumerate(texts)
    ]
    return Group(problem, samples, [Score(float(r), {"accuracy": float(r)}) for r in right])


def test_aha_picks_the_turn():
    plain = "25+21=46?46 yes"
    wrong = "1+1=2?46 no\nwait wait wait again 1+1=2?46 no"
    circle = "1+1=2?46 no\n" + "wait wait wait wait wait wait\n" * 20 + "25+21=46?46 yes"
    groups = [
        group("a", [plain, plain, wrong], [True, True, False]),  # no recovery that is right
        group("b", [plain, THOUGHT, plain], [True, True, True]),
        group("c", [THOUGHT, THOUGHT, THOUGHT], [True, True, True]),  # nothing stands out
        group("d", [plain, circle], [True, True]),
        group("e", [THOUGHT, plain], [False, True]),  # recovers, yet the answer is wrong
        group("f", [plain, plain + "\nwait but check again"], [True, True]),  # right at once
    ]

    def pick(top, groups=groups):
        return [s.id for s in measure.aha(groups, top, lambda text: text[1:-1], lambda p: p.tags["target"])]

    assert pick(9) == ["b-1", "d-1", "c-0"]
    assert pick(1) == ["b-1"]
    assert pick(9, groups[::-1]) == pick(9)
    assert measure.aha(groups, 9, lambda text: text, lambda _: None) == []


def test_imports_no_torch():
    code = "import sys, incentive.measure, incentive.ledger; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
