"""Warm worker processes that can be killed: the only place where work on a model's text is done.

    with Pool("incentive.verify.answers:judge") as pool:
        for id, outcome in pool.run([("a", {...}), ("b", {...})], timeout=5.0):
            ...

A worker is a fresh Python (never a fork of this process, which may hold torch) in its own session, with a memory cap
and with its input and output on pipes of their own. The clock is kept here: a job that overruns is killed with its
process group, and what else that worker had been given goes to another one. Outcomes are keyed by id, as they finish.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

RECYCLE = 20_000  # jobs of one worker: what a library leaks ends with it
START_S = 60.0  # to import the target
STARTS = 3  # failing in a row: the target is down
AHEAD_S, AHEAD = 0.02, 64  # work a worker holds in advance, in seconds and jobs at most
TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Done:
    """The target returned; `value` is JSON data."""

    value: Any


@dataclass(frozen=True, slots=True)
class Fault:
    """The target did not return: it took too long, wanted too much memory, ended the process, or raised."""

    kind: Literal["timeout", "memory", "died", "raised"]
    why: str


class PoolError(RuntimeError):
    """No worker can be started: the machine or the target is at fault, not a job."""


@dataclass(frozen=True, slots=True)
class _Job:
    id: str
    line: bytes  # the payload as JSON


def _line(data: bytes | bytearray) -> list[Any]:
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        line = None
    return line if isinstance(line, list) and line else [None]


class _Worker:
    """One process and what it has been given. `since` is when its running job, or its start, began."""

    def __init__(self, target: str, memory_mib: int, setup: Any):
        life, self._lifeline = os.pipe()
        jobs, self.input = os.pipe()
        self.output, results = os.pipe()
        theirs = (life, jobs, results)
        # -P: no path of its own; the target is found where this process would find it
        command = [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), *map(str, theirs), str(memory_mib)]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=theirs,
                start_new_session=True,
                env={**os.environ, **one_thread, "PYTHONHASHSEED": "0"},
            )
        except OSError as error:
            self._close()
            raise PoolError(f"a worker cannot start: {error.strerror or error}") from None
        finally:
            for fd in theirs:
                os.close(fd)
        os.set_blocking(self.input, False)
        os.set_blocking(self.output, False)
        first = {"target": target, "setup": setup, "path": [p or os.getcwd() for p in sys.path]}
        self.unsent = bytearray(json.dumps(first).encode() + b"\n")
        self.unread = bytearray()
        self.jobs: deque[tuple[int, _Job]] = deque()
        self.ready, self.taken, self.since = False, 0, time.monotonic()

    def give(self, n: int, job: _Job) -> None:
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs.append((n, job))
        self.unsent += b"[%d,%s]\n" % (n, job.line)
        self.taken += 1

    def write(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError):  # a worker that is gone is seen by its output
            while self.unsent:
                del self.unsent[: os.write(self.input, memoryview(self.unsent)[: 1 << 16])]

    def read(self) -> tuple[list[list[Any]], bool]:
        """The lines that have come, and whether the output has ended."""
        ended = False
        try:
            while data := os.read(self.output, 1 << 18):
                self.unread += data
            ended = True
        except BlockingIOError:
            pass
        *lines, rest = self.unread.split(b"\n")
        self.unread = bytearray(rest)
        if ended:
            with suppress(subprocess.TimeoutExpired):  # so that `stop` can say how
                self.process.wait(1.0)
        return [_line(line) for line in lines], ended

    def bytes(self) -> int:
        try:
            return psutil.Process(self.process.pid).memory_info().rss
        except psutil.Error:
            return 0

    def _close(self) -> None:
        for fd in (self._lifeline, self.input, self.output):
            os.close(fd)

    def stop(self) -> str:
        """End the process and all of its group. Says how it had ended, if it had."""
        code = self.process.poll()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._close()
        if code is None:
            return "it was stopped"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


class Pool:
    """Workers for one target. Not shared between threads; `run` is used once at a time.

    Args:
        target: `package.module:function`, imported in the worker and called as `function(payload)`.
        workers: processes at a time; started by the first `run`.
        memory_mib: address space of each (RLIMIT_AS) beyond which it sees MemoryError; outside Linux its resident
            size, watched from here.
        setup: if given, JSON data for the module's `setup(data)`, called once in each new worker before its first job.
    """

    def __init__(self, target: str, workers: int = 2, *, memory_mib: int = 512, setup: Any = None):
        if workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        self.target, self.size, self.memory_mib, self.setup = target, workers, memory_mib, setup
        self._workers: list[_Worker] = []
        self._running = False
        self._failed = 0  # starts, in a row
        self._job_s = 0.01  # a job's mean time, learnt as they finish
        self.started = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers; a later `run` starts others."""
        while self._workers:
            self._workers.pop().stop()

    def run(self, jobs: Iterable[tuple[str, Any]], timeout: float) -> Iterator[tuple[str, Done | Fault]]:
        """Outcomes of `(id, payload)` jobs as they finish, each id once. `timeout` is each job's own, in seconds.

        Raises:
            ValueError: an id that has come before, a payload that is no JSON.
            PoolError: workers cannot be started (three times in a row), or a `run` is going on.
        """
        if self._running:
            raise PoolError("this pool is running other jobs; use another Pool")
        self._running = True
        try:
            yield from _Run(self, jobs, timeout).outcomes()
        finally:
            self._running = False
            for worker in [w for w in self._workers if w.jobs]:  # left early: what is unfinished ends here
                self._drop(worker)

    def _drop(self, worker: _Worker) -> str:
        self._workers.remove(worker)
        return worker.stop()

    def _start(self, wanted: int) -> None:
        for _ in range(min(self.size, wanted) - len(self._workers)):
            self._workers.append(_Worker(self.target, self.memory_mib, self.setup))
            self.started += 1

    def _start_failed(self, why: str) -> None:
        self._failed += 1
        if self._failed >= STARTS:
            self._failed = 0
            raise PoolError(f"no worker for {self.target} starts: {why}")


