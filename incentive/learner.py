"""The learner: pack, forward, backward, clip, step. One update for every stage; it knows no algorithm.

A minibatch is a list of `Example`s whose `weight` streams carry the normaliser of the whole minibatch, so that the
gradient does not depend on how it is cut into micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from incentive.algo.loss import Batch, Outputs
from incentive.config import Learner as LearnerConfig
from incentive.config import Optim
from incentive.model.checkpoint import Policy, twin
from incentive.model.lean import Lean
from incentive.model.logp import token_logp
from incentive.model.packed import alike, lay, pack, rounded
from incentive.model.scored import Scored
from incentive.optim import AdamW
from incentive.records import Example
from incentive.threads import lanes, one_thread, together

if TYPE_CHECKING:
    from incentive.model.passes import Weights

Loss = Callable[[Outputs, Batch], tuple[Tensor, dict[str, Tensor]]]
SMALLEST = 1024  # tokens; a micro-batch below it is not worth a pass of its own
STREAMS = ("weight", "advantage", "old_logp", "ref_logp", "sampler_logp", "label")
P = TypeVar("P", bound=Policy | Scored)


def micro_batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Indices of rows, longest first, cut so that rows times the longest row stays within the budget of tokens.

    A cut is also made where rows have become a fifth shorter than the first: padding costs more than a further pass.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    at = 0
    while at < len(order):
        longest = lengths[order[at]]
        end = min(len(order), at + max(1, budget // longest))
        for short in range(at + SMALLEST // longest + 1, end):
            if lengths[order[short]] < 0.8 * longest:
                end = short
                break
        yield order[at:end]
        at = end


def out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python, asked for more memory than there is."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error)


def deal(parts: list[list[int]], lengths: list[int], n: int) -> list[list[int]]:
    """Numbers of the parts for each of n lanes: the largest first, each to the lane with the fewest tokens so far."""
    loads, dealt = [0] * n, [[] for _ in range(n)]  # type: ignore[var-annotated]
    sizes = [len(rows) * lengths[rows[0]] for rows in parts]
    for part in sorted(range(len(parts)), key=lambda i: (-sizes[i], i)):
        lane = loads.index(min(loads))
        dealt[lane].append(part)
        loads[lane] += sizes[part]
    return [lane for lane in dealt if lane]


def cut(examples: list[Example], budget: int, n: int) -> tuple[list[list[int]], list[list[int]]]:
    """The micro-batches, and the numbers of those of each of n lanes. The budget of tokens is for all lanes together.

    Raises:
        ValueError: rows that belong together are not all there.
    """
    k = examples[0].rows if examples else 1
    if len(examples) % k or any(e.rows != k for e in examples):
        raise ValueError(f"{len(examples)} rows do not make units of {k}")
    lengths = [max(len(e.ids) for e in examples[i : i + k]) for i in range(0, len(examples), k)]
    parts = list(micro_batches(lengths, max(1, budget // n // k)))
    return [[k * unit + row for unit in part for row in range(k)] for part in parts], deal(parts, lengths, n)


def collate(examples: list[Example], device: str = "cpu") -> Batch:
    """Right-padded tensors (B, T) of rows; a stream that the first row lacks is None."""
    longest = max(len(e.ids) for e in examples)

    def stack(name: str, dtype: type) -> Tensor:
        out: np.ndarray = np.zeros((len(examples), longest), dtype=dtype)
        for row, e in enumerate(examples):
            out[row, : len(e.ids)] = getattr(e, name)
        return torch.from_numpy(out).to(device)

    return Batch(
        ids=stack("ids", np.int64), mask=stack("mask", np.bool_), temperature=examples[0].temperature,
        **{name: stack(name, np.float32) for name in STREAMS if getattr(examples[0], name) is not None},
    )  # fmt: skip


def packed_by(policy: Policy | Scored) -> Lean | None:
    """The decoder whose rows are packed: a lean one on a CPU. None: they are padded."""
    trunk = policy.trunk if isinstance(policy, Scored) else policy
    return trunk if isinstance(trunk, Lean) and trunk.embed.device.type == "cpu" else None


def weights_of(policy: Policy | Scored) -> Weights | None:
    """A small decoder's weights as packed rows are computed with: `packed.lay`."""
    lean = packed_by(policy)
    with one_thread(policy):
        return lay(lean) if lean else None


