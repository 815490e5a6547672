"""Small models on several cores: independent parts of the work, each on one thread, in place of operations that share them.

The matrices of a model of a few million parameters are too small for two cores to share, and what lies between the
products runs on one core anyway; two halves of a batch beside each other keep both busy. Who does what is settled before
the work begins, so that results do not depend on the clock.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import torch

from incentive.memory import SMALL

T = TypeVar("T")


def small(policy: torch.nn.Module) -> bool:
    """Whether it is on a CPU and its products are too small for threads to share."""
    parameters = list(policy.parameters())
    return sum(p.nbytes for p in parameters) <= SMALL and parameters[0].device.type == "cpu"


def lanes(policy: torch.nn.Module) -> int:
    """How many parts are worked on beside each other: a thread each for a small model on a CPU, else one for all."""
    return torch.get_num_threads() if small(policy) else 1


@contextmanager
def one_thread(policy: torch.nn.Module) -> Iterator[None]:
    """Torch's operations on one thread where the policy is a small one: after lanes it takes some milliseconds until a second
    has a core of its own, and what there is to do less than one."""
    threads = torch.get_num_threads()
    if small(policy):
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def merged(loops: Sequence[Generator[T, None, None]]) -> Iterator[T]:
    """What the loops yield, as it comes. One loop runs here; several run on threads of their own.

    Where the caller stops early, or a loop raises, the others end at their next item.
    """
    if len(loops) == 1:
        yield from loops[0]
        return
    found: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    stop, threads = threading.Event(), torch.get_num_threads()

    def go(loop: Generator[T, None, None]) -> None:
        torch.set_num_threads(1)
        try:
            for item in loop:
                found.put(("item", item))
                if stop.is_set():
                    return
            found.put(("end", None))
        except BaseException as error:  # raised where it is waited for
            found.put(("error", error))
        finally:
            loop.close()

    running = [threading.Thread(target=go, args=(loop,), daemon=True) for loop in loops]
    try:
        for thread in running:
            thread.start()
        left = len(running)
        while left:
            kind, item = found.get()
            if kind == "error":
                raise item
            if kind == "item":
                yield item
            left -= kind == "end"
    finally:
        stop.set()
        for thread in running:
            thread.join()
        torch.set_num_threads(threads)


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads for compiled calls."""
    return ThreadPoolExecutor(threads)


def apart(call: Callable[..., None], *rows: Any) -> None:
    """A compiled call on rows that do not depend on each other: a part of every array's rows on each of torch's threads."""
    threads, n = torch.get_num_threads(), len(rows[0])
    if threads == 1 or n < 2 * threads:
        call(*rows)
        return
    ends = [n * i // threads for i in range(threads + 1)]
    parts = [[x[a:b] for x in rows] for a, b in pairwise(ends)]
    list(pool(threads).map(lambda part: call(*part), parts))


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls return, in their order, each made on a thread of its own."""

    def one(n: int, call: Callable[[], T]) -> Generator[tuple[int, T], None, None]:
        yield n, call()

    found = dict(merged([one(n, call) for n, call in enumerate(calls)]))
    return [found[n] for n in range(len(calls))]
