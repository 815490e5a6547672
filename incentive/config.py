"""The settings of a run: frozen, typed, complete. An unknown key is an error that names the nearest known one.

Option names are those that users of TRL and vLLM know (`num_generations`, `beta`, `epsilon`, `max_tokens`, `top_p`).
A resolved config is written back as TOML into every run directory. Imports no torch.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class ConfigError(ValueError):
    """A setting is wrong. The message names the key and the fix; the CLI prints it and exits with code 2."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Model(Section):
    """Shape of a model made from nothing (Llama architecture), used by `pretrain` only."""

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    """Fewer than the query heads: decoding reads half the cache."""
    intermediate_size: int = 384
    vocab_size: int = 512
    max_position_embeddings: int = 1024


class Optim(Section):
    """The paper gives the learning rate only (3e-6); the rest is our choice."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon (Jordan et al. 2024) for the hidden matrices and AdamW for the rest; nearly twice as fast in pretraining."""
    learning_rate: float = Field(3e-6, gt=0)
    lr_scheduler_type: Literal["constant", "cosine", "linear"] = "constant"
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """Last learning rate over the first, for cosine and linear."""
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    max_grad_norm: float = Field(1.0, gt=0)


class Learner(Section):
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward and backward pass; weights and optimizer state stay float32. `auto`: what the machine multiplies
    faster, measured when a run starts and written into its config."""
    tokens_per_micro_batch: int = Field(16384, gt=0)
    """Rows times longest row of one micro-batch. Memory only: the gradient does not depend on it."""
    device: str = "cpu"


class Engine(Section):
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_num_seqs: int = Field(256, gt=0)
    """Slots: rows that decode together."""


class Sampling(Section):
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0: off."""
    max_tokens: int = Field(256, gt=0)
    """Longest answer, in tokens."""


class Pretrain(Section):
    """A base model from nothing: a corpus of made-up documents, a tokenizer, next-token prediction."""

    model: Model = Model()
    optim: Optim = Optim(
        optimizer="muon",
        learning_rate=6e-3,
        lr_scheduler_type="cosine",
        min_lr_ratio=0.05,
        warmup_steps=50,
        weight_decay=0.1,
    )
    learner: Learner = Learner(tokens_per_micro_batch=8192)
    documents: int = Field(500_000, gt=0)
    """Documents in the corpus; each is seen once."""
    tokens_per_step: int = Field(16384, gt=0)
    retry_dose: float = Field(0.01, ge=0, le=1)
    """Share of the documents that solve a problem in which a try is checked, fails, and another follows."""
    verify: bool = True
    """False: the writers' yes and no are thrown by a coin, so the base cannot verify (a control)."""
    digits: Literal["together", "apart"] = "together"
    """How the tokenizer cuts numbers: two digits a token, or one."""
    save_seconds: float = Field(60, gt=0)
    """Checkpoint at least this often."""


class RL(Section):
    """Reinforcement learning on checkable problems."""

    tasks: dict[str, float] = {"countdown3": 0.5, "countdown4": 0.5}
    """Task name -> share of the problems."""
    rewards: dict[str, float] = {"accuracy": 1.0, "format": 1.0}
    """Reward name -> weight (paper 2.2: accuracy and format, equal weight)."""
    max_steps: int = Field(100, gt=0)
    """Updates. A step is one policy update, as in the paper."""
    problems_per_step: int = Field(32, gt=0)
    num_generations: int = Field(16, gt=1)
    """G, samples of one problem."""
    steps_per_generation: int = Field(1, gt=0)
    """Minibatches, and so updates, that one rollout feeds (16 in the paper)."""
    sampling: Sampling = Sampling()
    advantage: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    loss_type: Literal["grpo", "token_mean", "dr_grpo"] = "grpo"
    """Normaliser: 1/(N|o|), 1/total tokens, 1/(N max_tokens)."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Where the ratio is formed; sequence is GSPO."""
    epsilon: float = Field(10.0, gt=0)
    epsilon_high: float | None = None
    """Upper clip; none: as epsilon (clip-higher sets it apart)."""
    beta: float = Field(0.001, ge=0)
    """KL coefficient; the k3 estimator, in the loss."""
    ref_sync_steps: int = Field(400, ge=0)
    """Replace the reference by the policy every this many updates; 0: never."""
    dynamic_sampling: bool = False
    """Draw further problems in place of groups whose rewards are all equal (DAPO)."""
    optim: Optim = Optim()
    learner: Learner = Learner()
    engine: Engine = Engine()
    eval_steps: int = Field(10, ge=0)
    """Probe on val every this many updates; 0: never."""
    eval_problems: int = Field(64, gt=0)
    save_steps: int = Field(10, gt=0)
    """Full checkpoint every this many updates."""
    keep: Literal["all", "last", "evals"] = "all"
    """Rollouts kept on disk: all; those of the last 100 steps; those of every eval step and the last 100."""


class Collect(Section):
    """Rejection sampling: answers of a policy, the right ones kept."""

    rounds: int = Field(1, gt=0)
    """Times to sample from the latest model, keep what is right, and fine-tune the base on all that was kept."""
    tasks: dict[str, float] = {"countdown3": 0.5, "countdown4": 0.5}
    problems: int = Field(1000, gt=0)
    samples: int = Field(16, gt=0)
    sampling: Sampling = Sampling()
    engine: Engine = Engine()


