"""A base model from nothing: corpus, tokenizer, next-token prediction.

Kept from the paper: the base is pretrained on text that contains reasoning habits, and nothing else prepares it for RL.
Changed: the web is `incentive.corpus`, the model a million parameters.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig

from incentive import chat, tokenizer
from incentive.algo import loss as losses
from incentive.algo import weights
from incentive.config import Pretrain
from incentive.corpus import Habits, document
from incentive.files import write_folder
from incentive.keys import Artifact
from incentive.learner import Learner
from incentive.model.checkpoint import fastest_dtype, save_policy
from incentive.model.lean import Lean
from incentive.records import Example, hash64
from incentive.stage import Stage
from incentive.stages.learn import learn

SHARD = 20_000  # documents


def text_of(prompt: str, response: str) -> str:
    return (chat.render("mini", prompt) if prompt else "") + response + tokenizer.END


def _texts(seed: int, habits: Habits, first: int, last: int) -> tuple[list[str], list[int]]:
    """The corpus's documents as text, and the hashes of the problems that they solve."""
    documents = [document(seed, i, habits) for i in range(first, last)]
    return [text_of(d.prompt, d.response) for d in documents], [hash64(d.key) for d in documents if d.key]


def write_corpus(folder: Path, seed: int, section: Pretrain, show: Callable[[dict[str, Any]], None]) -> None:
    """Make `folder` with tokens.npy (uint16), starts.npy, keys.npy (sorted hashes of all problems) and the tokenizer."""
    habits = Habits(section.retry_dose, section.verify, section.world == "wide")
    spans = [(at, min(at + SHARD, section.documents)) for at in range(0, section.documents, SHARD)]
    workers = min(len(spans), os.cpu_count() or 1)
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    with write_folder(folder) as tmp, pool:  # whose workers leave Ctrl-C to the parent
        jobs = [pool.submit(_texts, seed, habits, *span) for span in spans]
        coder, tokens, lengths, keys = None, [], [], []
        for _, done in spans:
            texts, hashes = jobs.pop(0).result()
            if coder is None:
                coder = tokenizer.train(
                    texts, section.model.vocab_size, section.digits, section.model.max_position_embeddings
                )
                coder.save_pretrained(str(tmp / "tokenizer"))
            ids = coder(texts, add_special_tokens=False)["input_ids"]
            tokens.append(np.concatenate([np.asarray(row, dtype=np.uint16) for row in ids]))
            lengths.append(np.asarray([len(row) for row in ids]))
            keys.append(np.asarray(hashes, dtype=np.uint64))
            show({"phase": "corpus", "done": done, "total": section.documents})
        np.save(tmp / "tokens.npy", np.concatenate(tokens))
        np.save(tmp / "starts.npy", np.concatenate([[0], np.cumsum(np.concatenate(lengths))]))
        np.save(tmp / "keys.npy", np.unique(np.concatenate(keys)))


def plan(lengths: np.ndarray, tokens_per_step: int, seed: int) -> list[list[int]]:
    """Documents of each step: all of them once, shuffled, cut at `tokens_per_step` tokens."""
    order = list(range(len(lengths)))
    Random(hash64("order", seed)).shuffle(order)
    steps: list[list[int]] = [[]]
    filled = 0
    for i in order:
        if filled + lengths[i] > tokens_per_step and steps[-1]:
            steps.append([])
            filled = 0
        steps[-1].append(i)
        filled += int(lengths[i])
    return steps


def init(section: Pretrain, seed: int, eos: int, pad: int) -> Lean:
    """A fresh Llama: normal weights of standard deviation 0.02, output projections scaled down by depth (GPT-2)."""
    m = section.model
    config = LlamaConfig(
        vocab_size=m.vocab_size, hidden_size=m.hidden_size, intermediate_size=m.intermediate_size,
        num_hidden_layers=m.num_hidden_layers, num_attention_heads=m.num_attention_heads,
        num_key_value_heads=m.num_key_value_heads, max_position_embeddings=m.max_position_embeddings,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=eos, pad_token_id=pad, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    dtype = section.learner.dtype
    policy = Lean(config, getattr(torch, fastest_dtype() if dtype == "auto" else dtype))
    generator = torch.Generator().manual_seed(hash64("weights", seed) % 2**63)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if p.dim() < 2:
                p.fill_(1.0)
            else:
                narrow = (2 * m.num_hidden_layers) ** -0.5 if name.endswith((".o", ".down")) else 1.0
                p.normal_(0.0, 0.02 * narrow, generator=generator)
    return policy


def pretrain(
    stage: Stage,
    section: Pretrain,
    start: Artifact | None = None,  # noqa: ARG001  the stage protocol
    data: Collection[Any] = (),  # noqa: ARG001
    show: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Artifact:
    """Train a base model; ends with `model/` (bfloat16 weights) and `corpus/keys.npy`."""
    corpus = stage.dir / "corpus"
    if not corpus.exists():
        write_corpus(corpus, stage.seed, section, show)
    tokens, starts = np.load(corpus / "tokens.npy"), np.load(corpus / "starts.npy")
    from transformers import AutoTokenizer

    coder = AutoTokenizer.from_pretrained(str(corpus / "tokenizer"), local_files_only=True)
    steps = plan(np.diff(starts), section.tokens_per_step, stage.seed)
    learner = Learner(
        init(section, stage.seed, coder.eos_token_id, coder.pad_token_id), section.optim, section.learner, len(steps)
    )

    def batch(step: int) -> list[Example]:
        rows = (tokens[starts[i] : starts[i + 1]].astype(np.int64) for i in steps[step])
        return weights.token_mean([Example(ids=ids, mask=np.arange(len(ids)) > 0) for ids in rows])

    learn(stage, learner, len(steps), batch, losses.nll, show, phase="pretrain", seconds=section.save_seconds, keep=2)
    with write_folder(stage.dir / "model") as folder:
        save_policy(folder, learner.policy, coder, torch.bfloat16)
        np.save(folder / "corpus_keys.npy", np.load(corpus / "keys.npy"))
    stage.prune_checkpoints(0)
    return Artifact("weights", stage.dir / "model", meta={"tokens": len(tokens), "steps": len(steps)})
