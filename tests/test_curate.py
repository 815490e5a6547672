"""Curating: what is kept and why the rest is not, resumable, and a data set that SFT learns from."""

# ruff: noqa: ARG001, ARG002  callbacks have fixed signatures
from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from test_resume import Asked, files, rows

from incentive import chat, config
from incentive.curation import Held
from incentive.files import RunError, read_lines, write_lines
from incentive.keys import Artifact
from incentive.model.checkpoint import load_policy
from incentive.records import Problem, Sample, Split, hash64
from incentive.run import Run
from incentive.stage import Stage, Stopped
from incentive.stages.curate import curate, markdown, rows_at
from incentive.stages.sft import examples_of, sft
from incentive.tasks import Mixture


@dataclass(frozen=True)
class Any_:
    """Problems that a model of random weights answers now and then: any non-empty answer of even length is right."""

    name: str = "any"
    domain: str = "math"

    def problem(self, seed: int, split: Split, i: int) -> Problem:
        n = Random(hash64(self.name, seed, split, i)).randrange(10**9)
        return Problem(
            f"{self.name}/{split}/{seed}/{i}",
            f"{self.name}:{n}",
            f"say {n}",
            "1",
            {"task": self.name, "domain": self.domain},
        )

    def check(self, problem: Problem, answer: str) -> bool:
        return bool(answer) and len(answer) % 2 == 0

    def gold(self, problem: Problem) -> str:
        return "11"

    def vote_key(self, answer: str) -> str:
        return answer


