"""The learner's operations between matrix products, forward and backward, as one pass each (`model.kernels`).

For a CPU; on a GPU torch's own operations are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from incentive.threads import apart


def usable(x: Tensor) -> bool:
    return x.device.type == "cpu"


def array(x: Tensor) -> np.ndarray:
    """(..., W) as rows (N, W), sharing memory; bfloat16 as the bits of uint16."""
    x = x.detach().reshape(-1, x.shape[-1])
    return (x if x.dtype == torch.float32 else x.view(torch.uint16)).numpy()


class AddNorm(torch.autograd.Function):
    """(x + y, (x + y) / rms(x + y) * w): (..., H), (..., H), (H,) float32; sums and the norm in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        from incentive.model import kernels as k

        x, y = x.contiguous(), y.contiguous()
        total, out = torch.empty_like(x), torch.empty_like(x)
        scale = np.empty(x.numel() // x.shape[-1], dtype=np.float32)
        weight, least = w.detach().numpy(), np.float32(eps)
        to = array(total), array(out), scale
        apart(
            lambda x, y, total, out, scale: k.add_norm(x, y, weight, least, total, out, scale), array(x), array(y), *to
        )
        ctx.save_for_backward(total, w)
        ctx.scale = scale
        return total, out

    @staticmethod
    def backward(ctx: Any, g_total: Tensor, g_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        from incentive.model import kernels as k

        total, w = ctx.saved_tensors
        g_x, weight, found = torch.empty_like(total), w.detach().numpy(), []

        def part(total: np.ndarray, scale: np.ndarray, g_total: np.ndarray, g_out: np.ndarray, g_x: np.ndarray) -> None:
            g_w = np.zeros_like(weight)
            k.add_norm_backward(total, weight, scale, g_total, g_out, g_x, g_w)
            found.append((g_x.ctypes.data, g_w))

        apart(part, array(total), ctx.scale, array(g_total.contiguous()), array(g_out.contiguous()), array(g_x))
        in_order = [g_w for _, g_w in sorted(found, key=lambda x: x[0])]  # the same bits whoever is first
        return g_x, g_x, torch.from_numpy(sum(in_order[1:], in_order[0])), None


class Gate(torch.autograd.Function):
    """silu(gate) * up, or gelu by tanh: (..., 2 I) -> (..., I)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gelu: bool) -> Tensor:
        from incentive.model import kernels as k

        out = x.new_empty((*x.shape[:-1], x.shape[-1] // 2))
        apart(lambda x, out: k.gate(x, gelu, out), array(x), array(out))
        ctx.save_for_backward(x)
        ctx.gelu = gelu
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        from incentive.model import kernels as k

        (x,) = ctx.saved_tensors
        g_x = torch.empty_like(x)
        apart(lambda x, g, g_x: k.gate_backward(x, ctx.gelu, g, g_x), array(x), array(g.contiguous()), array(g_x))
        return g_x, None


class Turn(torch.autograd.Function):
    """Rotary embedding of the first `heads` heads, the rest copied: x (B, T, W), cos and sin (T, D/2) float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return Turn._turned(x, heads, cos, sin, 1.0)

    @staticmethod
    def _turned(x: Tensor, heads: int, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
        from incentive.model import kernels as k

        out = torch.empty_like(x)
        k.turn(array(x), heads, cos.numpy(), sin.numpy(), np.float32(sign), array(out))
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return Turn._turned(g.contiguous(), ctx.heads, cos, sin, -1.0), None, None, None


def token_logp(logits: Tensor, ids: Tensor, temperature: float, logp: Tensor, norm: Tensor, entropy: Tensor) -> None:
    """Of each row (N, V): log softmax at its id at this temperature, the logarithm of the sum, and the entropy, written into
    tensors (N,)."""
    from incentive.model import kernels as k

    inverse = np.float32(1 / temperature)
    told = (logp.numpy(), norm.numpy(), entropy.numpy())
    apart(
        lambda x, ids, logp, norm, ent: k.token_logp(x, ids, inverse, logp, norm, ent),
        array(logits),
        ids.numpy(),
        *told,
    )


def token_logp_backward(logits: Tensor, ids: Tensor, temperature: float, norm: Tensor, g: Tensor) -> Tensor:
    """The gradient of the logits (N, V), in place of them, from that of the log-probabilities (N,)."""
    from incentive.model import kernels as k

    inverse, told = np.float32(1 / temperature), (norm.numpy(), g.contiguous().numpy())
    apart(lambda x, ids, norm, g: k.token_logp_backward(x, ids, inverse, norm, g), array(logits), ids.numpy(), *told)
    return logits


def add(x: Tensor, out: Tensor) -> None:
    """out (N, H) += x, without a copy of x in out's precision."""
    from incentive.model import kernels as k

    apart(k.add, array(x), array(out))
