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
from incentive.files import RunError
from incentive.keys import Artifact
from incentive.learner import Learner, collate, cut
from incentive.model.checkpoint import CheckpointError, load_policy, resolve
from incentive.model.plain import Plain
from incentive.model.scored import Reading, load_scored, rows_of, save_scored
from incentive.model_reward import ModelReward
from incentive.preferences import Label, Pair, write
from incentive.records import Example, Problem, Sample, split_of
from incentive.rewards import each
from incentive.stage import Stage, Stopped
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
    batch=32,
    epochs=3,
    optim=config.Optim(learning_rate=1e-3, warmup_steps=5, lr_scheduler_type="cosine"),
    learner=config.Learner(dtype="float32"),
)
SAFETY = SECTION.model_copy(update={"kind": "pointwise", "scores": "response", "epochs": 2})
BASE = Artifact("weights", resolve("base-mini"))


def train(folder: Path, section: config.RewardModel, n: int = 600, start: Artifact = BASE) -> Artifact:
    pairs, labels = world(0, n)
    write(folder / "data", pairs if section.kind == "pairwise" else labels)
    (folder / "stage").mkdir()
    return reward_model(Stage(folder / "stage"), section, start, [Artifact("dataset", folder / "data")])


@pytest.fixture(scope="module")
def helpful(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return train(tmp_path_factory.mktemp("helpful"), SECTION)


@pytest.fixture(scope="module")
def safety(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return train(tmp_path_factory.mktemp("safety"), SAFETY)


def results_of(made: Artifact) -> dict[str, Any]:
    return json.loads((made.path.parent / "results.json").read_text())


def test_it_learns_which_summary_is_better(helpful: Artifact) -> None:
    found = results_of(helpful)
    pairs, _ = world(0, 600)
    assert found["held_out"] == sum(split_of(content(p.prompt)) != "train" for p in pairs)
    assert found["trained"] + found["held_out"] == 600
    assert found["accuracy"]["ci95"][0] > 0.75, found["accuracy"]
    assert found["calibration"]["ece"] < 0.2
    assert abs(found["length"]["score"]) < 0.2
    short = found["length"]["accuracy_chosen_shorter"]
    assert short["n"] > 20
    assert short["share"] > 0.75
    assert helpful.meta["accuracy"] == found["accuracy"]["share"]


def test_it_learns_what_is_safe_from_the_whole_response_alone(safety: Artifact, tmp_path: Path) -> None:
    found = results_of(safety)
    assert found["accuracy"]["ci95"][0] > 0.9
    assert found["auc"] > 0.97
    assert found["false_safe"]["share"] < 0.1
    assert found["false_unsafe"]["share"] < 0.1
    blind = results_of(
        train(tmp_path, SAFETY.model_copy(update={"scores": "summary", "epochs": 1}), 400)
    )  # the word is in the thinking
    assert abs(blind["auc"] - 0.5) < 0.2


def test_scores_default_to_the_papers() -> None:
    assert config.RewardModel().scores == "summary"
    assert config.RewardModel.model_validate({"kind": "pointwise"}).scores == "response"
    assert config.RewardModel(kind="pointwise", scores="summary").scores == "summary"
    with pytest.raises(ValueError, match="kind"):
        config.RewardModel.model_validate({"kind": "listwise"})


# --- stopped and gone on with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pairwise", "pointwise"])
def test_resume_is_exact(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    base, section = Artifact("weights", tiny_model), SECTION.model_copy(update={"kind": kind, "epochs": 2})
    whole = train(tmp_path / "whole", section, 300, base)
    shutil.copytree(tmp_path / "whole/data", tmp_path / "data")
    (tmp_path / "stage").mkdir()

    class Asked:
        requested = False

    def go(stop_at: int) -> Artifact:
        asked = Asked()

        def show(told: dict[str, Any]) -> None:
            asked.requested = told["done"] == stop_at

        stage = Stage(tmp_path / "stage", interrupt=asked)  # type: ignore[arg-type]
        return reward_model(stage, section, base, [Artifact("dataset", tmp_path / "data")], show=show)

    for stop_at in (3, 10):  # within the first epoch, and the second
        with pytest.raises(Stopped):
            go(stop_at)
    made = go(-1)
    for name in ("model/model.safetensors", "model/config.json", "results.json"):
        assert (made.path.parent / name).read_bytes() == (whole.path.parent / name).read_bytes(), name
    told = [
        [
            {k: v for k, v in json.loads(line).items() if k != "time/step"}
            for line in (a.path.parent / "metrics.jsonl").open()
        ]
        for a in (whole, made)
    ]
    assert told[0] == told[1]


def test_too_little_data_and_long_rows_are_said(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="held out by prompt"):
        train(tmp_path / "few", SECTION, 30, Artifact("weights", tiny_model))
    with pytest.raises(RunError, match=r"0 pairwise records.*\n.*300 were too long"):
        train(tmp_path / "long", SECTION.model_copy(update={"max_tokens": 5}), 300, Artifact("weights", tiny_model))


# --- the reward ----------------------------------------------------------------------------------------------------


def sample(text: str, n: int = 0) -> Sample:
    ids = np.zeros(1, dtype=np.int64)
    return Sample(f"p/{n}", "p", ids, ids, ids == 0, ids.astype(np.float32), 1.0, "stop", (0, 0), n, text)


ASKED = Problem("p", "p", "Give 57. (3)", None)


def test_helpful_reads_the_summary(helpful: Artifact) -> None:
    reward = ModelReward(helpful.path)
    texts = [chat.perfect(think, answer) for think in ("1 2", "3") for answer in ("57", "23")]
    right, wrong, right_again, wrong_again = reward(ASKED, [sample(t) for t in texts])
    assert right == right_again  # equal summaries, equal rewards
    assert wrong == wrong_again < right - 0.2
    empty = ["<think>1 2 57", "<think>1</think>", chat.perfect("57", ""), "<think>1</think><think>57"]
    assert reward(ASKED, [sample(t) for t in empty]) == [-1.0] * 4
    assert reward(ASKED, [sample(texts[0]), sample(empty[0]), sample(texts[1])]) == pytest.approx(
        [right, wrong - 1, wrong]
    )


def test_safety_reads_the_whole_response(safety: Artifact) -> None:
    reward = ModelReward(safety.path)
    good, bad = (chat.perfect(think, "57") for think in ("12 34 5 6", "12 34 try 5"))
    values = reward(ASKED, [sample(good), sample(bad), sample("<think>12 34 try 5"), sample("")])
    assert values[0] > 0.8 > 0.2 > values[1]
    assert values[2] < 0.2
    assert all(v is not None and 0 <= v <= 1 for v in values)


def test_reward_is_made_of_what_transformers_says_and_repeats_its_bits(helpful: Artifact) -> None:
    reward = ModelReward(helpful.path)
    texts = [chat.perfect("1", str(n)) for n in range(10, 90, 5)]
    values = reward(ASKED, [sample(t) for t in texts])
    assert values == ModelReward(helpful.path)(ASKED, [sample(t) for t in texts])
    model = AutoModelForSequenceClassification.from_pretrained(str(helpful.path))
    _, tokenizer = load_scored(helpful.path)
    told = results_of(helpful)
    for text, value in zip(texts, values, strict=True):
        row = tokenizer(
            chat.render("mini", ASKED.prompt) + chat.summary(text) + tokenizer.eos_token, return_tensors="pt"
        )
        with torch.no_grad():
            score = float(model(input_ids=row["input_ids"]).logits)
        assert value == pytest.approx((score - told["centre"]) / told["scale"], abs=1e-4)


def test_several_models_are_one_reward(helpful: Artifact, safety: Artifact) -> None:
    answers = [sample(chat.perfect("1 try 2", "57")), sample(chat.perfect("1 2", "23"))]
    one, two = ModelReward(helpful.path), ModelReward(safety.path)
    both = ModelReward(helpful.path, safety.path)
    mean = [(a + b) / 2 for a, b in zip(one(ASKED, answers), two(ASKED, answers), strict=True)]  # type: ignore[operator]
    assert both(ASKED, answers) == mean
    assert both.version == f"{one.version} {two.version}"
    graded = each({"helpful": one, "safe": two}, {"helpful": 1.0, "safe": 0.5})(ASKED, answers)
    assert [set(g.parts) for g in graded] == [{"helpful", "safe"}] * 2
    assert one(ASKED, []) == []


def test_lanes_change_no_reward(helpful: Artifact) -> None:
    answers, threads = [sample(chat.perfect("1", f"{n} so")) for n in range(10, 42)], torch.get_num_threads()
    found = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(ModelReward(helpful.path, tokens=512)(ASKED, answers))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)  # type: ignore[arg-type]


def test_a_model_that_cannot_be_asked_is_said(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no reward model"):
        ModelReward(tiny_model)
    scored, tokenizer = load_scored(other(OTHERS["gpt2"], tiny_model, tmp_path / "gpt2"), seed=0)
    save_scored(tmp_path / "rm", scored, tokenizer, POINTS)
    long, short = sample("<think>" + "9 7 " * 400), sample("<think>1")
    values = ModelReward(tmp_path / "rm")(ASKED, [long, short])
    assert values[0] == 0.0  # beyond what the model can read
    assert values[1] == pytest.approx(0.5, abs=0.1)
    raw = json.loads((tmp_path / "rm/config.json").read_text())
    del raw["incentive_reward"]
    (tmp_path / "rm/config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="how to ask"):
        ModelReward(tmp_path / "rm")
