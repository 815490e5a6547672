"""The recipes for real models: their data sets by small local copies, their settings, and the whole path once."""

from __future__ import annotations

import json
import re
import threading
import tomllib
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hub_copies
import pytest

pytest.importorskip("httpx")
pytest.importorskip("math_verify")

from incentive import chat, config, hub, recipes
from incentive.config import ConfigError
from incentive.files import RunError, read_lines
from incentive.model.checkpoint import CheckpointError, resolve
from incentive.recipes import r1, scale
from incentive.recipes.plan import plan
from incentive.records import hash64
from incentive.stage import Stage
from incentive.tasks import find
from incentive.tasks.jsonl import TaskError

NAMES = ("zero-qwen2.5-1.5b", "r1-qwen2.5-1.5b", "r1-qwen2.5-7b", "distill-qwen2.5-1.5b", "paper")


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub_copies.write(tmp_path_factory.mktemp("hub"))


def here(name: str, copies: Path) -> str:
    found: str = hub_copies.local(name, copies)
    return found


# data sets


@pytest.mark.parametrize("name", [scale.MATHS, scale.STEM, scale.MATH_500, scale.GSM8K, scale.SCIQ])
def test_a_data_set_is_a_task_whose_gold_answer_passes(name: str, copies: Path) -> None:
    task = find(here(name, copies))
    split: Any = "test" if "hold=test" in name else "train"
    for i in range(3):
        problem = task.problem(0, split, i)
        assert task.check(problem, task.gold(problem))
        assert not task.check(problem, "")
        assert not task.check(problem, "no idea")
        assert problem.tags["language"] == "en"
        assert problem.tags["domain"] in ("math", "stem")


def test_programs_of_a_data_set_run_against_hidden_tests(copies: Path) -> None:
    name = here(scale.CODE, copies)
    task: Any = find(name.replace("tier=bubblewrap", "tier=monty"))
    problem = task.problem(0, "train", 0)
    wrong = "```python\nprint(1)\n```"
    assert task.checks(problem, [task.gold(problem), wrong, "", "words", task.gold(problem)]) == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert "test" not in problem.prompt
    assert problem.tags["tier"] == "monty"


def test_rows_whose_tests_call_a_function_are_left_out(tmp_path: Path) -> None:
    row = {"q": "a", "t": [{"fn_name": "f", "input": "1", "output": "2"}], "g": "x"}
    other = {"q": "b", "t": json.dumps([{"fn_name": None, "input": "1", "output": "2"}]), "g": "x"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (row, other)))
    task: Any = find(f"hub:{tmp_path / 'a.jsonl'}?question=q&answer=t&check=code&gold=g")
    assert len(task.lines) == 1
    assert task.left_out == {"its tests call a function": 1}


def test_prompts_without_an_answer_are_open_and_no_rule_checks_them(copies: Path) -> None:
    task: Any = find(here(scale.REQUESTS, copies))
    problem = task.problem(0, "train", 0)
    assert task.open
    assert problem.answer is None
    assert problem.tags["domain"] == "general"
    with pytest.raises(TaskError, match="no rule says"):
        task.check(problem, "x")
    judged: Any = find(here(scale.REFERENCE, copies))
    assert judged.judged
    with pytest.raises(TaskError, match="no rule says"):
        judged.check(judged.problem(0, "train", 0), "x")


def test_a_question_in_chinese_is_to_be_thought_about_in_chinese(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "一加一等于几?", "a": "2"}\n{"q": "What is x plus 一?", "a": "3"}\n')
    task: Any = find(f"hub:{tmp_path / 'a.jsonl'}?question=q&answer=a&language=auto")
    assert [line.tags["language"] for line in task.lines] == ["zh", "en"]


def test_a_data_set_is_read_once_until_its_copy_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"q": "1+1?", "a": "2"}\n')
    name = f"hub:{file}?question=q&answer=a"
    first = find(name)
    assert find(name) is first
    file.write_text('{"q": "1+1?", "a": "2"}\n{"q": "1+2?", "a": "3"}\n')
    assert len(find(name).lines) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hub:a/b?question=q&check=code", "check=code goes with gold=COLUMN"),
        ("hub:a/b?question=q&check=prose", "check=prose: choose"),
        ("hub:a/b?qestion=q", "did you mean 'question'"),
    ],
)
def test_a_faulty_name_is_told_before_anything_is_read(name: str, told: str) -> None:
    with pytest.raises(TaskError, match=told):
        find(name)


