"""`incentive eval` against plain `transformers` on the same folder, the same problems, the same number of samples.

    python prove/generate.py MODEL [--task countdown3] [--problems 200] [--samples 16] [--seed 0]

The other side is `AutoModelForCausalLM.generate` with the folder's own generation_config and transformers' own random
numbers; of ours it uses the prompts, the tags and the task's check. Each problem is one value, the share of its right
answers; the two shares differ by sampling error alone where the sign-flip test of the paired difference has p >= 0.01.
Prints one line of JSON; exits 1 where they disagree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from incentive import chat, measure
from incentive.compare import model_folder
from incentive.model.checkpoint import resolve
from incentive.recipes import settle
from incentive.records import Problem
from incentive.tasks import distinct, find
from incentive.tasks.base import Task


def ours(args: argparse.Namespace, temperature: float, top_p: float) -> dict[str, Any]:
    """The result of the command `incentive eval`."""
    options = {
        "task": args.task, "problems": args.problems, "samples": args.samples, "seed": args.seed, "split": args.split,
        "temperature": temperature, "top-p": top_p, "max-tokens": args.max_tokens, "template": args.template,
        "threads": args.threads,
    }  # fmt: skip
    command = [sys.executable, "-m", "incentive", "eval", args.model, "--json"]
    command += [x for key, value in options.items() for x in (f"--{key}", str(value))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"incentive eval ended with code {done.returncode}")
    return json.loads(done.stdout)["tasks"][args.task]


def theirs(args: argparse.Namespace, task: Task, problems: list[Problem]) -> tuple[dict[str, float], float]:
    """Share of right answers by problem key, and mean tokens an answer, by transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = resolve(model_folder(args.model))
    tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    stops = model.generation_config.eos_token_id
    stops = set(stops if isinstance(stops, list) else [stops])
    torch.manual_seed(args.seed + 1)
    shares: dict[str, float] = {}
    tokens = 0
    at_once = max(1, 256 // args.samples)
    for first in range(0, len(problems), at_once):
        part = problems[first : first + at_once]
        texts = [chat.render(args.template, p.prompt, tokenizer) for p in part]
        asked = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(
                input_ids=asked["input_ids"],
                attention_mask=asked["attention_mask"],
                max_new_tokens=args.max_tokens,
                num_return_sequences=args.samples,
            )
        answers = out[:, asked["input_ids"].shape[1] :].tolist()
        for n, problem in enumerate(part):
            right = 0
            for ids in answers[n * args.samples : (n + 1) * args.samples]:
                end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
                tokens += min(end + 1, len(ids))
                answer = chat.split(tokenizer.decode(ids[:end], skip_special_tokens=False))[1]
                right += answer is not None and task.check(problem, answer)
            shares[problem.key] = right / args.samples
    return shares, tokens / (len(problems) * args.samples)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder, run directory, or base-mini")
    parser.add_argument("--task", default="countdown3")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test", choices=["test", "val"])
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument("--template", default="mini")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    settle(args.threads)
    file = resolve(model_folder(args.model)) / "generation_config.json"
    stated = json.loads(file.read_text()) if file.is_file() else {}
    temperature, top_p, top_k = (stated.get(k, d) for k, d in (("temperature", 1.0), ("top_p", 1.0), ("top_k", 50)))
    if top_k != 0 or not stated.get("do_sample"):
        given = f"top_k {top_k}, do_sample {stated.get('do_sample')}"
        raise SystemExit(f"{file}: {given}; transformers would sample otherwise than we do")

    first = ours(args, temperature, top_p)
    task = find(args.task)
    problems = distinct(task, args.seed, args.split, args.problems)
    if {p.key for p in problems} != first["by_problem"].keys():
        raise SystemExit("the two sides did not draw the same problems")
    shares, mean_tokens = theirs(args, task, problems)
    a, b = [first["by_problem"][k] for k in shares], list(shares.values())
    gap = measure.paired_difference(a, b)
    agree = gap.p >= 0.01
    report = {
        "agree": agree, "model": args.model, "task": args.task, "problems": len(a), "samples": args.samples,
        "temperature": temperature, "top_p": top_p,
        "incentive": {
            "pass@1": sum(a) / len(a), "ci95": measure.share_interval(a), "mean_tokens": first["mean_tokens"]
        },
        "transformers": {"pass@1": sum(b) / len(b), "ci95": measure.share_interval(b), "mean_tokens": mean_tokens},
        "difference": gap.mean, "difference_ci95": [gap.low, gap.high], "p": gap.p,
    }  # fmt: skip
    print(json.dumps(report))
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
