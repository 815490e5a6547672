"""What reward models learn from, made from a policy's own answers: pairs that a judge compares, answers with labels.

Kept from the paper (4.6): prompts that no rule checks, two answers each, four calls of the judge, lengths balanced; safety
labels by written guidelines. Each is one stage; the artifact is a folder of records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from incentive import rewards
from incentive.config import Prefer
from incentive.preferences import Judge, Label, Prompt, make_pairs, write
from incentive.records import Group, Problem, Sample
from incentive.run import Artifact, RunError, Stage, write_folder, write_json
from incentive.stages.sft import Sampler, Show, tokens_of
from incentive.tasks import Mixture

Labeller = Callable[[Prompt, str], bool]


def _nothing(problem: Problem, samples: list[Sample]) -> list[float | None]:  # noqa: ARG001
    return [0.0 for _ in samples]


def _sampled(stage: Stage, section: Prefer, start: Artifact, task: Mixture, template: str, show: Show) -> list[Group]:
    """Answers to train problems, ungraded. A stage that is killed samples again: each answer depends on its seed alone."""
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
    show: Show = lambda _: None,
) -> Artifact:
    """Preference pairs from neighbouring samples of each problem; results.json counts what was dropped and why.

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
    made = make_pairs(candidates, judge, seed=stage.seed, calls=section.calls, threshold=section.threshold)
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
    show: Show = lambda _: None,
) -> Artifact:
    """Answers with the labeller's word on each, equal ones once."""
    assert start is not None
    groups = _sampled(stage, section, start, task, template, show)
    texts = list(dict.fromkeys((str(g.problem.prompt), s.text) for g in groups for s in g.samples))
    found = [Label(prompt, text, label(prompt, text)) for prompt, text in texts]
    counts = {"answers": len(found), "safe": sum(x.safe for x in found)}
    write_json(stage.dir / "results.json", {"counts": counts})
    with write_folder(stage.dir / "records") as folder:
        write(folder, found)
    return Artifact("dataset", stage.dir / "records", meta=counts)
