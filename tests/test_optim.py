"""Our AdamW against torch's."""

from __future__ import annotations

import torch

from incentive.optim import AdamW


def test_adamw_is_torchs_bit_for_bit() -> None:
    made = []
    for ours in (True, False):
        torch.manual_seed(0)
        params = [
            torch.nn.Parameter(torch.randn(5, 3)),
            torch.nn.Parameter(torch.randn(7)),
            torch.nn.Parameter(torch.ones(2)),
        ]
        groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "weight_decay": 0.0}]
        given = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}
        optimizer = AdamW(groups, **given) if ours else torch.optim.AdamW(groups, **given, fused=True)  # type: ignore[arg-type]
        for step in range(5):
            for p in params[:2]:
                p.grad = torch.randn(p.shape)
            optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
            optimizer.step()
        made.append((params, optimizer.state))
    (params, state), (theirs, their_state) = made
    for p, q in zip(params, theirs, strict=True):
        assert torch.equal(p, q)
        assert state.get(p, {}).keys() == their_state.get(q, {}).keys()
        for name, x in state.get(p, {}).items():
            assert torch.equal(x, their_state[q][name])