class _Run:
    """One `Pool.run`: gives jobs, collects outcomes, keeps the clock."""

    def __init__(self, pool: Pool, jobs: Iterable[tuple[str, Any]], timeout: float):
        self.pool, self.timeout = pool, timeout
        self.source = iter(jobs)
        self.waiting: deque[_Job] = deque()
        self.ids: set[str] = set()
        self.n = 0
        self.finished: list[tuple[str, Done | Fault]] = []

    def _fill(self, wanted: int) -> None:
        while len(self.waiting) < wanted:
            item = next(self.source, None)
            if item is None:
                return
            id, payload = item
            if id in self.ids:
                raise ValueError(f"two jobs have the id {id!r}")
            self.ids.add(id)
            self.waiting.append(_Job(id, json.dumps(payload).encode()))

    def _give(self) -> None:
        """Keep each worker's stock at what it does in a moment: few round trips, and no job waits for a slow one."""
        depth = max(1, min(AHEAD, int(AHEAD_S / self.pool._job_s)))
        ready = [w for w in self.pool._workers if w.ready and w.taken < RECYCLE and 2 * len(w.jobs) <= depth]
        self._fill(sum(depth - len(w.jobs) for w in ready) or 1)
        for worker in sorted(ready, key=lambda w: len(w.jobs)):
            share = -(-len(self.waiting) // len(ready)) if len(self.waiting) < depth * len(ready) else depth
            for _ in range(min(depth - len(worker.jobs), share, len(self.waiting))):
                self.n += 1
                worker.give(self.n, self.waiting.popleft())

    def outcomes(self) -> Iterator[tuple[str, Done | Fault]]:
        pool = self.pool
        while True:
            for worker in [w for w in pool._workers if w.taken >= RECYCLE and not w.jobs]:
                pool._drop(worker)
            self._give()
            unfinished = len(self.waiting) + sum(len(w.jobs) for w in pool._workers)
            if not unfinished:
                return
            pool._start(unfinished)
            self._wait()
            for worker in list(pool._workers):
                self._collect(worker)
            finished, self.finished = self.finished, []
            yield from finished

    def _wait(self) -> None:
        now = time.monotonic()
        with selectors.DefaultSelector() as selector:
            pause = TICK_S
            for w in self.pool._workers:
                w.write()
                selector.register(w.output, selectors.EVENT_READ)
                if w.unsent:
                    selector.register(w.input, selectors.EVENT_WRITE)
                if w.jobs:
                    pause = min(pause, w.since + self.timeout - now)
            selector.select(max(0.0, pause))

    def _collect(self, worker: _Worker) -> None:
        """Read what has come of a worker; end it where it has failed, overrun or ended."""
        lines, ended = worker.read()  # before the clock is looked at: the caller may have been away for long
        now = time.monotonic()
        faulty = False
        for line in lines:
            if line[0] == "down" and not worker.ready:
                self.pool._drop(worker)
                self.pool._start_failed(line[1])
                return
            if line[0] == "ready" and not worker.ready:
                worker.ready, self.pool._failed = True, 0
            elif faulty := self._outcome(worker, line):
                break
        if worker.jobs and lines:
            self.pool._job_s += 0.1 * ((now - worker.since) / len(lines) - self.pool._job_s)
        if lines:
            worker.since = now
        limit = self.timeout if worker.ready else START_S
        if faulty:
            self._replace(worker, None)
        elif ended:
            self._replace(worker, "died")
        elif now - worker.since > limit and (worker.jobs or not worker.ready):
            self._replace(worker, "timeout")
        elif sys.platform != "linux" and worker.bytes() > self.pool.memory_mib << 20:
            self._replace(worker, "memory")

    def _outcome(self, worker: _Worker, line: list[Any]) -> bool:
        """Note a job's outcome; True where the worker is to be replaced."""
        if not worker.jobs:
            return True  # an outcome of nothing: the target wrote to our pipe
        expected, job = worker.jobs.popleft()
        if len(line) != 3 or line[0] != expected or line[1] not in ("done", "memory", "raised"):
            self.finished.append((job.id, Fault("died", "its output is out of step")))
            return True
        _, kind, value = line
        self.finished.append((job.id, Done(value) if kind == "done" else Fault(kind, value)))
        return kind != "done"

    def _replace(self, worker: _Worker, kind: Literal["timeout", "memory", "died"] | None) -> None:
        """End a worker. Its running job has the fault, if any; the jobs behind it go to another worker."""
        how = self.pool._drop(worker)
        if not worker.ready:
            self.pool._start_failed(f"not ready after {START_S:.0f} s" if kind == "timeout" else how)
            return
        if kind and worker.jobs:
            why = {"timeout": f"over {self.timeout:g} s", "memory": f"over {self.pool.memory_mib} MiB", "died": how}
            self.finished.append((worker.jobs.popleft()[1].id, Fault(kind, why[kind])))
        self.waiting.extendleft(job for _, job in reversed(worker.jobs))
        worker.jobs.clear()
