"""The recipe of the paper for real models: public prompts by their Hub ids, a judge behind an endpoint.

The stages and their order are `r1.pipeline`, as in the miniature; here are settings alone. Two things differ: where the
miniature has programs that rewrite, compare and label, a model behind `r1.judge` does it, and rows that are no reasoning
come from public data. `paper` has the paper's numbers (arXiv 2501.12948v2); what the paper leaves open is ours and marked.

A data set is named `hub:owner/name?columns`, and a local copy by its path in the id's place. The ones below were chosen by
us: none of the paper's own is public. Their licences are their owners'; `docs/scale.md` lists them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from incentive.ahead import Planned
from incentive.config import Run as Settings
from incentive.recipes.base import Recipe, Show
from incentive.recipes.zero import base_of, contamination, evaluated, known, summary
from incentive.run import Run

MATHS = (
    "hub:agentica-org/DeepScaleR-Preview-Dataset?question=problem&answer=answer&check=maths&language=auto&domain=math"
)
CODE = (
    "hub:open-r1/verifiable-coding-problems-python-10k?question=problem_statement&answer=verification_info.test_cases"
    "&check=code&gold=gold_standard_solution&tier=bubblewrap&language=en&domain=code"
)
CODE_LARGE = CODE.replace("-python-10k", "-python")
STEM = (
    "hub:allenai/sciq?question=question&answer=correct_answer&wrong=distractor1,distractor2,distractor3&split=train"
    "&check=choice&language=en&domain=stem"
)
LOGIC = {"reasoning-gym/zebra_puzzles": 1.0, "reasoning-gym/countdown": 1.0, "reasoning-gym/knights_knaves": 1.0}
REFERENCE = (  # answers that no rule compares: for rejection sampling, with a judge
    "hub:TIGER-Lab/WebInstruct-verified?question=question&answer=answer&check=judge&split=train&language=en&domain=stem"
)
# hold=train: reward models hold out a tenth of the prompts by the hash that else keeps them from being drawn
REQUESTS = (
    "hub:HuggingFaceH4/ultrafeedback_binarized?question=prompt&answer=&files=data/train_prefs*&hold=train&language=auto"
    "&domain=general"
)
HARM = (
    "hub:nvidia/Aegis-AI-Content-Safety-Dataset-2.0?question=prompt&answer=&files=train.json&hold=train&language=en"
    "&domain=safety"
)
TALK = "hub:HuggingFaceTB/smoltalk?messages=messages&files=data/all/train*&domain=general"
TRACES = tuple(
    f"hub:open-r1/Mixture-of-Thoughts?messages=messages&files={part}/train*&domain={name}"
    for part, name in (("math", "math"), ("code", "code"), ("science", "stem"))
)
MATH_500 = "hub:HuggingFaceH4/MATH-500?question=problem&answer=answer&check=maths&hold=test&language=en&domain=math"
GSM8K = "hub:openai/gsm8k?question=question&answer=answer&after=####&files=main/test*&hold=test&check=number&language=en&domain=math"
SCIQ = STEM.replace("split=train", "split=test") + "&hold=test"

REASONING = {
    MATHS: 26.0,
    CODE: 17.0,
    STEM: 22.0,
    **{name: 15 * share / 3 for name, share in LOGIC.items()},
}  # table 4's shares
EVALUATED = (MATH_500, GSM8K, SCIQ)
RULED = {"accuracy": 1.0, "summarised": 1.0, "language": 1.0}  # eq. 7 and 8: added up; the weights are our choice
JUDGE = {"url": "http://127.0.0.1:8000/v1", "model": "Qwen/Qwen2.5-72B-Instruct", "temperature": 0.7, "concurrency": 64}
GPU = {"device": "cuda"}
LEARNER = {**GPU, "tokens_per_micro_batch": 8192}


def _rl(tasks: dict[str, float], steps: int, tokens: int, **more: Any) -> dict[str, Any]:
    """An RL stage with the paper's settings (2.3, B.4.1), but for the sizes given."""
    cooled = more.pop("temperature", 1.0)
    return {
        "tasks": tasks,
        "rewards": {"accuracy": 1.0, "format": 1.0},  # 2.2: equal weight; values 1 and 0 are our choice
        "max_steps": steps,
        "problems_per_step": 32,  # 2.3
        "num_generations": 16,  # 2.3
        "steps_per_generation": 16,  # 2.3: 8,192 answers -> 16 minibatches, one pass each
        "sampling": {"temperature": cooled, "top_p": 1.0, "top_k": 0, "max_tokens": tokens},  # top-p, top-k open
        "advantage": "grpo",  # eq. 3
        "loss_type": "grpo",  # eq. 1: 1/|o| within an answer, then the mean over answers
        "importance_sampling_level": "token",  # open: eq. 1 prints a ratio of answers, its remark speaks of tokens
        "epsilon": 10.0,  # 3.2.1: RL stage 1; not restated for R1-Zero
        "beta": 0.001,  # 2.3
        "ref_sync_steps": 400,  # 2.3
        "dynamic_sampling": False,
        "optim": {"learning_rate": 3e-6, "lr_scheduler_type": "constant"},  # 2.3; optimizer and schedule open
        "learner": LEARNER,
        "eval_steps": 400,
        "eval_problems": 256,
        "save_steps": 400,
        "keep": "evals",
        **more,
    }


