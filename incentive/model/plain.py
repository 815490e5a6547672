"""Any causal model of transformers as a policy, for architectures that the lean decoder does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """transformers' own forward. Slower than `Lean`, and as general as transformers."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.model, self.dtype, self.config = model, dtype, model.config
        if getattr(model.config, "final_logit_softcapping", None) or getattr(model.config, "logits_scaling", None):
            raise ValueError(
                "its logits are capped or scaled after the output matrix, which the learner does not support"
            )
        self.model.eval()

    def forward(self, ids: Tensor) -> Tensor:
        """Right-padded ids (B, T) -> last hidden states (B, T, H); causal attention makes a padding mask needless."""
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            out = self.model.base_model(input_ids=ids, use_cache=False)
        return out.last_hidden_state.to(self.dtype)

    @property
    def unembed(self) -> Tensor:
        return self.model.get_output_embeddings().weight

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ()) if self.config.tie_word_embeddings else set()
        for name, p in self.model.state_dict().items():
            if name not in tied:
                yield name, p

    @torch.no_grad()
    def load_named(self, weights: dict[str, Tensor]) -> None:
        for name, own in self.named_weights():
            if name not in weights:
                raise ValueError(f"weight {name!r} is missing")
            if own.data_ptr() != weights[name].data_ptr():  # an engine may share the learner's
                own.copy_(weights[name])
