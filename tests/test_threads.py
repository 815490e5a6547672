"""Parts beside each other: everything comes, in the order asked for, and an error is raised where it is waited for."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
import torch

from incentive.threads import merged, together


def test_together_keeps_the_order_and_one_thread_each() -> None:
    before = torch.get_num_threads()
    meet = threading.Barrier(3, timeout=20)  # passes only where all three run at once

    def part(n: int) -> tuple[int, int]:
        meet.wait()
        return n, torch.get_num_threads()

    assert together([lambda n=n: part(n) for n in range(3)]) == [(0, 1), (1, 1), (2, 1)]  # type: ignore[misc]
    assert torch.get_num_threads() == before
    assert together([lambda: 7]) == [7]
    assert together([]) == []


def test_an_error_ends_the_others() -> None:
    ended = threading.Event()

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    def broken() -> Generator[int, None, None]:
        yield 2
        raise ValueError("broken")

    before = threading.active_count()
    with pytest.raises(ValueError, match="broken"):
        list(merged([endless(), broken()]))
    assert threading.active_count() <= before
    assert ended.wait(5)
