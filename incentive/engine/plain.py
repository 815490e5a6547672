"""Sampling from any causal model of transformers: its own forward and cache, our sampler. General, not fast."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from incentive.config import Engine as EngineConfig
from incentive.engine.base import Turns, draw, finished, uniform
from incentive.model.plain import Plain
from incentive.records import Request, Sample


class PlainEngine:
    """Decodes left-padded batches of at most `max_num_seqs` rows; a batch runs until its last row ends."""

    def __init__(
        self, policy: Plain, tokenizer: PreTrainedTokenizerBase, stop_ids: tuple[int, ...], config: EngineConfig
    ):
        self.policy, self.tokenizer, self.config = policy, tokenizer, config
        self.stop_ids = np.array(stop_ids)
        self.version, self.turns = 0, Turns(tokenizer)

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.policy.load_named(dict(weights))
        self.version = version

    def close(self) -> None:
        pass

    def sample(self, requests: list[Request]) -> Iterator[Sample]:
        rows = [(r, i) for r in requests for i in range(len(r.seeds))]
        for at in range(0, len(rows), self.config.max_num_seqs):
            yield from self._batch(rows[at : at + self.config.max_num_seqs])

    @torch.inference_mode()
    def _batch(self, rows: list[tuple[Request, int]]) -> Iterator[Sample]:
        longest = max(len(r.prompt_ids) for r, _ in rows)
        ids = torch.full((len(rows), longest), int(self.tokenizer.pad_token_id))
        seen = torch.zeros(len(rows), longest, dtype=torch.int64)
        for n, (r, _) in enumerate(rows):
            ids[n, longest - len(r.prompt_ids) :] = torch.from_numpy(r.prompt_ids)
            seen[n, longest - len(r.prompt_ids) :] = 1
        seeds = np.array([r.seeds[i] % 2**64 for r, i in rows], dtype=np.uint64)
        limit = np.array([r.max_tokens for r, _ in rows])
        first = rows[0][0]
        live = np.ones(len(rows), dtype=bool)
        written: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        logps: list[np.ndarray] = []
        owed: list[deque[int]] = [deque() for _ in rows]
        cache = None
        ends = np.zeros(len(rows), dtype=np.int64)
        while live.any():
            out = self.policy.model(
                input_ids=ids, attention_mask=seen, position_ids=(seen.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :],
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
            cache = out.past_key_values
            t = np.full(len(rows), len(written), dtype=np.uint64)
            logits = out.logits[:, -1].float().contiguous()
            token, logp = draw(logits, uniform(seeds, t), first.temperature, first.top_p, first.top_k)
            drawn = self.turns.take(owed, token, logp)
            written.append(token)
            masks.append(drawn)
            logps.append(logp)
            stop = (np.isin(token, self.stop_ids) & drawn) | (len(written) >= limit)
            ends = np.where(live & stop, len(written), ends)
            live &= ~stop
            for row in np.flatnonzero(live & drawn):
                if tool := rows[row][0].tool:
                    owed[row] = self.turns.after(tool, np.array([w[row] for w in written]))
            ids = torch.from_numpy(token)[:, None].to(logits.device)
            seen = torch.cat((seen, torch.ones(len(rows), 1, dtype=torch.int64)), dim=1)
        all_ids, all_mask, all_logp = np.stack(written, 1), np.stack(masks, 1), np.stack(logps, 1)
        for n, (r, i) in enumerate(rows):
            end = int(ends[n])
            stopped = bool(all_mask[n, end - 1]) and int(all_ids[n, end - 1]) in self.stop_ids
            yield finished(
                r,
                i,
                all_ids[n, :end].copy(),
                all_mask[n, :end].copy(),
                all_logp[n, :end].copy(),
                stopped,
                (self.version, self.version),
                self.tokenizer,
            )
