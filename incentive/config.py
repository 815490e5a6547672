"""The settings of a run: frozen, typed, complete. An unknown key is an error that names the nearest known one.

Option names are those that users of TRL and vLLM know (`num_generations`, `beta`, `epsilon`, `max_tokens`, `top_p`).
A resolved config is written back as TOML into every run directory. Imports no torch.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo


class ConfigError(ValueError):
    """A setting is wrong. The message names the key and the fix; the CLI prints it and exits with code 2."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


Shares = Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
Weights = Annotated[dict[str, float], Field(min_length=1)]


class Model(Section):
    """Shape of a model made from nothing (Llama architecture), used by `pretrain` only."""

    hidden_size: int = Field(128, gt=0)
    num_hidden_layers: int = Field(4, gt=0)
    num_attention_heads: int = Field(4, gt=0)
    num_key_value_heads: int = Field(2, gt=0)
    """Fewer than the query heads: decoding reads half the cache."""
    intermediate_size: int = Field(384, gt=0)
    vocab_size: int = Field(512, ge=262, le=65535)
    """From every byte, the tags, end and padding to what two bytes can count."""
    max_position_embeddings: int = Field(1024, gt=0)

    @model_validator(mode="after")
    def _even(self) -> Model:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError("hidden_size must be a multiple of twice num_attention_heads")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        return self


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
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)


class Learner(Section):
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward and backward pass; weights and optimizer state stay float32. `auto`: what the machine multiplies
    faster, measured when a run starts and written into its config."""
    tokens_per_micro_batch: int = Field(4096, gt=0)
    """Rows times longest row of one micro-batch. Memory only: the gradient does not depend on it."""
    device: str = "cpu"


class Engine(Section):
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products. `auto`: a small model's float32, a large one's as the learner's (`memory.sampled_in`)."""
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
    world: Literal["first", "wide"] = "first"
    """first: Countdown, arithmetic, a logic puzzle, in English. wide: with programs, choice questions, general and harmful
    requests, in English and Chinese."""
    digits: Literal["together", "apart"] = "together"
    """How the tokenizer cuts numbers: two digits a token, or one."""
    save_seconds: float = Field(60, gt=0)
    """Checkpoint at least this often."""


class RL(Section):
    """Reinforcement learning on checkable problems."""

    tasks: Shares = {"countdown3": 0.5, "countdown4": 0.5}
    """Task name -> share of the problems."""
    rewards: Weights = {"accuracy": 1.0, "format": 1.0}
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


class Draw(Section):
    """Answers of a policy to train problems."""

    tasks: Shares = {"countdown3": 0.5, "countdown4": 0.5}
    problems: int = Field(1000, gt=0)
    samples: int = Field(16, gt=0)
    """Of each problem."""
    tokens: int = Field(0, ge=0)
    """Sampled tokens after which it ends; 0: the problems alone end it."""
    sampling: Sampling = Sampling()
    engine: Engine = Engine()
    device: str = "cpu"
    """Where the policy samples: cpu or cuda."""


class Collect(Draw):
    """Rejection sampling: answers of a policy, the right ones kept. Problems and tokens are those of all rounds together."""

    rounds: int = Field(1, gt=0)
    """Times to sample from the latest model, keep what is right, and fine-tune the base on all that was kept."""


class Readable(Section):
    """From where on a thought is not readable. The paper names these filters and no thresholds."""

    run: int = Field(10, gt=0)
    """Words and signs of a run that may not come again ..."""
    repeated: float = Field(0.3, ge=0, le=1)
    """... in more than this share of all runs; 1: off."""
    lines: float = Field(0.3, ge=0, le=1)
    """Share of lines, or tries, that have stood there before; 1: off."""
    language: float = Field(0.95, ge=0, le=1)
    """Least share of words in the prompt's language; 0: off."""
    paragraph: int = Field(1200, gt=0)
    """Characters between two blank lines."""
    code_lines: int = Field(3, gt=0)
    """Lines of code in a row that make a block; a fence is one."""
    shortest: int = Field(1, ge=0)
    """Characters of the whole thought."""
    longest: int = Field(100_000, gt=0)


class Curate(Draw):
    """Sample, verify, filter, rewrite, deduplicate, decontaminate (paper B.3.2, B.3.3)."""

    readable: Readable = Readable()
    per_problem: int = Field(0, ge=0)
    """Answers kept of one problem, the first ones that pass; 0: all."""
    near: float = Field(0.8, gt=0, le=1)
    """Similarity from which a row is a near-duplicate; 1: exact ones only."""
    concurrency: int = Field(1, gt=0)
    """Calls of a judge or a rewriter beside each other."""


