"""Data sets of the Hub: every format and schema from small local copies, the cache, and every fault in words."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from incentive.records import SPLITS, split_of
from incentive.tasks import distinct, find
from incentive.tasks.hub import Fields, Hub, Source, read
from incentive.tasks.jsonl import Jsonl, TaskError, content

ROWS = [
    {"problem": f"What is {i} + {i}?", "answer": str(2 * i), "level": i % 5, "extra": {"gold": 2 * i}}
    for i in range(40)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            out.writerows({k: json.dumps(v) if isinstance(v, dict) else v for k, v in r.items()} for r in rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    else:
        path.write_text(json.dumps({"data": rows}))
    return path


PLAIN = Fields(question="problem", answer="answer")


def told(error: pytest.ExceptionInfo[TaskError]) -> str:
    text = str(error.value)
    assert text.count("\n") <= 1, text
    return text


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json", "a.csv"])
def test_every_format_gives_the_same_problems(tmp_path: Path, name: str) -> None:
    task = Hub(str(write(tmp_path / name, ROWS)), PLAIN, name="t")
    by = {x.key: x for x in task.lines}
    assert len(by) == 40
    assert by[content("What is 3 + 3?")].answer == "6"
    for x in task.lines:
        assert x.split == split_of(x.key)
    problem = task.problem(0, "train", 5)
    assert task.check(problem, task.gold(problem))
    assert not task.check(problem, "-1")
    nested = Hub(str(tmp_path / name), Fields("problem", "extra.gold"), name="t")  # text of JSON in a csv
    assert [x.answer for x in nested.lines] == [x.answer for x in task.lines]


def test_a_question_is_the_same_content_in_a_jsonl_file_and_a_data_set(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": r["problem"], "answer": r["answer"]}) + "\n" for r in ROWS))
    ours = Hub(
        str(write(tmp_path / "a.parquet", ROWS)), Fields("problem", "answer", prompt="{question}\nThink."), name="t"
    )
    assert [(x.key, x.split) for x in ours.lines] == [(x.key, x.split) for x in Jsonl(file).lines]
    assert ours.lines[3].prompt == "What is 3 + 3?\nThink."


def test_files_and_splits_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00000-of-00002.parquet", ROWS[:10])
    write(tmp_path / "data/train-00001-of-00002.parquet", ROWS[10:20])
    write(tmp_path / "data/test-00000-of-00001.parquet", ROWS[20:25])
    (tmp_path / "README.md").write_text("no data")
    sizes = {s: len(read(Source(str(tmp_path), split=s)).rows) for s in ("train", "test", "")}
    assert sizes == {"train": 20, "test": 5, "": 25}
    assert len(read(Source(str(tmp_path), files=("data/test*",))).rows) == 5
    with pytest.raises(TaskError) as error:
        read(Source(str(tmp_path), split="validation"))
    assert "no validation file in" in told(error)
    assert "data/test-00000-of-00001.parquet" in told(error)
    assert len(read(Source("x/y", files=("gpqa.csv",)), tmp_path / "data/test-00000-of-00001.parquet").rows) == 5


def test_a_version_is_what_was_read_wherever_it_lies(tmp_path: Path) -> None:
    a = Hub(str(write(tmp_path / "a/x.jsonl", ROWS)), PLAIN, name="t")
    b = Hub("owner/name", PLAIN, name="t", data=write(tmp_path / "b/y.jsonl", ROWS))
    c = Hub(str(write(tmp_path / "c/x.jsonl", ROWS[1:])), PLAIN, name="t")
    assert a.version == b.version != c.version
    assert b.origin["dataset"] == "owner/name"
    assert len(next(iter(b.origin["files"].values()))) == 64
    assert Hub("owner/name", Fields("problem", "level"), data=tmp_path / "b/y.jsonl").version != a.version
    judged = Hub("owner/name", PLAIN, data=tmp_path / "b/y.jsonl", check=lambda _p, _a: True)
    assert judged.version != a.version


def test_choices_by_letter_index_and_text(tmp_path: Path) -> None:
    options = ["red", "blue", "green"]
    rows = [
        {"q": "one?", "o": options, "a": "B"},
        {"q": "two?", "o": options, "a": "(c)"},
        {"q": "three?", "o": options, "a": "blue"},
    ]
    task = Hub(str(write(tmp_path / "a.jsonl", rows)), Fields("q", "a", choices="o"), name="t", hold="test")
    assert [x.answer for x in task.lines] == ["B", "C", "B"]
    assert task.lines[0].prompt == "one?\n\n(A) red\n(B) blue\n(C) green"
    assert task.size("test") == 3
    rows = [{"q": "one?", "o": {"label": ["A", "B"], "text": ["x", "y"]}, "a": 1}]
    assert Hub(str(write(tmp_path / "b.jsonl", rows)), Fields("q", "a", choices="o"), name="t").lines[0].answer == "B"


def test_wrong_options_have_no_order_so_their_content_shuffles_them(tmp_path: Path) -> None:
    rows = [{"q": f"q{i}?", "r": f"right {i}", "w1": f"x{i}", "w2": f"y{i}", "w3": f"z{i}"} for i in range(200)]
    path = write(tmp_path / "a.csv", rows)
    fields = Fields("q", "r", wrong=("w1", "w2", "w3"))
    task = Hub(str(path), fields, name="t")
    letters = [x.answer for x in task.lines]
    assert all(30 <= letters.count(x) <= 70 for x in "ABCD")
    for x, row in zip(task.lines, rows, strict=True):
        assert f"({x.answer}) {row['r']}" in x.prompt
    turned = [{**r, "w1": r["w3"], "w3": r["w1"]} for r in rows]  # the columns' order is not content
    assert Hub(str(write(tmp_path / "b.csv", turned)), fields, name="t").lines[7].prompt == task.lines[7].prompt


def test_gsm8k_answers_follow_their_mark_and_messages_are_questions(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "2*3?"}],
            "answer": "2*3=6\n#### 6",
        },
        {"prompt": [{"role": "user", "content": "no mark"}], "answer": "6"},
        {"prompt": [{"role": "user", "content": "1.5*8?"}], "answer": "#### 1,200"},
    ]
    task = Hub(str(write(tmp_path / "a.parquet", rows)), Fields("prompt", "answer", after="####"), name="t")
    assert [(x.prompt, x.answer) for x in task.lines] == [("2*3?", "6"), ("1.5*8?", "1,200")]
    assert task.left_out == {"no answer": 1}


def test_repeated_and_contradicting_rows_are_counted(tmp_path: Path) -> None:
    rows = [*ROWS, ROWS[0], {**ROWS[1], "answer": "2.0"}, {**ROWS[2], "answer": "5"}, {**ROWS[3], "answer": ""}]
    task = Hub(str(write(tmp_path / "a.jsonl", rows)), PLAIN, name="t")
    assert task.left_out == {"the same question again": 3, "one question with two answers": 1, "no answer": 1}
    assert content("What is 2 + 2?") not in {x.key for x in task.lines}
    assert len(task.lines) == 39


def test_floats_are_the_numbers_they_are_meant_to_be(tmp_path: Path) -> None:
    rows = [{"q": "a?", "a": 12.0}, {"q": "b?", "a": 0.5}, {"q": "c?", "a": -3.0}]
    assert [x.answer for x in Hub(str(write(tmp_path / "a.parquet", rows)), Fields("q", "a")).lines] == [
        "12",
        "0.5",
        "-3",
    ]


def test_named_in_settings(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "test.jsonl", ROWS[:3])
    task = find(f"hub:{tmp_path}?question=problem&answer=extra.gold&split=train&hold=train")
    assert isinstance(task, Hub)
    assert len(distinct(task, 0, "train", 40)) == 40
    assert {s: task.size(s) for s in SPLITS} == {"train": 40, "val": 0, "test": 0}
    maths = find(f"hub:{tmp_path}?question=problem&answer=answer&check=number&hold=test")
    problem = maths.problem(0, "test", 0)
    assert maths.check(problem, f"so it is \\boxed{{{problem.answer}.0}}")
    assert not maths.check(problem, "it is 7.5")
    with pytest.raises(TaskError, match="check=sums: choose text, choice, number"):
        find(f"hub:{tmp_path}?check=sums")
    with pytest.raises(TaskError, match="did you mean 'question'"):
        find(f"hub:{tmp_path}?qestion=problem")
    with pytest.raises(TaskError, match="choose train, val or test"):
        find(f"hub:{tmp_path}?hold=all")


def test_a_cached_snapshot_is_read_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    cache = tmp_path / ".cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sha = "0123456789abcdef0123456789abcdef01234567"
    repo = cache / "datasets--owner--name"
    write(repo / f"snapshots/{sha}/data/train-0.parquet", ROWS)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(sha)
    for name in ("owner/name", f"owner/name@{sha}"):
        task = Hub(name, PLAIN)
        assert task.origin["revision"] == sha
        assert list(task.origin["files"]) == ["data/train-0.parquet"]
    with pytest.raises(TaskError) as error:
        Hub(f"owner/name@{sha[::-1]}", PLAIN)
    assert "not in the local cache" in told(error)
    assert "give a local copy" in told(error)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"problem": "x"\n', "a.jsonl:1: not valid JSON"),
        ("a.json", "[1, 2]", "not a list of objects"),
        ("a.json", "{", "not valid JSON"),
        ("a.parquet", "no parquet", "not valid parquet"),
        ("a.jsonl", "\n", "no rows"),
        ("a.csv", "problem,answer\n", "no rows"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TaskError, match=says) as error:
        Hub(str(tmp_path / name), PLAIN)
    told(error)


def test_a_wrong_mapping_is_an_error(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", ROWS))
    with pytest.raises(TaskError, match="no column 'question'") as error:
        Hub(path, Fields())
    assert "It has: problem, answer, level, extra." in told(error)
    with pytest.raises(TaskError, match="did you mean 'problem'"):
        Hub(path, Fields("problm", "answer"))
    with pytest.raises(TaskError, match="40 of 40 rows are no problem: no list of options") as error:
        Hub(path, Fields("problem", "answer", choices="answer"))
    told(error)
    with pytest.raises(TaskError, match="no data set's id") as error:
        Hub("nowhere/at/all", PLAIN)
    told(error)
    with pytest.raises(TaskError, match="no such file") as error:
        Hub("owner/name", PLAIN, data=tmp_path / "none")
    told(error)
