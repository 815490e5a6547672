"""Suites: each public schema from a small copy, metrics against closed forms, and a killed evaluation that goes on."""

from __future__ import annotations

import base64
import csv
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incentive import compare, harness, suites
from incentive.config import ConfigError, Sampling
from incentive.files import RunError
from incentive.records import Group, Problem, Sample, Score
from incentive.stages import benchmark
from incentive.tasks.jsonl import TaskError
from incentive.verify import benchmarks


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def packed(cases: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


# the schemas


def test_aime(tmp_path: Path) -> None:
    rows = [
        {"id": i, "problem": f"Find n{i}.", "solution": "", "answer": f"0{i}7", "url": "", "year": "2024"}
        for i in range(3)
    ]
    task = suites.find("aime24").load(
        jsonl(tmp_path / "a.jsonl", [*rows, {**rows[0], "problem": "q", "answer": "12.5"}])
    )
    assert [x.answer for x in task.lines] == ["7", "17", "27"]
    assert task.left_out == {"the answer is no whole number below 1000": 1}
    assert task.size("test") == 3
    assert task.lines[0].prompt.startswith("Find n0.\n\nThink")
    assert "\\boxed{}" in task.lines[0].prompt


def test_math500(tmp_path: Path) -> None:
    rows = [
        {
            "problem": "1/2+0?",
            "answer": "\\frac{1}{2}",
            "subject": "Algebra",
            "level": 3,
            "unique_id": "u",
            "solution": "",
        }
    ]
    line = suites.find("math500").load(jsonl(tmp_path / "a.jsonl", rows)).lines[0]
    assert line.answer == "\\frac{1}{2}"
    assert (line.tags["level"], line.tags["subject"]) == (3, "Algebra")


def test_gpqa(tmp_path: Path) -> None:
    path = tmp_path / "copy of diamond.csv"  # a local copy may have another name
    names = ["Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, names)
        out.writeheader()
        out.writerows(
            dict(zip(names, [f"Which, {i}?", f"r{i}\n", f"a{i}", f"b{i}", f"c{i}"], strict=True)) for i in range(40)
        )
    task = suites.find("gpqa-diamond").load(tmp_path)
    assert all(f"({x.answer}) r{i}" in x.prompt for i, x in enumerate(task.lines))
    assert {x.answer for x in task.lines} == set("ABCD")


def test_livecodebench(tmp_path: Path) -> None:
    row = {
        "question_title": "t", "question_content": "Add.", "platform": "atcoder", "question_id": "abc_a", "contest_id": "abc",
        "contest_date": "2024-09-01T00:00:00", "starter_code": "", "difficulty": "easy", "metadata": "{}",
        "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
        "private_test_cases": packed([{"input": "4 5\n", "output": "9\n", "testtype": "stdin"}]),
    }  # fmt: skip
    method = {
        **row, "question_id": "2", "question_content": "Add them.", "metadata": json.dumps({"func_name": "add"}),
        "starter_code": "class Solution:\n    def add(self, a: int, b: int) -> int:", "difficulty": "hard",
        "public_test_cases": json.dumps([{"input": "1\n2", "output": "3", "testtype": "functional"}]),
        "private_test_cases": json.dumps([{"input": "[1]\n\"x\"", "output": "null", "testtype": "functional"}]),
    }  # fmt: skip
    early = {**row, "question_id": "3", "question_content": "Old.", "contest_date": "2023-05-01"}

    class Evil:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('ran')",)

    evil = {
        **row,
        "question_content": "Evil.",
        "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode(),
    }
    task = suites.find("livecodebench").load(jsonl(tmp_path / "test6.jsonl", [row, method, early, early, early, evil]))
    assert task.left_out == {"outside the dates": 3, "the tests cannot be read": 1}
    stdin, function = task.lines
    assert stdin.answer == {
        "entry": None,
        "before": "",
        "tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "4 5\n", "output": "9\n"}],
    }
    assert function.answer["entry"] == "Solution.add"
    assert function.answer["tests"] == [{"input": [1, 2], "output": 3}, {"input": [[1], "x"], "output": None}]
    assert (stdin.id, function.tags["difficulty"]) == ("abc_a", "hard")


HUMANEVAL = {
    "task_id": "HumanEval/0", "entry_point": "plus", "canonical_solution": "    return a + b\n",
    "prompt": 'import math\n\ndef plus(a: int, b: int) -> int:\n    """Add."""\n',
    "test": "def assertion(out, exp, atol):\n    assert out == exp\n\ndef check(candidate):\n    inputs = [[1, 2], [0.5, 1]]\n"
    "    results = [3, 1.5]\n    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 0)\n",
}  # fmt: skip


def test_humaneval_plus_reads_its_cases_and_runs_none(tmp_path: Path) -> None:
    other = {
        **HUMANEVAL,
        "task_id": "HumanEval/1",
        "prompt": "def f(): ...",
        "test": "def check(c):\n    assert c() == 1\n",
    }
    task = suites.find("humaneval-plus").load(jsonl(tmp_path / "a.jsonl", [HUMANEVAL, other]))
    assert task.left_out == {"the tests hold no lists of inputs and results": 1}
    tests = task.lines[0].answer["tests"]
    assert tests == [
        {"input": [1, 2], "output": 3, "tolerance": None},
        {"input": [0.5, 1], "output": 1.5, "tolerance": 1e-6},
    ]


def test_ifeval(tmp_path: Path) -> None:
    rows = [
        {"key": 1, "prompt": "Write, no commas.", "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
         "kwargs": [{"num_words": None}, {"num_words": 3, "relation": "at least"}]},
        {"key": 2, "prompt": "x", "instruction_id_list": ["new:kind"], "kwargs": [{}]},
    ]  # fmt: skip
    rows.append({**rows[0], "key": 3, "prompt": "Again."})
    task = suites.find("ifeval").load(jsonl(tmp_path / "a.jsonl", rows))
    assert task.left_out == {"unknown instruction 'new:kind'": 1}
    problem = task.posed(task.lines[0])
    with benchmarks.grading("instructions", lambda s: benchmarks.final(s.text)) as (grade, _):
        scores = grade(
            problem, [sample(0, "three plain words"), sample(1, "two, words"), sample(2, "<think>never ends")]
        )
    assert [s.total for s in scores] == [1.0, 0.0, 0.0]
    assert scores[1].parts == {
        "accuracy": 0.0,
        "marked": 1.0,
        "loose": 0.0,
        "followed": 0.0,
        "followed_loose": 0.0,
        "instructions": 2.0,
    }
    assert scores[2].parts["marked"] == 0.0


def test_a_wrong_suite_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'aime24'"):
        suites.find("aim24")
    with pytest.raises(TaskError, match="no column 'problem'"):
        suites.find("aime24").load(jsonl(tmp_path / "a.jsonl", [{"question": "x", "answer": "1"}]))
    with pytest.raises(ConfigError, match="one suite's data set"):
        harness.evaluate("base-mini", ["mini"], data="x")
    for suite in suites.SUITES.values():
        assert suite.source is None or len(suite.source.revision) == 40


# answers


def sample(i: int, text: str, problem: str = "p") -> Sample:
    none = np.zeros(1, dtype=np.float32)
    return Sample(
        f"{problem}/{i}",
        problem,
        none.astype(np.int64),
        none.astype(np.int64),
        none > -1,
        none,
        0.6,
        "stop",
        (0, 0),
        i,
        text,
    )


def test_final_answers() -> None:
    final = benchmarks.final
    assert final("<think>a</think><answer>b</answer>") == "b"
    assert final("a <answer>no</answer></think>\n\nb") == "b"
    assert final("plain") == "plain"
    assert final("<think>it never ends, \\boxed{1}") is None
    assert final("a thought, \\boxed{1}", opened=True) is None
    assert final("a thought</think>\\boxed{1}", opened=True) == "\\boxed{1}"


def test_marked_answers() -> None:
    marked = benchmarks.marked
    assert marked("number", "first \\boxed{1}, no: \\boxed{\\frac{2}{3}} and \\boxed{") == "\\frac{2}{3}"
    assert marked("number", "42") == "42"
    assert marked("number", "words " * 100) is None
    assert marked("choice", "Answer: B\nno wait\n**Answer: (C)**") == "C"
    assert marked("choice", "The answer is A.") == "A"
    assert marked("choice", "\\boxed{D}") == "D"
    assert marked("code", "x\n```python\na\n```\n```\nb\n```") == "a\n"
    assert marked("code", "x\n```\nb\n```") == "b\n"
    assert marked("code", "def f(): pass") == "def f(): pass"
    assert marked("code", "I cannot.") is None
    assert marked("instructions", "all of it") == "all of it"


def test_programs_run_in_the_sandbox(tmp_path: Path) -> None:
    task = suites.find("humaneval-plus").load(jsonl(tmp_path / "a.jsonl", [HUMANEVAL]))
    problem = task.posed(task.lines[0])
    texts = [
        "```python\ndef plus(a, b):\n    return a + b\n```",
        "```python\n    return a + b\n```",  # a completion
        "```python\ndef plus(a, b):\n    return 3\n```",
        "```python\ndef plus(a, b):\n    while True: pass\n```",
        "no code",
    ]
    with benchmarks.grading("code", lambda s: benchmarks.final(s.text), seconds=0.5) as (grade, name):
        scores = grade(problem, [sample(i, t) for i, t in enumerate(texts)])
    assert [s.total for s in scores] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert name.startswith("sandbox ")


def test_maths_and_choice_are_graded_by_id() -> None:
    for kind, gold, good, bad in (
        ("number", "204", "so \\boxed{204}", "\\boxed{203}"),
        ("maths", "\\frac{1}{2}", "\\boxed{0.5}", "\\boxed{1}"),
        ("choice", "B", "Answer: B", "Answer: C"),
    ):
        with benchmarks.grading(kind, lambda s: benchmarks.final(s.text)) as (grade, _):
            scores = grade(Problem("p", "k", "q", gold), [sample(0, bad), sample(1, good), sample(2, "<think>x")])
        assert [s.total for s in scores] == [0.0, 1.0, 0.0]
    assert (
        benchmarks.vote("maths", "\\boxed{ 0.50 }")
        == benchmarks.vote("maths", "1/2")
        != benchmarks.vote("maths", "1/3")
    )
    assert benchmarks.vote("choice", "Answer: b") == "B"
    assert benchmarks.vote("code", "x") is None


# metrics


def part(k: int, problems: int, vote: bool = True) -> benchmark.Part:
    asked = [Problem(f"p{i}", f"k{i}", "q", "1", {"level": i % 3}) for i in range(problems)]
    return benchmark.Part("t", asked, k, Sampling(), None, (lambda s: s.text) if vote else None)  # type: ignore[arg-type]


def groups(p: benchmark.Part, right: list[int]) -> list[Group]:
    """Problem i: `right[i]` answers say 1, the others differ from each other."""
    return [
        Group(q, [sample(j, "1" if j < c else f"w{j}", q.id) for j in range(p.k)], [Score(float(j < c), {"accuracy": float(j < c), "tokens": 5.0}) for j in range(p.k)])
        for q, c in zip(p.problems, right, strict=True)
    ]  # fmt: skip


def test_metrics_equal_closed_forms() -> None:
    """Every answer is right with chance c/k; the closed forms of pass@n and of the vote hold exactly."""
    from math import comb

    k, right = 8, [0, 1, 2, 4, 8, 8, 0, 3]
    p = part(k, len(right))
    found = benchmark.results(groups(p, right), p)
    assert found["pass@1"] == pytest.approx(sum(right) / k / len(right), abs=1e-12)
    for n in (2, 4, 8):
        assert found[f"pass@{n}"] == pytest.approx(np.mean([1 - comb(k - c, n) / comb(k, n) for c in right]), abs=1e-12)
    # one right answer is seen first and ties with single wrong ones; none loses
    assert found["cons@8"] == pytest.approx(6 / 8)
    low, high = found["ci95"]
    assert 0 <= low < found["pass@1"] < high <= 1
    assert set(found["by"]["level"]) == {"0", "1", "2"}
    assert found["by_problem"]["k3"] == 0.5
    assert "cons@8" not in benchmark.results(
        groups(part(k, len(right), vote=False), right), part(k, len(right), vote=False)
    )


def test_a_vote_for_a_wrong_answer_wins() -> None:
    p = part(4, 1)
    said = ["1", "2", "2", "3"]
    g = Group(
        p.problems[0],
        [sample(i, t) for i, t in enumerate(said)],
        [Score(float(t == "1"), {"accuracy": float(t == "1"), "tokens": 5.0}) for t in said],
    )
    found = benchmark.results([g], p)
    assert (found["pass@1"], found["pass@4"], found["cons@4"]) == (0.25, 1.0, 0.0)


def test_pass_at_1_is_no_64th_of_itself() -> None:
    p = part(64, 4)
    found = benchmark.results(groups(p, [64, 64, 64, 0]), p)
    assert found["pass@1"] == 0.75
    assert found["pass@64"] == 0.75


def test_an_answer_that_could_not_be_graded_counts_as_wrong_and_is_counted() -> None:
    p = part(2, 1)
    g = Group(
        p.problems[0],
        [sample(0, "1"), sample(1, "1")],
        [Score(1.0, {"accuracy": 1.0, "tokens": 5.0}), Score(None, {"tokens": 5.0}, "down")],
    )
    found = benchmark.results([g], p)
    assert (found["pass@1"], found["ungraded"]) == (0.5, 1)


# the whole way, on the base


def run(out: Path, **more: Any) -> dict[str, Any]:
    given = {"k": 4, "problems": 6, "max_tokens": 24, "threads": 1, "out": out}
    return harness.evaluate("base-mini", ["mini"], **{**given, **more})


def test_killed_and_resumed_gives_the_same_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "BLOCK", 8)
    whole = run(tmp_path / "a")

    class Killed(BaseException):
        pass

    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 37:  # in the middle of the fifth block
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "b", count=count)
    kept = sorted(p.name for p in (tmp_path / "b/rollouts").iterdir())
    assert kept == [f"{n:06d}.jsonl.zst" for n in range(1, 5)]
    with pytest.raises(compare.CompareError, match="not finished"):
        compare.read(str(tmp_path / "b"), lambda _: {})
    with (tmp_path / "b/metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "task": "x"}\n{"step": 6, "ta')  # a row before its answers, and a torn one
    calls = -10_000
    again = run(tmp_path / "b", count=count)
    assert (tmp_path / "a/results.json").read_bytes() == (tmp_path / "b/results.json").read_bytes()
    assert again["tasks"] == whole["tasks"]
    rows = [json.loads(x) for x in (tmp_path / "b/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 13))
    assert all(r["tokens/sampled"] for r in rows)
    assert -calls == 10_000 - (96 - 32)  # only what was missing was sampled
    paired = compare.differences(*(compare.read(str(tmp_path / x), lambda _: {}) for x in "ab"))
    assert paired["countdown3"]["difference"] == 0
    assert paired["countdown3"]["paired"] == 6


def test_a_folder_belongs_to_one_evaluation(tmp_path: Path) -> None:
    run(tmp_path / "a", problems=2)
    with pytest.raises(RunError, match="holds an evaluation with another seed: 0, not 1"):
        run(tmp_path / "a", problems=2, seed=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine.txt").write_text("x")
    with pytest.raises(RunError, match="holds other files"):
        run(tmp_path / "b", problems=2)
    with benchmark.opened(tmp_path / "c", {"a": 1}), pytest.raises(RunError, match="another process"), benchmark.opened(tmp_path / "c", {"a": 1}):  # fmt: skip
        pass


def test_a_data_set_through_a_chat_template(tmp_path: Path) -> None:
    rows = [{"problem": f"What is {i}+{i}?", "answer": str(2 * i)} for i in range(4)]
    found = harness.evaluate(
        "base-mini",
        ["aime24"],
        data=str(jsonl(tmp_path / "a.jsonl", rows)),
        k=2,
        max_tokens=16,
        threads=1,
        out=tmp_path / "o",
    )
    assert found["template"] == "chat"
    assert found["tasks"]["aime24"]["problems"] == 4
    about = found["suites"]["aime24"]
    assert about["data"]["dataset"] == "HuggingFaceH4/aime_2024"
    assert len(about["data"]["files"]["a.jsonl"]) == 64
    assert (about["suite_k"], about["k"]) == (64, 2)
