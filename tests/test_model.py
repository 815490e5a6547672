"""The lean decoder against transformers on tiny random checkpoints; log-probs in chunks; refused checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from incentive.model import logp as logp_module
from incentive.model.checkpoint import CheckpointError, load_policy, save_policy, stop_ids
from incentive.model.decoder import LargeDecoder, SmallDecoder
from incentive.model.lean import Lean
from incentive.model.logp import token_logp
from incentive.model.plain import Plain

TINY: dict[str, Any] = {
    "vocab_size": 336, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": 0,
    "pad_token_id": 1,
}  # fmt: skip
LEAN = {
    "llama": LlamaConfig(**TINY),
    "llama-tied-biased": LlamaConfig(**TINY, tie_word_embeddings=True, attention_bias=True),
    "llama-wide-heads": LlamaConfig(**TINY, head_dim=12, rope_theta=500.0),
    "llama-all-heads": LlamaConfig(**{**TINY, "num_key_value_heads": 4}),
    "mistral": MistralConfig(**TINY, sliding_window=None),
    "qwen2": Qwen2Config(**TINY),
    "qwen2-tied": Qwen2Config(**TINY, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**TINY, head_dim=16),
    "qwen3-tied-biased": Qwen3Config(**TINY, head_dim=8, tie_word_embeddings=True, attention_bias=True),
    "gemma": GemmaConfig(**TINY, head_dim=16),
}
GPT2 = GPT2Config(
    vocab_size=336, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0, pad_token_id=1
)


def write(config: Any, folder: Path, tiny_model: Path) -> Path:
    """A checkpoint as transformers saves it: every weight random, norms and biases too, and logits that differ."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.1 if p.dim() > 1 else 0.2))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def reference(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=ids).logits


def some_ids(rows: int = 3, tokens: int = 17) -> torch.Tensor:
    return torch.randint(2, 320, (rows, tokens), generator=torch.Generator().manual_seed(7))


