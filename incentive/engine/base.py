"""What every engine offers, and how a token is drawn: a sample's random stream depends on its seed alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from incentive import chat
from incentive.records import Request, Sample, Tool


class Engine(Protocol):
    """Who generates. `sample` yields samples as they finish, in any order; ids are `problem_id/index`."""

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None: ...
    def sample(self, requests: list[Request]) -> Iterator[Sample]: ...
    def close(self) -> None: ...


def uniform(seeds: np.ndarray, t: np.ndarray) -> np.ndarray:
    """One number in (0, 1) for each (seed, token index): SplitMix64 (Steele et al. 2014) as a counter-based stream.

    Args:
        seeds, t: (B,) uint64.

    Returns:
        (B,) float64.
    """
    from incentive.model import kernels

    z = np.empty(len(seeds), dtype=np.uint64)
    kernels.counter(seeds, t, z)
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of tokens whose mass reaches top_p (the token that crosses it stays in)."""
    width = min(32, probs.shape[1])
    while True:
        p, index = probs.topk(width, dim=-1)
        before = p.cumsum(-1) - p
        if width == probs.shape[1] or bool((before[:, -1] + p[:, -1] >= top_p).all()):
            return torch.zeros_like(probs).scatter_(1, index, p * (before < top_p))
        width = min(4 * width, probs.shape[1])


def draw(logits: Tensor, u: np.ndarray, temperature: float, top_p: float, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one token a row by inverting the cumulative distribution in vocabulary order.

    Args:
        logits: (B, V) float32.
        u: (B,) uniform numbers.
        temperature: 0 takes the likeliest token.

    Returns:
        ids (B,) int64; logp (B,) float32, at this temperature and before top-p and top-k (at 0: at temperature 1).
    """
    if temperature > 0 and not top_k and logits.device.type == "cpu":
        from incentive.model import kernels

        ids, found = np.empty(len(u), dtype=np.int64), np.empty(len(u), dtype=np.float32)
        room = np.empty(logits.shape[1], dtype=np.float32)
        kernels.draw(logits.numpy(), u, np.float32(temperature), top_p, ids, found, room)
        return ids, found
    logp = torch.log_softmax(logits if temperature in (0.0, 1.0) else logits / temperature, dim=-1)
    if temperature == 0.0:
        chosen = logp.argmax(-1)
    else:
        probs = logp.exp()
        if top_k and top_k < probs.shape[1]:
            probs = probs * (probs >= probs.topk(top_k, dim=-1).values[:, -1:])
        if top_p < 1.0:
            probs = _nucleus(probs / probs.sum(-1, keepdim=True), top_p)
        mass = probs.cumsum(-1)
        want = torch.from_numpy(u).to(probs) * mass[:, -1]
        chosen = (mass <= want[:, None]).sum(-1).clamp_(max=probs.shape[1] - 1)
        # rounding may land on a token of no mass at the very end: step back to the last that has some
        empty = probs.gather(1, chosen[:, None])[:, 0] == 0
        if bool(empty.any()):
            chosen = torch.where(empty, (probs > 0).to(torch.int64).cumsum(-1).argmax(-1), chosen)
    return chosen.cpu().numpy(), logp.gather(1, chosen[:, None])[:, 0].cpu().numpy()


class Turns:
    """The turns of samples that have a tool. What the tool says enters a row token by token, in place of what is drawn:
    such tokens are not the policy's, so they have no mask and no log-prob, and none of them ends the sample."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.enders: dict[str, set[int]] = {}  # by stop string: the ids whose text may complete it

    def _may_end(self, stop: str) -> set[int]:
        if stop not in self.enders:
            texts = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
            self.enders[stop] = {i for i, text in enumerate(texts) if stop[-1] in text}
        return self.enders[stop]

    def after(self, tool: Tool, ids: np.ndarray) -> deque[int]:
        """The ids that the tool appends to a row's (T,) ids; none where their last one does not complete its stop string.

        The tags of the template and special tokens are taken out of what it says: a tool cannot answer for the policy.
        """
        if int(ids[-1]) not in self._may_end(tool.stop):
            return deque()
        tail = ids[-len(tool.stop.encode()) - 1 :]  # a token is a byte at least
        if self.tokenizer.decode(tail).count(tool.stop) == self.tokenizer.decode(tail[:-1]).count(tool.stop):
            return deque()
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        said = tool.answer(text[: text.rindex(tool.stop) + len(tool.stop)])  # a token may reach beyond it
        for tag in (*chat.TAGS, *self.tokenizer.all_special_tokens):
            said = said.replace(tag, "")
        return deque(self.tokenizer.encode(said, add_special_tokens=False))

    @staticmethod
    def take(owed: Sequence[deque[int]], ids: np.ndarray, logp: np.ndarray) -> np.ndarray:
        """Put the next id of what is owed to each row in place of the one drawn: (B,) bool, where the policy's stands."""
        drawn = np.ones(len(ids), dtype=bool)
        for row, said in enumerate(owed):
            if said:
                ids[row], logp[row], drawn[row] = said.popleft(), 0.0, False
        return drawn


def finished(
    request: Request,
    index: int,
    ids: np.ndarray,
    mask: np.ndarray,
    logp: np.ndarray,
    stopped: bool,
    versions: tuple[int, int],
    tokenizer: Any,
) -> Sample:
    """The sample of a row that has ended. The stop token is in the ids, not in the text."""
    return Sample(
        id=f"{request.problem_id}/{index}", problem_id=request.problem_id, prompt_ids=request.prompt_ids, ids=ids,
        mask=mask, sampler_logp=logp, temperature=request.temperature,
        stop="stop" if stopped else "length", versions=versions, seed=request.seeds[index],
        text=tokenizer.decode(ids[:-1] if stopped else ids, skip_special_tokens=False),
    )  # fmt: skip
