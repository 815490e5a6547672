"""One token at a time: a cache and the step that extends it, on a CPU with fused kernels, elsewhere with torch alone.

Both hold keys and values (layers, slots, kv_heads, tokens, D), reserved once; a row of the batch is a slot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from incentive.model.lean import Lean
from incentive.model.packed import rounded

WIDE = 16  # rows from which float32 products go by oneDNN: on AMD it is twice as fast as MKL, which torch.mm calls

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class TorchDecoder:
    """`Lean.decode` on the device of its weights."""

    def __init__(self, policy: Lean):
        self.policy, self.device = policy, policy.embed.device
        self.keys = self.values = torch.zeros(0, 0, 0, 0, 0)

    def refresh(self) -> None:
        """Take over the policy's weights as they are now."""

    def reserve(self, slots: int, tokens: int) -> None:
        """Room for so many rows of so many tokens; what was in the cache is gone where it grows."""
        p = self.policy
        if self.keys.shape[1] < slots or self.keys.shape[3] < tokens:
            shape = (p.layers, slots, p.kv_heads, tokens, p.head_dim)
            self.keys = torch.zeros(shape, dtype=self.cache_dtype, device=self.device)
            self.values = torch.zeros_like(self.keys)

    @property
    def cache_dtype(self) -> torch.dtype:
        return self.policy.dtype

    def put(self, first: int, keys: Tensor, values: Tensor, of: Tensor) -> None:
        """Rows `first`, `first + 1`, ... begin as the rows `of` (R,) of a prefill's keys and values."""
        to = slice(first, first + len(of))
        self.keys[:, to, :, : keys.shape[3]] = keys[:, of].to(self.keys.dtype)
        self.values[:, to, :, : values.shape[3]] = values[:, of].to(self.values.dtype)

    def move(self, to: np.ndarray, frm: np.ndarray, used: int) -> None:
        """Rows `frm` take the places of the rows `to`, up to `used` tokens."""
        a, b = torch.from_numpy(to).to(self.device), torch.from_numpy(frm).to(self.device)
        for x in (self.keys, self.values):
            x[:, a, :, :used] = x[:, b, :, :used]

    def step(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        """The next token's logits (B, V), float32, of the first B rows after `ids` (B,).

        Args:
            lengths: (B,) int64, tokens that each row has in the cache; the new one goes to this place.
        """
        p = self.policy
        last, at = torch.from_numpy(ids).to(self.device), torch.from_numpy(lengths).to(self.device)
        return p.decode(last, at, self.keys, self.values)


class CpuDecoder(TorchDecoder):
    """A step as a few matrix products with one pass over each row between them (`model.kernels`).

    Activations and cache are float32; the matrix products run in the policy's dtype. A cache in bfloat16 was no faster:
    what it saves of memory's time goes into widening it.
    """

    def __init__(self, policy: Lean):
        from incentive.model import kernels

        super().__init__(policy)
        self.kernels, self.eps = kernels, np.float32(policy.eps)
        self.room: tuple[np.ndarray, ...] = ()
        self.cos = self.sin = np.empty((0, 0), dtype=np.float32)
        self.buffers: dict[str, Tensor] = {}
        self.rows = 0
        self.refresh()

    @property
    def cache_dtype(self) -> torch.dtype:
        return torch.float32

    def refresh(self) -> None:
        p = self.policy
        plain = lambda w: (w.detach() + (1 if p.gemma else 0)).float().numpy()  # noqa: E731  a norm's weight
        matrix = lambda w: w.detach().to(p.dtype)  # noqa: E731
        none = np.empty(0, dtype=np.float32)
        self.layers: list[dict[str, Any]] = [
            {
                "norm1": plain(b["norm1"]), "norm2": plain(b["norm2"]),
                "q_norm": plain(b["q_norm"]) if p.qk_norm else none, "k_norm": plain(b["k_norm"]) if p.qk_norm else none,
                **{name: (matrix(b[name]), b[f"{name}_bias"].detach() if f"{name}_bias" in b else None)
                   for name in ("qkv", "o", "gate_up", "down")},
            }
            for b in p.blocks
        ]  # fmt: skip
        self.final_norm, self.head = plain(p.final_norm), (matrix(p.unembed), None)

    def reserve(self, slots: int, tokens: int) -> None:
        super().reserve(slots, tokens)
        p, c = self.policy, self.policy.config
        tokens = self.keys.shape[3]
        if self.rows < slots:
            widths = {
                "x": c.hidden_size, "normed": c.hidden_size, "mixed": p.heads * p.head_dim, "acted": c.intermediate_size
            }  # fmt: skip
            self.rows = slots
            self.buffers = {name: torch.zeros(rounded(slots, 3), width) for name, width in widths.items()}
        if len(self.cos) < tokens:
            self.room = self.kernels.scratch(max(tokens, c.intermediate_size))
            cos, sin = p.rope(torch.arange(tokens))
            self.cos, self.sin = (x[:, 0].contiguous().numpy() for x in (cos, sin))
        self.cache = [(self.keys[n].numpy(), self.values[n].numpy()) for n in range(p.layers)]

    def _times(self, x: Tensor, w: tuple[Tensor, Tensor | None]) -> Tensor:
        """(B, K) -> (B, N), float32."""
        matrix, bias = w
        if matrix.dtype != torch.float32:
            out = torch.mm(x.to(matrix.dtype), matrix.T).float()
        elif len(x) < WIDE or not _ONEDNN:
            out = torch.mm(x, matrix.T)
        else:
            out = torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")
        return out if bias is None else out.add_(bias)

    def step(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        k, p, n, eps, room = self.kernels, self.policy, len(ids), self.eps, self.room
        # of many rows a few more, so that products have few shapes; what is computed of those is never read
        t = {name: x[: n if n < WIDE else rounded(n, 3)] for name, x in self.buffers.items()}
        a = {name: x[:n].numpy() for name, x in self.buffers.items()}
        times = lambda name, w: self._times(t[name], w)[:n]  # noqa: E731
        torch.index_select(p.embed.detach(), 0, torch.from_numpy(ids), out=t["x"][:n])
        if p.gemma:
            t["x"][:n] *= p.config.hidden_size**0.5
        k.norm(a["x"], self.layers[0]["norm1"], eps, a["normed"])
        for layer, (keys, values), after in zip(
            self.layers, self.cache, [*(layer["norm1"] for layer in self.layers[1:]), self.final_norm], strict=True
        ):
            qkv = times("normed", layer["qkv"]).numpy()
            k.attend(
                qkv, self.cos, self.sin, layer["q_norm"], layer["k_norm"], eps, lengths, keys, values, a["mixed"], *room
            )  # fmt: skip
            k.add_norm(a["x"], times("mixed", layer["o"]).numpy(), layer["norm2"], eps, a["normed"])
            k.gate(times("normed", layer["gate_up"]).numpy(), p.gemma, a["acted"], *room)
            k.add_norm(a["x"], times("acted", layer["down"]).numpy(), after, eps, a["normed"])
        return times("normed", self.head)


def decoder(policy: Lean) -> TorchDecoder:
    """The decoder for the device of the policy's weights."""
    return CpuDecoder(policy) if policy.embed.device.type == "cpu" else TorchDecoder(policy)
