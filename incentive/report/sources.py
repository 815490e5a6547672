"""What the paper says of each setting, and where (DeepSeek-R1, arXiv 2501.12948v2).

Where it says nothing, `value` is None and the text says so: such a setting is our choice and can neither follow nor
differ. Numbers in brackets are sections of the project's fact sheet on the paper (`paper.md`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

HYPER = "R1-Zero settings (1.2)"
OBJECTIVE = "objective, eq. 1–3 (1.1)"
SAMPLING = "evaluation, appendix D (8.1)"
SILENT = "not stated"


@dataclass(frozen=True, slots=True)
class Fact:
    value: Any  # the paper's, or the range that it used; None: the paper is silent
    text: str
    source: str = ""

    def verdict(self, ours: Any) -> Literal["as", "differs", "open"]:
        """Whether our value is as in the paper."""
        if self.value is None:
            return "open"
        same = ours in self.value if isinstance(self.value, range) else ours == self.value
        return "as" if same else "differs"


OPEN = Fact(None, SILENT)

RL: dict[str, Fact] = {
    "tasks": Fact(
        "maths, code, STEM, logic", "maths 26k, code 17k, STEM 22k, logic 15k prompts", "RL data, table 4 (5)"
    ),
    "rewards": Fact({"accuracy": 1.0, "format": 1.0}, "accuracy + format, equal weight", "rule rewards (2)"),
    "max_steps": Fact(10_400, "10,400", HYPER),
    "problems_per_step": Fact(32, "32", HYPER),
    "num_generations": Fact(16, "16", HYPER),
    "steps_per_generation": Fact(16, "16: a rollout of 8,192 outputs in 16 minibatches, one pass each", HYPER),
    "sampling.temperature": Fact(1.0, "1.0", HYPER),
    "sampling.max_tokens": Fact(32_768, "32,768; 65,536 after step 8.2k", HYPER),
    "sampling.top_p": Fact(None, "not stated for rollouts"),
    "sampling.top_k": Fact(None, "not stated for rollouts"),
    "advantage": Fact("grpo", "(r − mean) / std over the group; no guard stated", OBJECTIVE),
    "loss_type": Fact(
        "grpo", "mean over the group's outputs; the mean within an output is our reading (DeepSeekMath)", OBJECTIVE
    ),
    "importance_sampling_level": Fact(None, "printed for whole outputs, discussed for tokens", OBJECTIVE),
    "epsilon": Fact(
        10.0, "10 in R1's first RL stage; not restated for R1-Zero", "R1, first RL stage (1.2; open point in 11)"
    ),
    "epsilon_high": Fact(None, "one ε for both sides", OBJECTIVE),
    "beta": Fact(0.001, "0.001; the k3 estimator, in the loss", "R1-Zero settings (1.2), eq. 2"),
    "ref_sync_steps": Fact(400, "every 400 steps", HYPER),
    "dynamic_sampling": Fact(None, "not mentioned"),
    "optim.learning_rate": Fact(3e-6, "3e-6", HYPER),
    "optim.optimizer": Fact(None, "optimiser not stated"),
    "optim.lr_scheduler_type": OPEN,
    "optim.min_lr_ratio": OPEN,
    "optim.warmup_steps": OPEN,
    "optim.weight_decay": OPEN,
    "optim.adam_beta1": OPEN,
    "optim.adam_beta2": OPEN,
    "optim.max_grad_norm": OPEN,
    "learner.dtype": OPEN,
    "engine.dtype": OPEN,
}

EVAL: dict[str, Fact] = {
    "sampling.temperature": Fact(0.6, "0.6", SAMPLING),
    "sampling.top_p": Fact(0.95, "0.95", SAMPLING),
    "sampling.max_tokens": Fact(32_768, "32,768", SAMPLING),
    "samples": Fact(range(4, 65), "4 to 64 by benchmark; AIME 64", SAMPLING),
}

RUN: dict[str, Fact] = {
    "template": Fact("r1-zero", "User/Assistant text that asks for think and answer tags", "template, table 1 (2)"),
    "base": Fact("DeepSeek-V3-Base", "DeepSeek-V3-Base: 671B parameters, 14.8T tokens", "start model (1.2, 7)"),
}

SECTIONS: dict[str, dict[str, Fact]] = {"": RUN, "rl": RL, "eval": EVAL}


def fact(section: str, key: str) -> Fact | None:
    """What the paper says of `section.key`; None where the setting is the machine's affair, not the method's."""
    return SECTIONS.get(section, {}).get(key)
