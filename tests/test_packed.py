"""Rows without padding, with prompts computed once, against the same rows padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from incentive.learner import cut_packed, packed_by, prompt_of, score
from incentive.model.checkpoint import load_policy
from incentive.model.lean import Lean
from incentive.model.logp import token_logp
from incentive.model.packed import lay, pack
from incentive.records import Example

Rows = list[tuple[int, int, int]]  # group, tokens of its prompt, tokens of the answer
ROWS: Rows = [(0, 3, 5), (1, 1, 1), (0, 3, 40), (2, 9, 7), (0, 3, 1), (3, 6, 30), (2, 9, 20), (4, 6, 3), (4, 6, 3)]


def examples(rows: Rows) -> list[Example]:
    out = []
    for i, (group, p, n) in enumerate(rows):
        prompt = np.random.default_rng(group).integers(5, 60, p)
        ids = np.concatenate([prompt, np.random.default_rng(100 + i).integers(5, 60, n)]).astype(np.int64)
        out.append(Example(ids=ids, mask=np.arange(p + n) >= p))
    return out


def made(kind: str, width: int, inner: int, dtype: str, tied: bool = True) -> Lean:
    """A model of two layers with random weights."""
    config = AutoConfig.for_model(
        kind, vocab_size=64, hidden_size=width, intermediate_size=inner, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, tie_word_embeddings=tied,
    )  # fmt: skip
    policy = Lean(config, getattr(torch, dtype))
    draw = torch.Generator().manual_seed(1)
    for p in policy.parameters():
        torch.nn.init.normal_(p, 0.0 if p.dim() > 1 else 1.0, 0.2, generator=draw)
    return policy


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:2], ROWS[:1] * 3, ROWS[3:6]])
def test_states_and_gradients_are_those_of_padded_rows(rows: Rows, tiny_model: Path) -> None:
    policy, _ = load_policy(tiny_model, "float32")
    assert isinstance(policy, Lean)
    every = examples(rows)
    laid = pack([e.ids for e in every], [prompt_of(e) for e in every])
    ids = torch.zeros(laid.at.shape, dtype=torch.int64)
    real = torch.zeros(laid.at.shape, dtype=torch.bool)
    for i, e in enumerate(every):
        ids[i, : len(e.ids)], real[i, : len(e.ids)] = torch.from_numpy(e.ids), True
    shared = {e.ids[: e.mask.argmax()].tobytes() for e in every}
    assert laid.dummy <= int(real.sum())
    assert (laid.dummy < int(real.sum())) == (len(shared) < len(every))
    assert laid.dummy < len(laid.ids) <= laid.dummy + max(8, laid.dummy // 8 + 1)
    towards = torch.randn(int(real.sum()), policy.config.hidden_size, generator=torch.Generator().manual_seed(0))
    found, at = [], laid.at[real]
    for how in (
        lambda: policy(ids)[real],
        lambda: policy.packed(laid)[at],
        lambda: policy.packed(laid, lay(policy))[at],
    ):
        policy.zero_grad(set_to_none=True)
        for _ in range(2):  # gradients are added up
            hidden = how()
            (hidden * towards).sum().backward()
        found.append((hidden.detach(), {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}))
    padded, g_padded = found[0]
    for packed, g_packed in found[1:]:
        torch.testing.assert_close(packed, padded, atol=2e-5, rtol=1e-4)
        assert g_padded.keys() == g_packed.keys()
        for name, g in g_padded.items():
            assert (g_packed[name] - g).norm() <= 1e-4 * g.norm() + 1e-6, name


@pytest.mark.parametrize(("kind", "width", "inner"), [("llama", 48, 80), ("gemma", 48, 80), ("llama", 160, 16)])
def test_a_small_model_in_bfloat16_is_as_near_to_float32_as_by_torch(kind: str, width: int, inner: int) -> None:
    every = examples(ROWS)
    laid = pack([e.ids for e in every], [prompt_of(e) for e in every])
    found = {}
    for dtype, fast in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        policy = made(kind, width, inner, dtype)
        assert lay(policy) is not None
        hidden = policy.packed(laid, lay(policy) if fast else None)[: laid.dummy]
        towards = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
        (hidden.float() * towards).sum().backward()
        found[dtype, fast] = [hidden.float().detach(), *(p.grad for _, p in policy.named_parameters())]
    exact, torchs, ours = found.values()
    for e, by_torch, x in zip(exact, torchs, ours, strict=True):
        assert (x - e).norm() <= 1.1 * (by_torch - e).norm() + 1e-5 * e.norm()


@pytest.mark.parametrize("tied", [True, False])
def test_what_a_small_model_tells_and_its_gradients(tied: bool) -> None:
    every = examples(ROWS)
    laid = pack([e.ids for e in every], [prompt_of(e) for e in every])
    draw = torch.Generator().manual_seed(0)
    places = torch.randint(laid.dummy, (301,), generator=draw)  # an odd number, in blocks of 128, some more than once
    ids, towards = torch.randint(64, (301,), generator=draw), torch.randn(301, generator=draw)
    policy = made("llama", 48, 80, "float32", tied)
    weights = lay(policy)
    assert weights is not None
    found = []
    for fast in (False, True):
        policy.zero_grad(set_to_none=True)
        if fast:
            logp, entropy = policy.told(laid, weights, places, ids, 0.7)
        else:
            logp, entropy = token_logp(policy.packed(laid)[places], policy.unembed, ids, 0.7, True)
        (logp * towards).sum().backward()
        found.append([logp.detach(), entropy, *(p.grad.clone() for p in policy.parameters())])
    for x, y in zip(*found, strict=True):
        assert (x - y).norm() <= 1e-4 * x.norm()


def test_scoring_keeps_one_layer_and_says_the_same(tiny_model: Path) -> None:
    policy, _ = load_policy(tiny_model, "bfloat16")
    assert isinstance(policy, Lean)
    every = examples(ROWS)
    laid = pack([e.ids for e in every], [prompt_of(e) for e in every])
    with torch.no_grad():
        alone = policy.packed(laid, lay(policy))
    assert torch.equal(alone, policy.packed(laid, lay(policy)))


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 12), st.integers(1, 40)), max_size=40),
    st.integers(10, 400),
    st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_every_row_is_dealt_once_within_the_budget(drawn: Rows, budget: int, lanes: int) -> None:
    prompts = {group: p for group, p, _ in drawn}  # a group has one prompt
    every = examples([(group, prompts[group], n) for group, _, n in drawn])
    parts, dealt = cut_packed(every, budget, lanes)
    assert sorted(i for part in parts for i in part) == list(range(len(every)))
    assert sorted(n for lane in dealt for n in lane) == [n for n, part in enumerate(parts) if part]
    assert len(dealt) <= lanes
    for part in parts:
        rows = [every[i] for i in part]
        starts = {e.ids[: e.mask.argmax()].tobytes(): int(e.mask.argmax()) for e in rows}
        tokens = sum(int(e.mask.sum()) for e in rows) + sum(starts.values())
        assert tokens <= budget // lanes or len(rows) == 1


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_what_is_said_of_packed_rows_is_what_the_forward_pass_says(dtype: str, off: float, tiny_model: Path) -> None:
    exact, policy = load_policy(tiny_model)[0], load_policy(tiny_model, dtype)[0]
    assert packed_by(policy) is policy
    every = examples([*ROWS, (5, 3, 600), (5, 3, 90)])
    for e, said in zip(every, score(policy, every, 900, "cpu", 2), strict=True):
        ids = torch.from_numpy(e.ids)
        with torch.no_grad():
            logp = torch.log_softmax(exact(ids[None])[0] @ exact.unembed.T, -1)
        want = np.concatenate([[0.0], logp[:-1].gather(1, ids[1:, None])[:, 0].numpy()])
        assert abs(said - want * e.mask).max() < off  # of about -5.8
