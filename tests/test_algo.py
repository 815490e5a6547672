"""Advantages, normalisers and losses against numbers worked out by hand and the paper's formulas in plain loops."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from incentive.algo import advantage, weights
from incentive.algo.advantage import ADVANTAGES, assign
from incentive.algo.loss import Batch, Outputs, k3, nll, policy
from incentive.algo.weights import WEIGHTS
from incentive.config import RL
from incentive.records import Example

STREAMS = ("ids", "mask", "weight", "advantage", "old_logp", "ref_logp", "sampler_logp")


# --- the paper, in plain loops --------------------------------------------------------------------------------------


def reference(logp, batch, epsilon, epsilon_high, beta, level):
    """Eq. 1 and 2, negated and weighted, sample by sample and token by token, in Python floats."""
    total = 0.0
    for i in range(len(logp)):
        own = [t for t in range(len(logp[i])) if batch["mask"][i][t]]
        mean = sum(logp[i][t] - batch["old_logp"][i][t] for t in own) / max(len(own), 1)
        for t in own:
            rho = math.exp(logp[i][t] - batch["old_logp"][i][t] if level == "token" else mean)
            gain = batch["advantage"][i][t]
            gain = min(rho * gain, min(max(rho, 1 - epsilon), 1 + epsilon_high) * gain)
            r = math.exp(batch["ref_logp"][i][t] - logp[i][t])  # pi_ref / pi
            total -= batch["weight"][i][t] * (gain - beta * (r - math.log(r) - 1))
    return total


def make(seed, B=5, T=9, spread=1.5):
    """A random batch in float64 and its log-probs (B, T): ragged masks, one row without any, one advantage a row."""
    rng = np.random.default_rng(seed)
    mask = rng.random((B, T)) < 0.7
    mask[:, 0] = False
    mask[rng.integers(B)] = False
    mask[0, T // 2] = True
    logp = np.where(np.arange(T) == 0, 0.0, -rng.exponential(1.0, (B, T)))
    shift = rng.normal(0, spread, (B, 1))  # moves the sequence's ratio as well
    batch = Batch(
        ids=torch.from_numpy(rng.integers(0, 50, (B, T))),
        mask=torch.from_numpy(mask),
        weight=torch.from_numpy(rng.random((B, 1)) * mask),
        advantage=torch.from_numpy(np.broadcast_to(rng.normal(0, 1, (B, 1)), (B, T)).copy()),
        old_logp=torch.from_numpy(logp + shift + rng.normal(0, spread, (B, T))),
        ref_logp=torch.from_numpy(logp + rng.normal(0, 1, (B, T))),
        sampler_logp=torch.from_numpy(logp + rng.normal(0, 0.1, (B, T))),
    )
    return torch.from_numpy(logp), batch


def lists(batch):
    return {k: getattr(batch, k).tolist() for k in STREAMS}


def value_and_grad(loss, logp, batch, **kw):
    logp = logp.clone().requires_grad_()
    total, metrics = loss(Outputs(logp), batch, **kw)
    (grad,) = torch.autograd.grad(total, logp)
    return total.item(), grad, metrics


def rows(batch, index):
    """The micro-batch of these rows."""
    cut = {k: getattr(batch, k) for k in STREAMS}
    return dataclasses.replace(batch, **{k: None if v is None else v[index] for k, v in cut.items()})


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    epsilon=st.sampled_from([0.1, 0.2, 10.0]),
    epsilon_high=st.sampled_from([None, 0.28]),
    beta=st.sampled_from([0.0, 0.001, 0.5]),
    level=st.sampled_from(["token", "sequence"]),
)
def test_policy_loss_and_gradient_are_the_papers(seed, epsilon, epsilon_high, beta, level):
    logp, batch = make(seed)
    plain, high, h = lists(batch), epsilon if epsilon_high is None else epsilon_high, 1e-6
    total, grad, _ = value_and_grad(
        policy, logp, batch, epsilon=epsilon, epsilon_high=epsilon_high, beta=beta, level=level
    )
    assert total == pytest.approx(reference(logp.tolist(), plain, epsilon, high, beta, level), rel=1e-10, abs=1e-12)
    for i, t in np.ndindex(*logp.shape):  # central differences; a kink within h has probability 1e-5
        up, down = logp.tolist(), logp.tolist()
        up[i][t] += h
        down[i][t] -= h
        ends = [reference(x, plain, epsilon, high, beta, level) for x in (up, down)]
        assert grad[i, t].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("split", [[1] * 8, [3, 5], [2, 2, 4], [7, 1]])
def test_micro_batches_add_up(level, split):
    logp, batch = make(3, B=8)
    kw = {"epsilon": 0.2, "beta": 0.1, "level": level}
    total, grad, metrics = value_and_grad(policy, logp, batch, **kw)
    parts = [value_and_grad(policy, logp[i], rows(batch, i), **kw) for i in torch.arange(8).split(split)]
    assert sum(p[0] for p in parts) == pytest.approx(total, rel=1e-12)
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), grad, rtol=1e-12, atol=0)
    assert metrics.keys() == {"ratio", "clip_ratio", "kl", "sampler_mismatch", "sampler_k3"}
    for name, value in metrics.items():
        torch.testing.assert_close(sum(p[2][name] for p in parts), value)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_what_is_not_masked_reaches_nothing(level):
    logp, batch = make(5)
    kw = {"epsilon": 0.2, "beta": 0.1, "level": level}
    clean = value_and_grad(policy, logp, batch, **kw)
    for poison in (math.nan, math.inf, -math.inf):
        streams = {k: torch.where(batch.mask, getattr(batch, k), poison) for k in STREAMS[2:]}
        dirty_logp = torch.where(batch.mask, logp, poison)
        total, grad, metrics = value_and_grad(policy, dirty_logp, dataclasses.replace(batch, **streams), **kw)
        assert total == clean[0]
        assert torch.equal(grad, clean[1])
        assert metrics == clean[2]
        value, grad, _ = value_and_grad(nll, dirty_logp, dataclasses.replace(batch, **streams))
        assert math.isfinite(value)
        assert torch.equal(grad, torch.where(batch.mask, -batch.weight, 0.0))


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_zero_advantage_leaves_the_kl_alone(level):
    logp, batch = make(7)
    batch = dataclasses.replace(batch, advantage=torch.zeros_like(logp))
    total, grad, metrics = value_and_grad(policy, logp, batch, epsilon=0.2, level=level)
    assert total == 0
    assert not grad.any()
    assert metrics["clip_ratio"] == 0
    _, grad, _ = value_and_grad(policy, logp, batch, epsilon=0.2, beta=0.1, level=level)
    by_hand = 0.1 * batch.weight * (1 - torch.exp(batch.ref_logp - logp))  # d k3 / d logp
    torch.testing.assert_close(grad, torch.where(batch.mask, by_hand, 0.0))


def one(ratio, gain, dtype=torch.float64, **kw):
    """Loss, gradient and clip metric of one token."""
    old = -3.0
    logp = torch.tensor([[0.0, old + math.log(ratio)]], dtype=dtype)
    mask = torch.tensor([[False, True]])
    ones = torch.ones(1, 2, dtype=dtype)
    batch = Batch(torch.zeros(1, 2).long(), mask, ones, ones * gain, torch.tensor([[0.0, old]], dtype=dtype))
    total, grad, metrics = value_and_grad(policy, logp, batch, **kw)
    return total, grad[0, 1].item(), metrics["clip_ratio"].item()


@pytest.mark.parametrize(
    ("ratio", "gain", "loss", "slope", "clipped"),
    [
        (10.5, 2.0, -21.0, -21.0, 0),  # below 11: as it is
        (12.0, 2.0, -22.0, 0.0, 1),  # above 11, good: held at 11, no gradient
        (12.0, -2.0, 24.0, 24.0, 0),  # above 11, bad: never clipped
        (1e-6, 2.0, -2e-6, -2e-6, 0),  # the lower bound is -9, so small ratios are never clipped
        (1e-6, -2.0, 2e-6, 2e-6, 0),
    ],
)
def test_clip_at_ten(ratio, gain, loss, slope, clipped):
    assert one(ratio, gain, epsilon=10.0) == (pytest.approx(loss), pytest.approx(slope), clipped)


@pytest.mark.parametrize(
    ("ratio", "gain", "loss", "slope"),
    [(1.25, 1.0, -1.25, -1.25), (1.3, 1.0, -1.28, 0.0), (0.7, -1.0, 0.8, 0.0), (0.7, 1.0, -0.7, -0.7)],
)
def test_clip_higher(ratio, gain, loss, slope):
    total, grad, clipped = one(ratio, gain, epsilon=0.2, epsilon_high=0.28)
    assert (total, grad, clipped) == (pytest.approx(loss), pytest.approx(slope), slope == 0)


def test_absurd_ratios_stay_finite_and_keep_their_direction():
    def at(log_ratio, gain, ref):
        logp = torch.tensor([[0.0, -1.0]])
        mask, full = torch.tensor([[False, True]]), torch.ones(1, 2)
        batch = Batch(torch.zeros(1, 2).long(), mask, full, full * gain, logp - log_ratio, logp + ref)
        total, grad, _ = value_and_grad(policy, logp, batch, epsilon=10.0, beta=0.001)
        return total, grad[0, 1].item()

    assert at(200.0, 1.0, 0.0) == (-11.0, 0.0)  # clipped: not 0 * inf
    total, slope = at(200.0, -1.0, 0.0)
    assert math.isfinite(total)
    assert slope == pytest.approx(math.exp(20))  # still pushes the token down
    total, slope = at(0.0, 0.0, 200.0)
    assert math.isfinite(total)
    assert slope == pytest.approx(-0.001 * math.exp(20), rel=1e-5)  # the KL still pulls the token up


def test_sequence_ratio_keeps_credit_with_its_token():
    logp, batch = make(9, spread=0.05)
    batch = dataclasses.replace(batch, advantage=torch.arange(logp.numel()).view_as(logp) / 10.0)
    _, grad, _ = value_and_grad(policy, logp, batch, epsilon=10.0, level="sequence")
    gap = torch.where(batch.mask, logp - batch.old_logp, 0.0)
    ratio = (gap.sum(1) / batch.mask.sum(1).clamp(min=1)).exp()[:, None]
    torch.testing.assert_close(grad, torch.where(batch.mask, -batch.weight * batch.advantage * ratio, 0.0))


def test_on_policy_without_old_logp_is_reinforce():
    logp, batch = make(11)
    batch = dataclasses.replace(batch, old_logp=None)
    for level in ("token", "sequence"):
        _, grad, metrics = value_and_grad(policy, logp, batch, epsilon=0.2, level=level)
        torch.testing.assert_close(grad, torch.where(batch.mask, -batch.weight * batch.advantage, 0.0))
        assert metrics["ratio"] == batch.mask.sum()


def test_metrics_by_hand_and_only_those_with_data():
    logp, batch = make(13)
    on = batch.mask
    _, metrics = policy(Outputs(logp, entropy=-2 * logp), batch, epsilon=0.2, beta=0.1)
    old, ref, sampler = (x[on] for x in (batch.old_logp, batch.ref_logp, batch.sampler_logp))
    ratio, gain = (logp[on] - old).exp(), batch.advantage[on]
    torch.testing.assert_close(metrics["ratio"], ratio.sum())
    torch.testing.assert_close(metrics["clip_ratio"], (((ratio - 1) * gain.sign()) > 0.2).double().sum())
    torch.testing.assert_close(metrics["kl"], ((ref - logp[on]).exp() - (ref - logp[on]) - 1).sum())
    torch.testing.assert_close(metrics["entropy"], (-2 * logp[on]).sum())
    torch.testing.assert_close(metrics["sampler_mismatch"], (old - sampler).abs().sum())
    torch.testing.assert_close(metrics["sampler_k3"], ((old - sampler).exp() - (old - sampler) - 1).sum())
    bare = dataclasses.replace(batch, ref_logp=None, sampler_logp=None)
    for one_batch, beta in ((bare, 0.1), (dataclasses.replace(bare, ref_logp=batch.ref_logp), 0.0)):
        assert policy(Outputs(logp), one_batch, epsilon=0.2, beta=beta)[1].keys() == {"ratio", "clip_ratio"}
    with pytest.raises(ValueError, match="advantage"):
        policy(Outputs(logp), dataclasses.replace(batch, advantage=None), epsilon=0.2)


def test_k3_is_exact_where_policies_are_close():
    x = torch.tensor([1e-5, -1e-5, 1e-3])  # float32: e^x - x - 1 taken naively is 0 or noise here
    torch.testing.assert_close(k3(x), x**2 / 2, rtol=1e-3, atol=0)


def test_nll_is_the_mean_over_masked_tokens():
    logp, batch = make(17)
    batch = dataclasses.replace(batch, weight=batch.mask / batch.mask.sum())
    total, grad, metrics = value_and_grad(nll, logp, batch)
    assert total == pytest.approx(-logp[batch.mask].mean().item())
    torch.testing.assert_close(grad, -batch.weight.double())
    torch.testing.assert_close(metrics["nll"], -logp[batch.mask].sum())


# --- advantages -----------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_config():
    assert set(ADVANTAGES) == set(RL.model_fields["advantage"].annotation.__args__)
    assert set(WEIGHTS) == set(RL.model_fields["loss_type"].annotation.__args__)


def test_advantages_by_hand():
    r = np.array([1.0, 0.0, 0.0, 1.0, 3.0])  # mean 1, population variance (0 + 1 + 1 + 0 + 4) / 5
    assert advantage.dr_grpo(r) == pytest.approx([0, -1, -1, 0, 2])
    assert advantage.grpo(r) == pytest.approx(np.array([0, -1, -1, 0, 2]) / math.sqrt(1.2))
    assert advantage.rloo(r) == pytest.approx([1 - 4 / 4, 0 - 5 / 4, 0 - 5 / 4, 1 - 4 / 4, 3 - 2 / 4])


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@pytest.mark.parametrize("r", [[0.1] * 3, [0.0] * 16, [0.1 + 0.2, 0.3], [0.1 + 0.2 - 0.3, 0.0], [1e6 + 1e-3, 1e6]])
def test_equal_rewards_are_worth_exactly_nothing(name, r):
    assert assign(r, ADVANTAGES[name]) == [0.0] * len(r)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=20))
def test_grpo_has_mean_zero_and_mean_square_one(r):
    a = np.array(assign([x / 4 for x in r], advantage.grpo))
    assert a.sum() == pytest.approx(0, abs=1e-9)
    assert (a**2).mean() == pytest.approx(1.0 if len(set(r)) > 1 else 0.0)


def test_ungraded_samples_leave_the_group():
    assert assign([1.0, None, 0.0], advantage.grpo) == [1.0, None, -1.0]
    assert assign([None, 3.0, 1.0, None, 2.0], advantage.dr_grpo) == [None, 1.0, -1.0, None, 0.0]
    for r in ([], [1.0], [None, 1.0], [None, None]):
        assert assign(r, advantage.grpo) == [None] * len(r)
    with pytest.raises(ValueError, match="finite"):
        assign([1.0, math.nan], advantage.grpo)


# --- normalisers ----------------------------------------------------------------------------------------------------


def example(*mask):
    return Example(ids=np.arange(len(mask)), mask=np.array(mask, dtype=bool))


MINIBATCH = [example(0, 0, 1, 1), example(0, 1, 0, 1, 1, 1), example(0, 0)]  # |o| is 2, 4 and 0; N is 3


@pytest.mark.parametrize(
    ("name", "share", "total"),
    [
        ("grpo", [1 / (3 * 2), 1 / (3 * 4)], 2 / 3),
        ("token_mean", [1 / 6, 1 / 6], 1.0),
        ("dr_grpo", [1 / (3 * 8), 1 / (3 * 8)], 6 / (3 * 8)),
    ],
)
def test_weights_by_hand(name, share, total):
    weighed = WEIGHTS[name](MINIBATCH, 8)
    for new, old, w in zip(weighed, MINIBATCH, [*share, 0], strict=True):
        assert new.weight.dtype == np.float32
        assert new.weight == pytest.approx(np.where(old.mask, w, 0))
        assert new.ids is old.ids
    assert sum(e.weight.sum() for e in weighed) == pytest.approx(total)


def test_weights_at_the_edges():
    assert weights.grpo([]) == weights.token_mean([]) == []
    assert not weights.token_mean([example(0, 0)])[0].weight.any()
    with pytest.raises(ValueError, match="max_tokens"):
        weights.dr_grpo(MINIBATCH, 0)