def logits_of(policy: Lean | Plain, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return policy(ids) @ policy.unembed.T


# architectures


@pytest.mark.parametrize("name", LEAN)
def test_lean_contract(name: str, tmp_path: Path, tiny_model: Path) -> None:
    folder = write(LEAN[name], tmp_path / "a", tiny_model)
    policy, tokenizer = load_policy(folder)
    assert isinstance(policy, Lean)
    ids = some_ids()
    want = reference(folder, ids)
    assert want.std() > 0.1
    torch.testing.assert_close(logits_of(policy, ids), want, atol=1e-4, rtol=1e-4)

    # the weights go back under their names, all of them, bit for bit; transformers opens what we save
    stored, ours = load_file(folder / "model.safetensors"), dict(policy.named_weights())
    assert set(ours) == set(stored)
    assert all(torch.equal(ours[n], stored[n]) for n in stored)
    save_policy(tmp_path / "b", policy, tokenizer)
    torch.testing.assert_close(reference(tmp_path / "b", ids), want, atol=0, rtol=0)
    assert torch.equal(logits_of(load_policy(tmp_path / "b")[0], ids), logits_of(policy, ids))

    # right padding changes nothing
    padded = torch.cat((ids, torch.ones(3, 6, dtype=torch.int64)), dim=1)
    torch.testing.assert_close(logits_of(policy, padded)[:, :17], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama-wide-heads", "qwen2", "qwen3", "gemma"])
def test_decode_over_the_cache_equals_the_full_forward(name: str, tmp_path: Path, tiny_model: Path) -> None:
    """Rows of different lengths, a cache larger than needed and full of another call's leftovers."""
    policy = load_policy(write(LEAN[name], tmp_path, tiny_model))[0]
    assert isinstance(policy, Lean)
    ids, lengths = some_ids(3, 20), torch.tensor([5, 9, 12])
    want = logits_of(policy, ids)
    with torch.no_grad():
        hidden, k, v = policy.prefill(ids[:, :12])
        keys, values = (torch.randn(x.shape[0], 5, x.shape[2], 30, x.shape[4]) for x in (k, v))
        for row, n in enumerate(lengths.tolist()):
            keys[:, row, :, :n], values[:, row, :, :n] = k[:, row, :, :n], v[:, row, :, :n]
        rows = torch.arange(3)
        torch.testing.assert_close(
            policy.logits(hidden[rows, lengths - 1]), want[rows, lengths - 1], atol=1e-4, rtol=1e-4
        )
        for _ in range(6):
            got = policy.decode(ids[rows, lengths], lengths, keys, values)
            torch.testing.assert_close(got, want[rows, lengths], atol=1e-4, rtol=1e-4)
            lengths += 1


@pytest.mark.parametrize("kind", [SmallDecoder, LargeDecoder])
@pytest.mark.parametrize("name", LEAN)
def test_a_cpu_decoder_equals_the_full_forward(name: str, kind: type, tmp_path: Path, tiny_model: Path) -> None:
    """Rows that begin as others' prompts, of many lengths, over a vector's width; rows that move; a cache that was used."""
    policy = load_policy(write(LEAN[name], tmp_path, tiny_model))[0]
    assert isinstance(policy, Lean)
    ids, of = some_ids(6, 50), torch.arange(13) % 6
    lengths = np.array([3 + 2 * int(n) for n in of])
    want = logits_of(policy, ids)
    decoder = kind(policy)
    decoder.reserve(13, 51)
    with torch.inference_mode():
        decoder.keys.normal_()
        decoder.values.normal_()
        _, keys, values = policy.prefill(ids[:, :14])
        decoder.put(0, keys, values, of)
        for _ in range(20):
            got = decoder.step(ids[of, lengths].numpy(), lengths)
            torch.testing.assert_close(got, want[of, lengths], atol=1e-4, rtol=1e-4)
            lengths += 1
        to, frm = np.array([1, 4]), np.array([12, 11])
        decoder.move(to, frm, int(lengths.max()) + 1)
        of[to], lengths[to] = of[frm], lengths[frm]
        for _ in range(9):
            got = decoder.step(ids[of[:11], lengths[:11]].numpy(), lengths[:11])
            torch.testing.assert_close(got, want[of[:11], lengths[:11]], atol=1e-4, rtol=1e-4)
            lengths += 1


def test_what_a_small_model_says_of_a_row_does_not_depend_on_its_batch(tmp_path: Path, tiny_model: Path) -> None:
    policy = load_policy(write(LEAN["llama"], tmp_path, tiny_model))[0]
    ids, lengths = some_ids(13, 30), np.arange(13) + 4
    decoder = SmallDecoder(policy)
    decoder.reserve(13, 30)
    with torch.inference_mode():
        _, keys, values = policy.prefill(ids)
        decoder.put(0, keys, values, torch.arange(13))
        all_of_them = decoder.step(ids[:, 16].numpy(), lengths)
        for n in (1, 2, 5, 8):
            assert torch.equal(decoder.step(ids[:n, 16].numpy(), lengths[:n]), all_of_them[:n])


def test_bfloat16_forward_is_near(tmp_path: Path, tiny_model: Path) -> None:
    folder = write(LEAN["llama"], tmp_path, tiny_model)
    policy = load_policy(folder, "bfloat16")[0]
    ids = some_ids()
    with torch.no_grad():
        got = policy(ids).float() @ policy.unembed.T
    want = reference(folder, ids)
    assert (got - want).norm() / want.norm() < 0.03


@pytest.mark.parametrize(
    "config",
    [
        GPT2,
        GPTNeoXConfig(
            vocab_size=336, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=256, bos_token_id=0, eos_token_id=0, pad_token_id=1,
        ),
        MistralConfig(**TINY, sliding_window=8),
        LlamaConfig(**TINY, mlp_bias=True),
    ],
    ids=["gpt2", "gpt-neox", "mistral-windowed", "llama-mlp-bias"],
)  # fmt: skip
def test_other_architectures_are_plain(config: Any, tmp_path: Path, tiny_model: Path) -> None:
    folder = write(config, tmp_path / "a", tiny_model)
    policy, tokenizer = load_policy(folder)
    assert isinstance(policy, Plain)
    ids = some_ids()
    want = reference(folder, ids)
    torch.testing.assert_close(logits_of(policy, ids), want, atol=1e-4, rtol=1e-4)
    padded = torch.cat((ids, torch.ones(3, 6, dtype=torch.int64)), dim=1)
    torch.testing.assert_close(logits_of(policy, padded)[:, :17], want, atol=1e-4, rtol=1e-4)
    save_policy(tmp_path / "b", policy, tokenizer)
    torch.testing.assert_close(reference(tmp_path / "b", ids), want, atol=1e-6, rtol=1e-6)


def test_capped_logits_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    folder = write(Gemma2Config(**TINY, head_dim=16), tmp_path, tiny_model)
    refused(folder, "capped or scaled")


# log-probabilities in chunks


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_equal_the_plain_softmax(temperature: float, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logp_module.fused, "usable", lambda _: fused)
    g = torch.Generator().manual_seed(0)
    n, width, vocab = 37, 16, 50
    monkeypatch.setattr(logp_module, "CHUNK", 4 * vocab * 5)  # 5 rows at a time, the last chunk ragged
    h, w = torch.randn(n, width, generator=g), torch.randn(vocab, width, generator=g)
    ids, upstream = torch.randint(vocab, (n,), generator=g), torch.randn(n, generator=g)
    h1, w1, h2, w2 = (x.clone().requires_grad_() for x in (h, w, h, w))
    logp, entropy = token_logp(h1, w1, ids, temperature, entropy=True)
    full = torch.log_softmax(h2 @ w2.T / temperature, dim=-1)
    want = full.gather(1, ids[:, None])[:, 0]
    torch.testing.assert_close(logp, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, -(full.exp() * full).sum(-1), atol=1e-4, rtol=1e-4)
    (logp * upstream).sum().backward()
    (want * upstream).sum().backward()
    for got, right in ((h1.grad, h2.grad), (w1.grad, w2.grad)):
        assert (got - right).norm() / right.norm() < 1e-5  # type: ignore[union-attr, operator]
    assert not token_logp(h, w, ids, temperature)[1].any()


# checkpoints that cannot be used


def refused(folder: Path | str, *words: str, device: str = "cpu") -> None:
    """CheckpointError of one or two lines that says so."""
    with pytest.raises(CheckpointError) as caught:
        load_policy(folder, device=device)
    text = str(caught.value)
    assert len(text.splitlines()) <= 2, text
    assert all(w in text for w in words), text


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit(file: Path, **change: Any) -> None:
    data = json.loads(file.read_text())
    for key, value in change.items():
        data.pop(key, None) if value is None else data.update({key: value})
    file.write_text(json.dumps(data))


def test_missing_folder_and_folder_without_a_model(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such model")
    refused(tmp_path, "no config.json")


def test_missing_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    refused(copy, "no model.safetensors")


def test_truncated_weights(copy: Path) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(copy, "model.safetensors", "corrupt")
    file.write_bytes(b"")
    refused(copy, "model.safetensors", "corrupt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weight_that_is_not_finite(copy: Path, value: float) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, copy / "model.safetensors")
    refused(copy, "model.norm.weight", "NaN")


def test_missing_weight_and_wrong_shape(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "model.norm.weight"}, copy / "model.safetensors")
    refused(copy, "model.norm.weight", "missing")
    save_file(weights | {"model.norm.weight": torch.ones(7)}, copy / "model.safetensors")
    refused(copy, "model.norm.weight", "shape")


def test_pickle_is_refused(copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    refused(copy, "pytorch_model.bin", "pickle", "safetensors")


def test_tokenizer_larger_than_the_embedding(copy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(9)])
    tokenizer.save_pretrained(copy)
    refused(copy, "329 tokens", "320")


def test_no_eos_no_pad_no_tokenizer(copy: Path) -> None:
    file = copy / "tokenizer_config.json"
    before = file.read_text()
    for path in (file, copy / "special_tokens_map.json"):
        if path.exists():
            edit(path, eos_token=None)
    refused(copy, "EOS")
    file.write_text(before)
    edit(file, pad_token=None)
    refused(copy, "PAD")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    refused(copy, "tokenizer")


def test_broken_config(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    refused(copy, "config.json")
    (copy / "config.json").write_text('{"model_type": "no-such-model"}')
    refused(copy, "config.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_without_a_gpu(tiny_model: Path) -> None:
    refused(tiny_model, "cuda", "CUDA GPU is available here", device="cuda")


def test_stop_ids_are_eos_and_those_of_the_generation_config(copy: Path) -> None:
    tokenizer = load_policy(copy)[1]
    assert stop_ids(tokenizer, copy) == (tokenizer.eos_token_id,)
    edit(copy / "generation_config.json", eos_token_id=[tokenizer.eos_token_id, 17])
    assert stop_ids(tokenizer, copy) == tuple(sorted((tokenizer.eos_token_id, 17)))
    edit(copy / "generation_config.json", eos_token_id=9)
    assert stop_ids(tokenizer, copy) == tuple(sorted((tokenizer.eos_token_id, 9)))
