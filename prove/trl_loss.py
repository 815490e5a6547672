"""Our policy loss and its gradient beside those of TRL's GRPOTrainer, on the same model, tokens, masks and log-probs.

TRL is no dependency of ours; this script has an environment of its own:

    python -m venv trl-env
    trl-env/bin/pip install torch==2.13.0 trl==1.16.0 transformers==5.23.0 datasets accelerate
    trl-env/bin/python prove/trl_loss.py

It prints one JSON line with the largest relative differences, and exits with 1 if one is above 1e-5. What is called is
`GRPOTrainer._compute_loss` as installed. Each side lays out the tokens and scores them in its own way: TRL pads prompts
on the left and has a fused head; we pad on the right and take the log-softmax of the plain forward pass. Weights are
float64, but a Llama rounds to float32 inside (norms, rotary embeddings), which is what remains of a difference.

The gradient's difference is relative to the gradient's norm. The loss's is relative to the sum of its rows' magnitudes,
as rows of either sign may cancel to nearly nothing; its difference relative to the bare total is printed beside it.

Two things that TRL does by default are left out. It multiplies the KL by the ratio (`use_bias_correction_kl`, from
DeepSeek-V3.2), which the R1 paper's eq. 1 does not. And it divides advantages by the sample's std + 1e-4, we by the
population's std; here advantages are inputs.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PIP = "pip install torch==2.13.0 trl==1.16.0 transformers==5.23.0 datasets accelerate"
try:
    import numpy as np
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer
except ImportError as error:
    sys.exit(f"{error}\nThis check needs an environment of its own: {PIP}")

from incentive.algo.loss import Batch, Outputs, policy  # noqa: E402
from incentive.algo.weights import WEIGHTS  # noqa: E402
from incentive.records import Example  # noqa: E402

LIMIT = 1e-5
B, V, PROMPT, ANSWER = 8, 64, 7, 16  # rows, vocabulary, longest prompt, longest answer
TRL_NAME = {"grpo": "grpo", "token_mean": "dapo", "dr_grpo": "dr_grpo"}
BETA = 0.04


def rollout(seed: int) -> list[dict[str, np.ndarray]]:
    """B made-up rows: prompt ids (Tp,), answer ids (T,), which of the answer's tokens the policy wrote (T,)."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(B):
        n = ANSWER if i == 0 else int(rng.integers(4, ANSWER + 1))
        wrote = rng.random(n) < 0.85
        wrote[-1] = True
        rows.append(
            {"prompt": rng.integers(4, V, rng.integers(2, PROMPT + 1)), "answer": rng.integers(4, V, n), "wrote": wrote}
        )
    return rows


def padded(rows: list[np.ndarray], left: bool = False) -> torch.Tensor:
    """Rows (T,) as one tensor (B, T), zeros on the right or on the left."""
    width = max(map(len, rows))
    return torch.stack(
        [torch.from_numpy(np.pad(r, (width - len(r), 0) if left else (0, width - len(r)))) for r in rows]
    )


def score(model: LlamaForCausalLM, ids: torch.Tensor, temperature: float) -> torch.Tensor:
    """log pi(ids[b, t] | ids[b, :t]), 0 in column 0: (B, T) -> (B, T)."""
    logp = (model(ids).logits[:, :-1] / temperature).log_softmax(-1)
    return torch.nn.functional.pad(logp.gather(-1, ids[:, 1:, None])[..., 0], (1, 0))