TASK = Mixture({"any": Any_(), "other": Any_("other", "code")}, {"any": 0.5, "other": 0.5})
SECTION: dict[str, Any] = {
    "tasks": {"any": 0.5, "other": 0.5},
    "problems": 160,
    "samples": 4,
    "sampling": {"max_tokens": 24},
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model after it has learnt the form from rows."""
    folder, rng = tmp_path_factory.mktemp("policy"), Random(0)
    texts = [
        chat.perfect(rng.choice(["so", "wait", "again no"]), str(rng.randrange(10 ** rng.randint(1, 4))))
        for _ in range(400)
    ]
    write_lines(folder / "rows/1.jsonl.zst", [{"prompt": f"say {rng.randrange(10**9)}", "response": t} for t in texts])
    (folder / "sft").mkdir()
    optim = config.Optim(optimizer="muon", learning_rate=2e-2)
    section = config.SFT(epochs=4, tokens_per_step=600, optim=optim)
    return sft(Stage(folder / "sft"), section, Artifact("weights", tiny_model), (rows_at(folder / "rows"),)).path


def ended(problem: Problem, samples: list[Sample]) -> list[float | None]:
    return [1.0] * len(samples)


def make(
    folder: Path, model: Path, asked: Asked | None = None, section: dict[str, Any] | None = None, **how: Any
) -> Artifact:
    cfg = config.build({"recipe": "curate-test", "base": str(model), "threads": 1, "rl": {}})
    resume, start = (folder / "run.json").exists(), Artifact("weights", model, "base")
    asked = asked or Asked()
    with Run.open(folder, cfg, resume, asked, say=lambda _: None) as run:  # type: ignore[arg-type]
        return run.stage(
            "cold", partial(curate, show=asked.show), config.Curate(**{**SECTION, **(section or {})}), start=start,
            **{"data": (), "task": TASK, "form": ended, **how},
        )  # fmt: skip


def kept(artifact: Artifact) -> list[dict[str, Any]]:
    return [row for file in sorted(artifact.path.glob("*.jsonl.zst")) for row in read_lines(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, policy: Path) -> tuple[Path, Artifact]:
    folder = tmp_path_factory.mktemp("curate") / "run"
    return folder, make(folder, policy)


def test_what_is_kept_is_right_and_counted(whole: tuple[Path, Artifact]) -> None:
    folder, artifact = whole
    found, results = kept(artifact), json.loads((folder / "cold/results.json").read_text())
    assert len(found) >= 50
    for row in found:
        answer = chat.split(row["response"])[1]
        assert answer
        assert len(answer) % 2 == 0
        assert row["domain"] == ("math" if row["id"].startswith("any/") else "code")
        assert row["prompt"].startswith("say ")
    total = results["total"]
    assert (total["problems"], total["samples"], total["added"]) == (160, 640, 0)
    assert total["rows"] == len(found) == artifact.meta["kept"]
    assert total["rows"] + sum(total["dropped"].values()) == 640
    assert total["dropped"]["wrong"] > 50
    for key in ("rows", "samples", "problems", "tokens"):
        assert sum(d[key] for d in results["domains"].values()) == total[key]
    assert total["tokens"] == sum(r["tokens"] for r in found)
    assert total["turns"] == 1
    recorded = rows(folder / "cold")
    assert [r["step"] for r in recorded] == [1, 2, 3]
    later = sum(total["dropped"].get(name, 0) for name in ("duplicate", "near-duplicate"))  # told when all is there
    assert sum(r["kept"] for r in recorded) == len(found) + later
    text = (folder / "cold/results.md").read_text()
    assert text == markdown(results)
    assert f"| **total** | {len(found)} | 1.0 |" in text


@pytest.mark.parametrize("after", [1, 2])
def test_stopped_anywhere_it_goes_on_to_the_same(
    after: int, whole: tuple[Path, Artifact], tmp_path: Path, policy: Path
) -> None:
    with pytest.raises(Stopped, match=f"stopped at step {after}"):
        make(tmp_path / "run", policy, Asked("cold", after))
    stage = tmp_path / "run/cold"
    write_lines(stage / "batches/000007.jsonl.zst", [{"tokens": 1, "rows": 0, "counts": {}}])  # after a gap: forgotten
    Stage(stage).record({"step": after + 1, "kept": 1})  # of a batch that a kill cut off
    make(tmp_path / "run", policy)
    assert rows(stage) == rows(whole[0] / "cold")
    assert files(stage) == files(whole[0] / "cold")
    for name in ("results.json", "results.md", "dataset/000001.jsonl.zst"):
        assert (stage / name).read_bytes() == (whole[0] / "cold" / name).read_bytes(), name


def test_tokens_end_it(tmp_path: Path, policy: Path) -> None:
    make(tmp_path / "run", policy, section={"tokens": 100})
    assert len(rows(tmp_path / "run/cold")) == 1


def test_rewrites_are_checked_again(tmp_path: Path, policy: Path) -> None:
    asked: list[str] = []

    def rewrite(problem: Problem, response: str) -> str | None:
        asked.append(response)
        kind = hash64(problem.id) % 4
        return [
            None,
            chat.perfect("so", "odd"),
            chat.perfect("```\nx = 1\ny = 2\n```", "even"),
            chat.perfect(f"I see {problem.key}", "even"),
        ][kind]

    artifact = make(tmp_path / "run", policy, rewrite=rewrite, section={"concurrency": 3})
    total = json.loads((tmp_path / "run/cold/results.json").read_text())["total"]
    assert {r["response"].partition("I see")[0] for r in kept(artifact)} == {"<think>"}
    again = total["rows"] + sum(
        total["dropped"].get(k, 0)
        for k in ("rewrite: none", "rewrite: wrong", "rewrite: code", "duplicate", "near-duplicate")
    )
    assert again == len(asked)
    assert all(total["dropped"].get(f"rewrite: {k}") for k in ("none", "wrong", "code"))


def test_a_judge_where_no_rule_checks(tmp_path: Path, policy: Path) -> None:
    def judge(problem: Problem, answer: str) -> bool | None:
        return None if len(answer) % 3 == 0 else True

    artifact = make(tmp_path / "run", policy, judges={"other": judge})
    results = json.loads((tmp_path / "run/cold/results.json").read_text())
    assert results["domains"]["code"]["dropped"]["ungraded"] > 0
    assert "ungraded" not in results["domains"]["math"]["dropped"]
    lengths = {len(chat.split(r["response"])[1] or "") for r in kept(artifact) if r["domain"] == "code"}
    assert any(n % 2 for n in lengths)
    with pytest.raises(RunError, match="a judge for poems, which is no task"):
        make(tmp_path / "other", policy, judges={"poems": judge})


def test_other_rows_are_added_and_everything_is_cleaned(
    whole: tuple[Path, Artifact], tmp_path: Path, policy: Path
) -> None:
    mine = kept(whole[1])
    poem = "Write a few words about the sea and the wind that moves over it today"
    test = "Name the largest city of the country in which the river Seine flows into the sea"
    chatter = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "how are you"},
    ]
    more = [
        {"prompt": poem, "response": "The sea is wide.", "domain": "writing"},
        {"prompt": poem, "response": " The sea  is wide.\n"},
        {"prompt": f"{test}?", "response": "Paris."},
        {"prompt": chatter, "response": "Fine, thanks."},
        {"prompt": mine[0]["prompt"], "response": mine[0]["response"], "domain": "math"},
    ]
    write_lines(tmp_path / "more/1.jsonl.zst", more)
    held = Held.of({"facts": [Problem("x", "jsonl:1", test, "Paris")], "own": [Problem("y", mine[1]["key"], "?", "1")]})
    artifact = make(tmp_path / "run", policy, data=(rows_at(tmp_path / "more"),), held=held)
    results = json.loads((tmp_path / "run/cold/results.json").read_text())
    left = kept(artifact)
    assert [r["prompt"] for r in left if r["domain"] in ("writing", "general")] == [poem, chatter]
    assert all(isinstance(r["tokens"], int) for r in left)
    general = results["domains"]["general"]
    assert (general["added"], general["rows"], general["turns"]) == (3, 1, 2)
    assert general["dropped"] == {"contaminated: facts": 1, "duplicate": 1}
    alone = json.loads((whole[0] / "cold/results.json").read_text())["domains"]["math"]["dropped"].get("duplicate", 0)
    assert results["domains"]["math"]["dropped"]["duplicate"] == alone + 1  # the model may say the same twice, too
    same_problem = sum(r["key"] == mine[1]["key"] for r in mine)
    assert results["total"]["dropped"]["contaminated: own"] == same_problem
    assert results["held"] == {"facts": 1, "own": 1}
    assert len(left) == len(mine) + 2 - same_problem


def test_faulty_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no rows here"):
        rows_at(tmp_path)
    for bad, said in (
        ({"prompt": "x"}, "no 'response'"),
        ([1], "not an object"),
        ({"prompt": "", "response": "y"}, "no 'prompt'"),
    ):
        write_lines(tmp_path / "a.jsonl.zst", [{"prompt": "x", "response": "y"}, bad])
        with pytest.raises(RunError, match=f"a.jsonl.zst:2: {said}"):
            rows_at(tmp_path)


def test_nothing_left_is_an_error_with_the_reasons(tmp_path: Path, policy: Path) -> None:
    with pytest.raises(RunError, match=r"no row to learn from \((wrong|length) \d+, "):
        make(tmp_path / "run", policy, section={"problems": 8, "readable": {"shortest": 10_000}})


def test_sft_learns_from_rows_and_from_rollouts(whole: tuple[Path, Artifact], tmp_path: Path, policy: Path) -> None:
    _, tokenizer = load_policy(policy)
    folder, artifact = whole
    found = examples_of(artifact.path, tokenizer)
    assert len(found) == artifact.meta["kept"]
    rolled = {e.ids.tobytes(): e for e in examples_of(folder / "cold/rollouts", tokenizer)}
    for row, example in zip(kept(artifact), found, strict=True):
        prompt = chat.render("mini", row["prompt"])
        assert tokenizer.decode(example.ids[~example.mask]) == prompt
        assert tokenizer.decode(example.ids[example.mask]) == row["response"] + tokenizer.eos_token
        if (same := rolled.get(example.ids.tobytes())) is not None:
            assert np.array_equal(same.mask, example.mask)
    section = config.SFT(epochs=1, tokens_per_step=4096)
    for name in ("sft", "sft2", "sft3"):
        (tmp_path / name).mkdir()
    rollouts = Artifact("dataset", folder / "cold/rollouts")
    made = sft(Stage(tmp_path / "sft"), section, Artifact("weights", policy), (artifact, rollouts))
    assert made.meta["rows"] == len(found) + sum(
        len(g.samples) for n in (1, 2, 3) for g in Stage(folder / "cold").read_rollouts(n)
    )
    write_lines(tmp_path / "long/1.jsonl.zst", [{"prompt": "x", "response": "a b c " * 400}])
    with pytest.raises(RunError, match=r"1 of 1 rows are longer than the model's context of 512 tokens"):
        sft(Stage(tmp_path / "sft2"), section, Artifact("weights", policy), (rows_at(tmp_path / "long"),))
    with pytest.raises(RunError, match="no row to learn from"):
        sft(Stage(tmp_path / "sft3"), section, Artifact("weights", policy), ())
