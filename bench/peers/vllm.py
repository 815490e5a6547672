"""vLLM's side of a sampling comparison, in an environment of its own. Prints one line of JSON.

The first round is for compiling and warming up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]  # this file is no vllm

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

from vllm import LLM, SamplingParams  # noqa: E402


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="folder of a Hugging Face checkpoint with its tokenizer")
    p.add_argument("--prompts", required=True, help="JSONL: ids")
    p.add_argument("--group", type=int, required=True, help="samples a prompt")
    p.add_argument("--limit", type=int, required=True, help="tokens a sample")
    p.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    prompts = [json.loads(line)["ids"] for line in Path(a.prompts).read_text().splitlines()]
    engine = LLM(
        model=a.model, dtype=a.precision, seed=a.seed, max_num_seqs=256,
        max_model_len=max(map(len, prompts)) + a.limit,
    )  # fmt: skip
    how = SamplingParams(n=a.group, temperature=1.0, top_p=1.0, top_k=-1, max_tokens=a.limit)
    seconds, tokens = [], []
    for _ in range(a.rounds + 1):
        began = time.monotonic()
        found = engine.generate([{"prompt_token_ids": ids} for ids in prompts], how, use_tqdm=False)
        seconds.append(time.monotonic() - began)
        tokens.append(sum(len(o.token_ids) for request in found for o in request.outputs))
    print(json.dumps({"seconds": seconds[1:], "tokens": tokens[1:]}), flush=True)


if __name__ == "__main__":
    main()
