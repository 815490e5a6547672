"""What reward models learn from, made from a policy's own answers: pairs that a judge compares, answers with labels.

Kept from the paper (4.6): prompts that no rule checks, two answers each, four calls of the judge, lengths balanced; safety
labels by written guidelines. Each is one stage; the artifact is a folder of records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from incentive import chat, rewards
from incentive.config import Prefer
from incentive.files import RunError, write_folder, write_json
from incentive.keys import Artifact
from incentive.preferences import Judge, Label, Prompt, make_pairs, write
from incentive.records import Group, Problem, Sample
from incentive.stage import Stage
from incentive.stages.sft import Sampler, Show, tokens_of
from incentive.tasks import Mixture

Labeller = Callable[[Prompt, str], bool | None]  # None: no label, the answer is left out


Spent = Callable[[], dict[str, float]]


def _nothing(problem: Problem, samples: list[Sample]) -> list[float | None]:  # noqa: ARG001
    return [0.0 for _ in samples]


def _sampled(stage: Stage, section: Prefer, start: Artifact, task: Mixture, template: str, show: Show) -> list[Group]:
    """Answers to train problems, ungraded. A stage that is killed samples again: each answer depends on its seed alone;
    what a judge has said is in the cache of its client."""
    sampler = Sampler(start, section, task, template, "sampling.max_tokens")
    stage.resume()
    found: list[Group] = []
    began = time.monotonic()
    for n, groups in enumerate(sampler.batches(stage.seed, rewards.each({"none": _nothing}, {"none": 1.0})), 1):
        found += groups
        show({"phase": stage.dir.name, "done": min(64 * n, section.problems), "total": section.problems})
        if stage.stopping:
            raise stage.stopped(0)
        if section.tokens and tokens_of(found)[0] >= section.tokens:
            break
    tokens, prompt = tokens_of(found)
    stage.record(
        {"step": 1, "tokens/sampled": tokens, "tokens/prompt": prompt, "time/sample": time.monotonic() - began}
    )
    return found


def pairs(
    stage: Stage,
    section: Prefer,
    start: Artifact | None = None,
    data: Collection[Any] = (),  # noqa: ARG001
    *,
    task: Mixture,
    judge: Judge,
    template: str = "mini",
    workers: int = 1,
    spent: Spent = dict,
    show: Show = lambda _: None,
) -> Artifact:
    """Preference pairs from neighbouring samples of each problem; results.json counts what was dropped and why.

    Args:
        workers: pairs that are judged beside each other, where the judge waits for a network.
        spent: what calls cost since it was last asked, for the ledger: `Client.row`.

    Raises:
        RunError: no pair was clear enough.
    """
    assert start is not None
    groups = _sampled(stage, section, start, task, template, show)
    candidates = [
        (g.problem.prompt, a.text, b.text)
        for g in groups
        for a, b in zip(g.samples[0::2], g.samples[1::2], strict=False)
    ]
    began = time.monotonic()
    made = make_pairs(
        candidates, judge, seed=stage.seed, calls=section.calls, threshold=section.threshold, workers=workers
    )
    stage.record({"step": 2, **spent(), "time/judge": time.monotonic() - began})
    write_json(stage.dir / "results.json", {"counts": made.counts, "judge": made.judge, "lengths": made.lengths})
    if not made.pairs:
        raise RunError(f"{stage.dir.name}: no pair is left of {len(candidates)}: {made.counts}")
    with write_folder(stage.dir / "records") as folder:
        write(folder, made.pairs)
    return Artifact("dataset", stage.dir / "records", meta=made.counts)


def labels(
    stage: Stage,
    section: Prefer,
    start: Artifact | None = None,
    data: Collection[Any] = (),  # noqa: ARG001
    *,
    task: Mixture,
    label: Labeller,
    template: str = "mini",
    workers: int = 1,
    spent: Spent = dict,
    show: Show = lambda _: None,
) -> Artifact:
    """Answers with the labeller's word on each, equal ones once; without a word they are left out and counted.

    Raises:
        RunError: the labeller said nothing about any.
    """
    assert start is not None
    groups = _sampled(stage, section, start, task, template, show)
    texts = list(dict.fromkeys((chat.text_of(g.problem.prompt), s.text) for g in groups for s in g.samples))
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        said = list(pool.map(lambda x: label(*x), texts))
    stage.record({"step": 2, **spent(), "time/label": time.monotonic() - began})
    found = [Label(*x, word) for x, word in zip(texts, said, strict=True) if word is not None]
    counts = {"answers": len(found), "safe": sum(x.safe for x in found), "no_label": len(texts) - len(found)}
    if not found:
        raise RunError(f"{stage.dir.name}: the labeller gave no label to any of {len(texts)} answers")
    write_json(stage.dir / "results.json", {"counts": counts})
    with write_folder(stage.dir / "records") as folder:
        write(folder, found)
    return Artifact("dataset", stage.dir / "records", meta=counts)
