"""Training sets beside evaluation sets: what they share is found, counted by evaluation problem, and told beside each score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from incentive.config import RL
from incentive.contamination import Contamination, drawn_by, in_corpus, meeting, texts_of
from incentive.curation import Held, Text
from incentive.files import RunError, write_lines
from incentive.keys import Artifact
from incentive.records import Problem, hash64
from incentive.tasks import distinct, find

LONG = "the quick brown fox jumps over the lazy dog and runs home to its den before night"


def free(prompt: str, answer: str = "") -> Problem:
    """A problem of a user's file: words are all there is to compare."""
    return Problem(prompt, f"jsonl:{prompt}", prompt, answer)


def data(folder: Path, *rows: dict, key: str = "data") -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "000001.jsonl.zst", rows)
    return Artifact("dataset", folder, key)


def contamination(folder: Path, said: list[str] | None = None, **asked: list[Problem]) -> Contamination:
    return Contamination(folder / "contamination.json", asked, (said if said is not None else []).append)


def test_each_way_of_meeting_is_found():
    keyed = Problem("k", "countdown:3,7,25=46", "use 3,7,25 to make 46", "")
    held = Held.of({"keyed": [keyed], "free": [free(LONG), free("how many apples are left", "seven of them")]})
    assert meeting([Text("other words", "", keyed.key)], held) == {"keyed": {0: "key"}}
    assert meeting([Text("Use 3, 7, 25 to make 46", "its solution")], held) == {"keyed": {0: "prompt"}}
    assert meeting([Text("use 3,7,26 to make 46")], held) == {}  # the template's words are in every one of them
    assert meeting([Text("so " + LONG.upper(), "x")], held) == {"free": {0: "words"}}
    near = Text(LONG.replace("jumps", "leaps") + " " + "and it was glad of it and slept")
    assert meeting([near], Held.of({"free": [free(LONG + " and it was glad of it and slept")]}))["free"] == {0: "words"}
    assert meeting([Text("how many apples are left")], held) == {"free": {1: "words"}}  # a short prompt is one run
    assert meeting([], held) == {}


@given(st.sets(st.integers(0, 39)), st.integers(1, 20))
def test_exactly_the_problems_in_training_are_met(picked, n):
    asked = distinct(find("countdown3"), 0, "test", 40)
    train = [Text.of(find("countdown3").problem(0, "train", i)) for i in range(n)]
    found = meeting([*train, *(Text.of(asked[i]) for i in picked)], Held.of({"countdown3": asked}))
    assert set(found.get("countdown3", {})) == picked


@given(st.integers(1, 7))
def test_training_texts_a_part_at_a_time_meet_the_same(part):
    asked = distinct(find("countdown3"), 0, "test", 6)
    held = Held.of({"keyed": asked, "free": [free(LONG), free(LONG.replace("dog", "cat") + " fell")]})
    train = [
        Text("so " + LONG, "x"),
        *map(Text.of, asked[:2]),
        Text(asked[0].prompt),
        Text("other"),
        Text(asked[2].prompt),
    ]
    assert meeting(train, held, part) == meeting(train, held)
    assert meeting(train, held)["keyed"] == {0: "key", 1: "key", 2: "prompt"}


def test_rows_and_rollouts_are_read(tmp_path):
    problem = {"id": "1", "key": "k:1", "prompt": "what", "answer": "", "tags": {}}
    sample = {"id": "1/0", "problem_id": "1", "prompt_ids": [1], "ids": [2], "mask": [True], "sampler_logp": [-1.0], "temperature": 1.0,
              "stop": "stop", "versions": [0, 0], "seed": 0, "text": "that"}  # fmt: skip
    group = {"problem": problem, "samples": [sample], "scores": [{"total": 1.0, "parts": {}, "error": None}]}
    row = {"prompt": [{"role": "user", "content": "asked"}], "response": "said", "key": "jsonl:1"}
    found = list(texts_of(data(tmp_path, group, row).path))
    assert found[0] == Text("what", "that", "k:1")
    assert (found[1].prompt, found[1].more, found[1].key) == ("asked", "said", None)


