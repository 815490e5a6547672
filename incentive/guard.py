"""Preflight before a run; its last part, the base's own tries, is `trial.py`, and the doctor during the run `doctor.py`. All speak
plain words and make one suggestion.

Preflight answers what users of other trainers find out after hours: does a perfect answer score, do template, tokenizer
and stop tokens agree, are there problems enough and none from the test, does the base have signal on the task, what
will it cost. Everything is tried for real, on the run's own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from incentive import chat
from incentive.config import RL, Run
from incentive.doctor import Finding
from incentive.model.checkpoint import CheckpointError, Policy, load_policy, resolve, stop_ids
from incentive.records import Problem, Sample, hash64
from incentive.rewards import Grade, RewardError
from incentive.stages.evaluate import PROBLEMS
from incentive.tasks import Mixture, distinct
from incentive.tasks.base import Task
from incentive.trial import Stop, draws, trial

GOLDS = 24  # problems of each task whose gold answer is tried
DRAWS = 20_000  # RL prompts that the contamination check draws at most
PROMPTS = 2_000  # RL prompts whose length is measured at most


def preflight(config: Run, start: Path, task: Mixture, grade: Grade, eval_tasks: dict[str, Task]) -> list[Finding]:
    """Try everything that an RL run depends on, before its first step. Any `stop` among the findings means: mend first.

    Args:
        start: the model folder that RL starts from; its `corpus_keys.npy` tells which problems it was pretrained on.
        task, grade: what the run will train on, and with.
        eval_tasks: the tasks of `config.eval`, by name.
    """
    assert config.rl is not None
    found: list[Finding] = []
    try:
        policy, tokenizer = load_policy(start, config.rl.learner.dtype, config.rl.learner.device)
        found += _answers(config.rl, task, grade, tokenizer)
        found += _tokens(config, resolve(start), policy, tokenizer, task)
        drawn = [task.problem(config.seed, "train", i) for i in range(min(DRAWS, draws(config.rl)))]
        held = _held_out(config, task, eval_tasks)
        found += _supply(config, task, drawn, held, policy, tokenizer)
        found += _contamination(config, resolve(start), drawn, held)
        if not any(f.level == "stop" for f in found):
            found += trial(config, resolve(start), policy, tokenizer, task, grade)
    except Stop as stop:
        found.append(stop.finding)
    except CheckpointError as error:
        found.append(Finding("stop", str(error)))
    return found


# (a) answers and their rewards


def _answers(rl: RL, task: Mixture, grade: Grade, tokenizer: PreTrainedTokenizerBase) -> list[Finding]:
    """Gold answers pass their checks; a perfect answer scores full, an empty one nothing."""
    for name, one in task.tasks.items():
        for i in range(GOLDS):
            problem = one.problem(0, "train", i)
            gold = one.gold(problem)
            if not isinstance(gold, str):
                what = f"gives a gold answer that is {type(gold).__name__}, not text"
                raise Stop(f"task {name} {what} (problem {problem.id})", "return str from gold()")
            one.vote_key(gold)
            try:
                passed, empty = one.check(problem, gold), one.check(problem, "")
            except Exception as error:
                raise Stop(
                    f"the check of task {name} raised on problem {problem.id}: {type(error).__name__}: {error}",
                    "a check must return False for any text that it cannot read",
                ) from error
            if not passed or empty:
                what = f"rejects its own gold answer {gold[:60]!r}" if not passed else "accepts an empty answer"
                raise Stop(f"task {name} {what} (problem {problem.id})", "mend the task: gold scores 1, garbage 0")
        problem = one.problem(0, "train", 0)
        _perfect_scores(rl, name, problem, grade, tokenizer, chat.perfect("...", one.gold(problem)))
    return [
        Finding(
            "ok",
            f"a perfect answer scores full and an empty one does not ({', '.join(task.tasks)}; {GOLDS} gold answers "
            "each)",
        )
    ]


def _perfect_scores(
    rl: RL, name: str, problem: Problem, grade: Grade, tokenizer: PreTrainedTokenizerBase, text: str
) -> None:
    """A reward that does not look at the answer (a coin) sees two samples of one seed, and may pay both."""
    samples = [_sample(problem, tokenizer, t) for t in (text, "")]
    try:
        perfect, empty = grade(problem, samples)
    except RewardError as error:
        raise Stop(str(error)) from error
    if perfect.total is None or empty.total is None:
        raise Stop(f"the reward could not grade a hand-made answer of task {name}: {perfect.error or empty.error}")
    for part in ("accuracy", "format"):
        if part in rl.rewards and (perfect.parts[part] != 1 or empty.parts[part] != 0):
            raise Stop(
                f"task {name}: reward {part!r} gives the perfect answer {text[:80]!r} {perfect.parts[part]:g} "
                f"and an empty one {empty.parts[part]:g}; it must be 1 and 0",
                "see which tags the reward and the task's gold answer use",
            )
    if perfect.total < empty.total:
        raise Stop(
            f"task {name}: an empty answer earns {empty.total:g}, a perfect one only {perfect.total:g}",
            "see the weights in rl.rewards",
        )


def _sample(problem: Problem, tokenizer: PreTrainedTokenizerBase, text: str) -> Sample:
    ids = np.asarray([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id], dtype=np.int64)
    return Sample(
        id=f"{problem.id}/0",
        problem_id=problem.id,
        prompt_ids=np.zeros(1, dtype=np.int64),
        ids=ids,
        mask=np.ones(len(ids), dtype=bool),
        sampler_logp=np.zeros(len(ids), dtype=np.float32),
        temperature=1.0,
        stop="stop",
        versions=(0, 0),
        seed=0,
        text=text,
    )


# (b) template, tokenizer, stop tokens


def _tokens(
    config: Run, start: Path, policy: Policy, tokenizer: PreTrainedTokenizerBase, task: Mixture
) -> Iterator[Finding]:
    """Stop token, template and tokenizer agree, and an answer survives being tokens."""
    rows = policy.unembed.shape[0]
    stops = stop_ids(tokenizer, start)
    if bad := [i for i in stops if not 0 <= i < rows]:
        raise Stop(
            f"stop token {bad[0]} lies beyond the model's {rows} tokens", "mend eos_token_id in generation_config.json"
        )
    problem = task.problem(config.seed, "train", 0)
    try:
        prompt = chat.render(config.template, problem.prompt, tokenizer)
    except ValueError as error:
        raise Stop(f"the prompt cannot be rendered: {error}") from error
    if prompt.rstrip().endswith(chat.THINK):
        raise Stop(
            f"the chat template opens {chat.THINK} itself, so no answer could have the required form",
            "use template = 'r1-zero', or a chat template that leaves the tag to the model",
        )
    text = chat.perfect("first this\nthen that", task.gold(problem))
    ids = tokenizer.encode(text, add_special_tokens=False)
    back = str(tokenizer.decode(ids, skip_special_tokens=False))
    if set(ids) & set(stops):
        raise Stop(
            "a stop token occurs within a perfect answer, so that answer can never be written", "see eos_token_id"
        )
    if not chat.well_formed(back) or chat.split(back)[1] != chat.split(text)[1]:
        raise Stop(
            f"the tokenizer does not keep an answer: {text[:80]!r} comes back as {back[:80]!r}",
            "use another base or template",
        )
    again = tokenizer.decode(tokenizer.encode(prompt, add_special_tokens=False), skip_special_tokens=False)
    if again != prompt:
        yield Finding(
            "warn",
            f"the tokenizer changes the prompt: {prompt[-60:]!r} comes back as {again[-60:]!r}",
            "see its normaliser",
        )
    elif tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokenizer.encode(
        prompt, add_special_tokens=False
    ):
        yield Finding(
            "warn", "the prompt holds characters that the tokenizer does not know", "use a byte-level tokenizer"
        )
    if config.template == "chat":
        _turn_ends(tokenizer, stops)
    ends = " ".join(repr(tokenizer.decode([i])) for i in stops)
    yield Finding("ok", f"template {config.template!r}, tokenizer and stop token {ends} agree")


def _turn_ends(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> None:
    """The token that the chat template writes after an assistant's turn must be one that sampling stops at."""
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "the reply"}]
    tail = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition("the reply")[2].lstrip()
    first = tokenizer.encode(tail, add_special_tokens=False)[:1]
    if not first or first[0] not in stops:
        raise Stop(
            f"the chat template ends a turn with {tail[:20]!r}, which is no stop token, so answers would run on",
            "add its id to eos_token_id in generation_config.json",
        )


