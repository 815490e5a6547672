"""A lean decoder: Llama, Mistral, Qwen2, Qwen3 and Gemma shapes in one module, for the learner and the local engine.

It holds the weights of a Hugging Face checkpoint with query, key and value fused into one matrix and gate and up into
another, attends over right-padded rows without a mask, and decodes over a preallocated cache. `named_weights` gives the
weights back under their Hugging Face names. A contract test proves that its logits equal transformers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from incentive.model.fused import AddNorm, Gate, Turn, usable
from incentive.model.packed import Attend, Pack, Through, Told

if TYPE_CHECKING:
    from incentive.model.passes import Weights

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3", "gemma")


def supports(config: Any) -> str | None:
    """None if this module can hold the model, else the reason why not."""
    if config.model_type not in SUPPORTED:
        return f"model type {config.model_type!r} is not one of {', '.join(SUPPORTED)}"
    if getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", config.model_type == "mistral"
    ):
        return "it attends within a sliding window"
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default") != "default":
        return "its rotary embedding is scaled"
    if getattr(config, "mlp_bias", False):
        return "its feed-forward layers have biases"
    return None


class _Norm(torch.autograd.Function):
    """y = x / rms(x) * w, reduced in float32 (Zhang and Sennrich 2019), with little kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        r = torch.rsqrt(
            torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_().div_(x.shape[-1]) + eps
        )
        n = x * r.to(x.dtype)
        ctx.save_for_backward(n, r, w)
        return n * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        n, r, w = ctx.saved_tensors
        gw = (g * n).flatten(0, -2).sum(0, dtype=torch.float32).to(w.dtype)
        gn = g * w
        dot = (gn * n).sum(-1, keepdim=True, dtype=torch.float32) / n.shape[-1]
        return (gn - n * dot.to(n.dtype)) * r.to(n.dtype), gw, None


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """(..., H), (H,) -> (..., H)."""
    return _Norm.apply(x, w, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split layout: (B, T, heads, D) with cos, sin (B or 1, T, 1, D/2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (B, T, heads, D), k and v (B, T, kv_heads, D) -> (B, T, heads * D).

    By the flash kernel. What a CPU learns in bfloat16 comes packed (`model.packed`), and attends in another way.
    """
    grouped = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(1, 2).flatten(2)


class Lean(nn.Module):
    """A decoder whose weights are float32 and whose forward runs in `dtype`."""

    def __init__(self, config: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        why = supports(config)
        if why:
            raise ValueError(f"the lean decoder cannot hold this model: {why}")
        c = self.config = config
        self.dtype = dtype
        self.summed: dict[str, Tensor] = {}  # gradients: see `packed.Through`
        self.heads, self.kv_heads = (
            c.num_attention_heads,
            getattr(c, "num_key_value_heads", None) or c.num_attention_heads,
        )
        self.head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        self.layers, self.eps = c.num_hidden_layers, c.rms_norm_eps
        self.gemma = c.model_type == "gemma"
        self.tied = bool(c.tie_word_embeddings)
        self.bias = c.model_type == "qwen2" or bool(getattr(c, "attention_bias", False))
        self.qk_norm = c.model_type == "qwen3"
        h, q, kv = c.hidden_size, self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.theta = (getattr(c, "rope_parameters", None) or {}).get("rope_theta", getattr(c, "rope_theta", 10000.0))

        def p(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape))

        self.embed = p(c.vocab_size, h)
        self.head = None if self.tied else p(c.vocab_size, h)
        self.final_norm = p(h)
        blocks = []
        for _ in range(self.layers):
            block = {"norm1": p(h), "norm2": p(h), "qkv": p(q + 2 * kv, h), "o": p(h, q),
                     "gate_up": p(2 * c.intermediate_size, h), "down": p(h, c.intermediate_size)}  # fmt: skip
            if self.bias:
                block["qkv_bias"] = p(q + 2 * kv)
                if c.model_type != "qwen2":
                    block["o_bias"] = p(h)
            if self.qk_norm:
                block |= {"q_norm": p(self.head_dim), "k_norm": p(self.head_dim)}
            blocks.append(nn.ParameterDict(block))
        self.blocks = cast("Iterable[nn.ParameterDict]", nn.ModuleList(blocks))  # torch types its items as Module

    # weights under their Hugging Face names

    def _names(self) -> Iterator[tuple[str, nn.Parameter, list[tuple[str, int]] | None]]:
        """(name, parameter, parts): parts are the names and row counts that a fused parameter is made of."""
        q, kv, i = self.heads * self.head_dim, self.kv_heads * self.head_dim, self.config.intermediate_size
        yield "model.embed_tokens.weight", self.embed, None
        for n, b in enumerate(self.blocks):
            at = f"model.layers.{n}"
            for kind in ("weight", "bias") if self.bias else ("weight",):
                fused = b["qkv"] if kind == "weight" else b["qkv_bias"]
                yield "", fused, [(f"{at}.self_attn.{x}_proj.{kind}", s) for x, s in (("q", q), ("k", kv), ("v", kv))]
            yield f"{at}.self_attn.o_proj.weight", b["o"], None
            if "o_bias" in b:
                yield f"{at}.self_attn.o_proj.bias", b["o_bias"], None
            if self.qk_norm:
                yield f"{at}.self_attn.q_norm.weight", b["q_norm"], None
                yield f"{at}.self_attn.k_norm.weight", b["k_norm"], None
            yield "", b["gate_up"], [(f"{at}.mlp.gate_proj.weight", i), (f"{at}.mlp.up_proj.weight", i)]
            yield f"{at}.mlp.down_proj.weight", b["down"], None
            yield f"{at}.input_layernorm.weight", b["norm1"], None
            yield f"{at}.post_attention_layernorm.weight", b["norm2"], None
        yield "model.norm.weight", self.final_norm, None
        if self.head is not None:
            yield "lm_head.weight", self.head, None

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, tensor view) of every weight."""
        for name, parameter, parts in self._names():
            if parts is None:
                yield name, parameter.detach()
            else:
                for (part, _), piece in zip(parts, parameter.detach().split([s for _, s in parts]), strict=True):
                    yield part, piece

    @torch.no_grad()
    def load_named(self, weights: dict[str, Tensor]) -> None:
        """Copy weights given under their Hugging Face names.

        Raises:
            ValueError: a weight is missing or has another shape; the message names it.
        """
        for name, own in self.named_weights():
            if name not in weights:
                raise ValueError(f"weight {name!r} is missing")
            if weights[name].shape != own.shape:
                raise ValueError(
                    f"weight {name!r} has shape {tuple(weights[name].shape)}, the config asks for {tuple(own.shape)}"
                )
            if own.data_ptr() != weights[name].data_ptr():  # an engine may share the learner's
                own.copy_(weights[name])

    # forward

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin for positions (..., T) -> (..., T, 1, D/2), in float32 as transformers has it."""
        inv = self.theta ** -(
            torch.arange(0, self.head_dim, 2, device=positions.device, dtype=torch.float32) / self.head_dim
        )
        angle = positions[..., None].float() * inv
        return angle.cos()[..., None, :], angle.sin()[..., None, :]

    def _cast(self, w: Tensor) -> Tensor:
        return w.to(self.dtype)

    def _norm(self, x: Tensor, w: Tensor) -> Tensor:
        return rms_norm(x, self._cast(w + 1 if self.gemma else w), self.eps)

    def _add_norm(self, x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """x + y, and its norm."""
        if usable(x):
            return AddNorm.apply(x, y, w + 1 if self.gemma else w, self.eps)
        x = x + y
        return x, self._norm(x, w)

    def _qkv(self, normed: Tensor, block: nn.ParameterDict) -> Tensor:
        """(..., H) -> queries, keys and values of all heads beside each other (..., heads + 2 kv_heads, D), not turned."""
        bias = self._cast(block["qkv_bias"]) if self.bias else None
        qkv = F.linear(normed, self._cast(block["qkv"]), bias).unflatten(-1, (-1, self.head_dim))
        if not self.qk_norm:
            return qkv
        q, k, v = qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=-2)
        return torch.cat((self._norm(q, block["q_norm"]), self._norm(k, block["k_norm"]), v), dim=-2)

    def _turned(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, T, heads, D), k and v (B, T, kv_heads, D), turned by cos and sin (B or 1, T, 1, D/2)."""
        turning = self.heads + self.kv_heads
        if usable(qkv) and len(cos) == 1:
            qkv = Turn.apply(qkv.flatten(2), turning, cos[0, :, 0], sin[0, :, 0]).view(qkv.shape)
            return qkv.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        qk, v = qkv.split([turning, self.kv_heads], dim=2)
        return *rotate(qk, cos.to(self.dtype), sin.to(self.dtype)).split([self.heads, self.kv_heads], dim=2), v

    def _out(self, attended: Tensor, block: nn.ParameterDict) -> Tensor:
        return F.linear(attended, self._cast(block["o"]), self._cast(block["o_bias"]) if "o_bias" in block else None)

    def _feed(self, normed: Tensor, block: nn.ParameterDict) -> Tensor:
        """The feed-forward part."""
        both = F.linear(normed, self._cast(block["gate_up"]))
        if usable(both):
            return F.linear(Gate.apply(both, self.gemma), self._cast(block["down"]))
        gate, up = both.chunk(2, dim=-1)
        act = F.gelu(gate, approximate="tanh") if self.gemma else F.silu(gate)
        return F.linear(act * up, self._cast(block["down"]))

    def _embed(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self._cast(self.embed))
        return x * torch.tensor(self.config.hidden_size**0.5, dtype=self.dtype) if self.gemma else x

    def _layers(self, ids: Tensor, attend: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
        """ids (...,) -> of each layer the norm (..., H) of what follows it.

        Args:
            attend: queries, keys and values, not turned (..., heads + 2 kv_heads, D) -> what each token draws (..., heads D).
        """
        x = self._embed(ids)
        blocks = list(self.blocks)
        normed = self._norm(x, blocks[0]["norm1"])
        for block, after in zip(blocks, [*(b["norm1"] for b in blocks[1:]), self.final_norm], strict=True):
            mixed = attend(self._qkv(normed, block))
            x, normed = self._add_norm(x, self._out(mixed, block), block["norm2"])
            x, normed = self._add_norm(x, self._feed(normed, block), after)
            yield normed

    def forward(self, ids: Tensor) -> Tensor:
        """Right-padded ids (B, T) -> last hidden states (B, T, H), normed, in `dtype`. Padding needs no mask."""
        cos, sin = self.rope(torch.arange(ids.shape[1], device=ids.device)[None])
        *_, hidden = self._layers(ids, lambda qkv: causal_attention(*self._turned(qkv, cos, sin)))
        return hidden

    def packed(self, pack: Pack, weights: Weights | None = None) -> Tensor:
        """Last hidden states (N, H) of a pack's tokens, as `forward` gives them.

        Args:
            weights: the module's own as `packed.lay` gives them for a small one, which is several times as fast.
        """
        if weights is not None:
            return Through.apply(self.final_norm, self, weights, pack)
        cos, sin = (x[:, 0] for x in self.rope(pack.places))
        heads = self.heads, self.kv_heads
        *_, hidden = self._layers(pack.ids, lambda qkv: Attend.apply(qkv.flatten(1), cos, sin, pack, *heads))
        return hidden

    def told(
        self, pack: Pack, weights: Weights, places: Tensor, ids: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Of a small module's pack, the log-probabilities (M,) of ids after the tokens at places, and entropies: see `Told`."""
        return Told.apply(self.final_norm, self, weights, pack, places, ids, temperature)

    @property
    def unembed(self) -> Tensor:
        """(V, H), float32."""
        return self.embed if self.head is None else self.head

    # decoding

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., V) float32."""
        return F.linear(hidden, self._cast(self.unembed)).float()

    def prefill(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Right-padded ids (B, T) -> last hidden states (B, T, H), keys and values (layers, B, kv_heads, T, D)."""
        cos, sin = self.rope(torch.arange(ids.shape[1], device=ids.device)[None])
        cache: list[tuple[Tensor, Tensor]] = []

        def attend(qkv: Tensor) -> Tensor:
            q, k, v = self._turned(qkv, cos, sin)
            cache.append((k.transpose(1, 2), v.transpose(1, 2)))
            return causal_attention(q, k, v)

        *_, hidden = self._layers(ids, attend)
        keys, values = (torch.stack([layer[i] for layer in cache]) for i in (0, 1))
        return hidden, keys, values

    def decode(self, ids: Tensor, lengths: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One token for each of the first B rows of a cache, which is written in place.

        Args:
            ids: (B,) the last token of each row.
            lengths: (B,) tokens that the row has in the cache; the new one goes to this position.
            keys, values: (layers, slots, kv_heads, tokens, D) with tokens > max(lengths).

        Returns:
            (B, V) float32 logits of the next token.
        """
        b, used = len(ids), int(lengths.max()) + 1
        group = self.heads // self.kv_heads
        x = self._embed(ids)[:, None]
        cos, sin = self.rope(lengths[:, None])
        rows = torch.arange(b, device=ids.device)
        hidden = torch.arange(used, device=ids.device)[None] > lengths[:, None]
        bias = torch.zeros(b, 1, 1, used, dtype=self.dtype, device=ids.device).masked_fill_(
            hidden[:, None, None], float("-inf")
        )
        bias = bias.expand(b, self.kv_heads, group, used).reshape(b * self.kv_heads, group, used)
        for n, block in enumerate(self.blocks):
            q, k, v = self._turned(self._qkv(self._norm(x, block["norm1"]), block), cos, sin)
            keys[n, rows, :, lengths] = k[:, 0]
            values[n, rows, :, lengths] = v[:, 0]
            seen_k = keys[n, :b].flatten(0, 1)[:, :used]
            seen_v = values[n, :b].flatten(0, 1)[:, :used]
            q = q.reshape(b * self.kv_heads, group, self.head_dim)
            scores = torch.baddbmm(bias, q, seen_k.transpose(1, 2), alpha=self.head_dim**-0.5)
            a = torch.bmm(torch.softmax(scores, dim=-1), seen_v)
            x = x + self._out(a.reshape(b, 1, self.heads * self.head_dim), block)
            x = x + self._feed(self._norm(x, block["norm2"]), block)
        return self.logits(self._norm(x[:, 0], self.final_norm))
