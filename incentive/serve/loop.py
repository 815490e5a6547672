"""Continuous batching for requests that come when they like: rows join and leave a running batch at every token.

A lane is a thread with a decoder, a cache and rows of its own; a small model has one a core (`incentive.threads`), a large
one a single lane. A row may have any sampling settings: rows that share theirs are drawn together. A sample's tokens depend
on its seed, as in `engine.local`; another mix of rows can flip one only where rounding does.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from incentive.engine.base import draw, uniform
from incentive.model.decoder import decoder
from incentive.model.lean import Lean
from incentive.serve.text import Text
from incentive.threads import lanes

PREFILL = 8192  # padded prompt tokens that join at one step: what runs already must not wait long
CHUNK = 64 << 20  # bytes of float32 logits at a time, where a prompt is scored

Reason = Literal["stop", "length", "closed", "content_filter"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token with its log-probability under the model (temperature 1) and the likeliest others, where asked for."""

    id: int
    logp: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What a row has written since its last piece. `reason` is set on the last one."""

    text: str
    tokens: tuple[Token, ...]
    reason: Reason | None = None
    prompt: tuple[Token, ...] = ()  # the prompt's own tokens, scored, on the first piece where `echo` asks for them


@dataclass(eq=False, slots=True)
class Ask:
    """One row: a prompt and how to go on from it. `put` is called from a lane's thread with every piece."""

    prompt: np.ndarray  # (Tp,) int64
    max_tokens: int
    put: Callable[[Piece], None]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # likeliest tokens to tell at each place; 0: the token's own alone
    echo: bool = False  # score the prompt too (with logprobs)
    stream: bool = False
    ignore_eos: bool = False
    cancelled: bool = False


@dataclass(eq=False, slots=True)
class _Row:
    ask: Ask
    text: Text
    length: int  # tokens in the cache
    last: int = 0
    tokens: list[Token] = field(default_factory=list)  # not yet sent
    count: int = 0


