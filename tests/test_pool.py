"""The pool: every id once, whatever a job does to its worker; nothing outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incentive.verify import pool as module
from incentive.verify.pool import Done, Fault, Pool, PoolError

ACT = "pool_targets:act"


@pytest.fixture(autouse=True)
def _targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def alive(pid: int) -> bool:
    """Running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, within: float = 3.0) -> bool:
    end = time.monotonic() + within
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def test_each_fault_is_its_own_jobs() -> None:
    jobs = {
        "hang": "timeout", "hold the interpreter": "timeout", "memory": "memory", "exit": "died", "segfault": "died",
        "raise": "raised", "nan": "raised", "large": "raised",
    }  # fmt: skip
    with Pool(ACT) as pool:
        mixed = [item for name in jobs for item in ((name, name), (f"after {name}", [name == "", 1]))]
        found = list(pool.run(mixed, 0.5))
    assert sorted(id for id, _ in found) == sorted(id for id, _ in mixed)
    for id, outcome in found:
        if id in jobs:
            assert isinstance(outcome, Fault), id
            assert outcome.kind == jobs[id], outcome
        else:
            assert outcome == Done([False, 1])


def test_a_fault_says_how() -> None:
    with Pool(ACT, workers=1) as pool:
        found = dict(pool.run([("a", "exit"), ("b", "segfault"), ("c", "raise"), ("d", "hang")], 0.3))
    assert found["a"] == Fault("died", "ended with status 3")
    assert found["b"] == Fault("died", "killed by SIGSEGV")
    assert found["c"] == Fault("raised", "KeyError: 'x'")
    assert found["d"] == Fault("timeout", "over 0.3 s")


def test_a_forged_line_ends_the_worker_and_pays_nothing() -> None:
    with Pool(ACT, workers=1) as pool:
        found = dict(pool.run([("warm", 0), ("a", "forge"), ("b", 5)], 2.0))
    assert isinstance(found["a"], Fault)
    assert found["b"] == Done(5)


def test_setup_is_called_with_its_data() -> None:
    with Pool("pool_targets:say", workers=1, setup="hello ") as pool:
        assert dict(pool.run([("a", "you")], 2.0)) == {"a": Done("hello you")}


@pytest.mark.parametrize(("target", "setup", "said"), [
    ("no_such_room:f", None, "no_such_room"), ("pool_targets:nothing", None, "nothing"), ("pool_targets:say", "fail", "no such thing"),
])  # fmt: skip
def test_a_target_that_is_down_is_an_error(target: str, setup: str | None, said: str) -> None:
    with Pool(target, setup=setup) as pool, pytest.raises(PoolError, match=said):
        list(pool.run([("a", 1)], 1.0))


def test_two_jobs_of_one_id_and_two_runs_at_once() -> None:
    with Pool(ACT) as pool:
        with pytest.raises(ValueError, match="two jobs have the id 'a'"):
            list(pool.run([("a", 1), ("a", 2)], 1.0))
        first = pool.run([("a", 1), ("b", 2)], 1.0)
        next(first)
        with pytest.raises(PoolError, match="running other jobs"):
            next(pool.run([("c", 1)], 1.0))
        first.close()
        assert dict(pool.run([("c", 1)], 1.0)) == {"c": Done(1)}


def test_a_caller_that_is_slow_causes_no_timeout() -> None:
    with Pool(ACT, workers=1) as pool:
        found = []
        for item in pool.run([(str(i), i) for i in range(20)], 0.2):
            found.append(item[1])
            time.sleep(0.05)
    assert found == [Done(i) for i in range(20)]


def test_workers_stay_and_are_replaced_after_many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECYCLE", 10)
    with Pool(ACT, workers=1) as pool:
        pids = [o.value for _, o in pool.run([(str(i), "pid") for i in range(35)], 2.0) if isinstance(o, Done)]
    assert len(pids) == 35
    assert 3 <= len(set(pids)) <= 5
    assert all(gone(pid) for pid in set(pids))


def test_a_kill_reaches_the_jobs_children(tmp_path: Path) -> None:
    with Pool(ACT, workers=1) as pool:
        list(pool.run([("a", ["child", str(tmp_path / "pid")])], 0.5))
    assert gone(int((tmp_path / "pid").read_text()))


def test_workers_end_with_their_parent() -> None:
    """Killed outright, while a worker holds its interpreter and cannot look."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from incentive.verify.pool import Pool
with Pool("pool_targets:act", 1) as pool:
    pid = dict(pool.run([("a", "pid")], 5))["a"].value
    print(pid, flush=True)
    list(pool.run([("b", "hold the interpreter")], 60))
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([0, "exit", "raise", "nan"]), max_size=12))
def test_every_id_comes_back_once(jobs: list[object]) -> None:
    with Pool(ACT) as pool:
        found = list(pool.run([(str(i), job) for i, job in enumerate(jobs)], 5.0))
    assert sorted(int(id) for id, _ in found) == list(range(len(jobs)))
    for id, outcome in found:
        assert isinstance(outcome, Done) == (jobs[int(id)] == 0)


def test_throughput_of_trivial_jobs() -> None:
    """Thousands a second; the figure in the docs is far above, this is what a busy machine must reach."""
    with Pool(ACT) as pool:
        list(pool.run([("warm", 0)], 5.0))
        start = time.monotonic()
        assert sum(1 for _ in pool.run(((str(i), i) for i in range(5000)), 5.0)) == 5000
        assert 5000 / (time.monotonic() - start) > 1000
