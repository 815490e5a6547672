"""How a token is drawn, and the engines: seeds alone decide, log-probs are the learner's, every request is answered."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, PreTrainedTokenizerBase

from incentive import config, engine
from incentive.engine.base import draw, uniform
from incentive.engine.local import LocalEngine
from incentive.engine.plain import PlainEngine
from incentive.learner import Learner
from incentive.model.checkpoint import Policy, load_policy
from incentive.records import Example, Request, Sample, hash64


def streams(n: int, seed: int = 0) -> np.ndarray:
    """(n,) uniform numbers, each of a seed of its own, as samples have them."""
    seeds = np.array([hash64("draw", seed, i) for i in range(n)], dtype=np.uint64)
    return uniform(seeds, np.zeros(n, dtype=np.uint64))


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    """The statistic over its degrees of freedom as a normal deviate (Wilson and Hilferty)."""
    assert not counts[p == 0].any()
    counts, p = counts[p > 0], p[p > 0]
    expected = counts.sum() * p / p.sum()
    df = len(p) - 1
    x = float(((counts - expected) ** 2 / expected).sum())
    return ((x / df) ** (1 / 3) - (1 - 2 / (9 * df))) / (2 / (9 * df)) ** 0.5


# drawing


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(1.0, 1.0, 0), (0.6, 1.0, 0), (1.0, 0.8, 0), (1.0, 1.0, 5), (0.7, 0.9, 8)]
)
def test_draw_follows_the_distribution(temperature: float, top_p: float, top_k: int) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 1.5
    p = torch.softmax(logits.double() / temperature, dim=-1).numpy()
    want = p.copy()
    if top_k:
        want[np.argsort(-p)[top_k:]] = 0
    if top_p < 1:
        order = np.argsort(-want)
        mass = np.cumsum(want[order]) / want.sum()
        want[order[np.searchsorted(mass, top_p) + 1 :]] = 0
    n = 20_000
    ids, logp = draw(logits.expand(n, -1), streams(n), temperature, top_p, top_k)
    counts = np.bincount(ids, minlength=40)
    assert abs(chi_square(counts, want)) < 4
    # the log-prob is that of the whole distribution at this temperature, whatever was cut
    np.testing.assert_allclose(logp, np.log(p)[ids], atol=1e-5)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([[0.1, 0.45, 0.05, 0.25, 0.15]]).log().expand(2000, -1)
    for top_p, kept in ((0.3, {1}), (0.5, {1, 3}), (0.69, {1, 3}), (0.71, {1, 3, 4}), (0.96, {0, 1, 2, 3, 4})):
        assert set(draw(logits, streams(2000), 1.0, top_p, 0)[0].tolist()) == kept
    flat = torch.zeros(4000, 200)  # a nucleus wider than the first guess of its width
    assert len(set(draw(flat, streams(4000), 1.0, 0.5025, 0)[0].tolist())) == 101


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    ids, logp = draw(logits, streams(9), 0.0, 0.5, 3)
    assert np.array_equal(ids, logits.argmax(-1).numpy())
    np.testing.assert_allclose(logp, torch.log_softmax(logits, -1).max(-1).values.numpy(), rtol=1e-6)


def test_extreme_numbers_never_draw_a_token_of_no_mass() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]]).expand(3, -1)
    ids, _ = draw(logits, np.array([2.0**-54, 0.5, 1 - 2.0**-54]), 1.0, 1.0, 0)
    assert ids.tolist() == [1, 1, 1]


def test_uniform_is_open_flat_and_differs_by_seed_and_position() -> None:
    seeds = np.arange(2000, dtype=np.uint64)
    at = [uniform(seeds, np.full(2000, t, dtype=np.uint64)) for t in (0, 1, 500)]
    assert all(((u > 0) & (u < 1)).all() for u in at)
    assert len(np.unique(np.concatenate(at))) == 6000
    for u in at:
        assert abs(chi_square(np.bincount((u * 20).astype(int), minlength=20), np.full(20, 1 / 20))) < 4
    assert abs(np.corrcoef(at[0], at[1])[0, 1]) < 0.1
    assert abs(np.corrcoef(at[0][1:], at[0][:-1])[0, 1]) < 0.1
    extremes = uniform(np.array([0, 2**64 - 1], dtype=np.uint64), np.array([0, 2**32], dtype=np.uint64))
    assert ((extremes > 0) & (extremes < 1)).all()


# engines


def prompts(tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    texts = ("use 3,7,25 to make 46", "what is 3+4?", "a", "use 2,9 to make 11", "one two three four five six")
    return [np.asarray(tokenizer.encode(t, add_special_tokens=False), dtype=np.int64) for t in texts]


def ask(tokenizer: PreTrainedTokenizerBase, n: int = 5, **how: Any) -> list[Request]:
    how = {"max_tokens": 24} | how
    return [
        Request(f"p{i}", ids, tuple(hash64(i, j) for j in range(n)), **how) for i, ids in enumerate(prompts(tokenizer))
    ]


def open_engine(folder: Path, **settings: Any) -> tuple[Any, Policy, PreTrainedTokenizerBase]:
    policy, tokenizer = load_policy(folder)
    return engine.local(policy, tokenizer, folder, config.Engine(**settings)), policy, tokenizer


def rows(samples: list[Sample]) -> list[Example]:
    out = []
    for s in samples:
        ids = np.concatenate([s.prompt_ids, s.ids])
        out.append(Example(ids=ids, mask=np.arange(len(ids)) >= len(s.prompt_ids), temperature=s.temperature))
    return out


def same(a: list[Sample], b: list[Sample]) -> bool:
    x, y = ({s.id: (s.ids.tolist(), s.text, s.stop, s.seed) for s in z} for z in (a, b))
    return len(a) == len(b) and x == y


@pytest.fixture(scope="module")
def lively(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with louder weights, so that tokens differ much in probability, and some answers end early."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("lively") / "model"))
    weights = load_file(folder / "model.safetensors")
    g = torch.Generator().manual_seed(5)
    weights = {n: torch.randn(w.shape, generator=g) * 0.3 if w.dim() > 1 else w for n, w in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    data = json.loads((folder / "generation_config.json").read_text())
    data["eos_token_id"] = [data["eos_token_id"], 40, 41, 42, 43, 44, 45, 46]  # a few more ends: some come early
    (folder / "generation_config.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def gpt2(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt2")
    shape = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    model = AutoModelForCausalLM.from_config(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, pad_token_id=1))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    GenerationConfig(eos_token_id=[0, 50, 51, 52, 53, 54], pad_token_id=1).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["lively", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampler_log_probs_are_the_learners(kind: str, temperature: float, request: pytest.FixtureRequest) -> None:
    player, policy, tokenizer = open_engine(request.getfixturevalue(kind), max_num_seqs=7)
    assert isinstance(player, LocalEngine if kind == "lively" else PlainEngine)
    samples = list(player.sample(ask(tokenizer, temperature=temperature, top_p=0.9)))
    learner = Learner(policy, config.Optim(), config.Learner(dtype="float32", tokens_per_micro_batch=200), 1)
    for sample, row, logp in zip(samples, rows(samples), learner.score(rows(samples)), strict=True):
        np.testing.assert_allclose(logp[row.mask], sample.sampler_logp, atol=1e-4)
        assert not logp[~row.mask].any()


@pytest.mark.parametrize("kind", ["lively", "gpt2"])
def test_samples_depend_on_their_seed_alone(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    first, _, tokenizer = open_engine(folder, max_num_seqs=4)
    asked = ask(tokenizer)
    got = list(first.sample(asked))
    second = open_engine(folder, max_num_seqs=64)[0]
    assert same(got, list(second.sample(asked)))
    assert same(got, list(second.sample(asked[::-1])))
    assert same(got, list(first.sample(asked)))  # over the leftovers of the call before
    alone = [s for r in asked for j in range(5) for s in second.sample([replace(r, seeds=(r.seeds[j],))])]
    by_seed = {s.seed: s.ids.tolist() for s in got}
    assert all(by_seed[s.seed] == s.ids.tolist() for s in alone)


def test_an_engine_whose_cache_grows_later_is_as_a_fresh_one(lively: Path) -> None:
    fresh, _, tokenizer = open_engine(lively, max_num_seqs=64)
    small = open_engine(lively, max_num_seqs=64)[0]
    list(small.sample(ask(tokenizer, 1, max_tokens=2)))
    a, b = ({s.id: s for s in player.sample(ask(tokenizer, 7, max_tokens=90))} for player in (fresh, small))
    assert all(np.array_equal(a[i].ids, b[i].ids) and np.array_equal(a[i].sampler_logp, b[i].sampler_logp) for i in a)


def test_two_workers_answer_what_one_does(lively: Path) -> None:
    one, _, tokenizer = open_engine(lively, max_num_seqs=8)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = open_engine(lively, max_num_seqs=8)[0]
        assert len(two.workers) == 2
        asked = ask(tokenizer)
        got = list(two.sample(asked))
        assert same(got, list(one.sample(asked)))
        again = {s.id: s for s in two.sample(asked)}
        assert all(np.array_equal(s.sampler_logp, again[s.id].sampler_logp) for s in got)
        assert torch.get_num_threads() == 2
        for _ in two.sample(asked):  # stopped early, it goes on with the next call
            break
        assert same(got, list(two.sample(asked)))
    finally:
        torch.set_num_threads(threads)


def test_what_an_engine_did_before_changes_no_bit(lively: Path) -> None:
    """A resumed run has a fresh engine, the run never stopped one whose cache has grown."""
    fresh, _, tokenizer = open_engine(lively, max_num_seqs=64)
    grown = open_engine(lively, max_num_seqs=64)[0]
    list(grown.sample(ask(tokenizer, 2, max_tokens=3)))  # first smaller, then larger than what follows
    list(grown.sample(ask(tokenizer, 9, max_tokens=77, temperature=0.6, top_p=0.95)))
    a, b = ({s.id: s for s in player.sample(ask(tokenizer, 7))} for player in (fresh, grown))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[i].ids, b[i].ids) for i in a)
    assert all(np.array_equal(a[i].sampler_logp, b[i].sampler_logp) for i in a)


@pytest.mark.parametrize("kind", ["lively", "gpt2"])
def test_every_answer_comes_once_and_ends_as_it_says(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    player, _, tokenizer = open_engine(folder, max_num_seqs=6)
    limits = (24, 3, 1, 24, 10)
    asked = [replace(r, max_tokens=m) for r, m in zip(ask(tokenizer), limits, strict=True)]
    player.version = 7
    samples = list(player.sample(asked))
    assert Counter(s.id for s in samples) == Counter(f"p{i}/{j}" for i in range(5) for j in range(5))
    by_id = {r.problem_id: r for r in asked}
    stops = set(json.loads((folder / "generation_config.json").read_text())["eos_token_id"])
    for s in samples:
        r = by_id[s.problem_id]
        assert s.seed == r.seeds[int(s.id.split("/")[1])]
        assert np.array_equal(s.prompt_ids, r.prompt_ids)
        assert len(s.ids) == len(s.mask) == len(s.sampler_logp) <= r.max_tokens
        assert s.mask.all()
        assert not stops & set(s.ids[:-1].tolist())
        if s.stop == "stop":  # the stop token is in the ids and not in the text
            assert int(s.ids[-1]) in stops
            assert s.text == tokenizer.decode(s.ids[:-1])
        else:
            assert len(s.ids) == r.max_tokens
            assert int(s.ids[-1]) not in stops
            assert s.text == tokenizer.decode(s.ids)
        assert s.versions == (7, 7)
    assert {s.stop for s in samples} == {"stop", "length"}
    assert any(int(s.ids[-1]) not in (0, tokenizer.eos_token_id) for s in samples if s.stop == "stop")
    assert list(player.sample([])) == []


def test_requests_of_one_call_share_their_sampling(lively: Path) -> None:
    player, _, tokenizer = open_engine(lively)
    asked = ask(tokenizer)
    with pytest.raises(ValueError, match="share temperature"):
        list(player.sample([asked[0], replace(asked[1], temperature=0.5)]))


def test_load_replaces_the_weights(lively: Path, tiny_model: Path) -> None:
    player, policy, tokenizer = open_engine(tiny_model, max_num_seqs=8)
    other, there, _ = open_engine(lively, max_num_seqs=8)
    asked = ask(tokenizer, 2)
    before = list(player.sample(asked))
    player.load(there.named_weights(), 3)
    player.stop_ids = other.stop_ids
    after = list(player.sample(asked))
    assert same(after, list(other.sample(asked)))
    assert not same(after, before)
    assert {s.versions for s in after} == {(3, 3)}
    assert not torch.equal(next(policy.parameters()), next(there.parameters()))  # the learner's own stay as they were


def test_first_tokens_agree_with_transformers_generate(lively: Path) -> None:
    """T 0.6, top-p 0.95, 2000 samples each: the frequencies of the first token differ by sampling error alone."""
    player, _, tokenizer = open_engine(lively, max_num_seqs=500)
    n, prompt = 2000, prompts(tokenizer)[0]
    asked = [Request("p", prompt, tuple(hash64("g", j) for j in range(n)), 1, 0.6, 0.95)]
    ours = np.bincount([int(s.ids[0]) for s in player.sample(asked)], minlength=320)
    model = AutoModelForCausalLM.from_pretrained(lively).eval()
    torch.manual_seed(0)
    ids = torch.from_numpy(prompt)[None]
    with torch.no_grad():  # temperature, top-p and top-k are those of the folder's generation_config
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, num_return_sequences=n)
    theirs = np.bincount(out[:, len(prompt)].numpy(), minlength=320)
    pooled = ours + theirs
    common = pooled >= 10
    a, b = ours[common], theirs[common]
    assert len(a) > 5
    assert pooled[~common].sum() < 0.1 * pooled.sum()
    x, df = float(((a - b) ** 2 / (a + b)).sum()), len(a)
    assert ((x / df) ** (1 / 3) - (1 - 2 / (9 * df))) / (2 / (9 * df)) ** 0.5 < 4