def test_a_model_of_the_hub_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def absent(*_: Any, **__: Any) -> str:
        raise errors.LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    with pytest.raises(CheckpointError, match=r"model Qwen/Qwen2\.5-1\.5B at main: not in the local cache"):
        resolve("hub:Qwen/Qwen2.5-1.5B")
    assert hub.named("hub:a/b@abc") == ("a/b", "abc")


# rows


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("<think>\na\n</think>\n\nIt is $\\boxed{4}$.", "<think>a</think>It is $\\boxed{4}$.\n<answer>4</answer>"),
        ("<think>a</think>plain words", "<think>a</think><answer>plain words</answer>"),
        ("a\n</think>\nwords", "<think>a</think><answer>words</answer>"),  # the template opened the thought
        ("hello you", "<think></think><answer>hello you</answer>"),
        ("<think>a</think>b<answer>c</answer>", "<think>a</think>b<answer>c</answer>"),
        ("<think>a", None),
        ("<think>a</think>", None),
        ("<think>a</think>b<think>c</think>d", None),
        ("<think>a<answer>1</answer></think>b", None),
        ("say <answer>1</answer>", None),
    ],
)
def test_a_response_is_brought_into_one_form(given: str, wanted: str | None) -> None:
    from incentive.stages.public import formed

    assert formed(given) == wanted
    if wanted is not None:
        assert chat.split(wanted)[1] is not None


def test_public_rows_are_read_formed_and_sifted(copies: Path, tmp_path: Path, tiny_model: Path) -> None:
    from incentive.curation import Held, Text
    from incentive.keys import Artifact
    from incentive.stages.public import public

    start = Artifact("weights", tiny_model, key="k")
    traces = [here(name, copies) for name in scale.TRACES]
    section = config.Rows(sources=(*traces, traces[0]), max_tokens=500)
    held = Held({"test": (Text("What is 7 plus 7?"),)})
    made = public(Stage(tmp_path / "rows"), section, start, held=held)
    rows = [r for p in sorted(made.path.glob("*.zst")) for r in read_lines(p)]
    total = made.meta["results"]["total"]
    assert len(rows) == made.meta["kept"] == total["rows"] == 119
    assert total["added"] == 160
    assert total["dropped"] == {"contaminated: test": 1, "duplicate": 40}
    assert rows[0]["prompt"] == "What is 0 plus 0?"
    assert chat.summarised(rows[0]["response"])
    assert {r["domain"] for r in rows} == {"math", "code", "stem"}
    few = public(Stage(tmp_path / "few"), section.model_copy(update={"rows": 5, "sources": tuple(traces)}), start)
    assert few.meta["kept"] == 15
    with pytest.raises(RunError, match="too long 40"):
        public(Stage(tmp_path / "none"), section.model_copy(update={"max_tokens": 20, "sources": (traces[0],)}), start)