class _Lane:
    """A decoder with its rows, in a thread of its own."""

    def __init__(self, policy: Lean, tokenizer: Any, stop_ids: frozenset[int], slots: int, context: int, threads: int):
        self.policy, self.tokenizer, self.stop_ids, self.slots = policy, tokenizer, stop_ids, slots
        self.decoder, self.threads = decoder(policy), threads
        self.decoder.reserve(slots, context)
        self.inbox: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self.waiting: deque[Ask] = deque()
        self.rows: list[_Row] = []
        self.failed: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def load(self) -> int:
        """Rows at work, asks that wait."""
        return self.inbox.qsize() + len(self.waiting) + len(self.rows)

    def _run(self) -> None:
        torch.set_num_threads(self.threads)
        try:
            while self._take():
                self._step()
        except BaseException as error:
            self.failed = error
            traceback.print_exc()
        for ask in [*(r.ask for r in self.rows), *self.waiting]:
            ask.put(Piece("", (), "closed"))

    def _take(self) -> bool:
        """Collect what has come; wait where there is nothing to do. False: close."""
        while True:
            try:
                found = self.inbox.get(block=not self.rows and not self.waiting)
            except queue.Empty:
                return True
            if found is None:
                return False
            self.waiting.append(found)

    @torch.inference_mode()
    def _step(self) -> None:
        """A token for every row, and for those that join."""
        n = len(self.rows)
        logits = None
        if n:
            last = np.array([r.last for r in self.rows], dtype=np.int64)
            length = np.array([r.length for r in self.rows], dtype=np.int64)
            logits = self.decoder.step(last, length)
            for row in self.rows:
                row.length += 1
        begun = self._join()
        if begun is not None:
            logits = begun if logits is None else torch.cat((logits, begun))
        if logits is not None:
            self._write(logits)
        self._leave()

    def _join(self) -> Tensor | None:
        """Let waiting asks in, as many as there are slots and prompt tokens to spare; their first logits (R, V)."""
        joined: list[Ask] = []
        longest = 0
        while self.waiting and len(self.rows) + len(joined) < self.slots:
            ask = self.waiting[0]
            width = max(longest, len(ask.prompt))
            if joined and width * (len(joined) + 1) > PREFILL:
                break
            self.waiting.popleft()
            if ask.cancelled:
                continue
            joined.append(ask)
            longest = width
        if not joined:
            return None
        ids = torch.zeros(len(joined), longest, dtype=torch.int64)
        for i, ask in enumerate(joined):
            ids[i, : len(ask.prompt)] = torch.from_numpy(ask.prompt)
        hidden, keys, values = self.policy.prefill(ids.to(self.policy.embed.device))
        self.decoder.put(len(self.rows), keys, values, torch.arange(len(joined)))
        ends = torch.tensor([len(a.prompt) - 1 for a in joined])
        logits = self.policy.logits(hidden[torch.arange(len(joined)), ends])
        for i, ask in enumerate(joined):
            row = _Row(ask, Text(self.tokenizer, ask.stop), len(ask.prompt))
            self.rows.append(row)
            if ask.echo:
                scored = self._scored(ask, hidden[i]) if ask.logprobs is not None else ()
                ask.put(Piece("", (), None, tuple(scored) or tuple(Token(int(x)) for x in ask.prompt)))
        return logits

    def _scored(self, ask: Ask, hidden: Tensor) -> list[Token]:
        """The prompt's tokens with their log-probabilities; the first has none. hidden: (Tp or more, H)."""
        found = [Token(int(ask.prompt[0]))]
        rows = max(1, CHUNK // (4 * self.policy.config.vocab_size))
        for at in range(0, len(ask.prompt) - 1, rows):
            part = slice(at, min(at + rows, len(ask.prompt) - 1))
            found += _told(
                self.policy.logits(hidden[part]), ask.prompt[part.start + 1 : part.stop + 1], ask.logprobs or 0
            )
        return found

    def _write(self, logits: Tensor) -> None:
        """Draw a token for each row that may still write; rows of the same settings together."""
        groups: dict[tuple[float, float, int], list[int]] = {}
        for i, row in enumerate(self.rows):
            if row.count < row.ask.max_tokens:
                groups.setdefault((row.ask.temperature, row.ask.top_p, row.ask.top_k), []).append(i)
        for (temperature, top_p, top_k), at in groups.items():
            chosen = logits if len(at) == len(logits) else logits[at]
            seeds = np.array([self.rows[i].ask.seed % 2**64 for i in at], dtype=np.uint64)
            counts = np.array([self.rows[i].count for i in at], dtype=np.uint64)
            ids, _ = draw(chosen.contiguous(), uniform(seeds, counts), temperature, top_p, top_k)
            for n, (i, id) in enumerate(zip(at, ids.tolist(), strict=True)):
                row = self.rows[i]
                want = row.ask.logprobs
                row.tokens.append(Token(id) if want is None else _told(logits[i : i + 1], ids[n : n + 1], want)[0])
                row.last, row.count = id, row.count + 1

    def _leave(self) -> None:
        """Send what is new, and give the slots of the rows that have ended to the last ones."""
        gone = [i for i, row in enumerate(self.rows) if self._sent(row)]
        if not gone:
            return
        stay = len(self.rows) - len(gone)
        holes = [i for i in gone if i < stay]
        movers = sorted(set(range(stay, len(self.rows))) - set(gone))
        if holes:
            used = max(r.length for r in self.rows) + 1
            self.decoder.move(np.array(holes), np.array(movers), used)
            for hole, mover in zip(holes, movers, strict=True):
                self.rows[hole] = self.rows[mover]
        del self.rows[stay:]

    def _sent(self, row: _Row) -> bool:
        """Whether the row has ended; its text and tokens go out, at the end or, for a stream, as they come."""
        ask = row.ask
        if ask.cancelled:
            return True
        reason: Reason | None = None
        if row.count and row.last in self.stop_ids and not ask.ignore_eos:
            reason = "stop"
        elif row.count >= ask.max_tokens:
            reason = "length"
        if row.count:
            row.text.push(None if reason == "stop" else row.last, ask.stream)
        if row.text.stopped:
            reason = "stop"
        if reason is None and not (ask.stream and row.text.ready):
            return False
        ask.put(Piece(row.text.take(last=reason is not None), tuple(row.tokens), reason))
        row.tokens = []
        return reason is not None


def _told(logits: Tensor, ids: np.ndarray, top: int) -> list[Token]:
    """Tokens with their log-probabilities. logits: (N, V) float32, ids: (N,)."""
    logp = torch.log_softmax(logits, dim=-1)
    own = logp.gather(1, torch.from_numpy(ids).to(logp.device)[:, None])[:, 0].tolist()
    if not top:
        return [Token(int(i), x) for i, x in zip(ids, own, strict=True)]
    best = logp.topk(top, dim=-1)
    return [
        Token(int(i), x, tuple(zip(places, values, strict=True)))
        for i, x, places, values in zip(ids, own, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


class Loop:
    """The lanes of one model.

    Args:
        slots: rows that decode together, over all lanes.
        context: tokens of the longest prompt with its answer.
    """

    def __init__(self, policy: Lean, tokenizer: Any, stop_ids: tuple[int, ...], slots: int, context: int):
        number = max(1, min(lanes(policy), slots))
        threads = 1 if number > 1 else torch.get_num_threads()
        self.lanes = [
            _Lane(policy, tokenizer, frozenset(stop_ids), -(-slots // number), context, threads) for _ in range(number)
        ]
        self._lock = threading.Lock()

    @property
    def load(self) -> int:
        """Rows at work or waiting."""
        return sum(lane.load for lane in self.lanes)

    @property
    def failed(self) -> BaseException | None:
        return next((lane.failed for lane in self.lanes if lane.failed), None)

    def submit(self, asks: list[Ask]) -> None:
        """Take asks in; each goes to the lane with the least to do."""
        with self._lock:
            for ask in asks:
                min(self.lanes, key=lambda lane: lane.load).inbox.put(ask)

    def close(self) -> None:
        """End every row with the reason `closed`, and the threads."""
        for lane in self.lanes:
            lane.inbox.put(None)
        for lane in self.lanes:
            lane.thread.join()
