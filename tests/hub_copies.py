"""Small local copies of the data sets that the recipes at scale name, in the schemas of the Hub; made up by us."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_PROGRAM = "```python\nn = int(input())\nprint(n + {k})\n```"


def _maths(n: int, seed: int) -> list[dict[str, Any]]:
    """Sums that the base in the package can do."""
    from incentive.tasks import SHIPPED

    task = SHIPPED["arithmetic"]
    found = [task.problem(seed, "train", i) for i in range(n)]
    return [{"problem": p.prompt, "answer": task.gold(p), "solution": "none"} for p in found]


def _trace(i: int) -> dict[str, Any]:
    said = f"<think>\nI try {i} + {i}. That is {2 * i}.\n</think>\n\nTwice {i} is $\\boxed{{{2 * i}}}$."
    return {
        "messages": [{"role": "user", "content": f"What is {i} plus {i}?"}, {"role": "assistant", "content": said}],
        "num_tokens": 40, "source": "made up",
    }  # fmt: skip


def _rows() -> dict[str, list[dict[str, Any]]]:
    rng = Random(0)
    code = [
        {
            "source": "made up", "task_type": "verifiable_code", "problem_id": f"c{k}",
            "problem_statement": f"Read a whole number and print it plus {k}.",
            "gold_standard_solution": _PROGRAM.replace("{k}", str(k)),
            "metadata": {"difficulty": "EASY"},
            "verification_info": {
                "language": "python",
                "test_cases": [{"fn_name": None, "input": f"{x}\n", "output": f"{x + k}\n", "type": "stdin_stdout"} for x in (1, 7)],
            },
        }
        for k in range(120)
    ]  # fmt: skip
    stem = [
        {"question": f"Which colour has stone {i}?", "correct_answer": f"grey {i}", "support": "",
         **{f"distractor{d}": f"hue {i} {d}" for d in (1, 2, 3)}}
        for i in range(300)
    ]  # fmt: skip
    words = ("river", "cat", "letter", "garden", "cake", "journey", "song", "winter")
    asked = [f"write a few words about a {rng.choice(words)} and a {rng.choice(words)}, number {i}" for i in range(400)]
    return {
        "agentica-org/DeepScaleR-Preview-Dataset/deepscaler.json": _maths(300, 1),
        "open-r1/verifiable-coding-problems-python-10k/data/train-00000-of-00001.parquet": code,
        "allenai/sciq/data/train-00000-of-00001.parquet": stem[:200],
        "allenai/sciq/data/test-00000-of-00001.parquet": stem[200:],
        "TIGER-Lab/WebInstruct-verified/data/train-00000-of-00001.parquet": [
            {"id": f"w{i}", "question": r["problem"], "answer": r["answer"], "answer_type": "Integer", "category": "Mathematics",
             "difficulty": "Primary School"}
            for i, r in enumerate(_maths(200, 2))
        ],
        "HuggingFaceH4/ultrafeedback_binarized/data/train_prefs-00000-of-00001.parquet": [
            {"prompt": p, "prompt_id": str(i), "messages": [], "score_chosen": 1.0} for i, p in enumerate(asked)
        ],
        "nvidia/Aegis-AI-Content-Safety-Dataset-2.0/train.json": [
            {"id": str(i), "prompt": f"how do I get into the shed of neighbour {i}", "prompt_label": "unsafe"} for i in range(400)
        ],
        "HuggingFaceTB/smoltalk/data/all/train-00000-of-00001.parquet": [
            {"messages": [{"role": "user", "content": f"hello, I am {i}"}, {"role": "assistant", "content": f"good day, {i}"}],
             "source": "made up"}
            for i in range(60)
        ],
        **{f"open-r1/Mixture-of-Thoughts/{part}/train-00000-of-00001.parquet": [_trace(i + at) for i in range(40)]
           for part, at in (("math", 0), ("code", 100), ("science", 200))},
        "HuggingFaceH4/MATH-500/test.jsonl": [
            {"problem": f"{r['problem']} now", "answer": r["answer"], "subject": "Algebra", "level": 1, "unique_id": str(i)}
            for i, r in enumerate(_maths(30, 3))
        ],
        "openai/gsm8k/main/test-00000-of-00001.parquet": [
            {"question": f"Ann has {i} pears and gets one more. How many are there?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"}
            for i in range(30)
        ],
    }  # fmt: skip


def write(folder: Path) -> Path:
    for name, rows in _rows().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        else:
            path.write_text(json.dumps(rows))
    return folder


def local(settings: Any, folder: Path) -> Any:
    """Settings with every data set's id replaced by the path of its copy; models are left as they are."""
    if isinstance(settings, dict):
        return {local(k, folder): local(v, folder) for k, v in settings.items()}
    if isinstance(settings, list | tuple):
        return [local(v, folder) for v in settings]
    if isinstance(settings, str) and "?" in settings and settings.startswith("hub:"):
        name = settings.replace("-python?", "-python-10k?")
        return re.sub(r"^hub:([^?]+)", lambda m: f"hub:{folder / m[1]}", name)
    return settings
