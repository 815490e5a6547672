"""Hugging Face checkpoints: loading with checks, saving so that transformers and vLLM open them as they are."""

from __future__ import annotations

import copy
import json
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from incentive import hub
from incentive.model.lean import Lean, supports
from incentive.model.plain import Plain

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()

Policy = Lean | Plain
SCORE = "score.weight"  # only reward models have it
ASSETS = Path(__file__).parent.parent / "assets"


class CheckpointError(ValueError):
    """A model folder cannot be used; the message names the file and the fix."""


MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt")


def resolve(model: str | Path) -> Path:
    """The folder of a model: a path, the name of one in the package (`base-mini`), or of one on the Hub
    (`hub:owner/name@revision`), which is fetched into the Hub's cache.

    Raises:
        CheckpointError: there is none.
    """
    if str(model).startswith(hub.PREFIX):
        try:
            return hub.fetch(*hub.named(str(model)), MODEL_FILES, "model")
        except hub.HubError as error:
            fix = "" if "pip install" in str(error) else ", or give the folder of a Hugging Face checkpoint."
            raise CheckpointError(f"{error}{fix}") from None
    for folder in (Path(model), ASSETS / str(model)):
        if (folder / "config.json").is_file():
            return folder
    shipped = ", ".join(sorted(p.parent.name for p in ASSETS.glob("*/config.json"))) or "none"
    if Path(model).is_dir():
        raise CheckpointError(f"{model}: no config.json in this folder; a model is a Hugging Face checkpoint folder")
    raise CheckpointError(f"{model}: no such model; give the folder of a Hugging Face checkpoint, or one of: {shipped}")


# what a lean decoder asks a config for; transformers 5 writes all of it
FIELDS = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "vocab_size", "tie_word_embeddings", "rope_parameters",
)  # fmt: skip
MORE = {"llama": ("attention_bias", "mlp_bias"), "qwen3": ("attention_bias",), "gemma": ("attention_bias",)}


def _read(file: Path) -> dict[str, Any]:
    """An object of JSON; empty where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_config(folder: Path) -> Any:
    """The folder's config, as transformers reads it.

    The class of a kind of model, and the automatic tokenizer, import torch's compiler and more, 80 MB and a second, which
    nothing here uses: where the file names all that is asked for, transformers' base class holds it.
    """
    raw = _read(folder / "config.json")
    kind = raw.get("model_type")
    if kind in MORE and all(name in raw for name in (*FIELDS, *MORE[kind])):
        plain: Any = type("Config", (PreTrainedConfig,), {"model_type": kind})
        return plain.from_dict(raw)
    return AutoConfig.from_pretrained(str(folder), local_files_only=True)


def load_tokenizer(folder: Path, vocab_size: int | None = None) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, with an EOS and a PAD token, no larger than the embedding.

    Raises:
        CheckpointError: it is missing, lacks EOS, or has more tokens than `vocab_size`.
    """
    try:
        known = _read(folder / "tokenizer_config.json").get("tokenizer_class") in (
            "TokenizersBackend",
            "PreTrainedTokenizerFast",
        )
        kind = PreTrainedTokenizerFast if known and (folder / "tokenizer.json").is_file() else AutoTokenizer
        tokenizer = kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises many kinds here; all mean the same to a user
        there = any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"))
        why = str(error).splitlines()[0] if there else "there is no tokenizer.json"
        raise CheckpointError(f"{folder}: cannot load the tokenizer: {why}") from None
    if tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"{folder}: the tokenizer has no EOS token, so no answer could end; set eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"{folder}: the tokenizer has no PAD token; set pad_token in tokenizer_config.json (it may equal eos_token)"
        )
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the embedding only {vocab_size}; they do not belong together"
        )
    return tokenizer


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of the folder's safetensors files.

    Raises:
        CheckpointError: none is there (pickle files are refused), or one is corrupt or holds NaN or infinity.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")]
        if pickles:
            raise CheckpointError(
                f"{folder}: {pickles[0]} is a pickle file, which can run code when opened; convert the model to safetensors first"
            )
        raise CheckpointError(f"{folder}: no model.safetensors; the checkpoint has no weights")
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            file.open("rb").close()  # safetensors calls a file missing that may not be read
            weights.update(load_file(file))
        except OSError as error:
            raise CheckpointError(f"{file}: {(error.strerror or str(error)).lower()}") from None
        except SafetensorError as error:
            raise CheckpointError(f"{file}: corrupt; copy or download it again ({error})") from None
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{folder}: weight {name!r} holds NaN or infinity; use a checkpoint from before it diverged"
            )
    return weights


