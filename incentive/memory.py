"""What a run will hold at once, told before it starts and part by part, and the micro-batch that fits. Imports no torch.

The parts are counted from the shape of the model and the sizes of the work; `RUNTIME`, what the process holds without
them, and `RECORD` were measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from incentive.config import RL

RUNTIME = 390 * 2**20  # Python, torch, transformers, the compiled kernels and products, in bytes
GARBAGE = 8  # an eighth of what is in use is what the heap keeps beside it: measured from 1 to 500 million parameters
BLOCK = 128  # tokens that a small model takes through its products at a time on a CPU
CHUNK = 64 * 2**20  # bytes of logits at a time
# bytes of weights; above it products are large enough for all threads to share (`incentive.threads`)
SMALL = 64 * 2**20
RECORD = 300  # bytes that a sampled token takes in records and on its way to the disk, where answers run to the limit
SMALLEST = 512  # tokens of a micro-batch that is not made smaller any more


def sampled_in(asked: str, learner: str, weights: int, device: str = "cpu") -> str:
    """The precision of an engine's products, where `auto` is asked for: the learner's. A small model on a CPU samples in
    float32: there bfloat16 spends on casts what it saves.

    Args:
        weights: bytes in float32.
    """
    if asked != "auto":
        return asked
    return "float32" if weights <= SMALL and device == "cpu" else learner


def parts(rl: RL, shape: Mapping[str, Any], parameters: int, prompt: int, lanes: int) -> dict[str, int]:
    """Bytes by part.

    Args:
        shape: the fields of a Hugging Face config.
        prompt: tokens of the longest prompt.
        lanes: micro-batches that are worked on beside each other.

    Raises:
        KeyError: the shape lacks a field.
    """
    heads, hidden, layers = shape["num_attention_heads"], shape["hidden_size"], shape["num_hidden_layers"]
    kv, d = shape.get("num_key_value_heads") or heads, shape.get("head_dim") or hidden // heads
    inner, vocabulary = shape.get("intermediate_size") or 4 * hidden, shape["vocab_size"]
    wide = {"float32": 4, "bfloat16": 2, "auto": 2}
    longest = prompt + rl.sampling.max_tokens
    answers = rl.problems_per_step * rl.num_generations
    slots = min(rl.engine.max_num_seqs, answers * rl.steps_per_generation)
    # a lane's largest micro-batch, and no more than its share of the answers
    rows = max(1, min(rl.learner.tokens_per_micro_batch // lanes // longest, -(-answers // lanes)))
    tokens, kind = rows * longest, wide[rl.learner.dtype]
    cpu = rl.learner.device == "cpu"
    sampled = wide[sampled_in(rl.engine.dtype, rl.learner.dtype, 4 * parameters, rl.learner.device)]
    heads_wide = (heads + 2 * kv) * d
    if cpu and 4 * parameters <= SMALL:  # `model.passes`: a few rows at a time go through all that is not kept
        kept = 2 * hidden + heads_wide + heads * d + 2 * inner
        passing = 2 * hidden + heads_wide + heads * d
        casts, head = 2 * kind * parameters, lanes * 12 * BLOCK * vocabulary
    else:
        # what each token leaves for the backward pass: inputs of the products, sums and norms, the gate's two halves
        kept = 4 * hidden + heads_wide + heads * d + 3 * inner
        passing = 3 * inner + 2 * hidden + heads_wide + heads * d  # gradients on their way through one layer
        # the weights in the precision of the products; logits, and the head's gradient, summed in float32 over chunks
        casts = lanes * kind * parameters if kind == 2 else 0
        chunk = min(CHUNK, (kind if cpu else 4) * tokens * vocabulary)
        head = lanes * ((1 if cpu else 3) * chunk + (kind + 4) * vocabulary * hidden)
    found = {
        # the learner's, which the engine shares or casts, and the reference's
        "weights": parameters * (4 + (kind if rl.beta else 0) + (2 if cpu and sampled == 2 else 0)),
        "gradients": 4 * parameters * lanes,
        "Adam": 8 * parameters,
        "activations": lanes * tokens * kind * (layers * kept + passing) + casts,
        "logits": head + 4 * slots * vocabulary,
        "answers": RECORD * answers * rl.steps_per_generation * rl.sampling.max_tokens,
        "cache": 2 * slots * longest * layers * kv * d * (4 if cpu else sampled),
    }
    return {"runtime": RUNTIME, **found, "heap": sum(found.values()) // GARBAGE}


def fitting(rl: RL, shape: Mapping[str, Any], parameters: int, prompt: int, lanes: int, free: int) -> int:
    """The `tokens_per_micro_batch` that fits in four fifths of what is free: the setting, or half of it, a quarter, ..."""
    tokens = rl.learner.tokens_per_micro_batch
    while tokens > SMALLEST:
        tried = rl.model_copy(update={"learner": rl.learner.model_copy(update={"tokens_per_micro_batch": tokens})})
        if sum(parts(tried, shape, parameters, prompt, lanes).values()) <= 0.8 * free:
            return tokens
        if tokens // lanes <= prompt + rl.sampling.max_tokens:
            break
        tokens //= 2
    return tokens


def cache_row(config: Any, tokens: int) -> int:
    """Bytes of keys and values, in float32, that one row of so many tokens takes in a decoder's cache.

    Args:
        config: a Hugging Face config of a text model.
    """
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers * kv * width * 4 * tokens