# (c) problems enough, prompts short enough


def _held_out(config: Run, task: Mixture, eval_tasks: dict[str, Task]) -> dict[str, list[Problem]]:
    """The problems that probes and evaluations will ask, as they will draw them: name -> problems."""
    assert config.rl is not None
    held: dict[str, list[Problem]] = {}
    try:
        if config.rl.eval_steps:
            share = max(1, config.rl.eval_problems // len(task.tasks))
            for name, one in task.tasks.items():
                held[f"val of {name}"] = distinct(one, PROBLEMS, "val", share)
        for name in config.eval.tasks if config.eval else ():
            assert config.eval is not None
            split = config.eval.split
            problems = distinct(eval_tasks[name], PROBLEMS, split, config.eval.problems)
            held[f"{split} of {name}"] = held.get(f"{split} of {name}", []) + problems
    except ValueError as error:
        probe = not held and config.rl.eval_steps
        fix = (
            "lower rl.eval_problems, or set rl.eval_steps = 0" if probe else "lower eval.problems (or rl.eval_problems)"
        )
        raise Stop(str(error), fix) from error
    return held


def _supply(
    config: Run, task: Mixture, drawn: list[Problem], held: dict[str, list[Problem]], policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[Finding]:  # fmt: skip
    """Distinct problems for a rollout, a group of two, and room for prompt and answer in the context."""
    rl = config.rl
    assert rl is not None
    if rl.num_generations < 2:
        raise Stop("a group of 1 has nothing to compare its answer with", "set rl.num_generations to 2 or more")
    need = rl.problems_per_step * rl.steps_per_generation
    different = len({p.key for p in drawn})
    if different < min(need, len(drawn)):
        raise Stop(
            f"{different} different training problems, but a rollout takes {need}",
            "add problems, or lower rl.problems_per_step",
        )
    total, shares = draws(rl), sum(task.shares.values())
    for name, one in task.tasks.items():
        size: Callable[[str], int] | None = getattr(one, "size", None)
        if size is not None:
            epochs = total * task.shares[name] / shares / max(1, size("train"))
            level: Literal["ok", "warn"] = "warn" if epochs > 20 else "ok"
            advice = "add problems: seen so often, they are learnt by heart" if level == "warn" else ""
            yield Finding(
                level, f"{name}: {size('train'):,} training problems, seen about {epochs:.1f} times each", advice
            )
        if repeated := getattr(one, "repeated", 0):
            yield Finding("warn", f"{name}: {repeated} lines repeat an earlier problem and count once", "remove them")
    yield Finding("ok", f"{different:,} different problems in the {len(drawn):,} first draws of {total:,}")

    context = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    asked = [(p, rl.sampling.max_tokens, "rl.sampling.max_tokens") for p in drawn[:PROMPTS]]
    asked += [
        (p, rl.sampling.max_tokens, "rl.sampling.max_tokens")
        for k, ps in held.items()
        if k.startswith("val")
        for p in ps
    ]
    if config.eval:
        cap = config.eval.sampling.max_tokens
        asked += [(p, cap, "eval.sampling.max_tokens") for ps in held.values() for p in ps]
    texts = [chat.render(config.template, p.prompt, tokenizer) for p, *_ in asked]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    n, problem, cap, key = max((n + c, p.id, c, k) for n, (p, c, k) in zip(lengths, asked, strict=True))
    if context is not None and n > context:
        room = context - (n - cap)
        fix = f"set {key} = {room} or less" if room > 0 else "leave that problem out"
        raise Stop(
            f"problem {problem} has {n - cap} tokens, and {n} with its answer; the model's context is {context}", fix
        )
    yield Finding(
        "ok",
        f"the longest prompt has {max(lengths)} tokens; with its answer at most {n} of {context or 'any'} in the "
        "context",
    )


# (d) nothing held out is trained on


def _contamination(config: Run, start: Path, drawn: list[Problem], held: dict[str, list[Problem]]) -> Iterator[Finding]:
    """By content: held-out problems beside the RL prompts of this run and beside the base's corpus."""
    assert config.rl is not None
    file, corpus = start / "corpus_keys.npy", None
    if file.is_file():
        try:
            corpus = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise Stop(f"{file}: no readable list of hashes", "copy the base again, or delete that file") from error
    prompts = {p.key for p in drawn}
    capped = f" (the first {len(drawn):,} of {draws(config.rl):,} draws)" if len(drawn) < draws(config.rl) else ""
    counts: dict[str, int] = {}
    for name, problems in held.items():
        both = [p for p in problems if p.key in prompts]
        if both:
            raise Stop(
                f"{len(both)} of {len(problems)} {name} problems are among the RL prompts, first {both[0].id}",
                "make the files disjoint: what is tested must not be trained on",
            )
        if corpus is not None:
            keys = np.asarray([hash64(p.key) for p in problems], dtype=np.uint64)
            at = np.searchsorted(corpus, keys)
            hits = np.flatnonzero(corpus[np.minimum(at, len(corpus) - 1)] == keys) if len(corpus) else at[:0]
            if len(hits):
                raise Stop(
                    f"{len(hits)} of {len(problems)} {name} problems are in the base's corpus, first "
                    f"{problems[hits[0]].id}",
                    "use another base, or rebuild it without them",
                )
        split = name.partition(" of ")[0]
        counts[split] = counts.get(split, 0) + len(problems)
    if counts:
        said = " and ".join(f"{n:,} {split}" for split, n in counts.items())
        beside = f" and {len(corpus):,} corpus problems" if corpus is not None else ""
        yield Finding("ok", f"0 of {said} problems in {len(prompts):,} different RL prompts{capped}{beside}")
    if corpus is None:
        yield Finding(
            "warn",
            "the base's corpus is unknown (no corpus_keys.npy): it may have seen the test problems",
            "trust the difference before and after, not the level",
        )
