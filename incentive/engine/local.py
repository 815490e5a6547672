"""The default engine: continuous batching over a preallocated cache, on the lean decoder.

Each distinct prompt is computed once and copied to the slots of its samples. Finished rows give their slot to the next
waiting request; when none waits, the batch shrinks. A sample's tokens depend on its seed; another mix of rows can flip
one only where rounding does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from incentive.config import Engine as EngineConfig
from incentive.engine.base import draw, finished, uniform
from incentive.model.lean import Lean
from incentive.records import Request, Sample


@dataclass
class _Slot:
    request: Request
    index: int  # of the sample within its request
    version: int  # of the weights at its first token


class LocalEngine:
    """Samples from a `Lean` policy of its own.

    Args:
        policy: a decoder to keep; its weights are replaced by `load`.
        stop_ids: every id that ends an answer.
    """

    def __init__(
        self, policy: Lean, tokenizer: PreTrainedTokenizerBase, stop_ids: tuple[int, ...], config: EngineConfig
    ):
        self.policy, self.tokenizer, self.config = policy, tokenizer, config
        self.stop_ids = torch.tensor(stop_ids)
        self.version = 0
        self.keys = self.values = torch.zeros(0, 0, 0, 0, 0)  # until the first call reserves them

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.policy.load_named(dict(weights))
        self.version = version

    def close(self) -> None:
        pass

    def _reserve(self, slots: int, tokens: int) -> None:
        """Keys and values (layers, slots, kv_heads, tokens, D), kept from call to call; pages are touched when used."""
        p = self.policy
        if self.keys.shape[1] < slots or self.keys.shape[3] < tokens:
            shape = (p.layers, slots, p.kv_heads, tokens, p.head_dim)
            self.keys, self.values = torch.zeros(shape, dtype=p.dtype), torch.zeros(shape, dtype=p.dtype)

    def _prefill(self, prompts: list[np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
        """Right-padded prompts -> last logits (P, V), keys and values (layers, P, kv_heads, T, D)."""
        p, longest = self.policy, max(len(x) for x in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.from_numpy(prompt)
        hidden, keys, values = p.prefill(ids)
        last = hidden[torch.arange(len(prompts)), torch.tensor([len(x) - 1 for x in prompts])]
        return p.logits(last), keys, values

    @torch.inference_mode()
    def sample(self, requests: list[Request]) -> Iterator[Sample]:
        """Samples of all requests as they finish. All requests share their sampling settings.

        Raises:
            ValueError: the requests differ in temperature, top_p or top_k.
        """
        if not requests:
            return
        kinds = {(r.temperature, r.top_p, r.top_k) for r in requests}
        if len(kinds) > 1:
            raise ValueError("requests of one call must share temperature, top_p and top_k")
        temperature, top_p, top_k = kinds.pop()
        waiting = deque((r, i) for r in requests for i in range(len(r.seeds)))
        slots = min(self.config.max_num_seqs, len(waiting))
        longest = max(r.max_tokens for r in requests)
        self._reserve(slots, max(len(r.prompt_ids) + r.max_tokens for r in requests))
        live: list[_Slot] = []
        # per row: tokens in the cache, tokens written, limit, seed, last id, and what was written
        length = np.zeros(slots, dtype=np.int64)
        count = np.zeros(slots, dtype=np.int64)
        limit = np.zeros(slots, dtype=np.int64)
        seed = np.zeros(slots, dtype=np.uint64)
        last = torch.zeros(slots, dtype=torch.int64)
        out_ids = torch.zeros(slots, longest, dtype=torch.int64)
        out_logp = torch.zeros(slots, longest)
        while waiting or live:
            n = len(live)
            logits = None
            if waiting and (slots - n >= max(1, slots // 8) or not live):  # refill many at once: prefill is a batch
                joined = [waiting.popleft() for _ in range(min(slots - n, len(waiting)))]
                unique = {id(r): r for r, _ in joined}
                place = {key: row for row, key in enumerate(unique)}
                first, keys, values = self._prefill([r.prompt_ids for r in unique.values()])
                rows = torch.tensor([place[id(r)] for r, _ in joined])
                new = slice(n, n + len(joined))
                self.keys[:, new, :, : keys.shape[3]] = keys[:, rows]
                self.values[:, new, :, : keys.shape[3]] = values[:, rows]
                length[new] = [len(r.prompt_ids) for r, _ in joined]
                count[new] = 0
                limit[new] = [r.max_tokens for r, _ in joined]
                seed[new] = [r.seeds[i] % 2**64 for r, i in joined]
                live += [_Slot(r, i, self.version) for r, i in joined]
                logits = first[rows]
            if n:
                old = self.policy.decode(last[:n], torch.from_numpy(length[:n]), self.keys, self.values)
                length[:n] += 1
                logits = old if logits is None else torch.cat((old, logits))
            assert logits is not None  # a row was live, or one has joined
            n = len(live)
            ids, logp = draw(logits, uniform(seed[:n], count[:n].astype(np.uint64)), temperature, top_p, top_k)
            at = torch.from_numpy(count[:n])
            row = torch.arange(n)
            out_ids[row, at], out_logp[row, at], last[:n] = ids, logp, ids
            count[:n] += 1
            stopped = torch.isin(ids, self.stop_ids).numpy()
            done = stopped | (count[:n] >= limit[:n])
            if not done.any():
                continue
            for i in np.flatnonzero(done):
                slot, end = live[i], int(count[i])
                written, logps = out_ids[i, :end].numpy().copy(), out_logp[i, :end].numpy().copy()
                versions = (slot.version, self.version)
                yield finished(slot.request, slot.index, written, logps, bool(stopped[i]), versions, self.tokenizer)
            # the last rows take the places of those that leave
            leaving = np.flatnonzero(done)
            stay = n - len(leaving)
            holes = leaving[leaving < stay]
            movers = np.flatnonzero(~done[stay:n]) + stay
            if len(holes):
                to, frm = torch.from_numpy(holes), torch.from_numpy(movers)
                used = int(length[:n].max()) + 1
                self.keys[:, to, :, :used] = self.keys[:, frm, :, :used]
                self.values[:, to, :, :used] = self.values[:, frm, :, :used]
                for x in (length, count, limit, seed):
                    x[holes] = x[movers]
                for y in (last, out_ids, out_logp):
                    y[to] = y[frm]
                for hole, mover in zip(holes, movers, strict=True):
                    live[hole] = live[mover]
            del live[stay:]