def test_an_evaluation_problem_in_training_stops_the_run(tmp_path):
    task = find("countdown3")
    asked = distinct(task, 0, "test", 8)
    seen = contamination(tmp_path, countdown3=asked)
    seen.drawn("zero", task, 0, 64)  # other splits share nothing
    with pytest.raises(RunError, match=r"dev2 would learn from 1 evaluation problem.*first countdown3/train/7/3"):
        contamination(tmp_path, countdown3=[task.problem(7, "train", 3)]).drawn("dev2", task, 7, 8)

    class Mine:
        name = "mine"

        def problem(self, seed, split, i):  # noqa: ARG002
            return free(LONG)

    with pytest.raises(
        RunError, match="zero would learn from 1 evaluation problem"
    ):  # a user's own, by its whole prompt
        contamination(tmp_path, mine=[free(LONG)]).drawn("zero", Mine(), 0, 3)
    rows = data(tmp_path / "rows", {"prompt": "x", "response": "y", "key": asked[2].key})
    with pytest.raises(RunError, match="dev1 would learn from 1 evaluation problem"):
        seen.rows("dev1", [rows])


def test_shared_words_are_marked_and_do_not_stop(tmp_path):
    said: list[str] = []
    seen = contamination(
        tmp_path, said, mine=[free(LONG), free("a wholly different question of ten words or a few more")]
    )
    base = Artifact("weights", tmp_path / "base", "b")
    seen.base(base)
    seen.rows("dev1", [data(tmp_path / "rows", {"prompt": f"read: {LONG}", "response": "y"}, key="d")])
    made = seen.made("dev1", Artifact("weights", tmp_path, "m1", ("b", "d")))
    assert "1 of 2 problems of mine share words" in said[0]
    assert seen.beside(made)["mine"] == {"met": 1, "of": 2, "ngram": 10, "sets": {"corpus": None, "dev1": 1}}
    assert seen.beside(base)["mine"] == {"met": 0, "of": 2, "ngram": 10, "sets": {"corpus": None}}
    told = json.loads((tmp_path / "contamination.json").read_text())
    assert told["training"] == {"corpus": None, "dev1": {"rows": 1, "met": {"mine": {"words": 1}}}}


def test_what_lies_upstream_counts_and_nothing_else(tmp_path):
    task = find("logic")
    seen = contamination(tmp_path, logic=distinct(task, 0, "test", 5))
    base = Artifact("weights", tmp_path, "b")
    seen.base(base)
    seen.drawn("zero", task, 0, 4)
    zero = seen.made("zero", Artifact("weights", tmp_path, "z", ("b",)))
    cold = seen.made("cold-start", Artifact("dataset", tmp_path, "c", ("z",)))
    seen.drawn("labels", task, 0, 4)
    labels = seen.made("labels", Artifact("dataset", tmp_path, "l", ("b",)))
    safety = seen.made("safety", Artifact("weights", tmp_path, "s", ("b", "l")))
    dev1 = seen.made("dev1", Artifact("weights", tmp_path, "d", ("b", "c")))
    r1 = seen.made("r1", Artifact("weights", tmp_path, "r", ("d",)), also=[safety])

    def sets(a: Artifact) -> list[str]:
        return list(seen.beside(a)["logic"]["sets"])

    assert [sets(a) for a in (zero, cold, labels, dev1, r1)] == [
        ["corpus", "zero"], ["corpus", "zero"], ["corpus", "labels"], ["corpus", "zero"], ["corpus", "zero", "labels"],
    ]  # fmt: skip


def test_the_corpus_of_a_base_is_looked_up_by_hash(tmp_path):
    asked = distinct(find("logic"), 0, "test", 6)
    assert in_corpus(tmp_path, asked) is None
    np.save(
        tmp_path / "corpus_keys.npy", np.sort(np.array([hash64(asked[i].key) for i in (1, 4)] + [7], dtype=np.uint64))
    )
    assert in_corpus(tmp_path, asked) == [1, 4]
    seen = contamination(tmp_path, logic=asked)
    base = Artifact("weights", tmp_path, "b")
    seen.base(base)
    seen.base(base, "student's corpus")  # the same one
    assert seen.beside(base)["logic"] == {"met": 2, "of": 6, "ngram": 10, "sets": {"corpus": 2}}
    (tmp_path / "corpus_keys.npy").write_bytes(b"torn")
    with pytest.raises(RunError, match="no readable list of hashes"):
        in_corpus(tmp_path, asked)


def test_redraws_are_counted():
    section = RL(tasks={"logic": 1.0}, max_steps=10, problems_per_step=4)
    assert drawn_by(section) == 40
    assert drawn_by(section.model_copy(update={"dynamic_sampling": True})) == 160