def _small(tasks: dict[str, float], steps: int, tokens: int, **more: Any) -> dict[str, Any]:
    """An RL stage of a small model on one machine: the paper's algorithm with shorter answers and rollouts; the sizes
    are ours and not measured."""
    sized = {"steps_per_generation": 4, "ref_sync_steps": 100, "eval_steps": 50, "save_steps": 50}
    optim = {"learning_rate": 1e-6, "lr_scheduler_type": "constant"}
    return _rl(tasks, steps, tokens, **{**sized, "optim": optim, **more})


def _sft(rate: float, batch: int, **more: Any) -> dict[str, Any]:
    """B.4.2, B.4.3: cosine to a tenth, 2 to 3 epochs. A batch of rows as tokens, by the mean row of table 5 (5,355)."""
    optim = {"learning_rate": rate, "lr_scheduler_type": "cosine", "min_lr_ratio": 0.1, "warmup_steps": 0}
    return {"epochs": 2, "tokens_per_step": batch * 5355, "optim": optim, "learner": LEARNER, **more}


def _evaluation(tokens: int, samples: int) -> dict[str, Any]:
    """D.1: temperature 0.6, top-p 0.95."""
    how = {"temperature": 0.6, "top_p": 0.95, "max_tokens": tokens}
    return {"tasks": list(EVALUATED), "problems": 450, "samples": samples, "sampling": how, "also_t1": False, **GPU}


