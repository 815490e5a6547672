"""transformers' side of a sampling comparison: `generate`, as its documentation shows it. Prints one line of JSON.

Prompts are padded on the left, all samples of `--batch` decode together, and the text is decoded at the end as the
other sides do it. The first round is for warming up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="folder of a Hugging Face checkpoint with its tokenizer")
    p.add_argument("--prompts", required=True, help="JSONL: ids")
    p.add_argument("--group", type=int, required=True, help="samples a prompt")
    p.add_argument("--limit", type=int, required=True, help="tokens a sample")
    p.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--batch", type=int, default=1024, help="samples that decode together")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, required=True)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    tokenizer = AutoTokenizer.from_pretrained(a.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=getattr(torch, a.precision)).eval()
    prompts = [{"input_ids": json.loads(line)["ids"]} for line in Path(a.prompts).read_text().splitlines()]
    at_once = max(1, a.batch // a.group)
    seconds, tokens = [], []
    for _ in range(a.rounds + 1):
        began, count = time.monotonic(), 0
        for first in range(0, len(prompts), at_once):
            asked = tokenizer.pad(prompts[first : first + at_once], return_tensors="pt")
            with torch.inference_mode():
                out = model.generate(
                    **asked, max_new_tokens=a.limit, num_return_sequences=a.group, do_sample=True,
                    temperature=1.0, top_p=1.0, top_k=0, eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
            answers = out[:, asked["input_ids"].shape[1] :]
            ended = (answers == tokenizer.eos_token_id).int()
            count += int((ended.cumsum(1) - ended == 0).sum())  # up to the first end, which counts
            tokenizer.batch_decode(answers)
        seconds.append(time.monotonic() - began)
        tokens.append(count)
    print(json.dumps({"seconds": seconds[1:], "tokens": tokens[1:]}))


if __name__ == "__main__":
    main()
