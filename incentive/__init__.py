"""DeepSeek-R1's method, open and real. See README.md; docs/ has a page for each arrow of the flow."""

from __future__ import annotations

from typing import Any

__all__ = ["run_recipe"]


def __getattr__(name: str) -> Any:
    """`incentive.run_recipe("zero-mini", "runs/mine", seed=1)`; imported when asked for, so this module is light."""
    if name == "run_recipe":
        from incentive.recipes import run

        return run
    raise AttributeError(f"module 'incentive' has no attribute {name!r}")
