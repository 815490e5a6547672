"""Targets for the workers of `test_gym`."""

from __future__ import annotations

import time
from typing import Any

from incentive.tasks import gym

setup = gym.setup


def judge(job: dict[str, Any]) -> list[Any]:
    if job["answer"] == "hang":
        time.sleep(60)
    return gym.judge(job)
