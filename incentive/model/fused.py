"""The learner's operations between matrix products, forward and backward, as one pass each (`model.kernels`).

For a CPU and one thread, as the learner's lanes run; elsewhere torch's own operations are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def usable(x: Tensor) -> bool:
    return x.device.type == "cpu" and torch.get_num_threads() == 1


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
        h = x.shape[-1]
        scale = np.empty(x.numel() // h, dtype=np.float32)
        weight = w.detach().numpy()
        k.add_norm(array(x), array(y), weight, np.float32(eps), array(total), array(out), scale)
        ctx.save_for_backward(total, w)
        ctx.scale = scale
        return total, out

    @staticmethod
    def backward(ctx: Any, g_total: Tensor, g_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        from incentive.model import kernels as k

        total, w = ctx.saved_tensors
        g_x, g_w = torch.empty_like(total), torch.zeros_like(w)
        grads = (array(g_total.contiguous()), array(g_out.contiguous()), array(g_x), g_w.numpy())
        k.add_norm_backward(array(total), w.detach().numpy(), ctx.scale, *grads)
        return g_x, g_x, g_w, None


class Gate(torch.autograd.Function):
    """silu(gate) * up, or gelu by tanh: (..., 2 I) -> (..., I)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gelu: bool) -> Tensor:
        from incentive.model import kernels as k

        n = x.shape[-1] // 2
        out = x.new_empty((*x.shape[:-1], n))
        k.gate(array(x), gelu, array(out))
        ctx.save_for_backward(x)
        ctx.gelu = gelu
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        from incentive.model import kernels as k

        (x,) = ctx.saved_tensors
        g_x = torch.empty_like(x)
        k.gate_backward(array(x), ctx.gelu, array(g.contiguous()), array(g_x))
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

    told = (logp.numpy(), norm.numpy(), entropy.numpy())
    k.token_logp(array(logits), ids.numpy(), np.float32(1 / temperature), *told, np.empty(1, dtype=np.float32))


def token_logp_backward(logits: Tensor, ids: Tensor, temperature: float, norm: Tensor, g: Tensor) -> Tensor:
    """The gradient of the logits (N, V), in place of them, from that of the log-probabilities (N,)."""
    from incentive.model import kernels as k

    told = (norm.numpy(), g.contiguous().numpy(), np.empty(logits.shape[1], dtype=np.float32))
    k.token_logp_backward(array(logits), ids.numpy(), np.float32(1 / temperature), *told)
    return logits