class Endpoint(Section):
    """An OpenAI-compatible chat completions endpoint: a judge, a rewriter."""

    url: str = "http://127.0.0.1:8000/v1"
    model: str
    key_env: str = ""
    """Name of the environment variable that holds the key; empty: none is sent."""
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(4096, gt=0)
    concurrency: int = Field(8, gt=0)
    """Calls in flight."""
    retries: int = Field(6, ge=0)
    """Further tries after a failed call, each after twice the wait."""
    timeout: float = Field(300.0, gt=0)
    """Seconds."""
    price_prompt: float = Field(0.0, ge=0)
    """US dollars for 1M tokens."""
    price_completion: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _address(self) -> Endpoint:
        host = self.url.partition("://")[2].partition("/")[0]
        if not self.url.startswith(("http://", "https://")) or not host:
            raise ValueError("url: give the address that ends in /v1, as https://host/v1")
        if "@" in host:
            raise ValueError("url: no key in an address; name its environment variable in key_env")
        return self


class Rows(Section):
    """Rows of public data sets to learn from: prompts with a teacher's responses."""

    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    """`hub:owner/name@revision?messages=messages` or `...?prompt=instruction&response=output`, or a local copy's path in
    place of the id; more keys: files, split, domain."""
    rows: int = Field(0, ge=0)
    """At most so many of each source, the first ones that are kept; 0: all."""
    max_tokens: int = Field(32768, gt=1)
    """Of a row, its prompt and response together; longer ones are left out and counted."""


class SFT(Section):
    """Supervised fine-tuning on answers; the loss is the token mean over the answers."""

    epochs: int = Field(2, gt=0)
    tokens_per_step: int = Field(8192, gt=0)
    optim: Optim = Optim(learning_rate=4e-4, lr_scheduler_type="cosine", warmup_steps=5)
    learner: Learner = Learner()


