"""TRL's side of a training comparison: GRPOTrainer on the given prompts. Prints one line of JSON.

It runs in an environment of its own (`bench.measure.python_of("trl")`); beside what that holds it imports our problems
and checks, which need numpy alone, so that both sides are paid for the same answers.

The work is that of `bench/recipe.py`: samples at temperature 1, advantages without the group's standard deviation, a
mean over tokens, KL to the start, one update a rollout. Where TRL's defaults differ they are set: `scale_rewards`,
`loss_type`, `epsilon_high`, `use_bias_correction_kl` (a factor that is 1 here), `shuffle_dataset`, AdamW's second beta,
no gradient checkpointing (slower) unless asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parents[1]), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]  # this file is no trl

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoTokenizer, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from incentive import chat  # noqa: E402
from incentive.records import Problem, hash64  # noqa: E402
from incentive.tasks import find  # noqa: E402


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="folder of a Hugging Face checkpoint with its tokenizer")
    p.add_argument("--prompts", required=True, help="JSONL: text and problem, in the order of the steps")
    p.add_argument("--steps", type=int, required=True)
    p.add_argument("--problems", type=int, required=True, help="a step")
    p.add_argument("--group", type=int, required=True, help="samples a problem")
    p.add_argument("--limit", type=int, required=True, help="tokens a sample")
    p.add_argument("--rewards", type=json.loads, required=True, help="name -> weight: accuracy, format or coin")
    p.add_argument("--rl", type=json.loads, required=True, help="learning_rate, beta, epsilon, epsilon_high")
    p.add_argument("--micro", type=int, required=True, help="samples a forward pass")
    p.add_argument("--precision", choices=["float32", "bfloat16"], required=True)
    p.add_argument("--generation", choices=["generate", "continuous"], default="generate")
    p.add_argument("--checkpointing", action="store_true")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--device", default="cpu")
    return p.parse_args()


class Clock(TrainerCallback):
    """The moment at which each update was done; the first is the start."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.at.append(time.monotonic())

    on_step_end = on_train_begin


def main() -> None:
    a = arguments()
    torch.set_num_threads(a.threads)
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    rows = [json.loads(line) for line in Path(a.prompts).read_text().splitlines()]
    problems = [Problem(**row["problem"]) for row in rows]

    def reward(completions: list[str], completion_ids: list[list[int]], row: list[int], **_: object) -> list[float]:
        values = []
        for i, (text, ids, n) in enumerate(zip(completions, completion_ids, row, strict=True)):
            problem, answer = problems[n], chat.split(text)[1]
            parts = {
                "accuracy": answer is not None and find(problem.tags["task"]).check(problem, answer),
                "format": ids[-1] == tokenizer.eos_token_id and chat.well_formed(text),
                "coin": hash64("coin", a.seed, n, i) % 2,
            }
            values.append(sum(weight * float(parts[name]) for name, weight in a.rewards.items()))
        return values

    total, cuda, clock = a.problems * a.group, a.device.startswith("cuda"), Clock()
    micro = min(a.micro, total)
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(), max_steps=a.steps, seed=a.seed, use_cpu=not cuda, bf16=a.precision == "bfloat16",
        per_device_train_batch_size=micro, gradient_accumulation_steps=total // micro,
        num_generations=a.group, max_completion_length=a.limit, temperature=1.0, shuffle_dataset=False,
        use_transformers_continuous_batching=a.generation == "continuous", model_init_kwargs={"dtype": "float32"},
        learning_rate=a.rl["learning_rate"], lr_scheduler_type="constant", adam_beta2=0.95, max_grad_norm=1.0,
        beta=a.rl["beta"], epsilon=a.rl["epsilon"], epsilon_high=a.rl["epsilon_high"], num_iterations=1,
        loss_type="dapo", scale_rewards="none", use_bias_correction_kl=False, disable_dropout=True,
        gradient_checkpointing=a.checkpointing, logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=a.model, reward_funcs=reward, args=config, processing_class=tokenizer, callbacks=[clock],
        train_dataset=Dataset.from_list([{"prompt": r["text"], "row": n} for n, r in enumerate(rows)]),
    )  # fmt: skip
    trainer.train()
    log = [r for r in trainer.state.log_history if "reward" in r]
    print(json.dumps({
        "seconds": [b - a for a, b in zip(clock.at, clock.at[1:], strict=False)],
        "reward": [r["reward"] for r in log], "tokens": [r["completions/mean_length"] * total for r in log],
        "threads": torch.get_num_threads(),
        **({"gpu_mib": torch.cuda.max_memory_allocated() / 2**20} if cuda else {}),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
