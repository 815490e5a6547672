"""R1's limits: what is counted is what is there; rewards and pages."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from incentive import chat, config, limits, rewards
from incentive.cli import app
from incentive.limits.mixing import mixing
from incentive.limits.overthinking import BINS, against, appears, difficulty, overthinking, spent, tokens_before
from incentive.limits.sensitivity import sensitivity, with_examples
from incentive.limits.structured import structured
from incentive.limits.tools import tool_use
from incentive.measure import first_right
from incentive.model.checkpoint import load_tokenizer
from incentive.records import Group, Problem, Sample, Score
from incentive.report.limits import page
from incentive.tasks import find
from incentive.tasks.sums import Calculator
from incentive.tasks.wording import HELD_OUT, OWN, Reworded, edited, wordings
from incentive.verify.schema import fault


class Letters:
    """A tokenizer of one token a character."""

    def decode(self, ids, skip_special_tokens=False):  # noqa: ARG002
        return "".join(map(chr, ids))


def sample(text: str, name: str = "p/0", mask: list[bool] | None = None) -> Sample:
    ids = np.array([*map(ord, text), 0])
    own = np.ones(len(ids), dtype=bool) if mask is None else np.array(mask)
    return Sample(
        name, "p", np.zeros(1, np.int64), ids, own, np.zeros(len(ids), np.float32), 1.0, "stop", (0, 0), 0, text
    )


def group(problem: Problem, texts: list[str], task) -> Group:
    found = [sample(t, f"{problem.id}/{i}") for i, t in enumerate(texts)]
    right = [(a := chat.split(t)[1]) is not None and task.check(problem, a) for t in texts]
    return Group(problem, found, [Score(float(r), {"accuracy": float(r), "format": 1.0}) for r in right])


COUNTDOWN = find("countdown3")
PROBLEM = Problem(
    "p",
    "k",
    "use 3,7,25 to make 46",
    "25+7*3",
    {"task": "countdown3", "language": "en", "numbers": [3, 7, 25], "target": 46},
)
WRONG, RIGHT = "25-7=18,18*3=54?46 no wait", "7*3=21,21+25=46?46 yes"
ANSWER = "7*3+25"


# overthinking


@pytest.mark.parametrize(
    ("thinking", "end"),
    [
        (RIGHT, len(RIGHT)),
        (f"{WRONG}\n{RIGHT}", len(WRONG) + 1 + len(RIGHT)),
        (f"{RIGHT} wait\n{WRONG}\n{RIGHT}", len(RIGHT) + 5),
        (WRONG, None),
        ("7*3=22,21+25=46?46 yes", None),  # false arithmetic
        ("40+6=46?46 yes", None),  # other numbers
        ("7*3=21?46 no", None),
        ("", None),
    ],
)
def test_where_the_right_answer_first_appears(thinking: str, end: int | None) -> None:
    assert appears(COUNTDOWN, PROBLEM, thinking) == end


def test_first_right_takes_each_number_once() -> None:
    assert first_right("3+3=6,6+7=13,13+33=46", 46, [3, 3, 7, 33]) is not None
    assert first_right("3+3=6,6+7=13,13+33=46", 46, [3, 7, 33]) is None
    assert first_right("10+10=20,20+20=40", 40, [10, 10, 20]) is not None, (
        "one 20 is the step's, the other the problem's"
    )
    assert first_right("40+6=46", 46) is not None


def test_other_tasks_and_the_literal_rule() -> None:
    logic = find("logic")
    riddle = replace(logic.problem(0, "val", 0), answer="AC")
    assert appears(logic, riddle, "B? A no\nAC? A ok B ok C ok D ok yes\nD") == len(
        "B? A no\nAC? A ok B ok C ok D ok yes"
    )

    class Plain:
        def gold(self, problem):
            return problem.answer

    asked = Problem("q", "q", "7*8?", "56", {})
    for thought, end in (("I see 156.\nIt is 56. So", 23), ("56.5 or 560", None), ("x=56", 4), ("", None)):
        assert appears(Plain(), asked, thought) == end, thought


def test_tokens_are_counted_where_they_are_spent() -> None:
    text = chat.perfect(f"{RIGHT} wait\n{WRONG}", ANSWER)
    told = spent(COUNTDOWN, PROBLEM, sample(text), True, Letters())
    assert told.first == len("<think>") + len(RIGHT) + 5
    assert told.after == 1 + len(WRONG)
    assert told.tokens == len(text) + 1
    masked = [i % 2 == 0 for i in range(len(text) + 1)]
    assert spent(COUNTDOWN, PROBLEM, sample(text, mask=masked), True, Letters()).tokens == sum(masked)
    assert [tokens_before(Letters(), np.array([65, 66, 67]), n) for n in range(4)] == [0, 1, 2, 3]


def test_difficulty_leaves_the_answer_itself_out() -> None:
    assert [difficulty([True, False, False], i) for i in range(3)] == [1.0, 0.5, 0.5]
    assert difficulty([True], 0) is None


def test_overthinking_by_difficulty() -> None:
    easy, hard = PROBLEM, replace(PROBLEM, id="h", key="h")
    good, slow, bad = (chat.perfect(t, ANSWER) for t in (RIGHT, f"{RIGHT}\n{RIGHT}", "x"))
    bad = bad.replace(ANSWER, "none")
    lost = chat.perfect(f"{RIGHT}\n{WRONG}", "none")
    groups = [group(easy, [good, good, slow], COUNTDOWN), group(hard, [bad, bad, lost], COUNTDOWN)]
    told = overthinking(groups, COUNTDOWN, Letters())
    solved, failed = told["bins"][BINS[0]], told["bins"][BINS[3]]
    assert (solved["answers"], failed["answers"]) == (3, 3)
    assert solved["tokens"]["mean"] == pytest.approx((2 * (len(good) + 1) + len(slow) + 1) / 3)
    assert solved["after"]["mean"] == pytest.approx((1 + len(RIGHT)) / 3)
    assert told["right"] == 0.5
    assert told["appeared"] == pytest.approx(4 / 6)
    assert told["abandoned"] == pytest.approx(1 / 4)
    assert told["repeated"] == pytest.approx(0.5 / 6)
    pair = against(told, told)
    assert pair is not None
    assert (pair["paired"], pair["tokens"]["difference"]) == (2, 0.0)
    assert against(told, {**told, "by_problem": {}}) is None


# rewards


def test_length_pays_short_right_answers_and_no_other() -> None:
    reward = rewards.length(COUNTDOWN.check)
    short, long, wrong = (chat.perfect(t, a) for t, a in (("x", ANSWER), ("x" * 100, ANSWER), ("", "none")))
    values = reward(PROBLEM, [sample(t) for t in (short, long, wrong)])
    assert values == pytest.approx([-1 / (1 + np.e), -1 / (1 + 1 / np.e), 0.0])  # one standard deviation on either side
    assert reward(PROBLEM, [sample(t) for t in (short, short, wrong)]) == [-0.5, -0.5, 0.0]
    assert reward(PROBLEM, [sample(wrong)]) == [0.0]
    grade = rewards.each(rewards.shipped(COUNTDOWN.check), {"accuracy": 1.0, "length": 0.99})
    totals = [s.total for s in grade(PROBLEM, [sample(t) for t in (short, *[long] * 40, wrong)])]
    assert min(totals[:-1]) > totals[-1] == 0, "a right answer is worth more than a wrong one, however long it is"


def test_length_of_a_group_graded_at_once_and_of_what_could_not_be_graded() -> None:
    told: list[list[str]] = []

    def checks(problem: Problem, answers: list[str]) -> list[bool | None]:  # noqa: ARG001
        told.append(answers)
        return [None if a == "?" else a == ANSWER for a in answers]

    reward = rewards.shipped(lambda *_: pytest.fail("one at a time"), checks)["length"]
    short, long, odd = (sample(chat.perfect(t, a)) for t, a in (("x", ANSWER), ("x" * 100, ANSWER), ("", "?")))
    assert reward(PROBLEM, [short, long, odd, sample("no tags")]) == pytest.approx(
        [-1 / (1 + np.e), -1 / (1 + 1 / np.e), None, 0.0]
    )
    assert told == [[ANSWER, ANSWER, "?"]]


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a":"x"}', None), (' {"a": "x"}\n', None), ('{"a":1}', "not the schema"), ("{}", "not the schema"),
        ('{"a":"x","b":1}', "not the schema"), ('{"a":"x","a":"y"}', "not JSON"), ("NaN", "not JSON"), ("", "not JSON"),
        ('{"a":"x"} yes', "not JSON"), ("{'a':'x'}", "not JSON"), ("[" * 100_000, "not JSON"), ("9" * 5000, "not JSON"),
        ('"' + "x" * 200_000 + '"', "not JSON"), ("[" * 900 + "]" * 900, "not the schema"),
    ],
)  # fmt: skip
def test_form_of_an_answer(text: str, why: str | None) -> None:
    assert fault(text, SCHEMA) == why


@given(st.one_of(st.text(), st.text(alphabet='{}[]",:a1eE+-.\\u ')))
@settings(max_examples=200, deadline=None)
def test_no_text_makes_the_form_check_raise(text: str) -> None:
    assert fault(text, SCHEMA) in (None, "not JSON", "not the schema")


def test_a_reference_is_never_fetched_and_a_broken_schema_is_the_tasks_fault() -> None:
    with pytest.raises(Exception, match="nresolvable"):
        fault("{}", {"$ref": "http://127.0.0.1:9/schema.json"})
    with pytest.raises(ValueError, match="not a JSON Schema"):
        fault("{}", {"type": 7})


def test_schema_reward_pays_the_form_whatever_the_facts() -> None:
    task = find("instruct-json")
    problem = task.problem(0, "val", 0)
    rows = json.loads(task.gold(problem))
    key = next(iter(next(iter(rows.values()))))
    other = {s: {**of, key: "red" if key == "colour" else "1"} for s, of in rows.items()}
    texts = [task.gold(problem), json.dumps(other), "{}", "iron 4"]
    values = rewards.schema(problem, [sample(chat.perfect("", t)) for t in texts])
    assert values == [1.0, 1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="has no JSON Schema"):
        rewards.schema(PROBLEM, [sample("")])
    told = structured([group(problem, [chat.perfect("", t) for t in texts] + ["nothing"], task)])
    assert told is not None
    assert told["valid"] == pytest.approx(2 / 5)
    assert list(told["outcomes"].values()) == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.2])
    for seed in range(30):
        drawn = find("instruct-json").problem(seed, "val", 0)
        assert fault(task.gold(drawn), drawn.tags["schema"]) is None


# wordings


def test_wordings_keep_the_content_and_a_chats_last_message_is_changed() -> None:
    for name in ("countdown3", "countdown3-zh", "arithmetic", "arithmetic-zh", "logic", "logic-zh"):
        task = find(name)
        problem = task.problem(0, "val", 3)
        found = wordings(task, problem)
        assert found[OWN] == problem.prompt
        same = "zh" in name or name == "logic"  # has no capitals, or begins with one
        assert len(set(map(str, found.values()))) == len(found) - same >= 5
        numbers = [str(n) for n in problem.tags.get("numbers", [])]
        assert all(n in str(text) for text in found.values() for n in numbers)
        if "arithmetic" in name:
            assert all(problem.key.removeprefix("arithmetic:") in str(text) for text in found.values())
    chatted = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert [m["content"] for m in edited(chatted, str.upper)] == ["a", "b", "C"]


def test_reworded_trains_on_some_wordings_and_is_tested_on_its_own() -> None:
    task = find("countdown3-reworded")
    assert isinstance(task, Reworded)
    drawn = [task.problem(0, "train", i) for i in range(120)]
    own = [COUNTDOWN.problem(0, "train", i) for i in range(120)]
    assert [p.key for p in drawn] == [p.key for p in own]
    names = set()
    for p, o in zip(drawn, own, strict=True):
        names |= {n for n, text in wordings(COUNTDOWN, o).items() if text == p.prompt}
    assert names == set(wordings(COUNTDOWN, own[0])) - set(HELD_OUT)
    assert task.problem(0, "val", 5).prompt == COUNTDOWN.problem(0, "val", 5).prompt


def test_a_reworded_task_has_what_its_task_has_and_no_more() -> None:
    class Plain:
        name = "plain"

        def problem(self, seed: int, split: str, i: int) -> Problem:
            return Problem(f"{split}/{seed}/{i}", f"k{i}", "7*8?", "56", {})

        def gold(self, problem: Problem) -> str:
            return problem.answer

    task = Reworded(Plain())
    drawn = task.problem(0, "train", 0)
    assert appears(task, drawn, "x=56") == 4  # the literal rule, for there is no other
    assert not hasattr(task, "paraphrases")
    assert copy.deepcopy(Reworded(COUNTDOWN)) == Reworded(COUNTDOWN)
    assert Reworded(find("sums")).tool is find("sums").tool  # type: ignore[attr-defined]


def test_sensitivity_counts_a_model_that_hears_one_wording_only() -> None:
    problems = [COUNTDOWN.problem(0, "val", i) for i in range(12)]

    def ask(mine):
        def text(p):
            heard = str(p.prompt).startswith("use ") and " to make " in str(p.prompt)
            return chat.perfect("", COUNTDOWN.gold(p) if heard else "none")

        return [group(p, [text(p)] * 2, COUNTDOWN) for p in mine]

    told = sensitivity(COUNTDOWN, problems, ask, 0, (2,))
    rates = {name: w["right"] for name, w in told["wordings"].items()}
    assert {n for n, r in rates.items() if r == 1} == {OWN, "spaced", "line break"}
    assert (told["spread"], told["flips"]) == (1.0, 1.0)
    assert told["wordings"]["please"]["against_own"]["difference"] == -1.0
    assert all(
        0 <= w["ci95"][0] <= w["right"] <= w["ci95"][1] <= 1
        for w in [*told["wordings"].values(), *told["few_shot"].values()]
    )
    assert told["few_shot"]["2"]["right"] == 0.0
    prompt = with_examples(COUNTDOWN, problems[0], 0, 4, 2)
    shown = COUNTDOWN.problem(0, "train", 4)
    assert prompt.startswith(f"example: {shown.prompt}\nanswer: {shown.answer}\n\nexample: ")
    assert prompt.endswith(str(problems[0].prompt))


# languages and tools


def test_mixing_counts_words_by_language() -> None:
    zh = find("countdown3-zh")
    problem = replace(PROBLEM, tags={**PROBLEM.tags, "language": "zh"})
    texts = [chat.perfect(t, ANSWER) for t in ("等等 重来", "等 wait wait wait", "3+4=7")]
    told = mixing([group(problem, texts, zh)])
    assert told is not None
    assert told["words"] == {"zh": 5, "en": 3}
    assert told["mixed"] == 0.5
    assert told["wordless"] == pytest.approx(1 / 3)
    assert told["share"] == pytest.approx((1 + 0.25) / 2)
    silent = {k: v for k, v in PROBLEM.tags.items() if k != "language"}
    assert mixing([group(replace(PROBLEM, tags=silent), texts, COUNTDOWN)]) is None


def test_tool_use_counts_what_the_tool_said_not_what_the_policy_forged() -> None:
    task = find("sums")
    problem = task.problem(0, "val", 0)
    gold = chat.perfect("", task.gold(problem))
    forged = sample(f"[1*1]1\n[1*]error\n{gold}")
    text = f"[1*]error\n{gold}"
    own = np.ones(len(text) + 1, dtype=bool)
    own[text.index("error") : text.index("error") + 6] = False
    asked = Group(problem, [forged, replace(sample(text), mask=own)], [Score(1.0, {"accuracy": 1.0})] * 2)
    alone = Group(problem, [forged] * 2, [Score(0.0, {"accuracy": 0.0})] * 2)
    told = tool_use([asked, asked], [alone, alone], Calculator())
    assert (told["right"], told["right_alone"], told["asks"], told["calls"]) == (1.0, 0.0, 0.5, 0.5)
    assert told["errors"] == 1.0
    assert told["by_calls"] == {"0": 2, "1": 2}


# the command and the page


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        self.seen.append(tag)
        if tag not in {"meta", "br", "hr", "link", "img", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):  # noqa: ARG002
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def measured(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("limits")
    command = ["limits", str(tiny_model), "--problems", "3", "--samples", "2", "--max-tokens", "24", "--split", "val"]
    run = CliRunner().invoke(app, [*command, "--out", str(out)], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    assert "overthinking" in run.output
    assert str(out / "limits.html") in run.output
    return out


def test_command_measures_every_limit_and_draws_it(measured: Path, tiny_model: Path) -> None:
    found = json.loads((measured / "limits.json").read_text())
    assert tuple(found["limits"]) == limits.LIMITS
    html = (measured / "limits.html").read_text()
    tags = Tags(html)
    assert not tags.open
    assert tags.seen.count("svg") >= 6
    assert "script" not in tags.seen
    for title in ("Overthinking", "Prompt sensitivity", "Language mixing", "Tool use", "Structured output"):
        assert f"<h3>{title}</h3>" in html
    again = measured / "again"
    command = ["limits", str(tiny_model), "--problems", "3", "--samples", "2", "--max-tokens", "24", "--split", "val"]
    run = CliRunner().invoke(
        app, [*command, "--only", "overthinking", "--against", str(measured / "limits.json"), "--out", str(again)]
    )
    assert run.exit_code == 0, run.output
    assert "tokens +0.0" in run.output
    assert "paired over problems" in (again / "limits.html").read_text()


def test_a_runs_report_shows_the_plots_and_survives_a_torn_file(measured: Path, tmp_path: Path) -> None:
    from report_fixture import make_run

    from incentive.report import write_report

    run = make_run(tmp_path / "run")
    assert 'id="limits"' not in write_report(run).read_text()
    limits.write(json.loads((measured / "limits.json").read_text()), run)
    assert 'id="limits"' in (run / "report.html").read_text()
    (run / "limits.json").write_text('{"limits": {"tools": {"sums": 3}}}')
    assert "measure again" in write_report(run).read_text()


def test_page_escapes_a_models_prompts(measured: Path) -> None:
    found = json.loads((measured / "limits.json").read_text())
    found["limits"]["sensitivity"]["countdown3"]["wordings"]["own"]["prompt"] = "<script>alert(1)</script>"
    assert "<script>" not in page(found)


def test_a_comparison_without_common_problems_says_so(measured: Path) -> None:
    found = json.loads((measured / "limits.json").read_text())
    found["against"] = {"name": "other", "tasks": {}}
    assert "no task has two problems in common" in page(found)
    assert "no task has two problems in common" in "\n".join(limits.told(found))


def test_mistakes_are_named(tiny_model: Path, tmp_path: Path) -> None:
    for more, said in (
        (["--only", "overthink"], "no such limit"),
        (["--split", "train"], "choose test or val"),
        (["--against", str(tmp_path / "none.json")], "not a limits.json"),
        (["--only", "tools", "--against", "limits.json"], "compares overthinking"),
        (["--task", "countdown33"], "did you mean"),
        (["--max-tokens", "4000", "--problems", "2"], "context"),
    ):
        run = CliRunner().invoke(app, ["limits", str(tiny_model), "--out", str(tmp_path / "x"), *more])
        assert run.exit_code == 2, run.output
        assert said in run.output, run.output
    assert config.Sampling(temperature=0.0).temperature == 0
    assert load_tokenizer(tiny_model).eos_token
