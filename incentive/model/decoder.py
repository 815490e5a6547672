"""One token at a time: a cache and the step that extends it, on a CPU with compiled kernels, elsewhere with torch alone.

Keys and values of each layer, slot and head are reserved once, on a CPU in the layout that its kernels read; a row of the
batch is a slot.
"""

from __future__ import annotations

import math
import mmap
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from incentive.model.lean import Lean
from incentive.threads import one_thread, small


def _mapped(*shape: int) -> Tensor:
    """Memory of its own, of which only what is used is there: the heap would give it pages that were written before."""
    return torch.frombuffer(mmap.mmap(-1, 4 * math.prod(shape)), dtype=torch.float32).view(shape)


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
            self.keys = torch.zeros(shape, dtype=p.dtype, device=self.device)
            self.values = torch.zeros_like(self.keys)

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


class CpuDecoder(TorchDecoder, ABC):
    """A step as a few matrix products with one pass over each row between them (`model.kernels`).

    Activations and cache are float32; the matrix products run in the policy's dtype. A cache in bfloat16 was no faster:
    what it saves of memory's time goes into widening it.
    """

    def __init__(self, policy: Lean, like: CpuDecoder | None = None):
        from incentive.model import kernels, vectors

        super().__init__(policy)
        self.kernels, self.vectors, self.eps = kernels, vectors, np.float32(policy.eps)
        self.room: tuple[np.ndarray, ...] = ()
        self.cos = self.sin = np.empty((0, 0), dtype=np.float32)
        self.buffers: dict[str, Tensor] = {}
        self.rows = 0
        self.held: dict[str, Any] = like.held if like else {}  # the weights as `step` reads them
        if not like:
            self.refresh()

    def refresh(self) -> None:
        self.held.clear()
        with one_thread(self.policy):
            self.held.update(self._weights())

    def _norms(self) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
        """Weights of each layer's norms, and of the last."""
        p = self.policy
        plain = lambda w: (w.detach() + (1 if p.gemma else 0)).float().numpy()  # noqa: E731
        none = np.empty(0, dtype=np.float32)
        names = ("norm1", "norm2", "q_norm", "k_norm")
        return [{n: plain(b[n]) if n in b else none for n in names} for b in p.blocks], plain(p.final_norm)

    @abstractmethod
    def _weights(self) -> dict[str, Any]:
        """All of them, for `held`."""

    def reserve(self, slots: int, tokens: int) -> None:
        p, vectors = self.policy, self.vectors
        if self.keys.shape[1] < slots or self.values.shape[3] < tokens:
            shape = (p.layers, slots, p.kv_heads, vectors.whole(tokens))
            self.keys = _mapped(*shape[:3], shape[3] // vectors.W, p.head_dim, vectors.W)
            self.values = _mapped(*shape, vectors.whole(p.head_dim))
        tokens = self.values.shape[3]
        if self.rows < slots:
            self.rows = slots
            self.buffers = {name: torch.empty(slots, *width) for name, width in self._widths().items()}
        if len(self.cos) < tokens:
            group = p.heads // p.kv_heads
            f = lambda *shape: np.empty(shape, dtype=np.float32)  # noqa: E731
            self.room = f(group, tokens), f(group, vectors.whole(p.head_dim)), f(group)
            cos, sin = p.rope(torch.arange(tokens))
            self.cos, self.sin = (x[:, 0].contiguous().numpy() for x in (cos, sin))

    def _widths(self) -> dict[str, tuple[int, ...]]:
        """Of what a step writes into rows that stay."""
        p, h, i = self.policy, self.policy.config.hidden_size, self.policy.config.intermediate_size
        return {"x": (h,), "normed": (h,), "mixed": (p.heads * p.head_dim,), "acted": (i,), "scale": ()}

    def put(self, first: int, keys: Tensor, values: Tensor, of: Tensor) -> None:
        to, tokens = slice(first, first + len(of)), keys.shape[3]
        self.values[:, to, :, :tokens, : values.shape[4]] = values[:, of].float()
        turned = self.vectors.columns(keys.float())  # (layers, P, kv_heads, T/W, D, W)
        self.keys[:, to, :, : turned.shape[3]] = turned[:, of]

    def move(self, to: np.ndarray, frm: np.ndarray, used: int) -> None:
        self.kernels.move(self.keys.numpy(), self.values.numpy(), to, frm, used)


class LargeDecoder(CpuDecoder):
    """All threads share each product, in the policy's dtype; what lies between runs on one."""

    def _weights(self) -> dict[str, Any]:
        p, (norms, final_norm) = self.policy, self._norms()
        matrix = lambda w: w.detach().to(p.dtype)  # noqa: E731
        layers = [
            {name: (matrix(b[name]), b[f"{name}_bias"].detach() if f"{name}_bias" in b else None)
             for name in ("qkv", "o", "gate_up", "down")}
            for b in p.blocks
        ]  # fmt: skip
        afters = [*(n["norm1"] for n in norms[1:]), final_norm]
        return {"layers": list(zip(layers, norms, afters, strict=True)), "head": (matrix(p.unembed), None)}

    def _times(self, x: Tensor, w: tuple[Tensor, Tensor | None]) -> Tensor:
        """(B, K) -> (B, N), float32."""
        matrix, bias = w
        out = torch.mm(x.to(matrix.dtype), matrix.T).float()
        return out if bias is None else out.add_(bias)

    def step(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        k, p, eps, room = self.kernels, self.policy, self.eps, self.room
        t = {name: x[: len(ids)] for name, x in self.buffers.items()}
        a = {name: x.numpy() for name, x in t.items()}
        to = a["x"], a["normed"], a["scale"]
        torch.index_select(p.embed.detach(), 0, torch.from_numpy(ids), out=t["x"])
        if p.gemma:
            t["x"] *= p.config.hidden_size**0.5
        k.norm(a["x"], self.held["layers"][0][1]["norm1"], eps, a["normed"])
        for n, (layer, norms, after) in enumerate(self.held["layers"]):
            qkv = self._times(t["normed"], layer["qkv"]).numpy()
            cache = self.keys[n].numpy(), self.values[n].numpy()
            k.attend(
                qkv, self.cos, self.sin, norms["q_norm"], norms["k_norm"], eps, lengths, *cache, a["mixed"],
                *room,
            )  # fmt: skip
            k.add_norm(a["x"], self._times(t["mixed"], layer["o"]).numpy(), norms["norm2"], eps, *to)
            k.gate(self._times(t["normed"], layer["gate_up"]).numpy(), p.gemma, a["acted"])
            k.add_norm(a["x"], self._times(t["acted"], layer["down"]).numpy(), after, eps, *to)
        return self._times(t["normed"], self.held["head"])


class SmallDecoder(CpuDecoder):
    """A step is one compiled call on one thread (`kernels.step`), in float32. A row's logits do not depend on its batch."""

    def _weights(self) -> dict[str, Any]:
        p, columns, (norms, final_norm) = self.policy, self.vectors.columns, self._norms()
        blocks = list(p.blocks)
        of = lambda name: np.stack([n[name] for n in norms])  # noqa: E731
        matrix = lambda name: columns(torch.stack([b[name].detach() for b in blocks])).numpy()  # noqa: E731
        none = np.empty((p.layers, 0), dtype=np.float32)
        bias = lambda name: np.stack([b[name].detach().numpy() for b in blocks]) if name in blocks[0] else none  # noqa: E731
        weights = self.kernels.Weights(
            p.embed.detach().numpy(), np.float32(p.config.hidden_size**0.5 if p.gemma else 1), of("norm1"), of("norm2"),
            final_norm, of("q_norm"), of("k_norm"), matrix("qkv"), bias("qkv_bias"), matrix("o"), bias("o_bias"),
            matrix("gate_up"), matrix("down"), columns(p.unembed.detach()).numpy(),
        )  # fmt: skip
        return {"weights": weights}

    def _widths(self) -> dict[str, tuple[int, ...]]:
        p, c = self.policy, self.policy.config
        widths = {
            "qkv": (p.heads + 2 * p.kv_heads) * p.head_dim, "both": 2 * c.intermediate_size, "out": c.hidden_size,
            "logits": c.vocab_size,
        }  # fmt: skip
        return super()._widths() | {name: (self.vectors.whole(width),) for name, width in widths.items()}

    def reserve(self, slots: int, tokens: int) -> None:
        super().reserve(slots, tokens)
        self.between = self.kernels.Room(**{name: x.numpy() for name, x in self.buffers.items()})

    def step(self, ids: np.ndarray, lengths: np.ndarray) -> Tensor:
        """As of every decoder; what it returns is written over by the next step."""
        self.kernels.step(
            ids, lengths, self.held["weights"], self.between, self.eps, self.policy.gemma, self.cos, self.sin, self.keys.numpy(),
            self.values.numpy(), *self.room,
        )  # fmt: skip
        return self.buffers["logits"][: len(ids), : self.policy.config.vocab_size].contiguous()


def decoder(policy: Lean, like: TorchDecoder | None = None) -> TorchDecoder:
    """The decoder for the device of the policy's weights, and for their size.

    Args:
        like: one of the same policy, whose weights are used, and which is the one to `refresh`.
    """
    if policy.embed.device.type != "cpu":
        return TorchDecoder(policy)
    kind = SmallDecoder if policy.dtype == torch.float32 and small(policy) else LargeDecoder
    return kind(policy, like if isinstance(like, CpuDecoder) else None)