def prompt_of(example: Example) -> int:
    """Tokens before the first that the loss looks at."""
    return int(example.mask.argmax())


def cut_packed(examples: list[Example], budget: int, n: int) -> tuple[list[list[int]], list[list[int]]]:
    """As `cut`, for rows that are packed: those of one prompt together as far as the budget allows, and as few micro-batches
    of about as many tokens each as make the same number for every lane."""
    room, units = max(1, budget // n), []
    for group in alike([e.ids for e in examples], [prompt_of(e) for e in examples]):
        rows, tokens = [group[0]], len(examples[group[0]].ids)
        for i in group[1:]:
            more = len(examples[i].ids) - prompt_of(examples[i])
            if tokens + more > room:
                units.append((rows, tokens))
                rows, tokens, more = [], 0, len(examples[i].ids)
            rows, tokens = [*rows, i], tokens + more
        units.append((rows, tokens))
    units.sort(key=lambda unit: -unit[1])
    many = n * -(-sum(tokens for _, tokens in units) // (room * n))
    while True:
        parts: list[list[int]] = [[] for _ in range(many)]
        loads = [0] * many
        for rows, tokens in units:
            least = loads.index(min(loads))
            parts[least] += rows
            loads[least] += tokens
        if max(loads, default=0) <= room or many >= len(units):
            break
        many += n
    lanes = [[k for k in range(lane, many, n) if parts[k]] for lane in range(n)]
    return parts, [lane for lane in lanes if lane]


def deals(
    policy: Policy | Scored, examples: list[Example], budget: int, n: int
) -> tuple[list[list[int]], list[list[int]]]:
    """The micro-batches, and the numbers of those of each of n lanes. The budget of tokens is for all lanes together."""
    alone = all(e.rows == 1 for e in examples)
    return (cut_packed if alone and packed_by(policy) else cut)(examples, budget, n)


def outputs(
    policy: Policy | Scored, examples: list[Example], device: str, entropy: bool = False, weights: Weights | None = None
) -> tuple[Batch, Outputs]:
    """A micro-batch as tensors, with the log-probabilities (B, T) of its masked ids at its temperature, or a scalar head's
    scores there; zero elsewhere.

    Args:
        weights: the policy's as they are now, from `weights_of`: worth it for several micro-batches.
    """
    batch = collate(examples, device)
    row, token = at = batch.mask.nonzero(as_tuple=True)
    if not isinstance(policy, Scored):  # a token is told by the state before it
        token = token - 1
    ids, many = batch.ids[at], len(row)
    if lean := packed_by(policy):
        prompts = [prompt_of(e) for e in examples]
        laid = pack([e.ids for e in examples], prompts)
        if weights is not None and not isinstance(policy, Scored):
            logp, ent = lean.told(laid, weights, laid.at[row, token], ids, batch.temperature)
            full = torch.zeros(batch.ids.shape)
            return batch, Outputs(logp=full.index_put(at, logp), entropy=full.index_put(at, ent) if entropy else None)
        more = (0, rounded(many, 4) - many)
        ids, places = F.pad(ids, more), F.pad(laid.at[row, token], more, value=laid.dummy)
        hidden = lean.packed(laid, weights).index_select(0, places)
    else:
        hidden = policy(batch.ids)[row, token]
    full = torch.zeros(batch.ids.shape, dtype=torch.float32, device=hidden.device)
    if isinstance(policy, Scored):
        return batch, Outputs(score=full.index_put(at, policy.read(hidden)[:many]))
    logp, ent = token_logp(hidden, policy.unembed.to(hidden.dtype), ids, batch.temperature, entropy)
    return batch, Outputs(
        logp=full.index_put(at, logp[:many]), entropy=full.index_put(at, ent[:many]) if entropy else None
    )


def score(policy: Policy | Scored, examples: list[Example], budget: int, device: str, n: int) -> list[np.ndarray]:
    """What the policy says of each row (T,) float32: log-probabilities of its masked ids, or a scalar head's scores.

    Args:
        budget: tokens of the micro-batches of all n lanes together.
    """
    out: list[np.ndarray] = [np.empty(0)] * len(examples)
    parts, dealt = deals(policy, examples, budget, n)
    weights = weights_of(policy)

    @torch.no_grad()  # each lane is a thread of its own, and this is a thread's setting
    def go(mine: list[int]) -> None:
        for number in mine:
            _, said = outputs(policy, [examples[i] for i in parts[number]], device, weights=weights)
            stream = said.logp if said.score is None else said.score
            assert stream is not None
            for row, i in zip(stream.cpu().numpy(), parts[number], strict=True):
                out[i] = row[: len(examples[i].ids)].copy()

    together([partial(go, mine) for mine in dealt])
    return out


class Learner(Generic[P]):
    """A policy with its optimizer.

    Args:
        total_steps: where the learning-rate schedule ends.
    """

    def __init__(self, policy: P, optim: Optim, config: LearnerConfig, total_steps: int):
        self.policy, self.optim, self.config, self.total_steps = policy, optim, config, total_steps
        hidden = [p for n, p in policy.named_parameters() if p.dim() == 2 and "embed" not in n and "head" not in n]
        by_muon = {id(p) for p in hidden} if optim.optimizer == "muon" else set()
        matrices = [p for p in policy.parameters() if p.dim() >= 2 and id(p) not in by_muon]
        vectors = [p for p in policy.parameters() if p.dim() < 2]
        self.optimizers: list[AdamW | torch.optim.Muon] = [
            AdamW(
                [{"params": matrices, "weight_decay": optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
                lr=optim.learning_rate,
                betas=(optim.adam_beta1, optim.adam_beta2),
                eps=1e-8,
            )
        ]
        if by_muon:
            self.optimizers.append(
                torch.optim.Muon(
                    hidden, lr=optim.learning_rate, weight_decay=optim.weight_decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        self.steps, self.budget = 0, config.tokens_per_micro_batch
        # a small model learns on several micro-batches beside each other: modules with the same weights, gradients of their own
        self.twins = [twin(policy) for _ in range(lanes(policy) - 1)]

    def learning_rate(self, step: int) -> float:
        """The rate of update `step` (from 0): linear warm-up, then constant, linear or cosine down to the floor."""
        o = self.optim
        if step < o.warmup_steps:
            return o.learning_rate * (step + 1) / o.warmup_steps
        done = min(1.0, (step - o.warmup_steps) / max(1, self.total_steps - o.warmup_steps))
        shape = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[
            o.lr_scheduler_type
        ]
        return o.learning_rate * (o.min_lr_ratio + (1 - o.min_lr_ratio) * shape)

    def _backward(self, examples: list[Example], loss: Loss, entropy: bool) -> tuple[float, dict[str, float]]:
        """Fill the gradients, a lane's each: the loss, and the sums of its metrics."""
        for policy in (self.policy, *self.twins):
            policy.zero_grad(set_to_none=True)
        parts, dealt = deals(self.policy, examples, self.budget, len(self.twins) + 1)
        weights = weights_of(self.policy)

        def go(policy: P, mine: list[int]) -> list[tuple[int, float, dict[str, float]]]:
            told = []
            for n in mine:
                batch, said = outputs(policy, [examples[i] for i in parts[n]], self.config.device, entropy, weights)
                value, metrics = loss(said, batch)
                value.backward()
                told.append((n, float(value.detach()), {name: float(x) for name, x in metrics.items()}))
            return told

        policies = [self.policy, *self.twins]
        calls = [partial(go, policy, mine) for policy, mine in zip(policies, dealt, strict=False)]
        total = 0.0
        sums: dict[str, float] = {}
        for _, value, metrics in sorted(row for told in together(calls) for row in told):
            total += value
            for name, x in metrics.items():
                sums[name] = sums.get(name, 0.0) + x
        return total, sums

    def _take_step(self, total: float) -> tuple[float, float]:
        """Sum the lanes' gradients, clip them and change the weights: the learning rate, and the norm before clipping."""
        for other in self.twins:
            pairs = zip(self.policy.parameters(), other.parameters(), strict=True)
            found = [(p.grad, own.grad) for p, own in pairs if p.grad is not None and own.grad is not None]
            if found:
                torch._foreach_add_(*map(list, zip(*found, strict=True)))
            other.zero_grad(set_to_none=True)
        norm = float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.optim.max_grad_norm))
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise FloatingPointError(f"step {self.steps + 1}: loss {total}, gradient norm {norm}")
        rate = self.learning_rate(self.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.steps += 1
        return rate, norm

    def step(self, examples: list[Example], loss: Loss, entropy: bool = False) -> dict[str, float]:
        """One update on one minibatch. Where memory runs out, micro-batches are halved from then on.

        Returns:
            `loss` (the weighted sum), `grad_norm` before clipping, `learning_rate`, and the loss's own metrics as means
            over the minibatch's masked tokens.

        Raises:
            FloatingPointError: the loss or the gradient is NaN or infinite; the weights are left as they were.
        """
        while True:
            try:
                total, sums = self._backward(examples, loss, entropy)
                break
            except (MemoryError, RuntimeError) as error:
                longest = max(len(e.ids) for e in examples)
                if not out_of_memory(error) or self.budget // (len(self.twins) + 1) <= longest:
                    raise
                self.budget //= 2  # the gradient stays the same
        with one_thread(self.policy):
            rate, norm = self._take_step(total)
        tokens = sum(int(e.mask.sum()) for e in examples)
        return {
            "loss": total,
            "grad_norm": norm,
            "learning_rate": rate,
            **{k: v / max(1, tokens) for k, v in sums.items()},
        }

    def score(self, examples: list[Example], policy: Policy | None = None) -> list[np.ndarray]:
        """Of each row (T,) float32, what `policy` says of it, by default the learner's own: see `score`."""
        return score(policy or self.policy, examples, self.budget, self.config.device, len(self.twins) + 1)

    # exact state, without pickle

    def save(self, file: Path, **more: Policy) -> None:
        """Weights, optimizer moments and step count, in float32; `more` are further policies (the reference)."""
        tensors = {f"policy.{n}": p.detach() for n, p in self.policy.named_parameters()}
        for name, other in more.items():
            tensors |= {f"{name}.{n}": p.detach() for n, p in other.named_parameters()}
        for n, p in self.policy.named_parameters():
            for optimizer in self.optimizers:
                tensors |= {f"optimizer.{key}.{n}": x for key, x in optimizer.state.get(p, {}).items()}
        save_file(
            {k: v.contiguous() for k, v in tensors.items()},
            file,
            {"budget": str(self.budget)},
        )

    @torch.no_grad()
    def load(self, file: Path, steps: int, **more: Policy) -> None:
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            self.budget = int((opened.metadata() or {}).get("budget", self.budget))
        for name, module in {"policy": self.policy, **more}.items():
            for n, p in module.named_parameters():
                p.copy_(tensors[f"{name}.{n}"])
        for optimizer in self.optimizers:
            owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for n, p in self.policy.named_parameters():
                prefix, suffix = "optimizer.", f".{n}"
                state = {
                    k[len(prefix) : -len(suffix)]: x
                    for k, x in tensors.items()
                    if k.startswith(prefix) and k.endswith(suffix)
                }
                if id(p) in owned and state:
                    optimizer.state[p] = {k: x.to(p.device) for k, x in state.items() if "." not in k}
        self.steps = steps
