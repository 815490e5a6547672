"""The sandbox: values compared outside, verdicts, and what each tier does with programs right, wrong and hostile."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
from collections.abc import Iterator
from datetime import date

import pytest
from fusion_server import endpoint
from hypothesis import given
from hypothesis import strategies as st

from incentive.verify import attack_host, jail, kernel, local, remote, values
from incentive.verify.attacks_sandbox import ATTACKS
from incentive.verify.sandbox import (
    TIERS,
    Limits,
    Program,
    Sandbox,
    SandboxDown,
    SandboxMissing,
    Test,
    Verdict,
    judge,
    open_sandbox,
    payload,
    strongest,
    tiers,
)

LIMITS = Limits(seconds=0.4, memory_mib=128, output_kib=16)
TABLE = {t.name: t for t in tiers()}
LOCAL = [t for t in TIERS if t != "remote"]
FULL = next((t for t in ("bubblewrap", "landlock") if TABLE[t].available), None)  # a tier with all of Python

# --- values ----------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.tuples(st.integers(0, 3))
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=3) | st.sets(keys)
    ),
    max_leaves=12,
)


@given(plain)
def test_a_value_survives_json_and_is_the_same_as_itself(value):
    data = json.loads(json.dumps(values.encode(value), allow_nan=False))
    assert values.sound(data)
    assert values.same(data, data)
    assert values.same(values.encode(values.decode(data)), data)


@given(plain, plain)
def test_same_agrees_with_a_slow_definition(a, b):
    def strict(a, b):
        if type(a) is not type(b) and not (type(a) is list and type(b) is tuple):
            return False
        if isinstance(a, float) and math.isnan(a):
            return math.isnan(b)
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(strict, a, b))
        if isinstance(a, dict):
            left = [(k, a[k]) for k in a]
            return len(a) == len(b) and all(any(strict(k, m) and strict(v, b[m]) for m in b) for k, v in left)
        if isinstance(a, set):
            return len(a) == len(b) and all(any(strict(x, y) for y in b) for x in a)
        return a == b

    assert values.same(values.encode(a), values.encode(b)) == strict(a, b)


@pytest.mark.parametrize(
    ("want", "got", "expected"),
    [
        (1, True, False), (True, 1, False), (1, 1.0, False), ([1, 2], [1], False), ([1], [1, 2], False), ([], [0], False),
        ([1, 2], (1, 2), True), ((1, 2), [1, 2], False), ({"a": 1}, {"a": True}, False), ({1: 2}, {"1": 2}, False),
        ({1, 2}, {2, 1}, True), ({1}, {True}, False), ("1", 1, False), (None, 0, False), (None, "None", False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True), ({"a": 1}, {"a": 1, "b": 2}, False), ({"a": 1, "b": 2}, {"a": 1}, False),
        ([[1], [2]], [[1], [2, 3]], False), ("a", "a ", False), (0.1 + 0.2, 0.3, False), (math.inf, -math.inf, False),
    ],
)  # fmt: skip
def test_comparison_is_strict(want, got, expected):
    assert values.same(values.encode(want), values.encode(got)) is expected


def test_tolerance_only_where_asked():
    near = values.encode([0.1 + 0.2, 2]), values.encode([0.3, 2.0])
    assert not values.same(*near)
    assert values.same(*near, tolerance=1e-9)
    assert not values.same(1, True, tolerance=1.0)
    assert not values.same(1, 1.1, tolerance=1e-3)
    assert not values.same(10**400, 1.0, tolerance=1e-3)
    assert values.same_text("0.30 a", "0.3 a", 1e-6)
    assert not values.same_text("0.30 a", "0.3 a")
    assert not values.same_text("1 2 3", "1 2", 1e-6)


@pytest.mark.parametrize(
    ("want", "got", "expected"),
    [("3\n", "3", True), ("1 \n2\n\n", "1\n2", True), ("1\n2", "1", False), ("1", "1\n2", False), ("1", " 1", False),
     ("a", "A", False), ("", "\n\n", True), ("1\n\n2", "1\n2", False)],
)  # fmt: skip
def test_outputs_are_compared_line_by_line(want, got, expected):
    assert values.same_text(want, got) is expected


class Sly(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def test_only_plain_values_are_encoded():
    cycle: list = []
    cycle.append(cycle)
    twice: list = []
    for _ in range(60):
        twice = [twice, twice]
    for value in (Sly(3), [Sly(3)], object(), b"x", 1j, cycle, twice, ["x" * 100] * 10**6, print, int):
        with pytest.raises(values.NotPlain):
            values.encode(value, 10_000)


@pytest.mark.parametrize(
    "data", [{}, [], ["list", {}], ["dict", [1]], ["dict", 1], ["what", 1], [["list"]], ["float", "1"], ["float"], math.nan, ["list"] * 2 + [[]]]
)  # fmt: skip
def test_unsound_data_is_known(data):
    assert not values.sound(data)


# --- verdicts --------------------------------------------------------------------------------------------------------

TWO = Program("", (Test([1], 2), Test([2], 3)), entry="f")


@pytest.mark.parametrize(
    ("results", "outcome", "passed"),
    [
        ([["value", 2], ["value", 3]], "pass", 2), ([["value", 2]], "fail", 1), ([], "fail", 0),
        ([["value", 2], ["value", 4]], "fail", 1), ([["value", 2], ["limit", "time"]], "fail", 1),
        ([["error", "no"], ["value", 3]], "fail", 1), ([["value", {"a": 1}], ["value", 3]], "fail", 1),
    ],
)  # fmt: skip
def test_verdict_counts_every_test(results, outcome, passed):
    verdict = judge(TWO, {"results": results, "seconds": 0.5})
    assert (verdict.outcome, verdict.passed, verdict.total, verdict.seconds) == (outcome, passed, 2, 0.5)
    assert (verdict.why == "") == (outcome == "pass")


def test_what_a_tier_is_told_has_no_output():
    secret = Program("s", (Test([1], "hidden-output"), Test([2], ["hidden-output"])), entry="f")
    assert "hidden" not in json.dumps(payload(secret))
    assert "hidden" not in json.dumps(payload(Program("s", (Test("1", "hidden-output"),))))


@pytest.mark.parametrize(
    ("tests", "entry"),
    [((), "f"), ((Test([1], 1),), None), ((Test(1, 1),), "f"), ((Test([1], 1),), "f(0) or g"), ((Test([1], 1),), "a.b.c"),
     ((Test([1], 1),), "lambda"), ((Test([1], 1),), "")],
)  # fmt: skip
def test_a_problem_that_cannot_be_meant_is_refused(tests, entry):
    with pytest.raises(ValueError, match=r"."):
        Program("", tests, entry)


# --- tiers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TIERS)
def box(request) -> Iterator[Sandbox]:
    """Each tier that this machine has; the remote one against an endpoint of our own."""
    tier = TABLE[request.param]
    if tier.name == "remote":
        if FULL is None:
            pytest.skip("remote: no jail on this machine for the endpoint to run programs in")
        with endpoint(FULL, LIMITS) as server, open_sandbox(f"remote:{server.url}", 1, LIMITS) as box:
            yield box
        return
    if not tier.available:
        pytest.skip(f"{tier.name}: {tier.why_not}")
    with open_sandbox(tier.name, workers=1, limits=LIMITS) as box:
        yield box


def one(box: Sandbox, source: str, *tests: Test, entry: str | None = "f") -> Verdict:
    return box.run([("x", Program(source, tests, entry))])["x"]


RIGHT = [
    ("def f(x): return x + 1", (Test([1], 2), Test([-1], 0)), "f"),
    ("def f(a, b): return {'sum': a + b, 'both': [a, b]}", (Test([1, 2], {"sum": 3, "both": [1, 2]}),), "f"),
    ("class S:\n    def go(self, x): return x * 2", (Test([2], 4),), "S.go"),
    ("def f(x): print('noise'); return x", (Test([[True, None, 'é', 1.5]], [True, None, 'é', 1.5]),), "f"),
    ("def f(x): return (x, {x})", (Test([1], (1, {1})),), "f"),
    ("import math\ndef f(x): return math.sqrt(x)", (Test([2], 1.41421356, tolerance=1e-6),), "f"),
    ("def f(x): return float('nan')", (Test([2], math.nan),), "f"),
    ("a = int(input())\nb = int(input())\nprint(a + b)", (Test("1\n2\n", "3\n"), Test("5\n-5", "0")), None),
    ("n = int(input('n?'))\nfor i in range(n): print(i, end=' ')", (Test("3", "n?0 1 2"),), None),
]  # fmt: skip


@pytest.mark.parametrize(("source", "tests", "entry"), RIGHT)
def test_right_programs_pass(box, source, tests, entry):
    assert one(box, source, *tests, entry=entry).outcome == "pass"


WRONG = {
    "value": "def f(x): return x + 2",
    "bool": "def f(x): return x == x",
    "none": "def f(x): pass",
    "missing": "def g(x): return x + 1",
    "syntax": "def f(",
    "raises": "def f(x): raise ValueError('no')",
    "at once": "raise ValueError('no')",
    "not a function": "f = 2",
    "too few": "def f(): return 2",
    "empty": "",
    "cycle": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "shared": "def f(x):\n    a = []\n    for i in range(60): a = [a, a]\n    return a",
    "large": "def f(x): return 'a' * 100_000",
    "huge number": "def f(x): return 7 ** 100_000",
    "memory": "def f(x): return len('a' * 10**9)",
    "loop": "def f(x):\n    while True: pass",
    "loop at once": "while True: pass",
    "swallows": "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
    "recursion": "def f(x): return f(x)",
    "nul": "def f(x): return 2\0",
    "surrogate": "def f(x): return '\ud800'",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_programs_fail(box, name):
    verdict = one(box, WRONG[name], Test([1], 2))
    assert (verdict.outcome, verdict.passed, verdict.total) == ("fail", 0, 1), verdict
    assert verdict.why


def test_a_limit_ends_the_program_and_the_next_one_runs(box):
    slow = "def f(x):\n    while x: pass\n    return 2"
    verdict = one(box, slow, Test([0], 2), Test([1], 2), Test([0], 2))
    assert (verdict.outcome, verdict.passed) == ("fail", 1)
    assert verdict.seconds < 30 * LIMITS.seconds  # it ends; how soon is the machine's matter
    assert one(box, "def f(x): return 2", Test([1], 2)).outcome == "pass"


def test_output_beyond_the_limit_fails(box):
    verdict = one(box, "while True: print('x' * 100)", Test("", "x"), entry=None)
    assert verdict.outcome == "fail"


def test_programs_do_not_see_one_another(box):
    leave = Program("import math\nleft = 1\nmath.left = 1\ndef f(x): return x", (Test([2], 2),), "f")
    look = "import math\ndef f(x):\n    try:\n        return left\n    except NameError:\n        return hasattr(math, 'left')"
    found = box.run([("a", leave), ("b", Program(look, (Test([2], False),), "f"))])
    assert found["b"].outcome == "pass"


def test_verdicts_are_keyed_by_id(box):
    many = [(f"p{i}", Program(f"def f(x): return x + {i % 3}", (Test([1], 2),), "f")) for i in range(30)]
    found = box.run(many)
    assert sorted(found) == sorted(id for id, _ in many)
    assert all((found[f"p{i}"].outcome == "pass") == (i % 3 == 1) for i in range(30))


def test_source_beyond_reason_fails(box):
    assert one(box, "x = 1\n" * 100_000, Test([1], 2)).outcome == "fail"


def test_a_tier_that_is_down_is_loud(monkeypatch):
    box = local.Local("monty", "incentive.verify.monty", "", 1, LIMITS)
    monkeypatch.setattr(local, "PROBE", Program("def f(x): return 1", (Test([1], 2),), "f"))
    crash = {"a": None}
    monkeypatch.setattr(local.Local, "_try", lambda *_: crash)
    with pytest.raises(SandboxDown, match=r"'monty' is down.*\n.*--resume"), box:
        box.run([("a", TWO)])


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
def test_a_wall_that_does_not_stand_is_no_fault_of_a_program(tier, monkeypatch):
    """Without its wall a jail runs nothing: before the source is given it is down, whatever the program."""
    if not TABLE[tier].available:
        pytest.skip(f"{tier}: {TABLE[tier].why_not}")
    room = importlib.import_module(f"incentive.verify.{tier}")
    room.setup(dataclasses.asdict(LIMITS))
    try:
        right = payload(Program("def f(x): return x", (Test([1], 1),), "f"))
        assert room.run(right)["results"] == [["value", 1]]
        monkeypatch.setattr(room._jail, "command", ["/bin/true"])
        room._jail.stop()
        assert "does not start" in room.run(right)["down"]
    finally:
        room._jail.stop()


def test_the_list_of_calls_is_a_list():
    """The filter, run by hand: what it says of a call."""
    code = kernel.filter_code(files=False, pid=7)

    def says(number: int, *arguments: int, arch: int = 0xC000003E) -> int:
        words = {0: number, 4: arch} | {16 + 8 * n: a & 0xFFFFFFFF for n, a in enumerate(arguments)}
        at, held = 0, 0
        while True:
            what, yes, no, k = code[at]
            if what == 0x06:
                return k
            at += 1
            if what == 0x20:
                held = words[k]
            else:
                met = {0x15: held == k, 0x35: held >= k, 0x45: bool(held & k)}[what]
                at += yes if met else no

    allow, refuse, deny, nosys, kill = 0x7FFF0000, 0x00050001, 0x0005000D, 0x00050026, 0x80000000
    assert says(0) == says(1) == says(231) == allow  # read, write, exit_group
    assert says(41, 2, 1, 0) == says(59) == says(57) == says(101, 0) == says(165) == says(319) == refuse
    assert says(0, arch=0x40000003) == says(0x40000000) == kill
    assert says(62, 7, 9) == says(234, 7, 7, 9) == allow
    assert says(62, -1, 9) == says(62, 0, 9) == says(62, 1, 9) == says(234, 1, 7, 9) == refuse
    assert says(56, 0x10000 | 0x100) == allow
    assert says(56, 17) == refuse
    assert says(435) == says(437) == nosys
    assert says(257, 0, 0, os.O_RDONLY | os.O_CLOEXEC) == says(2, 0, os.O_RDONLY) == allow
    writes = (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_CREAT, os.O_TMPFILE | os.O_RDWR)
    assert {says(257, 0, 0, w) for w in writes} | {says(2, 0, w) for w in writes} == {deny}
    assert says(302, 0) == says(72, 0, 4) == says(157, 15) == says(16, 0, 0x5401) == allow
    assert says(302, 8) == says(72, 0, 8) == says(72, 0, 10) == says(157, 1) == says(16, 0, 0x5412) == refuse
    assert dict.fromkeys(says(n) for n in (82, 83, 87, 88)) == {refuse: None}  # rename, mkdir, unlink, symlink


def test_missing_tiers_say_what_to_do():
    with pytest.raises(SandboxMissing, match="no sandbox tier 'docker'"):
        open_sandbox("docker")
    assert TABLE["monty"].available
    assert strongest() in LOCAL
    assert all(t.does_not_stop for t in TABLE.values())
    assert all(t.available or t.why_not for t in TABLE.values())


# --- the remote tier -------------------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch):
    if FULL is None:
        pytest.skip("no jail on this machine for the endpoint to run programs in")
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    with endpoint(FULL, LIMITS) as server, open_sandbox(f"remote:{server.url}", 2, LIMITS) as box:
        yield server, box


def test_an_endpoint_is_told_no_output(served):
    server, box = served
    secret = Program("def f(x): return 'wrong'", (Test([1], "hidden-output"),), "f")
    assert box.run([("a", secret)])["a"].outcome == "fail"
    assert len(server.asked) == 1
    assert "hidden-output" not in json.dumps(server.asked)


@pytest.mark.parametrize("fault", [503, 500, b"", b"[]", b"{", b'{"status": "SandboxError"}', b"[" * 10_000])
def test_a_fault_of_the_endpoint_is_tried_again(served, fault):
    server, box = served
    server.faults = [fault, fault]
    assert box.run([("a", Program("def f(x): return 2", (Test([1], 2),), "f"))])["a"].outcome == "pass"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("fault", "outcome"), [(503, "ungraded"), (500, "fail"), (b'{"status": "SandboxError"}', "fail")]
)
def test_a_program_that_never_gets_a_result_where_another_does(served, fault, outcome):
    server, box = served
    server.faults = [fault] * remote.TRIES
    verdict = box.run([("a", Program("def f(x): return 2", (Test([1], 2),), "f"))])["a"]
    assert (verdict.outcome, verdict.passed) == (outcome, 0)


def test_an_endpoint_that_is_down_is_loud(served):
    server, box = served
    server.faults = [503] * 2 * remote.TRIES
    with pytest.raises(SandboxDown, match=r"is down.*503"):
        box.run([("a", Program("def f(x): return 2", (Test([1], 2),), "f"))])


def test_an_endpoint_that_is_not_there_is_loud(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    monkeypatch.delenv(remote.VARIABLE, raising=False)
    with pytest.raises(SandboxMissing, match=remote.VARIABLE):
        open_sandbox("remote")
    with open_sandbox("remote:http://127.0.0.1:9", 1, LIMITS) as box, pytest.raises(SandboxDown, match="refused"):
        box.run([("a", Program("def f(x): return 2", (Test([1], 2),), "f"))])


@pytest.mark.parametrize(
    "out", ["", "null", "[1, 2, 3]", '["value", {}]', '["limit", 1]', "[" * 9000, '["value", NaN]', '"ab"']
)
def test_a_forged_result_is_an_error(out):
    assert remote._result(out)[0] == "error"
    assert jail._result(out)[0] in ("error", "limit")


# --- attacks ---------------------------------------------------------------------------------------------------------

QUICK = [a for a in ATTACKS if a.kind != "resources"]


def test_there_are_attacks_enough_and_each_has_a_name():
    assert len(ATTACKS) >= 100
    assert len({(a.kind, a.name) for a in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("tier", LOCAL)
def test_no_attack_succeeds(tier):
    """An eighth of the quick ones, others each day; `prove/attacks_sandbox.py` runs them all."""
    if not TABLE[tier].available:
        pytest.skip(f"{tier}: {TABLE[tier].why_not}")
    some = QUICK[date.today().toordinal() % 8 :: 8]
    succeeded = [o for o in attack_host.run(tier, some, LIMITS) if o.succeeded]
    assert not succeeded
