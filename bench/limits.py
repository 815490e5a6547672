"""What a phase of a step must cost: multiply-adds and bytes moved, hence a bound on its time on a measured machine.

A multiply-add counts as two operations. Counted is what the algorithm cannot do without: matrix products (once of a
prompt that a group shares), attention over the tokens that are there, weights read once a pass, keys and values read once
a token, AdamW's state read and written.
Left out are norms, activations, softmax, drawing, padding and copies: they are what the share of the bound pays for.
The bound is the longer of operations over the speed of large matrix products and bytes over that of large copies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rollout = tuple[list[int], list[int], list[int]]  # tokens of each problem's prompt; of each sample's prompt; sampled
Phase = dict[str, Any]  # name, seconds, and where there is a bound: flops, bytes, bound (seconds), by


@dataclass(frozen=True, slots=True)
class Shape:
    """The matrices of a decoder: q and kv are heads times the head's size."""

    hidden: int
    intermediate: int
    layers: int
    q: int
    kv: int
    vocabulary: int
    tied: bool = True

    @property
    def matrices(self) -> int:
        """Weights that multiply every token: projections and feed-forward of all layers."""
        attention = self.hidden * (self.q + 2 * self.kv) + self.q * self.hidden
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        return self.hidden * self.vocabulary

    @property
    def parameters(self) -> int:
        return self.matrices + self.head * (1 if self.tied else 2) + (2 * self.layers + 1) * self.hidden


@dataclass(frozen=True, slots=True)
class Cost:
    flops: float
    bytes: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


NOTHING = Cost(0.0, 0.0)


def shape_of(folder: Path) -> Shape:
    c = json.loads((folder / "config.json").read_text())
    size = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    return Shape(
        c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], c["num_attention_heads"] * size,
        c["num_key_value_heads"] * size, c["vocab_size"], bool(c["tie_word_embeddings"]),
    )  # fmt: skip


def forward(s: Shape, lengths: Sequence[int], scored: int, width: int = 4, before: Sequence[int] | None = None) -> Cost:
    """Rows of these lengths through the model, `scored` positions through the head; weights of `width` bytes.

    Args:
        before: tokens that each row sees and that are computed elsewhere: a prompt that it shares; by default none.
    """
    seen = before or [0] * len(lengths)
    # pairs of a token and one that it sees: q k^T and its sum of v
    attended = sum(t * (t + 1) // 2 + t * p for t, p in zip(lengths, seen, strict=True))
    flops = 2 * s.matrices * sum(lengths) + 4 * s.q * s.layers * attended + 2 * s.head * scored
    return Cost(flops, width * (s.matrices + s.head))


def decode(s: Shape, prompts: Sequence[int], sampled: Sequence[int], width: int = 4) -> Cost:
    """All tokens of samples but their first, which prefill gives: all rows together, as many passes as the longest has.

    Args:
        prompts, sampled: tokens of each sample's prompt, and of the sample.
        width: bytes of a weight; keys and values are float32.
    """
    tokens = sum(n - 1 for n in sampled)
    seen = sum((n - 1) * p + (n - 1) * n // 2 for p, n in zip(prompts, sampled, strict=True))
    flops = 2 * (s.matrices + s.head) * tokens + 4 * s.q * s.layers * seen
    weights = (max(sampled) - 1) * (s.matrices + s.head)
    return Cost(flops, width * weights + 4 * 2 * s.kv * s.layers * seen)


def backward(done: Cost) -> Cost:
    """Twice the forward pass: products for the inputs' and for the weights' gradients."""
    return Cost(2 * done.flops, 2 * done.bytes)


def optimizer(s: Shape) -> Cost:
    """AdamW in float32: weight, gradient and two moments read, all but the gradient written."""
    return Cost(0.0, 7 * 4 * s.parameters)


def bound(cost: Cost, machine: dict[str, Any], dtype: str) -> tuple[float, str]:
    """Seconds that it takes at least, and what sets them."""
    by = {"multiply-adds": cost.flops / machine[dtype], "bytes": cost.bytes / machine["bandwidth"]}
    longest = max(by, key=lambda name: by[name])
    return by[longest], longest


def phases(
    s: Shape, machine: dict[str, Any], dtype: str, rollouts: Sequence[Rollout], rows: Sequence[dict[str, float]],
    clocks: Sequence[dict[str, float]], sampling: str = "float32",
) -> list[Phase]:  # fmt: skip
    """The phases of some steps, summed: seconds measured, and for those that compute what they take at least.

    Args:
        dtype: of the learner's products.
        rows: what the product's metrics say of each step, `time/*`.
        clocks: seconds within `time/sample` and `time/update`, from the clocks of `bench/recipe.py`.
        sampling: the dtype of the engine's products.
    """
    width, narrow = (2 if name == "bfloat16" else 4 for name in (dtype, sampling))
    cost = dict.fromkeys(("prefill", "decode", "log-probs", "forward", "backward", "optimizer"), NOTHING)
    for distinct, prompts, sampled in rollouts:
        once = forward(s, [*distinct, *sampled], sum(sampled), width, [*(0 for _ in distinct), *prompts])
        prefill = forward(s, distinct, len(distinct), narrow)
        parts = (prefill, decode(s, prompts, sampled, narrow), once, once, backward(once))
        for name, part in zip(cost, (*parts, optimizer(s)), strict=True):
            cost[name] += part
    took = {k: sum(r[f"time/{k}"] for r in rows) for k in ("step", "sample", "reward", "score", "update")}
    clock = {k: sum(c[k] for c in clocks) for k in clocks[0]}
    split = clock["backward"] > 0 and clock["optimizer"] > 0
    found: list[Phase] = []

    def add(name: str, seconds: float, parts: Sequence[str] = (), of: str = "") -> None:
        phase: Phase = {"name": name, "seconds": seconds, "of": of}
        done = [p for p in parts if cost[p] != NOTHING]
        if done:
            total = sum((cost[p] for p in done), NOTHING)
            # phases come one after the other: bounds add up
            times = [bound(cost[p], machine, sampling if p in ("prefill", "decode") else dtype) for p in done]
            by = max(times)[1]
            phase |= {"flops": total.flops, "bytes": total.bytes, "bound": sum(t for t, _ in times), "by": by}
        found.append(phase)

    add("sampling", took["sample"], ("prefill", "decode"))
    if clock["prefill"] > 0:
        add("prefill", clock["prefill"], ("prefill",), "sampling")
        add("decode", took["sample"] - clock["prefill"], ("decode",), "sampling")
        add("its forward pass alone", clock["decoder"], ("decode",), "decode")
        add("its drawing of tokens", clock["draw"], (), "decode")
    add("reward", took["reward"])
    add("log-probs of the reference", took["score"], ("log-probs",))
    add("update", took["update"], ("forward", "backward", "optimizer"))
    if split:
        rest = took["update"] - clock["backward"] - clock["optimizer"]
        add("forward pass and loss", rest, ("forward",), "update")
        add("backward", clock["backward"], ("backward",), "update")
        add("optimizer", clock["optimizer"], ("optimizer",), "update")
    add("all else", took["step"] - sum(took[k] for k in ("sample", "reward", "score", "update")))
    add("step", took["step"], tuple(cost))
    return found
