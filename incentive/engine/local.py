"""The default engine: continuous batching over a preallocated cache, on the lean decoder.

Each distinct prompt is computed once and copied to the slots of its samples. Finished rows give their slot to the next
waiting request; when none waits, the batch shrinks. A sample's tokens depend on its seed; another mix of rows can flip
one only where rounding does.

A small model decodes with one worker a core, each with slots and requests of its own (`incentive.threads`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from incentive.config import Engine as EngineConfig
from incentive.engine.base import Turns, draw, finished, uniform
from incentive.model.decoder import TorchDecoder, decoder
from incentive.model.lean import Lean
from incentive.records import Request, Sample
from incentive.threads import lanes, merged


@dataclass
class _Slot:
    request: Request
    index: int  # of the sample within its request
    version: int  # of the weights at its first token
    owed: deque[int] = field(default_factory=deque)  # what a tool has said and the row does not hold yet


@dataclass
class _Row:
    """What one ended row has written."""

    slot: _Slot
    ids: np.ndarray
    mask: np.ndarray
    logp: np.ndarray
    stopped: bool


class _Worker:
    """Slots, a cache and a loop of its own."""

    def __init__(self, policy: Lean, decoder: TorchDecoder, turns: Turns):
        self.policy, self.decoder, self.turns = policy, decoder, turns

    def _prefill(self, prompts: list[np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
        """Right-padded prompts -> last logits (P, V), keys and values (layers, P, kv_heads, T, D)."""
        p, longest = self.policy, max(len(x) for x in prompts)
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.from_numpy(prompt)
        hidden, keys, values = p.prefill(ids.to(p.embed.device))
        last = hidden[torch.arange(len(prompts)), torch.tensor([len(x) - 1 for x in prompts])]
        return p.logits(last), keys, values

    @torch.inference_mode()
    def run(
        self, requests: list[Request], slots: int, version: int, stop_ids: np.ndarray
    ) -> Generator[list[_Row], None, None]:
        """The rows that end, in lists of those that end together, until none is left."""
        from incentive.model import kernels

        first = requests[0]
        temperature, top_p, top_k = first.temperature, first.top_p, first.top_k
        waiting = deque((r, i) for r in requests for i in range(len(r.seeds)))
        slots = min(slots, len(waiting))
        longest = max(r.max_tokens for r in requests)
        self.decoder.reserve(slots, max(len(r.prompt_ids) + r.max_tokens for r in requests))
        live: list[_Slot] = []
        # per row: tokens in the cache, tokens written, limit, seed, last id, and what was written
        length, count, limit = (np.zeros(slots, dtype=np.int64) for _ in range(3))
        seed, last = np.zeros(slots, dtype=np.uint64), np.zeros(slots, dtype=np.int64)
        out_ids, out_logp = np.zeros((slots, longest), dtype=np.int64), np.zeros((slots, longest), dtype=np.float32)
        out_mask, tools = np.ones((slots, longest), dtype=bool), any(r.tool for r in requests)
        all_drawn, stopped, ended = (np.ones(slots, dtype=bool) for _ in range(3))
        while waiting or live:
            n = len(live)
            logits = self.decoder.step(last[:n], length[:n]) if n else None
            length[:n] += 1
            if waiting and (slots - n >= max(1, slots // 8) or not live):  # refill many at once: prefill is a batch
                joined = [waiting.popleft() for _ in range(min(slots - n, len(waiting)))]
                unique = {id(r): r for r, _ in joined}
                place = {key: row for row, key in enumerate(unique)}
                begun, keys, values = self._prefill([r.prompt_ids for r in unique.values()])
                of = torch.tensor([place[id(r)] for r, _ in joined])
                self.decoder.put(n, keys, values, of)
                new = slice(n, n + len(joined))
                length[new] = [len(r.prompt_ids) for r, _ in joined]
                count[new] = 0
                limit[new] = [r.max_tokens for r, _ in joined]
                seed[new] = [r.seeds[i] % 2**64 for r, i in joined]
                live += [_Slot(r, i, version) for r, i in joined]
                logits = begun[of] if logits is None else torch.cat((logits, begun[of]))
                n = len(live)
            assert logits is not None  # a row was live, or one has joined
            ids, logp = draw(logits, uniform(seed[:n], count[:n].astype(np.uint64)), temperature, top_p, top_k)
            drawn = self.turns.take([s.owed for s in live], ids, logp) if tools else all_drawn[:n]
            ends = kernels.write(
                ids, logp, drawn, stop_ids, limit, count, last, out_ids, out_logp, out_mask, stopped, ended
            )
            done = ended[:n]
            if tools:
                for i in np.flatnonzero(drawn & ~done):
                    if tool := live[i].request.tool:
                        live[i].owed = self.turns.after(tool, out_ids[i, : count[i]])
            if not ends:
                continue
            leaving = np.flatnonzero(done)
            yield [
                _Row(
                    live[i], out_ids[i, : count[i]].copy(), out_mask[i, : count[i]].copy(), out_logp[i, : count[i]].copy(),
                    bool(stopped[i]),
                )
                for i in leaving
            ]  # fmt: skip
            # the last rows take the places of those that leave
            stay = n - len(leaving)
            holes = leaving[leaving < stay]
            if len(holes):
                movers = np.flatnonzero(~done[stay:n]) + stay
                self.decoder.move(holes, movers, int(length[:n].max()) + 1)
                for x in (length, count, limit, seed, last, out_ids, out_mask, out_logp):
                    x[holes] = x[movers]
                for hole, mover in zip(holes, movers, strict=True):
                    live[hole] = live[mover]
            del live[stay:]


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
        self.version, self.stop_ids = 0, np.array(stop_ids)
        first = decoder(policy)
        decoders = [first, *(decoder(policy, first) for _ in range(lanes(policy) - 1))]
        self.workers = [_Worker(policy, own, Turns(tokenizer)) for own in decoders]

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self.policy.load_named(dict(weights))
        self.workers[0].decoder.refresh()
        self.version = version

    def close(self) -> None:
        pass

    def sample(self, requests: list[Request]) -> Iterator[Sample]:
        """Samples of all requests as they finish. All requests share their sampling settings.

        Raises:
            ValueError: the requests differ in temperature, top_p or top_k.
        """
        if len({(r.temperature, r.top_p, r.top_k) for r in requests}) > 1:
            raise ValueError("requests of one call must share temperature, top_p and top_k")
        if not requests:
            return
        parts = [part for n in range(len(self.workers)) if (part := requests[n :: len(self.workers)])]
        slots = max(1, self.config.max_num_seqs // len(parts))
        loops = [w.run(part, slots, self.version, self.stop_ids) for w, part in zip(self.workers, parts, strict=False)]
        for rows in merged(loops):
            for row in rows:
                slot, versions = row.slot, (row.slot.version, self.version)
                ended = row.ids, row.mask, row.logp, row.stopped
                yield finished(slot.request, slot.index, *ended, versions, self.tokenizer)