def _after(tokens: int, small: bool) -> dict[str, Any]:
    """The stages after R1-Zero: the paper's data sizes, or a tenth of them."""
    share = 10 if small else 1
    reinforced = _small if small else _rl
    code = {} if small else {CODE_LARGE: REASONING[CODE]}
    reasoning = {name: x for name, x in REASONING.items() if small or name != CODE} | code
    drawn = {"sampling": {"temperature": 1.0, "max_tokens": tokens}, **GPU}
    readable = {"longest": 4 * tokens}
    scored = {"batch": 256, "epochs": 1, "max_tokens": 8192,  # 2.2.2
              "optim": {"learning_rate": 6e-6}, "learner": LEARNER}  # fmt: skip
    return {
        "judge": JUDGE,
        "template": "chat",  # ours: R1-Zero's is table 1; later stages are a chat model's
        # B.3.2: "thousands"; several samples at temperature 1, right and readable ones
        "cold": {"tasks": reasoning, "problems": 10_000 // share, "samples": 4, "per_problem": 1, "readable": readable,
                 "concurrency": 64, **drawn},
        "dev1": _sft(5e-5, 128),  # B.4.2
        "dev2": reinforced(reasoning, 4000 // share, tokens, rewards=RULED),  # steps open: ours
        # B.3.3, table 5: 600k of reasoning; how many prompts and samples is open
        "reject": {"tasks": {**reasoning, REFERENCE: 10.0}, "problems": 200_000 // share, "samples": 8, "per_problem": 4,
                   "readable": readable, "concurrency": 64, **drawn},
        "public": {"sources": [TALK], "rows": 178_000 // share, "max_tokens": tokens},  # table 5: 177,812 general
        "dev3": _sft(5e-5, 128),  # B.4.2
        "pairs": {"tasks": {REQUESTS: 1.0}, "problems": 200_000 // share, "calls": 4, "threshold": 1.0, **drawn},  # 66,000 left
        "labels": {"tasks": {HARM: 1.0}, "problems": 106_000 // share, "samples": 1, **drawn},  # 2.2.2: 106,000 prompts
        "helpful": {"kind": "pairwise", "scores": "summary", **scored},
        "safety": {"kind": "pointwise", "scores": "response", **scored},
        "reasoning": reinforced(reasoning, 1300 // share, tokens, rewards=RULED, temperature=0.7),  # 3.2.3
        "general": reinforced(reasoning, 1700 // share, tokens, rewards=RULED, temperature=0.7),  # both parts: 1,700
        "general_tasks": {REQUESTS: 66.0, HARM: 12.0},  # table 4; the share of general prompts is open
        "student": _sft(8e-5, 64),  # B.4.3: Qwen-7B
    }  # fmt: skip


def zero_qwen_1_5b() -> dict[str, Any]:
    """R1-Zero from Qwen2.5-1.5B on public maths problems, for one GPU.

    The paper's algorithm and rewards with answers of 4,096 tokens; sizes are ours and not measured. It found no gain from
    pure RL at 7B (appendix A); small open runs since then did, on maths.
    """
    return {
        "base": "hub:Qwen/Qwen2.5-1.5B",
        "template": "r1-zero",
        "rl": _small({MATHS: 1.0}, 400, 4096),
        "eval": _evaluation(4096, 4),
    }


def r1_qwen_1_5b() -> dict[str, Any]:
    """The whole recipe on Qwen2.5-1.5B, from R1-Zero to R1, with public prompts and a judge behind an endpoint.

    Needs a GPU, the extras maths, judge, hub and gym, and a model that judges: --set r1.judge.url=... --set
    r1.judge.model=... A tenth of the paper's data; sizes are ours and not measured.
    """
    return {
        "base": "hub:Qwen/Qwen2.5-1.5B",
        "template": "r1-zero",
        "rl": _small(REASONING, 400, 4096),
        "r1": _after(4096, small=True),
        "eval": _evaluation(4096, 4),
    }


def r1_qwen_7b() -> dict[str, Any]:
    """The whole recipe on Qwen2.5-7B, with a student: Qwen2.5-1.5B learns from its data.

    As r1-qwen2.5-1.5b, with answers of 8,192 tokens. Weights, gradients, Adam and a reference in float32 take about 150 GB:
    more than one GPU has, and this version does not shard yet, so that today it is a plan.
    """
    return {
        "base": "hub:Qwen/Qwen2.5-7B",
        "student": "hub:Qwen/Qwen2.5-1.5B",
        "template": "r1-zero",
        "rl": _small(REASONING, 800, 8192),
        "r1": _after(8192, small=True) | {"student": _sft(1e-4, 64)},  # B.4.3: Qwen-1.5B
        "eval": _evaluation(8192, 4),
    }


def distill_qwen_1_5b() -> dict[str, Any]:
    """Distillation alone: Qwen2.5-1.5B learns from public traces of DeepSeek-R1 (open-r1/Mixture-of-Thoughts, 350k).

    Kept from the paper (B.4.3): SFT only, batch 64, cosine from 1e-4 to a tenth, 2 epochs. The paper's own student began
    from Qwen2.5-Math-1.5B, whose context of 4,096 tokens cuts most traces: --set base=hub:Qwen/Qwen2.5-Math-1.5B.
    """
    return {
        "base": "hub:Qwen/Qwen2.5-1.5B",
        "template": "chat",
        "rows": {"sources": list(TRACES), "max_tokens": 32768},
        "sft": _sft(1e-4, 64),
        "eval": _evaluation(32768, 4),
    }


def paper() -> dict[str, Any]:
    """The paper's whole recipe with the paper's numbers (arXiv 2501.12948v2): R1-Zero in two phases, cold start, RL with
    the language reward, rejection sampling, reward models, RL stage 2, a distilled student.

    Stated by the paper: all of RL but the steps of stage 1, both fine-tunings, the reward models' settings and sizes, the
    last 400 of 1,700 steps with general prompts. Open, and our choice: clip 10 for R1-Zero (stated for stage 1), a ratio by
    token with a mean over each answer, AdamW, reward weights, the steps of RL stage 1, numbers of prompts before
    filtering, the share of general prompts; and the prompts themselves, which are not public. At step 8,200 R1-Zero's cap
    rises to 65,536 tokens: `zero-longer` goes on from `zero` with weights, optimizer, reference and data cursor.
    """
    large = {name: x for name, x in REASONING.items() if name != CODE} | {CODE_LARGE: REASONING[CODE]}
    return {
        "base": "hub:deepseek-ai/DeepSeek-V3-Base",
        "student": "hub:Qwen/Qwen2.5-Math-7B",
        "template": "r1-zero",  # table 1
        "rl": _rl(large, 8200, 32768),  # 2.3: the first phase
        "r1": _after(32768, small=False) | {"longer": _rl(large, 10_400, 65_536)},  # 2.3: to step 10,400
        "eval": _evaluation(32768, 64),  # D.1: k between 4 and 64
    }


def stages(cfg: Settings) -> list[Planned]:
    assert cfg.rows is not None
    sources = ", ".join(name.partition("?")[0] for name in cfg.rows.sources)
    n = cfg.rows.rows * len(cfg.rows.sources)
    learnt = [
        Planned("rows", about=f"rows of {sources}" + (f", {n:,} at most" if n else ", all"), rows=n),
        Planned("student", cfg.sft, "base", ("rows",)),
    ]
    if not cfg.eval:
        return learnt
    return [Planned("before", cfg.eval, "base"), *learnt, Planned("after", cfg.eval, "student")]


def distill(run: Run, show: Show, recipe: Recipe) -> dict[str, Any]:
    """Before, public rows, a student that learns from them, after; the summary."""
    from incentive.stages.public import public
    from incentive.stages.sft import sft

    cfg = run.config
    assert cfg.rows is not None
    assert cfg.sft is not None
    base = base_of(cfg.base)
    tasks = {n: known(recipe.tasks, n) for n in (cfg.eval.tasks if cfg.eval else ())}
    met = contamination(run, base, tasks)
    found: dict[str, Any] = {}
    if cfg.eval:
        found["before"] = evaluated(run, show, met, "before", base, tasks)
    show({"phase": "begin", "stage": "rows"})
    drawn = partial(public, held=met.held, show=show)  # what is held out counts in no key: the look says if it should
    rows = met.made("rows", run.stage("rows", drawn, cfg.rows, start=base, template=cfg.template))
    show({"phase": "begin", "stage": "student"})
    met.rows("student", [rows])
    how: dict[str, Any] = {"start": base, "data": [rows], "template": cfg.template}
    student = met.made("student", run.stage("student", partial(sft, show=show), cfg.sft, **how))
    if cfg.eval:
        found["after"] = evaluated(run, show, met, "after", student, tasks)
    return summary(run, base.path, found) | {"rows": rows.meta["kept"], "steps": student.meta["steps"]}
