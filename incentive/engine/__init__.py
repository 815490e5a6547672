"""Who generates."""

from __future__ import annotations

import copy
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from incentive.config import Engine as EngineConfig
from incentive.engine.base import Engine
from incentive.engine.local import LocalEngine
from incentive.engine.plain import PlainEngine
from incentive.memory import cache_row, sampled_in
from incentive.model.checkpoint import Policy, stop_ids, twin
from incentive.model.lean import Lean

CACHE_SHARE = 0.4  # of the free memory, for keys and values


def rows_that_fit(policy: Policy, tokens: int, most: int) -> int:
    """Rows of so many tokens for which a share of the free memory holds a cache, from 1 to `most`."""
    weight = next(policy.parameters())
    free = torch.cuda.mem_get_info(weight.device)[0] if weight.is_cuda else psutil.virtual_memory().available
    return max(1, min(most, int(CACHE_SHARE * free) // cache_row(policy.config.get_text_config(), tokens)))


def local(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path | None,
    config: EngineConfig,
    share: bool = False,
) -> Engine:
    """An in-process engine.

    Args:
        share: sample from the policy's own weights in memory, so that whoever changes them must `load` before the next
            call; else from a copy, which `load` alone changes.
    """
    own = (twin(policy) if share else copy.deepcopy(policy)).requires_grad_(False)
    weights = list(own.parameters())
    size, learner = sum(4 * p.numel() for p in weights), str(policy.dtype).removeprefix("torch.")
    own.dtype = getattr(torch, sampled_in(config.dtype, learner, size, weights[0].device.type))
    stops = stop_ids(tokenizer, folder)
    kind = LocalEngine if isinstance(own, Lean) else PlainEngine
    return kind(own, tokenizer, stops, config)  # type: ignore[arg-type]
