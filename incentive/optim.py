"""AdamW (Loshchilov and Hutter 2019), by torch's own fused kernel.

torch.optim's class is the same call behind a decorator that imports torch's compiler: 80 MB and a second, for nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class AdamW:
    """As torch.optim.AdamW with `fused`, bit for bit.

    Args:
        groups: each with `params` and `weight_decay`; `lr` may be changed at any time.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float):
        self.param_groups = [{"lr": lr, **group} for group in groups]
        self.betas, self.eps = betas, eps
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if p not in self.state:
                    none = torch.zeros((), dtype=torch.float32, device=p.device)
                    self.state[p] = {"step": none, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            states = [self.state[p] for p in params]
            count, mean, square = ([s[name] for s in states] for name in ("step", "exp_avg", "exp_avg_sq"))
            torch._foreach_add_(count, 1)
            torch._fused_adamw_(
                params, [p.grad for p in params], mean, square, [], count, lr=group["lr"], beta1=self.betas[0],
                beta2=self.betas[1], weight_decay=group["weight_decay"], eps=self.eps, amsgrad=False, maximize=False,
            )  # fmt: skip