def gradient(model: LlamaForCausalLM, loss: torch.Tensor) -> torch.Tensor:
    """d loss / d parameters as one vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def compare(folder: str, loss_type: str, epsilon: float, level: str, temperature: float, seed: int) -> dict[str, float]:
    """The relative differences of loss and gradient for one setting, and the share of tokens clipped."""
    rows, rng = rollout(seed), np.random.default_rng([seed, 1])
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)

    # Ours: Examples, weights over the minibatch, a Batch padded on the right, the plain forward pass.
    ids = padded([np.concatenate([r["prompt"], r["answer"]]) for r in rows])
    masks = [np.concatenate([np.zeros(len(r["prompt"]), bool), r["wrote"]]) for r in rows]
    examples = WEIGHTS[loss_type]([Example(ids=np.arange(len(m)), mask=m) for m in masks], ANSWER)
    with torch.no_grad():
        now = score(model, ids, temperature)
    old = now + torch.from_numpy(rng.normal(0, 1, now.shape) + rng.normal(0, 3, (B, 1)))
    ref = now + torch.from_numpy(rng.normal(0, 0.7, now.shape))
    gain = torch.from_numpy(rng.normal(0.2, 1, B))
    batch = Batch(
        ids=ids,
        mask=padded(masks),
        weight=padded([e.weight for e in examples if e.weight is not None]),
        advantage=gain[:, None].expand_as(now),
        old_logp=old,
        ref_logp=ref,
        temperature=temperature,
    )
    options: dict[str, Any] = {"epsilon": epsilon, "epsilon_high": None, "beta": BETA, "level": level}
    mine, metrics = policy(Outputs(score(model, ids, temperature)), batch, **options)
    my_gradient = gradient(model, mine)
    parts = [
        policy(Outputs(now), replace(batch, weight=batch.weight * e), **options)[0] for e in torch.eye(B)[..., None]
    ]

    # TRL: a real trainer, and the inputs that its `_compute_loss` reads.
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2, "x": 3}, unk_token="<unk>"))
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=GRPOConfig(
            output_dir=str(Path(folder) / "trl"),
            loss_type=TRL_NAME[loss_type],
            epsilon=epsilon,
            beta=BETA,
            use_bias_correction_kl=False,
            importance_sampling_level=level,
            temperature=temperature,
            max_completion_length=ANSWER,
            per_device_train_batch_size=B,
            num_generations=B,
            gradient_accumulation_steps=1,
            steps_per_generation=1,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_list([{"prompt": "x"}]),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>"),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1

    def answers(stream: torch.Tensor) -> torch.Tensor:
        return padded([stream[i, len(r["prompt"]) :][: len(r["answer"])].numpy() for i, r in enumerate(rows)])

    wrote = padded([r["wrote"] for r in rows]).long()
    inputs = {
        "prompt_ids": padded([r["prompt"] for r in rows], left=True),
        "prompt_mask": padded([np.ones(len(r["prompt"]), int) for r in rows], left=True),
        "completion_ids": padded([r["answer"] for r in rows]),
        "completion_mask": padded([np.ones(len(r["answer"]), int) for r in rows]),
        "tool_mask": wrote,
        "advantages": gain,
        "old_per_token_logps": answers(old),
        "ref_per_token_logps": answers(ref),
        "num_items_in_batch": wrote.sum(),
    }
    theirs = trainer._compute_loss(trainer.model, inputs)
    their_gradient = gradient(model, theirs)
    return {
        "loss": (abs(mine - theirs) / sum(p.abs() for p in parts)).item(),
        "loss_of_total": (abs(mine - theirs) / abs(theirs)).item(),
        "gradient": ((my_gradient - their_gradient).norm() / their_gradient.norm()).item(),
        "clipped": (metrics["clip_ratio"] / batch.mask.sum()).item(),
    }


def main() -> int:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    settings = list(itertools.product(TRL_NAME, (10.0, 0.2), ("token", "sequence"), (1.0, 0.7)))
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        found = [compare(folder, *setting, seed) for seed, setting in enumerate(settings)]
    worst = {k: max(f[k] for f in found) for k in ("loss", "gradient", "loss_of_total")}
    ok = worst["loss"] <= LIMIT and worst["gradient"] <= LIMIT
    share = [
        sum(f["clipped"] for f, s in zip(found, settings, strict=True) if s[1] == e) * 2 / len(found)
        for e in (10.0, 0.2)
    ]
    line = {f"max_relative_difference_{k}": float(f"{v:.3g}") for k, v in worst.items()}
    line |= {
        "limit": LIMIT,
        "settings": len(found),
        "clipped_at_10": round(share[0], 3),
        "clipped_at_0.2": round(share[1], 3),
    }
    print(json.dumps(line | {"ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
