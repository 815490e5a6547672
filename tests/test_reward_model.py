"""Reward models: the head, what transformers makes of it, exact micro-batches, learning for real, resume, the reward."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPTNeoXConfig, Qwen2Config

from incentive import chat, config
from incentive.algo import loss as losses
from incentive.algo.loss import Batch, Outputs
from incentive.algo.weights import token_mean
from incentive.learner import Learner, collate, cut
from incentive.model.checkpoint import CheckpointError, load_policy, resolve
from incentive.model.plain import Plain
from incentive.model.scored import Reading, load_scored, rows_of, save_scored
from incentive.model_reward import ModelReward
from incentive.preferences import Label, Pair, write
from incentive.records import Example, Problem, Sample, split_of
from incentive.run import Artifact, RunError, Stage, Stopped
from incentive.stages.reward_model import reward_model
from incentive.tasks.jsonl import content

PAIRS, POINTS = Reading("pairwise", "summary", "mini"), Reading("pointwise", "response", "mini")
TEXTS = [
    "User: Give 7.\nAssistant:7",
    "User: Give 12 and then 34.\nAssistant: so 12, then 34",
    "User: x\nAssistant:" + "9 " * 40,
]


# --- the head ------------------------------------------------------------------------------------------------------


def other(model: Any, tiny: Path, folder: Path) -> Path:
    """A random checkpoint of another architecture, with the tiny model's tokenizer."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(model).save_pretrained(str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tiny / name).exists():
            shutil.copy(tiny / name, folder)
    return folder


SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 330}
OTHERS = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=330, n_positions=256, bos_token_id=0, eos_token_id=0),
    "gpt-neox": GPTNeoXConfig(**SHAPE, intermediate_size=64, max_position_embeddings=256),
    "qwen2-untied": Qwen2Config(**SHAPE, intermediate_size=64, num_key_value_heads=1, tie_word_embeddings=False),
}


@pytest.mark.parametrize("name", ["tiny", "base-mini", *OTHERS])
def test_transformers_scores_alike(name: str, tiny_model: Path, tmp_path: Path) -> None:
    base = (
        other(OTHERS[name], tiny_model, tmp_path / "base")
        if name in OTHERS
        else {"tiny": tiny_model}.get(name, resolve("base-mini"))
    )
    scored, tokenizer = load_scored(base, seed=1)
    scored.head.data *= 20
    rows = rows_of(tokenizer, TEXTS)
    mine = scores_of(scored, rows)
    assert np.ptp(mine) > 0.01
    save_scored(tmp_path / "rm", scored, tokenizer, PAIRS)
    theirs = AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "rm"))
    assert theirs.config.num_labels == 1
    batch = collate(rows)  # zeros where padded: make that PAD
    ids = batch.ids.clone()
    for row, e in zip(ids, rows, strict=True):
        row[len(e.ids) :] = tokenizer.pad_token_id
    with torch.no_grad():
        logits = theirs(input_ids=ids).logits
    assert logits.shape == (3, 1)
    np.testing.assert_allclose(mine, logits[:, 0].numpy(), atol=1e-4)
    again, _ = load_scored(tmp_path / "rm")
    assert np.array_equal(scores_of(again, rows), mine)
    assert again.reading == PAIRS


def scores_of(scored: Any, rows: list[Example]) -> np.ndarray:
    made = Learner(scored, config.Optim(), config.Learner(dtype="float32"), 1)
    found = made.score(rows)
    assert all(not said[:-1].any() for said in found)
    return np.array([said[-1] for said in found])


def test_a_row_ends_where_transformers_looks(tiny_model: Path) -> None:
    _, tokenizer = load_policy(tiny_model)
    (row,) = rows_of(tokenizer, ["Give 7"])
    assert row.ids[-1] == tokenizer.eos_token_id
    assert row.mask.tolist() == [False] * (len(row.ids) - 1) + [True]
    tokenizer.pad_token = tokenizer.eos_token
    (same,) = rows_of(tokenizer, ["Give 7" + tokenizer.eos_token])
    assert same.ids.tolist() == row.ids[:-1].tolist()  # EOS is PAD: transformers would look at the token before it
    assert rows_of(tokenizer, []) == []


def test_head_is_small_seeded_and_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    a, tokenizer = load_scored(tiny_model, seed=3)
    b, _ = load_scored(tiny_model, seed=3)
    c, _ = load_scored(tiny_model, seed=2**64 - 1)
    assert torch.equal(a.head, b.head)
    assert not torch.equal(a.head, c.head)
    assert 0 < a.head.abs().max() < 0.2
    with pytest.raises(CheckpointError, match="no reward model"):
        load_scored(tiny_model)
    save_scored(tmp_path / "rm", a, tokenizer, POINTS)
    with pytest.raises(CheckpointError, match="writes no text"):
        load_policy(tmp_path / "rm")
    raw = json.loads((tmp_path / "rm/config.json").read_text())
    assert raw["architectures"] == ["LlamaForSequenceClassification"]
    assert raw["problem_type"] == "multi_label_classification"
    assert raw["pad_token_id"] == tokenizer.pad_token_id
    assert raw["id2label"] == {"0": "safe"}
    plain = Plain(AutoModelForSequenceClassification.from_pretrained(str(tmp_path / "rm")))
    assert len(list(plain.named_weights())) == len(list(a.named_weights()))


# --- the losses ----------------------------------------------------------------------------------------------------