def test_rows_in_the_other_schema_and_with_several_turns() -> None:
    from incentive.stages.public import read

    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert read({"conversations": turns}, {"messages": "conversations"}) == ("a", "b")
    more = [*turns, {"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]
    prompt, response = read({"conversations": more}, {"messages": "conversations"}) or ([], "")
    assert response == "d"
    assert [m["role"] for m in prompt] == ["user", "assistant", "user"]
    assert read({"conversations": turns[:1]}, {"messages": "conversations"}) is None
    assert read({"p": "a", "r": ""}, {"prompt": "p", "response": "r"}) is None


# settings


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_needs_no_connection(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("fetched"))
    found = recipes.load(name)
    settings = recipes.resolve(found)
    assert config.build(tomllib.loads(config.to_toml(settings))) == settings
    lines = plan(found, settings)
    assert any("from the Hub, when the run starts" in line for line in lines)
    assert recipes.default_dir(name) == Path("runs") / name


def test_the_papers_numbers() -> None:
    s = recipes.resolve(recipes.load("paper"))
    assert s.rl
    assert s.r1
    r1 = s.r1
    assert r1.longer
    stages = (s.rl, r1.longer, r1.dev2, r1.reasoning, r1.general)
    for rl in stages:
        assert (rl.problems_per_step, rl.num_generations, rl.steps_per_generation) == (32, 16, 16)
        assert rl.problems_per_step * rl.num_generations * rl.steps_per_generation == 8192
        assert (rl.optim.learning_rate, rl.beta, rl.epsilon, rl.ref_sync_steps) == (3e-6, 0.001, 10.0, 400)
    assert [rl.sampling.max_tokens for rl in stages] == [32768, 65536, 32768, 32768, 32768]
    assert [rl.sampling.temperature for rl in stages] == [1.0, 1.0, 1.0, 0.7, 0.7]
    assert [s.rl.max_steps, r1.longer.max_steps, r1.reasoning.max_steps, r1.general.max_steps] == [
        8200,
        10400,
        1300,
        1700,
    ]
    assert all("language" in rl.rewards for rl in stages[2:])
    assert not any("language" in rl.rewards for rl in stages[:2])
    for sft in (r1.dev1, r1.dev3):
        assert (sft.epochs, sft.optim.learning_rate, sft.optim.min_lr_ratio) == (2, 5e-5, 0.1)
        assert sft.tokens_per_step / 5355 == 128
    assert (r1.student.tokens_per_step / 5355, r1.student.optim.learning_rate) == (64, 8e-5)
    for model in (r1.helpful, r1.safety):
        assert (model.batch, model.epochs, model.max_tokens, model.optim.learning_rate) == (256, 1, 8192, 6e-6)
    assert (r1.helpful.scores, r1.safety.scores, r1.pairs.calls, r1.pairs.threshold) == ("summary", "response", 4, 1.0)
    assert r1.labels.problems * r1.labels.samples == 106_000


def test_a_second_phase_is_where_all_that_follows_begins() -> None:
    found = recipes.load("paper")
    every = {p.name: p for p in recipes.stages.planned(found, recipes.resolve(found))}
    longer = every["zero-longer"]
    assert (longer.start, longer.first) == ("zero", 8200)
    assert every["cold-start"].start == every["eval-zero"].start == "zero-longer"


def test_stages_after_r1_zero_have_a_template_of_their_own() -> None:
    cfg = recipes.resolve(recipes.load("r1-qwen2.5-1.5b"))
    names = [p.name.removeprefix("eval-") for p in recipes.stages.planned(recipes.load("r1-qwen2.5-1.5b"), cfg)]
    assert {n for n in names if r1.template_of(cfg, n) == "r1-zero"} == {"base", "zero", "cold-start"}
    assert {r1.template_of(cfg, n) for n in ("dev1", "pairs", "r1", "student")} == {"chat"}
    mini = recipes.resolve(recipes.load("r1-mini"))
    assert {r1.template_of(mini, n) for n in (*names, "dev2-free")} == {"mini"}


def test_where_no_task_is_the_worlds_the_rules_are_the_truth() -> None:
    assert r1.watch((scale.REQUESTS, scale.MATHS), (scale.MATHS,)).truths == {"what rules check": (scale.MATHS,)}
    assert set(r1.watch(("general", "countdown3"), ("countdown3",)).truths) == {"the rubric", "maths"}


def test_what_no_rule_checks_is_not_reinforced() -> None:
    found = recipes.load("zero-qwen2.5-1.5b")
    for name, why in ((scale.REFERENCE, "check=judge"), (scale.REQUESTS, "no answer")):
        settings = recipes.resolve(found, stored=recipes.merge(found.data, {"rl": {"tasks": {name: 1.0}}}))
        with pytest.raises(ConfigError, match=why):
            plan(found, settings)


# the whole path


class Judge:
    """An OpenAI-compatible endpoint that answers by rule: it rewrites drafts, compares answers, labels and agrees."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                shown = body["messages"][-1]["content"]
                kind, text = outer.said(shown)
                outer.asked[kind] += 1
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                raw = json.dumps(
                    {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
                ).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def said(self, shown: str) -> tuple[str, str]:
        parts = dict(re.findall(r"<<<([A-Z_ ]+?) [0-9a-f]{16}>>>\n(.*?)\n<<<END", shown, re.DOTALL))
        if "DRAFT" in parts:
            thinking, answer = chat.split(parts["DRAFT"])
            return "rewrite", chat.perfect(f"I look at it.\n{thinking}", answer or "", "So this is what comes out: ")
        if "ANSWER A" in parts:
            a, b = parts["ANSWER A"], parts["ANSWER B"]
            return "compare", "I like words.\n" + (
                "[[A=B]]" if a == b else "[[A>>B]]" if hash64(a) > hash64(b) else "[[B>>A]]"
            )
        if "REFERENCE" in parts:
            return "agrees", "[[correct]]"
        return "label", "[[safe]]" if hash64(parts["ANSWER"]) % 2 else "[[unsafe]]"


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    made = Judge()
    yield made
    made.server.shutdown()
    made.server.server_close()


def tiny(copies: Path, url: str) -> dict[str, Any]:
    """The settings of r1-qwen2.5-1.5b with its stages and sources, on the base in the package, small: no claim to learn."""
    data: dict[str, Any] = hub_copies.local(scale.r1_qwen_1_5b(), copies)
    maths, reference, requests, harm = (
        here(n, copies).replace("check=maths", "check=number")  # math-verify takes seconds to start
        for n in (scale.MATHS, scale.REFERENCE, scale.REQUESTS, scale.HARM)
    )
    length = {"temperature": 1.0, "max_tokens": 64}
    cpu = {"device": "cpu", "dtype": "float32"}
    rl = {
        "tasks": {maths: 1.0}, "problems_per_step": 4, "num_generations": 4, "steps_per_generation": 1, "eval_steps": 0,
        "save_steps": 1, "sampling": length, "learner": cpu,
    }  # fmt: skip
    drawn = {"device": "cpu", "sampling": length, "concurrency": 4}
    sft = {"epochs": 1, "tokens_per_step": 2048, "learner": cpu}
    talk = {"device": "cpu", "sampling": {**length, "max_tokens": 24}}
    over: dict[str, Any] = {
        "base": "base-mini", "template": "mini", "threads": 1,
        "rl": {**rl, "max_steps": 1},
        "r1": {
            "template": "mini", "judge": {"url": url, "model": "rules", "concurrency": 8, "price_prompt": 1.0},
            "cold": {**drawn, "tasks": {maths: 1.0}, "problems": 48},
            "dev1": sft, "dev2": {**rl, "max_steps": 1},
            "reject": {**drawn, "tasks": {maths: 1.0, reference: 1.0}, "problems": 64, "samples": 4},
            "public": {"max_tokens": 256},
            "dev3": {"epochs": 10, "tokens_per_step": 512, "learner": cpu, "optim": {"learning_rate": 3e-3}},
            "pairs": {**talk, "problems": 384, "samples": 2, "calls": 2}, "labels": {**talk, "problems": 384, "samples": 1},
            "helpful": {"batch": 64, "learner": cpu}, "safety": {"batch": 64, "learner": cpu},
            "reasoning": {**rl, "max_steps": 1}, "general": {**rl, "max_steps": 2, "sampling": {**length, "max_tokens": 24}},
            "general_tasks": {requests: 1.0, harm: 1.0}, "student": sft,
        },
        "eval": {"tasks": [here(scale.GSM8K, copies)], "problems": 6, "samples": 1, "device": "cpu",
                 "sampling": length},
    }  # fmt: skip
    return recipes.merge(data, over)


def test_the_whole_recipe_with_public_data_and_a_judge_behind_an_endpoint(
    copies: Path, judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("fetched"))
    folder = tmp_path / "run"
    told = recipes.run("r1-qwen2.5-1.5b", folder, plain=True, **tiny(copies, judge.url))
    assert set(told["table"]) == {"base", "zero", "dev1", "dev2", "dev3", "r1"}
    assert min(judge.asked[kind] for kind in ("rewrite", "compare", "label", "agrees")) > 0
    cold = [r for p in (folder / "cold-start/dataset").glob("*.zst") for r in read_lines(p)]
    assert cold
    assert all(chat.split(r["response"])[0].startswith("I look at it.") for r in cold)
    assert all(chat.summarised(r["response"]) for r in cold)
    large = json.loads((folder / "rejection-sampling/results.json").read_text())
    assert large["domains"]["general"]["added"] == 60
    assert set(large["domains"]) == {"math", "stem", "general"}
    paid = [
        json.loads(x).get("calls/paid", 0)
        for s in ("cold-start", "pairs", "labels")
        for x in (folder / s / "metrics.jsonl").open()
    ]
    assert sum(paid) > 0
    asked = sum(judge.asked.values())
    recipes.run("r1-qwen2.5-1.5b", folder, resume=True, plain=True)
    assert sum(judge.asked.values()) == asked


def test_distillation_from_public_traces(copies: Path, tmp_path: Path) -> None:
    cpu = {"device": "cpu", "dtype": "float32"}
    how = {
        "base": "base-mini", "template": "mini", "threads": 1,
        "rows": {"sources": [here(n, copies) for n in scale.TRACES], "max_tokens": 256},
        "sft": {"epochs": 1, "tokens_per_step": 1024, "learner": cpu},
        "eval": {"tasks": [here(scale.MATH_500, copies)], "problems": 4, "samples": 1, "device": "cpu",
                 "sampling": {"temperature": 0.6, "max_tokens": 32}},
    }  # fmt: skip
    told = recipes.run("distill-qwen2.5-1.5b", tmp_path / "run", plain=True, **how)
    assert told["rows"] == 120
    assert told["steps"] > 0
    assert set(told["before"]) == set(told["after"]) == {here(scale.MATH_500, copies)}