class SFT(Section):
    """Supervised fine-tuning on answers; the loss is the token mean over the answers."""

    epochs: int = Field(2, gt=0)
    tokens_per_step: int = Field(8192, gt=0)
    optim: Optim = Optim(learning_rate=4e-4, lr_scheduler_type="cosine", warmup_steps=5)
    learner: Learner = Learner()


class Eval(Section):
    """Final evaluation; the paper's sampling (temperature 0.6, top-p 0.95) is the headline."""

    tasks: tuple[str, ...] = ("countdown3", "countdown4")
    split: Literal["val", "test"] = "test"
    problems: int = Field(200, gt=0)
    samples: int = Field(16, gt=0)
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95)
    also_t1: bool = True
    """Evaluate at temperature 1, top-p 1 as well."""
    engine: Engine = Engine()


class Run(Section):
    """One run: which recipe, from which base, with which sections."""

    recipe: str
    seed: int = 0
    base: str = "base-mini"
    """`base-mini` (in the package) or the folder of a Hugging Face checkpoint."""
    template: Literal["mini", "r1-zero", "chat"] = "mini"
    pretrain: Pretrain | None = None
    rl: RL | None = None
    collect: Collect | None = None
    sft: SFT | None = None
    eval: Eval | None = None
    threads: int = Field(2, gt=0)
    price_per_core_hour: float = Field(0.04, ge=0)
    """US dollars, for the cost ledger."""

    @model_validator(mode="after")
    def _whole(self) -> Run:
        if not any((self.pretrain, self.rl, self.collect, self.eval)):
            raise ValueError("the recipe has no section to run: give [pretrain], [rl], [collect] or [eval]")
        if (self.collect is None) != (self.sft is None):
            raise ValueError("rejection sampling needs both sections, [collect] and [sft]")
        return self


def _known(cls: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that the section at `path` knows."""
    for name in path:
        info = cls.model_fields.get(name)
        if info is None:
            return []
        kinds = [info.annotation, *get_args(info.annotation)]
        cls = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), Section)
    return list(cls.model_fields)


def explain(error: ValidationError, root: type[BaseModel] = Run) -> str:
    """One line for each fault: the dotted key, what is wrong, and the nearest known key."""
    lines = []
    for e in error.errors():
        path = [str(p) for p in e["loc"]]
        key = ".".join(path) or "config"
        if e["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path[-1], _known(root, path[:-1]), n=1, cutoff=0.5)
            lines.append(
                f"unknown setting {key!r}" + (f"; did you mean {'.'.join([*path[:-1], near[0]])!r}?" if near else "")
            )
        else:
            given = "" if e["type"] == "missing" or e["loc"] == () else f", not {e['input']!r}"
            lines.append(f"{key}: {e['msg'].removeprefix('Value error, ').lower()}{given}")
    return "\n".join(lines)


def build(data: dict[str, Any]) -> Run:
    """A `Run` from plain data.

    Raises:
        ConfigError: a key is unknown or a value is of the wrong type or out of range.
    """
    try:
        return Run.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def with_overrides(data: dict[str, Any], sets: list[str]) -> dict[str, Any]:
    """Apply `a.b=c` overrides; c is read as TOML and, where it is none, as text.

    Raises:
        ConfigError: an override has no `=` or goes through something that is not a section.
    """
    data = json.loads(json.dumps(data))
    for item in sets:
        key, eq, text = item.partition("=")
        if not eq or not key.strip():
            raise ConfigError(f"--set {item!r}: write it as key=value, for example --set rl.learning_rate=1e-4")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text
        *path, last = key.strip().split(".")
        node = data
        for name in path:
            if node.get(name) is None:
                node[name] = {}
            node = node[name]
            if not isinstance(node, dict):
                raise ConfigError(f"--set {key}: {name!r} is a value, not a section")
        node[last] = value
    return data


def load_toml(path: Path) -> dict[str, Any]:
    """The plain data of a TOML file.

    Raises:
        ConfigError: the file cannot be read or is not TOML; the message has the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def dump_toml(data: dict[str, Any]) -> str:
    """Plain data as TOML: values first, then one table for each section; None is left out."""

    def value(v: Any) -> str:
        if isinstance(v, bool):
            return "true" if v else "false"
        if isinstance(v, dict):
            return "{ " + ", ".join(f"{json.dumps(k)} = {value(x)}" for k, x in v.items()) + " }"
        if isinstance(v, list | tuple):
            return "[" + ", ".join(value(x) for x in v) + "]"
        return json.dumps(v, ensure_ascii=False) if isinstance(v, str) else repr(v)

    lines: list[str] = []

    def table(node: dict[str, Any], path: list[str]) -> None:
        if path:
            lines.append(f"\n[{'.'.join(path)}]")
        flat = {k: v for k, v in node.items() if v is not None and not (isinstance(v, dict) and _is_section(path, k))}
        lines.extend(f"{k} = {value(v)}" for k, v in flat.items())
        for k, v in node.items():
            if isinstance(v, dict) and k not in flat:
                table(v, [*path, k])

    table(data, [])
    return "\n".join(lines).strip() + "\n"


def _is_section(path: list[str], key: str) -> bool:
    return bool(_known(Run, [*path, key]))


def to_toml(config: Run) -> str:
    """The resolved config as TOML; reading it back with `load_toml` and `build` gives the same config."""
    return dump_toml(config.model_dump(mode="json"))