class RewardModel(Section):
    """A reward model: a scalar head on a policy, from pairs of answers or from labels (paper 2.2.2: batch 256, learning
    rate 6e-6, one epoch, at most 8,192 tokens)."""

    kind: Literal["pairwise", "pointwise"] = "pairwise"
    """pairwise: which of two answers is better (helpful); pointwise: is this answer safe."""
    scores: Literal["summary", "response"] = "summary"
    """What is read of an answer: the summary after the thinking, or all of it. The paper's, where it is not given: the
    summary for pairs, the response for labels."""
    epochs: int = Field(1, gt=0)
    batch: int = Field(256, gt=0)
    """Pairs, or labelled answers, of one update."""
    max_tokens: int = Field(8192, gt=1)
    """Longer rows are left out of training and held-out figures, and counted. A reward has no such limit."""
    optim: Optim = Optim(learning_rate=6e-6)
    learner: Learner = Learner()

    @model_validator(mode="before")
    @classmethod
    def _as_in_the_paper(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "scores" in data:
            return data
        return {**data, "scores": "response" if data.get("kind") == "pointwise" else "summary"}


class Prefer(Draw):
    """Answers for a judge to compare, or for a labeller."""

    samples: int = Field(2, gt=0)
    calls: int = Field(4, gt=0)
    """Of the judge on each pair, half of them with the answers the other way round."""
    threshold: float = Field(1.0, ge=0)
    """The mean verdict, from -2 to 2, that a pair has to exceed."""


OpenReward = Literal["helpful", "safe", "format", "language", "repetition"]
OpenWeights = Annotated[dict[OpenReward, float], Field(min_length=1)]


class Pipeline(Section):
    """The stages after R1-Zero, in their order. R1-Zero itself is [rl]."""

    cold: Curate
    """Cold start: R1-Zero's right and readable answers, rewritten."""
    dev1: SFT
    dev2: RL
    """RL stage 1, with the language reward."""
    reject: Curate
    """Rejection sampling from Dev2, with rows that are no reasoning added."""
    dev3: SFT
    pairs: Prefer
    labels: Prefer
    helpful: RewardModel
    safety: RewardModel = RewardModel(kind="pointwise")
    reasoning: RL
    """RL stage 2, its first part: reasoning prompts alone."""
    general: RL
    """RL stage 2, its last part: general prompts and reward models too. Goes on from `reasoning`; max_steps counts both."""
    general_tasks: Shares
    """Prompts that reward models score, by share, beside those of `general.tasks`."""
    helpful_rewards: OpenWeights = {"helpful": 1.0, "format": 0.2, "language": 0.3}
    """Reward name -> weight, of those prompts: the helpful model's, and the rules' that the paper adds to every prompt."""
    safe_rewards: OpenWeights = {"safe": 1.0, "helpful": 0.2, "format": 0.2, "language": 0.3}
    """Of prompts that may do harm, those of `labels.tasks`."""
    rows: int = Field(1000, gt=0)
    """Rows of general requests and requests to do harm that are added to the large data set, where `public` names none."""
    public: Rows | None = None
    """Where those rows come from: public data sets; none: the miniature's own writers."""
    judge: Endpoint | None = None
    """The model that rewrites, compares, labels and checks against references; none: the miniature's programs. A
    temperature above 0 lets it give a second opinion on the same pair."""
    longer: RL | None = None
    """R1-Zero's second phase, with longer answers; goes on from [rl], and max_steps counts both. None: one phase."""
    template: Literal["", "mini", "r1-zero", "chat"] = ""
    """Of the stages from dev1 on; empty: the run's, which is R1-Zero's."""
    student: SFT


class Eval(Section):
    """Final evaluation; the paper's sampling (temperature 0.6, top-p 0.95) is the headline."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = ("countdown3", "countdown4")
    split: Literal["val", "test"] = "test"
    problems: int = Field(200, gt=0)
    samples: int = Field(16, gt=0)
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95)
    also_t1: bool = True
    """Evaluate at temperature 1, top-p 1 as well."""
    engine: Engine = Engine()
    device: str = "cpu"


class Run(Section):
    """One run: which recipe, from which base, with which sections."""

    recipe: str
    seed: int = 0
    base: str = "base-mini"
    """`base-mini` (in the package), the folder of a Hugging Face checkpoint, or one on the Hub: `hub:owner/name@revision`."""
    template: Literal["mini", "r1-zero", "chat"] = "mini"
    pretrain: Pretrain | None = None
    rl: RL | None = None
    collect: Collect | None = None
    rows: Rows | None = None
    sft: SFT | None = None
    r1: Pipeline | None = None
    student: str = ""
    """The base of the distilled student; empty: no student."""
    eval: Eval | None = None
    threads: int = Field(2, gt=0, le=1024)
    price_per_core_hour: float = Field(0.04, ge=0)
    """US dollars, for the cost ledger."""

    @model_validator(mode="after")
    def _whole(self) -> Run:
        if not any((self.pretrain, self.rl, self.collect, self.rows, self.eval)):
            raise ValueError("the recipe has no section to run: give [pretrain], [rl], [collect], [rows] or [eval]")
        if (self.collect is None and self.rows is None) != (self.sft is None):
            raise ValueError(
                "rejection sampling needs [collect] and [sft]; learning from public rows, [rows] and [sft]"
            )
        return self


def _inner(info: FieldInfo) -> type[BaseModel] | None:
    """The section that a field holds."""
    kinds = [info.annotation, *get_args(info.annotation)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _known(cls: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that the section at `path` knows."""
    for name in path:
        info = cls.model_fields.get(name)
        if info is None:
            return []
        cls = _inner(info) or Section
    return list(cls.model_fields)


def known_settings(cls: type[BaseModel] = Run, section: str = "") -> list[str]:
    """Every setting, dotted; sections too."""
    found = []
    for name, info in cls.model_fields.items():
        inner = _inner(info)
        found += [section + name] + (known_settings(inner, f"{section}{name}.") if inner else [])
    return found


def _near(root: type[BaseModel], path: list[str]) -> str | None:
    """The setting that was probably meant: of the same name below the section, else of a similar one in it."""
    section, name = "".join(f"{p}." for p in path[:-1]), path[-1]
    below = [p for p in known_settings(root) if p.startswith(section) and p.endswith(f".{name}")]
    if below:  # the stages after R1-Zero repeat the settings of the others
        return min(below, key=lambda p: (p.startswith("r1."), not p.startswith("rl."), len(p)))
    near = difflib.get_close_matches(name, _known(root, path[:-1]), n=1, cutoff=0.5)
    return section + near[0] if near else None


_WANTED = {
    "int_parsing": "a whole number", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_parsing": "a number", "float_type": "a number", "finite_number": "a finite number",
    "bool_parsing": "true or false", "bool_type": "true or false", "string_type": "text",
    "tuple_type": 'a list, as ["a", "b"]', "dict_type": "a table, as {name = 1.0}", "model_type": "a section",
    "too_short": "one or more",
}  # fmt: skip


def explain(error: ValidationError, root: type[BaseModel] = Run) -> str:
    """One line for each fault: the dotted key, what is wrong, and the nearest known key."""
    lines = []
    for e in error.errors():
        path = [str(p) for p in e["loc"] if p != "[key]"]
        key = ".".join(path) or "config"
        if e["type"] == "extra_forbidden":
            near = _near(root, path)
            lines.append(f"unknown setting {key!r}" + (f"; did you mean {near!r}?" if near else ""))
        else:
            own = e["type"] in ("missing", "value_error")
            said = e["msg"].removeprefix("Value error, ") if own else e["msg"].lower()
            plain = said.replace("input should be '", "give '").replace("input should be", "give a value")
            wanted = f"give {_WANTED[e['type']]}" if e["type"] in _WANTED else plain
            lines.append(f"{key}: {wanted}" + ("" if own else f", not {e['input']!r}"))
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
            raise ConfigError(f"--set {item!r}: write it as key=value, for example --set rl.optim.learning_rate=1e-4")
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
