"""The learner: the cut into micro-batches changes no gradient, save and load are exact, a NaN changes nothing."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from incentive import config
from incentive.algo import loss as losses
from incentive.algo.weights import WEIGHTS
from incentive.learner import Learner, Loss, micro_batches, score
from incentive.model.checkpoint import frozen, load_policy
from incentive.records import Example

POLICY: Loss = partial(losses.policy, epsilon=0.2, epsilon_high=0.3, beta=0.05)


def examples(n: int = 14, seed: int = 0) -> list[Example]:
    """Rows of very different lengths, the prompt masked, every stream filled."""
    rng = np.random.default_rng(seed)
    out = []
    for length in rng.integers(6, 60, n):
        ids = rng.integers(2, 320, length)
        mask = np.arange(length) >= 4
        logp = lambda m=mask: np.where(m, rng.normal(-5.77, 0.1, len(m)), 0).astype(np.float32)  # noqa: E731
        advantage = np.where(mask, np.float32(rng.normal()), 0).astype(np.float32)
        out.append(
            Example(
                ids, mask, advantage=advantage, old_logp=logp(), ref_logp=logp(), sampler_logp=logp(), temperature=0.8
            )
        )
    return out


def learner(
    folder: Path, budget: int = 10**6, total: int = 20, dtype: Any = "float32", **optim: Any
) -> Learner:  # a fresh policy each time
    cfg = config.Learner(dtype=dtype, tokens_per_micro_batch=budget)
    return Learner(load_policy(folder, dtype)[0], config.Optim(**{"learning_rate": 1e-3, **optim}), cfg, total)


def weights_of(made: Learner) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in made.policy.named_parameters()}


def equal(a: Learner, b: Learner) -> bool:
    x, y = weights_of(a), weights_of(b)
    return x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x)


# micro-batches


def gradient(made: Learner, batch: list[Example], loss: Loss) -> tuple[torch.Tensor, dict[str, float]]:
    """The gradient of a whole step: the optimizer is not let in and the clip never bites."""
    made.optimizers = []
    stats = made.step(batch, loss, entropy=True)
    return torch.cat([p.grad.flatten() for p in made.policy.parameters() if p.grad is not None]), stats


@pytest.mark.parametrize("loss_type", list(WEIGHTS))
@pytest.mark.parametrize("loss", [POLICY, losses.nll], ids=["policy", "nll"])
def test_gradient_does_not_depend_on_the_micro_batches(loss: Loss, loss_type: str, tiny_model: Path) -> None:
    batch = WEIGHTS[loss_type](examples(), 64)
    whole, stats = gradient(learner(tiny_model, max_grad_norm=1e9), batch, loss)
    assert whole.norm() > 0
    for budget in (1, 130):  # 1: every row on its own
        parts, told = gradient(learner(tiny_model, budget, max_grad_norm=1e9), batch, loss)
        assert (parts - whole).norm() / whole.norm() < 1e-5
        assert told.keys() == stats.keys()
        assert all(math.isclose(told[k], stats[k], rel_tol=1e-4, abs_tol=1e-6) for k in stats), (told, stats)
    shuffled, _ = gradient(learner(tiny_model, 130, max_grad_norm=1e9), batch[::-1], loss)
    assert (shuffled - whole).norm() / whole.norm() < 1e-5


@pytest.mark.parametrize("budget", [1, 100, 500, 4096, 10**6])
def test_micro_batches_cover_every_row_once_within_the_budget(budget: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 400, 200).tolist()
    cuts = list(micro_batches(lengths, budget))
    assert sorted(i for rows in cuts for i in rows) == list(range(200))
    for rows in cuts:
        assert rows
        assert len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= budget
    assert list(micro_batches([], budget)) == []


def test_score_is_in_the_order_of_the_rows(tiny_model: Path) -> None:
    rows = examples()
    made = learner(tiny_model, 130)
    together = made.score(rows)
    for row, logp in zip(rows, together, strict=True):
        assert logp.shape == row.ids.shape
        np.testing.assert_allclose(logp, made.score([row])[0], atol=1e-5)
        assert not logp[~row.mask].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_frozen_copy_says_the_same(dtype: str, tiny_model: Path) -> None:
    policy, _ = load_policy(tiny_model, dtype)
    kept = frozen(policy)
    assert {p.dtype for p in kept.parameters() if p.dim() > 1} == {policy.dtype}
    assert not any(p.requires_grad for p in kept.parameters())
    asked, said = (score(p, examples(), 8192, "cpu", 1) for p in (policy, kept))
    assert all(np.array_equal(a, b) for a, b in zip(asked, said, strict=True))


def test_lanes_and_fused_operations_change_no_gradient(tiny_model: Path) -> None:
    """Two lanes of one thread, with the operations of `model.fused`, beside torch's own operations on two threads."""
    from incentive.model import fused as operations
    from incentive.model import lean

    batch, threads = WEIGHTS["grpo"](examples()), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = learner(tiny_model, 260, max_grad_norm=1e9)
        assert len(two.twins) == 1
        fused, stats = gradient(two, batch, POLICY)
        scores = two.score(batch)
        assert torch.get_num_threads() == 2
        again, _ = gradient(learner(tiny_model, 260, max_grad_norm=1e9), batch, POLICY)
        assert torch.equal(fused, again)  # who does what does not depend on the clock
        with pytest.MonkeyPatch.context() as patch:
            for module in (lean, operations):
                patch.setattr(module, "usable", lambda _: False)
            plain, told = gradient(learner(tiny_model, max_grad_norm=1e9), batch, POLICY)
            plainly = learner(tiny_model).score(batch)
    finally:
        torch.set_num_threads(threads)
    assert (fused - plain).norm() / plain.norm() < 1e-5
    assert all(math.isclose(told[k], stats[k], rel_tol=1e-4, abs_tol=1e-6) for k in stats)
    for x, y in zip(scores, plainly, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


# state


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_save_and_load_go_on_bit_for_bit(optimizer: str, dtype: str, tiny_model: Path, tmp_path: Path) -> None:
    def fresh() -> Learner:
        how = {"optimizer": optimizer, "weight_decay": 0.1, "lr_scheduler_type": "cosine", "warmup_steps": 2}
        return learner(tiny_model, 300, 6, dtype, **how)

    def step(made: Learner) -> dict[str, float]:
        return made.step(WEIGHTS["grpo"](examples(seed=made.steps)), POLICY)

    through, told = fresh(), []
    reference = fresh().policy
    with torch.no_grad():
        next(reference.parameters()).add_(1.0)
    for n in range(6):
        through.save(tmp_path / f"{n}.safetensors", reference=reference)
        told.append(step(through))
    for n in (0, 1, 4):
        again, other = fresh(), fresh().policy
        again.load(tmp_path / f"{n}.safetensors", n, reference=other)
        assert again.steps == n
        assert torch.equal(next(other.parameters()), next(reference.parameters()))
        assert [step(again) for _ in range(n, 6)] == told[n:]
        assert equal(again, through)


def test_muon_moves_hidden_matrices_and_adamw_the_rest(tiny_model: Path) -> None:
    made = learner(tiny_model, optimizer="muon")
    adamw, muon = ([p for g in o.param_groups for p in g["params"]] for o in made.optimizers)
    assert {id(p) for p in adamw} | {id(p) for p in muon} == {id(p) for p in made.policy.parameters()}
    assert not {id(p) for p in adamw} & {id(p) for p in muon}
    assert all(p.dim() == 2 for p in muon)
    assert id(made.policy.unembed) in {id(p) for p in adamw}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_the_weights(value: float, tiny_model: Path) -> None:
    made = learner(tiny_model, 130)
    batch = WEIGHTS["grpo"](examples())
    made.step(batch, POLICY)
    before = weights_of(made)

    def broken(outputs: losses.Outputs, batch: losses.Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, metrics = POLICY(outputs, batch)
        return total * value, metrics

    with pytest.raises(FloatingPointError, match="step 2"):
        made.step(batch, broken)
    assert made.steps == 1
    assert all(torch.equal(before[n], p) for n, p in made.policy.named_parameters())
    made.step(batch, POLICY)  # and nothing of it is left in the gradient
    clean = learner(tiny_model, 130)
    for _ in range(2):
        clean.step(batch, POLICY)
    assert equal(made, clean)


def test_micro_batches_are_halved_where_memory_runs_out(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient stays, the smaller size is kept, and a resumed learner knows it."""
    from incentive import learner as module

    batch, plain = WEIGHTS["grpo"](examples()), module.outputs
    whole, _ = gradient(learner(tiny_model, max_grad_norm=1e9), batch, POLICY)

    def narrow(policy: Any, rows: list[Example], *more: Any) -> tuple[losses.Batch, losses.Outputs]:
        if len(rows) > 1 and sum(len(e.ids) for e in rows) > 120:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: not enough memory")
        return plain(policy, rows, *more)

    monkeypatch.setattr(module, "outputs", narrow)
    made = learner(tiny_model, 1000, max_grad_norm=1e9)
    parts, _ = gradient(made, batch, POLICY)
    assert made.budget in (500, 250, 125)  # halved until each of its micro-batches fits
    assert (parts - whole).norm() / whole.norm() < 1e-5
    made.save(tmp_path / "state.safetensors")
    again = learner(tiny_model, 1000)
    again.load(tmp_path / "state.safetensors", 1)
    assert again.budget == made.budget
    monkeypatch.setattr(module, "outputs", lambda *_: (_ for _ in ()).throw(RuntimeError("not enough memory")))
    with pytest.raises(RuntimeError, match="not enough memory"):  # a single row that does not fit is the end
        learner(tiny_model, 1000).step(batch, POLICY)


def test_clipping_bounds_the_gradient_and_reports_it_before(tiny_model: Path) -> None:
    made = learner(tiny_model, max_grad_norm=1e-3)
    stats = made.step(WEIGHTS["grpo"](examples()), POLICY)
    norm = torch.cat([p.grad.flatten() for p in made.policy.parameters() if p.grad is not None]).norm()
    assert stats["grad_norm"] > 1e-3
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


# the schedule, by hand


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5, 0.75, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 1.0, 0.6 + 0.4 * 2**-0.5, 0.6, 0.6 - 0.4 * 2**-0.5, 0.2]),
    ],
)
def test_learning_rate(kind: Any, expected: list[float], tiny_model: Path) -> None:
    """Warm-up over 4 of 8 steps, then down to a fifth; step 8 and beyond stay at the floor."""
    made = learner(tiny_model, total=8, learning_rate=2e-3, lr_scheduler_type=kind, min_lr_ratio=0.2, warmup_steps=4)
    assert [made.learning_rate(s) for s in range(9)] == pytest.approx([2e-3 * x for x in expected])
    assert made.learning_rate(20) == made.learning_rate(8)
    assert learner(tiny_model, learning_rate=2e-3).learning_rate(0) == 2e-3
