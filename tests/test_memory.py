"""The planner: parts that add up, and a micro-batch that fits. Measured peaks are in docs/performance.md."""

from __future__ import annotations

from typing import Any

from incentive import memory
from incentive.config import RL

SHAPE: dict[str, Any] = {
    "num_attention_heads": 14, "hidden_size": 896, "num_hidden_layers": 24, "num_key_value_heads": 2,
    "intermediate_size": 4864, "vocab_size": 151936,
}  # fmt: skip
SIZE = 494_032_768


def rl(**more: Any) -> RL:
    return RL.model_validate({"problems_per_step": 4, "num_generations": 8, "sampling": {"max_tokens": 128}, **more})


def test_parts_follow_the_work() -> None:
    one = memory.parts(rl(), SHAPE, SIZE, 64, 1)
    assert one["weights"] == 8 * SIZE  # the learner's in float32; the engine's and the reference's in bfloat16
    assert memory.parts(rl(beta=0.0), SHAPE, SIZE, 64, 1)["weights"] == 6 * SIZE
    whole = rl(beta=0.0, engine={"dtype": "float32"})
    assert memory.parts(whole, SHAPE, SIZE, 64, 1)["weights"] == 4 * SIZE  # which the engine shares
    assert one["Adam"] == 8 * SIZE
    assert one["cache"] == 2 * 32 * 192 * 24 * 2 * 64 * 4
    assert memory.parts(rl(), SHAPE, SIZE, 64, 2)["gradients"] == 2 * one["gradients"]
    longer = memory.parts(rl(sampling={"max_tokens": 256}), SHAPE, SIZE, 64, 1)
    assert longer["logits"] == one["logits"]  # chunks: no part grows with length times vocabulary


def test_micro_batch_is_what_fits() -> None:
    need = sum(memory.parts(rl(), SHAPE, SIZE, 64, 1).values())
    assert memory.fitting(rl(), SHAPE, SIZE, 64, 1, 2 * need) == 4096
    less = memory.fitting(rl(), SHAPE, SIZE, 64, 1, int(1.1 * need))
    assert less < 4096
    tried = rl(learner={"tokens_per_micro_batch": less})
    assert sum(memory.parts(tried, SHAPE, SIZE, 64, 1).values()) <= 0.8 * 1.1 * need
    assert memory.fitting(rl(), SHAPE, SIZE, 64, 1, 2**20) >= 96  # a row still fits into it


def test_a_large_model_samples_as_the_learner_learns() -> None:
    small, large = memory.SMALL, memory.SMALL + 1
    assert memory.sampled_in("auto", "bfloat16", small) == "float32"
    assert memory.sampled_in("auto", "bfloat16", large) == "bfloat16"
    assert memory.sampled_in("auto", "float32", large) == "float32"
    assert memory.sampled_in("auto", "bfloat16", small, "cuda") == "bfloat16"
    assert memory.sampled_in("float32", "bfloat16", large) == "float32"
