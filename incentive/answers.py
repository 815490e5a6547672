"""A model's answers to prompts that no rule grades while they are sampled: for a judge, a review, a scan afterwards.

Blocks, seeds and resuming are those of `stages.benchmark`, so a killed evaluation goes on and ends with the same answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incentive import chat
from incentive.config import ConfigError, Engine, Sampling
from incentive.files import write_json
from incentive.keys import folder_key
from incentive.records import Group, Problem, Sample, Score
from incentive.stage import Stage
from incentive.stages import benchmark

Count = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Speaker:
    """A model that is ready to answer."""

    policy: Any
    tokenizer: Any
    folder: Path
    template: str

    @property
    def key(self) -> str:
        """What of the model its answers depend on."""
        return f"{folder_key(self.folder)} {self.template}"

    def tokens(self, problems: list[Problem]) -> int:
        """Tokens of the longest prompt."""
        texts = [chat.render(self.template, p.prompt, self.tokenizer) for p in problems]
        return max(len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"])

    def answer(
        self, stage: Stage, problems: list[Problem], k: int, sampling: Sampling, seed: int, name: str,
        count: Count = lambda *_: None,
    ) -> list[Group]:  # fmt: skip
        """k answers to each problem, ungraded; what the stage's folder holds already is read.

        Raises:
            ConfigError: a prompt leaves no room in the model's context.
        """
        from incentive import engine
        from incentive.harness import slots_of

        context = getattr(self.policy.config.get_text_config(), "max_position_embeddings", None) or 2**30
        longest = self.tokens(problems)
        tokens = min(sampling.max_tokens, context - longest)
        if tokens < 1:
            raise ConfigError(
                f"{name}: a prompt has {longest} tokens, and the model's context is {context}\nUse a model with a longer one."
            )
        stage.dir.mkdir(parents=True, exist_ok=True)
        how = sampling.model_copy(update={"max_tokens": tokens})
        rows = slots_of(self.policy, longest + tokens, stage.dir / "engine.json")
        player = engine.local(self.policy, self.tokenizer, self.folder, Engine(max_num_seqs=rows), share=True)
        part = benchmark.Part(name, problems, k, how, lambda: contextlib.nullcontext((_ungraded, "")), None)
        found = benchmark.answered(stage, [part], player, self.tokenizer, seed, self.template, count)
        return next(iter(found))[1]


def speaker(model: str, template: str | None = None, threads: int = 2, device: str = "cpu") -> Speaker:
    """Open a model: a checkpoint folder, a run directory, or a name.

    Args:
        template: by default the tokenizer's chat template where it has one, else `r1-zero`.

    Raises:
        CompareError, CheckpointError: there is no such model.
    """
    from incentive.compare import model_folder
    from incentive.model.checkpoint import load_policy, resolve
    from incentive.recipes import settle

    settle(threads)
    folder = resolve(model_folder(model))
    policy, tokenizer = load_policy(folder, device=device)
    if template is None:
        template = "chat" if getattr(tokenizer, "chat_template", None) else "r1-zero"
    return Speaker(policy, tokenizer, folder, template)


def _ungraded(_: Problem, samples: list[Sample]) -> list[Score]:
    return [Score(None, {}, "graded later") for _ in samples]


def write_results(directory: Path, found: dict[str, Any]) -> dict[str, Any]:
    """results.json, and where it lies."""
    write_json(directory / "results.json", found)
    return found | {"directory": str(directory)}