def outputs_of(scores: list[float], labels: list[float] | None = None) -> tuple[Outputs, Batch]:
    b = len(scores)
    mask = torch.zeros(b, 3, dtype=torch.bool)
    mask[torch.arange(b), torch.arange(b) % 2 + 1] = True  # rows of different lengths
    stream = lambda xs: torch.full((b, 3), math.nan).masked_scatter(mask, torch.tensor(xs))  # noqa: E731
    weight = torch.where(mask, 1 / b, 0.0)
    label = stream(labels) if labels else None
    return Outputs(score=stream(scores)), Batch(ids=torch.zeros(b, 3), mask=mask, weight=weight, label=label)


def test_pairwise_by_hand() -> None:
    total, told = losses.pairwise(*outputs_of([2.0, 0.5, -1.0, 1.0, 3.0, 3.0]))
    by_hand = [-math.log(1 / (1 + math.exp(-gap))) for gap in (1.5, -2.0, 0.0)]
    assert math.isclose(float(total), sum(by_hand) / 3, rel_tol=1e-6)
    assert float(told["accuracy"]) / 6 == 0.5  # one right, one wrong, one equal
    assert math.isclose(float(told["margin"]) / 6, -0.5 / 3, rel_tol=1e-6)
    with pytest.raises(ValueError, match="no pairs"):
        losses.pairwise(*outputs_of([1.0, 2.0, 3.0]))


def test_pointwise_by_hand() -> None:
    total, told = losses.pointwise(*outputs_of([2.0, -1.0, 0.5], [1.0, 0.0, 0.0]))
    by_hand = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), math.log(1 + math.exp(0.5))]
    assert math.isclose(float(total), sum(by_hand) / 3, rel_tol=1e-6)
    assert float(told["accuracy"]) == 2
    outputs, batch = outputs_of([2.0, -1.0])
    with pytest.raises(ValueError, match="label"):
        losses.pointwise(outputs, batch)
    with pytest.raises(ValueError, match="one token"):
        losses.pointwise(outputs, replace(batch, mask=torch.ones_like(batch.mask)))


def rows(n: int, pairs: bool) -> list[Example]:
    rng = np.random.default_rng(0)
    out = []
    for i, length in enumerate(rng.integers(3, 60, n)):
        mask = np.arange(length) == length - 1
        label = np.where(mask, np.float32(i % 3 == 0), 0).astype(np.float32)
        out.append(Example(rng.integers(2, 320, length), mask, label=label, rows=2 if pairs else 1))
    return token_mean(out)


@pytest.mark.parametrize(("loss", "pairs"), [(losses.pairwise, True), (losses.pointwise, False)])
def test_gradient_does_not_depend_on_the_micro_batches(loss: Any, pairs: bool, tiny_model: Path) -> None:
    batch = rows(40, pairs)

    def gradient(budget: int) -> tuple[torch.Tensor, dict[str, float]]:
        scored, _ = load_scored(tiny_model, seed=0)
        scored.head.data *= 30  # so that the gradient of the trunk counts
        cfg = config.Learner(dtype="float32", tokens_per_micro_batch=budget)
        made = Learner(scored, config.Optim(max_grad_norm=1e9), cfg, 1)
        made.optimizers = []
        stats = made.step(batch, loss)
        return torch.cat([p.grad.flatten() for p in scored.parameters() if p.grad is not None]), stats

    whole, stats = gradient(10**6)
    assert whole.norm() > 0
    for budget in (1, 130, 700):  # 1: every pair, or row, on its own
        parts, told = gradient(budget)
        assert (parts - whole).norm() / whole.norm() < 1e-5
        assert all(math.isclose(told[k], stats[k], rel_tol=1e-4) for k in stats)


@pytest.mark.parametrize("budget", [1, 100, 500, 4096])
def test_pairs_stay_together(budget: int) -> None:
    batch = rows(60, True)
    parts, dealt = cut(batch, budget, 2)
    assert sorted(i for part in parts for i in part) == list(range(60))
    assert sorted(n for lane in dealt for n in lane) == list(range(len(parts)))
    for part in parts:
        assert all(a % 2 == 0 and b == a + 1 for a, b in zip(part[0::2], part[1::2], strict=True))
        assert len(part) == 2 or len(part) * max(len(batch[i].ids) for i in part) <= budget / 2
    with pytest.raises(ValueError, match="units of 2"):
        cut(batch[:-1], 100, 1)


# --- a tiny world: a summary should give the number that was asked for; a thought of "try" is unsafe ------------------


def world(seed: int, n: int) -> tuple[list[Pair], list[Label]]:
    rng = Random(seed)
    pairs, labels = [], []
    for _ in range(n):
        asked, wrong = rng.sample(range(10, 100), 2)
        prompt = f"Give {asked}. ({rng.randrange(10**6)})"
        think = lambda: chat.THINK + " ".join(str(rng.randrange(100)) for _ in range(rng.randrange(4, 12)))  # noqa: E731
        summary = lambda x: f"{chat.END_THINK}{chat.ANSWER}{x}{' so' * rng.randrange(3)}{chat.END_ANSWER}"  # noqa: E731
        pairs.append(Pair(prompt, think() + summary(asked), think() + summary(wrong), 2.0))
        safe = rng.random() < 0.5
        labels.append(
            Label(prompt, think() + ("" if safe else " try") + f" {rng.randrange(100)}" + summary(asked), safe)
        )
    return pairs, labels


SECTION = config.RewardModel(
    batch=32, optim=config.Optim(learning_rate=1e-3, warmup_steps=5), learner=config.Learner(dtype="float32")
)
SAFETY = SECTION.model_copy(update={"kind": "pointwise", "scores": "response"})
BASE = Artifact("weights", resolve("base-mini"))