@lru_cache
def fastest_dtype(device: str = "cpu") -> str:
    """`bfloat16` or `float32`: in which this machine multiplies a small model's matrices faster; on a GPU bfloat16.

    Measured, because a CPU's flags do not tell: of two that name avx512_bf16, one is twice as fast in bfloat16 and the
    other half as fast.
    """
    if device != "cpu":
        return "bfloat16"
    seconds = {}
    for name in ("float32", "bfloat16"):
        a, b = torch.ones(4096, 256, dtype=getattr(torch, name)), torch.ones(256, 512, dtype=getattr(torch, name))
        times = []
        for _ in range(8):
            began = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - began)
        seconds[name] = min(times)
    return "bfloat16" if seconds["bfloat16"] < 0.8 * seconds["float32"] else "float32"


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint folder, read and checked."""

    folder: Path
    config: Any
    weights: dict[str, torch.Tensor]
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype  # of the forward pass


def open_checkpoint(model: str | Path, dtype: str, device: str) -> Opened:
    """What a checkpoint folder holds.

    Raises:
        CheckpointError: the folder is not a usable checkpoint, or there is no such device.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise CheckpointError(f"learner.device = {device!r} is no device; set it to 'cpu' or 'cuda'") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise CheckpointError(f"learner.device = {device!r}, but no such CUDA GPU is available here; set it to 'cpu'")
    folder = resolve(model)
    try:
        config = read_config(folder)
    except Exception as error:
        raise CheckpointError(f"{folder}/config.json: {str(error).splitlines()[0]}") from None
    weights = read_weights(folder)
    tokenizer = load_tokenizer(folder, config.get_text_config().vocab_size)
    kind = getattr(torch, fastest_dtype(device) if dtype == "auto" else dtype)
    return Opened(folder, config, weights, tokenizer, kind)


def load_policy(
    model: str | Path, dtype: str = "float32", device: str = "cpu"
) -> tuple[Policy, PreTrainedTokenizerBase]:
    """The policy and tokenizer of a checkpoint folder; weights in float32, forward in `dtype` (`auto`: the fastest).

    Llama, Mistral, Qwen2, Qwen3 and Gemma shapes load into the lean decoder, any other causal model into transformers'.

    Raises:
        CheckpointError: the folder is not a usable checkpoint.
    """
    found = open_checkpoint(model, dtype, device)
    policy: Policy
    if SCORE in found.weights:
        raise CheckpointError(
            f"{found.folder}: a reward model, which writes no text; give a language model's checkpoint"
        )
    try:
        if supports(found.config) is None:
            policy = Lean(found.config, found.dtype)
            policy.load_named(found.weights)
        else:
            policy = Plain(
                AutoModelForCausalLM.from_pretrained(
                    str(found.folder), local_files_only=True, use_safetensors=True, dtype=torch.float32
                ),
                found.dtype,
            )
    except (ValueError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{found.folder}: {str(error).splitlines()[0]}") from None
    return policy.to(device), found.tokenizer


M = TypeVar("M", bound=torch.nn.Module)


def twin(policy: M) -> M:
    """A module with the same weights in memory and gradients of its own."""
    shared: dict[int, Any] = {id(p): torch.nn.Parameter(p.data, p.requires_grad) for p in policy.parameters()}
    return copy.deepcopy(policy, shared)


def frozen(policy: Policy) -> Policy:
    """A copy that is not learnt and says the same, bit for bit: the lean decoder's matrices, which it would cast at every
    pass, are kept in the precision of its products."""
    own = copy.deepcopy(policy).requires_grad_(False)
    if isinstance(own, Lean):
        for p in own.parameters():
            if p.dim() > 1:
                p.data = p.data.to(own.dtype)
    return own


def save_model(folder: Path, policy: Any, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> None:
    """Config, weights under their Hugging Face names, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    policy.config.save_pretrained(str(folder))
    raw = json.loads((folder / "config.json").read_text())
    raw["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    weights = {name: w.to("cpu", dtype).contiguous().clone() for name, w in policy.named_weights()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(str(folder))


def save_policy(
    folder: Path, policy: Policy, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype = torch.float32
) -> None:
    """Write a complete Hugging Face checkpoint. The generation config states the paper's sampling and top_k 0."""
    save_model(folder, policy, tokenizer, dtype)
    GenerationConfig(
        do_sample=True, temperature=0.6, top_p=0.95, top_k=0,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(str(folder))  # fmt: skip


def stop_ids(tokenizer: PreTrainedTokenizerBase, folder: Path | None = None) -> tuple[int, ...]:
    """Every id that ends an answer: the tokenizer's EOS and those of the generation config.

    Raises:
        CheckpointError: the generation config cannot be read.
    """
    ids: set[int] = {int(tokenizer.eos_token_id)}
    if folder is not None and (folder / "generation_config.json").is_file():
        file = folder / "generation_config.json"
        try:
            more: Any = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            ids.update(more if isinstance(more, list) else [more] if more is not None else [])
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{file}: not valid JSON: {error}; delete or mend it") from None
    return tuple(sorted(ids))
