"""Who generates."""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from incentive.config import Engine as EngineConfig
from incentive.engine.base import Engine
from incentive.engine.local import LocalEngine
from incentive.engine.plain import PlainEngine
from incentive.model.checkpoint import Policy, stop_ids
from incentive.model.lean import Lean


def local(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path | None, config: EngineConfig) -> Engine:
    """An in-process engine with its own copy of the policy's weights, so that the learner may go on."""
    import torch

    own = copy.deepcopy(policy).requires_grad_(False)
    own.dtype = getattr(torch, config.dtype)
    stops = stop_ids(tokenizer, folder)
    return (
        LocalEngine(own, tokenizer, stops, config)
        if isinstance(own, Lean)
        else PlainEngine(own, tokenizer, stops, config)
    )
