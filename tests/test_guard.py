"""Preflight finds what would make a run worthless; the doctor tells each problem once; the watchdog names what hangs."""

# ruff: noqa: ARG001, ARG005  rewards, checks and golds have fixed signatures
from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incentive import config, guard, rewards, tasks, trial
from incentive.chat import TAGS
from incentive.config import RL
from incentive.doctor import Doctor, Finding, Watchdog
from incentive.records import Problem, hash64
from incentive.tasks import Mixture
from incentive.tasks.jsonl import Jsonl

SMALL = {
    "tasks": {"countdown3": 1.0}, "max_steps": 4, "problems_per_step": 4, "num_generations": 4, "eval_problems": 8,
    "sampling": {"max_tokens": 96}, "learner": {"dtype": "float32"},
}  # fmt: skip


def look(
    model: Path, rl: dict[str, Any] | None = None, own: dict[str, Any] | None = None, grade: Any = None, **run: Any
) -> list[Finding]:
    """Preflight of a small run; `own` are tasks that are not shipped."""
    settings = config.build({"recipe": "test", "rl": SMALL | (rl or {}), **run})
    assert settings.rl
    every = {n: (own or {}).get(n) or tasks.find(n) for n in settings.rl.tasks}
    mix = Mixture(every, settings.rl.tasks)
    grade = grade or rewards.each(rewards.shipped(mix.check), settings.rl.rewards)
    others = {n: (own or {}).get(n) or tasks.find(n) for n in (settings.eval.tasks if settings.eval else ())}
    return guard.preflight(settings, model, mix, grade, others)


def says(found: list[Finding], pattern: str, level: str | None = None) -> bool:
    return any(re.search(pattern, f"{f.what} | {f.advice}") and level in (None, f.level) for f in found)


def stops(found: list[Finding]) -> list[Finding]:
    return [f for f in found if f.level == "stop"]


@pytest.fixture(scope="module")
def usual(tiny_model: Path) -> list[Finding]:
    return look(tiny_model, eval={"tasks": ["countdown3", "logic"], "problems": 10})


def test_a_good_run_passes_and_is_counted_in_words(usual: list[Finding]) -> None:
    assert not stops(usual)
    assert says(
        usual,
        "4 problems x 4 samples = 16 answers a step, 1 update a rollout, 4 updates = 64 answers, at most 6,144 tokens",
    )
    assert says(usual, "a perfect answer scores full and an empty one does not")
    assert says(usual, "template 'mini', tokenizer and stop token .* agree")
    assert says(usual, "0 of 8 val and 20 test problems in 16 different RL prompts")
    assert says(usual, "parameters; memory about .*weights.*Adam.*cache")
    assert says(usual, r"about .* (seconds|minutes) at today's \d+ tokens an answer")
    assert says(usual, "engine and learner agree to 0.00")
    assert says(usual, "corpus is unknown", "warn")
    assert all(f.advice for f in usual if f.level != "ok")


def test_a_base_without_signal_is_told(usual: list[Finding]) -> None:
    assert says(usual, r"signal on this task\? No: the base solves 0 of 16 problems within 4 tries", "warn")


# answers and rewards


class Odd:
    """Countdown with one thing wrong."""

    name = "odd"

    def __init__(self, **wrong: Any):
        self.inner = tasks.SHIPPED["countdown3"]
        self.gold, self.check, self.vote_key = self.inner.gold, self.inner.check, self.inner.vote_key
        self.change: Callable[[Problem, int], Problem] = lambda p, i: p
        self.__dict__.update(wrong)

    def problem(self, seed: int, split: Any, i: int) -> Problem:
        p = self.inner.problem(seed, split, i)
        return self.change(replace(p, tags={**p.tags, "task": "odd"}), i)


def odd(model: Path, rl: dict[str, Any] | None = None, grade: Any = None, **wrong: Any) -> list[Finding]:
    return look(model, {"tasks": {"odd": 1.0}, **(rl or {})}, {"odd": Odd(**wrong)}, grade)


def _raises(p: Problem, answer: str) -> bool:
    raise KeyError("target")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gold": lambda p: "7"}, "task odd rejects its own gold answer '7'"),
        ({"check": lambda p, a: True}, "task odd accepts an empty answer"),
        ({"check": _raises}, "the check of task odd raised on problem .*KeyError"),
        (
            {"gold": lambda p: "</answer>", "check": lambda p, a: a == "</answer>"},
            "reward 'accuracy' gives the perfect answer",
        ),
    ],
)
def test_a_task_that_contradicts_itself_stops(tiny_model: Path, wrong: dict[str, Any], message: str) -> None:
    found = odd(tiny_model, **wrong)
    assert len(found) == 1
    assert says(found, message, "stop")


@pytest.mark.parametrize("weights", [{"coin": 1.0}, {"format": 1.0}, {"accuracy": 1.0}])
def test_the_controls_rewards_are_no_fault(tiny_model: Path, weights: dict[str, float]) -> None:
    assert not stops(look(tiny_model, {"rewards": weights}))


def test_rewards_that_cannot_teach_stop(tiny_model: Path) -> None:
    def graded(reward: rewards.Reward) -> list[Finding]:
        return look(tiny_model, {"rewards": {"mine": 1.0}}, grade=rewards.each({"mine": reward}, {"mine": 1.0}))

    assert says(
        graded(lambda p, s: [float(not x.text) for x in s]), "an empty answer earns 1, a perfect one only 0", "stop"
    )
    assert says(
        graded(lambda p, s: [None for _ in s]), "could not grade a hand-made answer.*mine: could not grade", "stop"
    )
    assert says(graded(lambda p, s: [float("nan") for _ in s]), "reward 'mine' returned nan", "stop")
    some = graded(lambda p, s: [None if len(x.ids) > 40 else 0.0 for x in s])
    assert says(some, "answers could not be graded: mine: could not grade", "stop")


# template, tokenizer, stop tokens


def changed(model: Path, folder: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    path = folder / "model"
    shutil.copytree(model, path)
    data = json.loads((path / file).read_text())
    change(data)
    (path / file).write_text(json.dumps(data))
    return path


def test_a_stop_token_beyond_the_vocabulary(tiny_model: Path, tmp_path: Path) -> None:
    model = changed(tiny_model, tmp_path, "generation_config.json", lambda d: d.update(eos_token_id=[0, 5000]))
    assert says(look(model), "stop token 5000 lies beyond the model's", "stop")


def test_a_stop_token_within_every_answer(tiny_model: Path, tmp_path: Path) -> None:
    from incentive.model.checkpoint import load_tokenizer

    tag = load_tokenizer(tiny_model).convert_tokens_to_ids(TAGS[1])
    model = changed(tiny_model, tmp_path, "generation_config.json", lambda d: d.update(eos_token_id=[0, tag]))
    assert says(look(model), "a stop token occurs within a perfect answer", "stop")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}",
            r"ends a turn with '<\|im_end\|>', which is no stop",
        ),
        ("{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}<think>\n", "opens <think> itself"),
        ("{{ messages[0]['nothing'].strip() }}", "the prompt cannot be rendered"),
    ],
)
def test_chat_templates_that_cannot_work(tiny_model: Path, tmp_path: Path, template: str, message: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "chat_template.jinja").write_text(template)
    assert says(look(model, template="chat"), message, "stop")
    assert not says(look(model), message)  # the template is not in use


def test_our_own_chat_template_works(tiny_model: Path) -> None:
    assert not stops(look(tiny_model, template="chat"))


# supply and context


def lines(path: Path, n: int, **more: Any) -> str:
    path.write_text("".join(json.dumps({"prompt": f"{i}+1?", "answer": i + 1, **more}) + "\n" for i in range(n)))
    return str(path)


def test_too_few_problems(tiny_model: Path, tmp_path: Path) -> None:
    few = lines(tmp_path / "few.jsonl", 3, split="train")
    found = look(tiny_model, {"tasks": {few: 1.0}, "eval_steps": 0})
    assert says(found, "3 different training problems, but a rollout takes 4", "stop")
    assert says(look(tiny_model, {"tasks": {few: 1.0}}), r"(?s)no val problem among 3.*rl\.eval_steps = 0", "stop")


def test_epochs_are_told(tiny_model: Path, tmp_path: Path) -> None:
    mine = lines(tmp_path / "mine.jsonl", 8, split="train")
    assert says(
        look(tiny_model, {"tasks": {mine: 1.0}, "eval_steps": 0}),
        "8 training problems, seen about 2.0 times each",
        "ok",
    )
    often = look(tiny_model, {"tasks": {mine: 1.0}, "eval_steps": 0, "max_steps": 400})
    assert says(often, "seen about 200.0 times each", "warn")


def test_a_prompt_beyond_the_context(tiny_model: Path) -> None:
    found = look(tiny_model, {"sampling": {"max_tokens": 505}})
    assert says(found, r"the model's context is 512 \| set rl.sampling.max_tokens = 49\d or less", "stop")
    long = odd(tiny_model, change=lambda p, i: replace(p, id=f"long-{i}", prompt="x " * 900) if i == 2 else p)
    assert says(long, r"problem long-2 has .* leave that problem out", "stop")


def test_steps_that_do_not_fit_the_rollouts(tiny_model: Path) -> None:
    found = look(tiny_model, {"steps_per_generation": 3})
    assert says(found, r"a rollout feeds 3 updates, so 4 cannot end on one \| set rl.max_steps = 6", "warn")
    assert says(found, "a rollout of 48 answers feeds 3 updates, 6 updates = 96 answers")


# contamination


def test_a_test_problem_among_the_prompts_stops(tiny_model: Path, tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", 12, split="train")
    test = lines(tmp_path / "test.jsonl", 5, split="test")
    found = look(tiny_model, {"tasks": {train: 1.0}, "eval_steps": 0}, eval={"tasks": [test], "problems": 5})
    assert says(found, r"of 5 test of .*test\.jsonl problems are among the RL prompts", "stop")


def test_a_test_problem_in_the_corpus_stops(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    task = tasks.SHIPPED["logic"]
    test = tasks.distinct(task, 0, "test", 10)
    keys = [hash64(task.problem(9, "train", i).key) for i in range(50)]
    np.save(model / "corpus_keys.npy", np.unique(np.asarray(keys, dtype=np.uint64)))
    asked = {"tasks": ["logic"], "problems": 10}
    clean = look(model, eval=asked)
    assert says(clean, r"0 of 8 val and 10 test problems in 16 different RL prompts and \d\d corpus problems", "ok")
    assert not stops(clean)
    assert not says(clean, "unknown")
    np.save(model / "corpus_keys.npy", np.unique(np.asarray([*keys, hash64(test[3].key)], dtype=np.uint64)))
    assert says(look(model, eval=asked), "1 of 10 test of logic problems are in the base's corpus, first", "stop")


def test_a_missing_model_is_a_finding(tmp_path: Path) -> None:
    assert says(look(tmp_path / "none"), "no such model", "stop")


# probe


def test_answers_that_never_end_stop(tiny_model: Path) -> None:
    assert says(
        look(tiny_model, {"sampling": {"max_tokens": 1}}), "none of 64 answers ended by itself within 1 tokens", "stop"
    )


def test_an_engine_with_stale_weights_stops(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*args: Any) -> Any:
        player = made(*args)
        weights = {name: w.clone() for name, w in player.policy.named_weights()}
        weights["model.norm.weight"] *= -10  # negative: no token repeats for ever
        player.load(weights.items(), 0)
        return player

    made = trial.engine.local
    monkeypatch.setattr(trial.engine, "local", stale)
    found = look(tiny_model, {"sampling": {"max_tokens": 300}})
    assert says(found, "engine and learner disagree by", "stop"), "\n".join(f.what for f in found)


def test_signal_is_judged_by_what_the_base_can_do(tiny_model: Path, tmp_path: Path) -> None:
    """A check that half of all texts pass: the verdict is yes; one that all answers pass: it can do this already."""
    any_text = Jsonl(lines(tmp_path / "a.jsonl", 40, split="train"), "odd", check=lambda p, a: bool(a))
    rl = {"tasks": {"odd": 1.0}, "eval_steps": 0, "sampling": {"max_tokens": 96}}
    found = look(tiny_model, rl, {"odd": any_text})
    assert says(found, r"signal on this task\?")
    assert not stops(found)


# the doctor


def feed(rows: list[dict[str, Any]], **section: Any) -> list[Finding]:
    doctor = Doctor(RL(**section))
    return [f for n, row in enumerate(rows) for f in doctor.see({"step": n + 1, **row})]


HEALTHY = {
    "reward": 1.0, "entropy": 0.8, "kl": 0.02, "grad_norm": 0.5, "sampler_mismatch": 0.005,
    "completions/mean_length": 50.0, "completions/clipped_ratio": 0.02, "frac_reward_zero_std": 0.3,
    "frac_solved_groups": 0.1,
    "frac_unsolved_groups": 0.2, "ungraded": 0.0, "loss": 0.001,
}  # fmt: skip


def test_a_healthy_run_hears_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for n in range(120):  # a run that learns: reward and length rise, entropy falls to a quarter
        noise = 1 + 0.1 * rng.standard_normal()
        rows.append(
            HEALTHY
            | {"reward": 0.6 + 0.01 * n, "completions/mean_length": (40 + n) * noise, "entropy": 0.8 - 0.005 * n,
               "grad_norm": 0.5 * noise, "kl": 0.004 * n, **({"val/accuracy": 0.3 + 0.004 * n} if n % 10 == 0 else {})}
        )  # fmt: skip
    assert feed(rows) == []


SICK: list[tuple[str, dict[str, Any], str]] = [
    ("cut", {"completions/clipped_ratio": 0.97}, r"97% of the answers are cut at 256 tokens"),
    ("cut often", {"completions/clipped_ratio": 0.6}, r"60% of the answers are cut"),
    (
        "solved",
        {"frac_reward_zero_std": 0.95, "frac_solved_groups": 0.93, "frac_unsolved_groups": 0.02},
        "solved in every try",
    ),
    (
        "unsolved",
        {"frac_reward_zero_std": 1.0, "frac_solved_groups": 0.0, "frac_unsolved_groups": 1.0},
        "solved in no try",
    ),
    (
        "no accuracy",
        {"frac_reward_zero_std": 1.0, "frac_solved_groups": 0.0, "frac_unsolved_groups": 0.0},
        "equal rewards",
    ),
    ("nan", {"loss": float("nan")}, "loss is NaN or infinite"),
    ("inf", {"grad_norm": float("inf")}, "grad_norm is NaN or infinite"),
    ("written nan", {"loss": None, "nonfinite": {"loss": "nan"}}, "loss is NaN or infinite"),
    ("entropy", {"entropy": 0.01}, "entropy fell from 0.80 to 0.010"),
    ("entropy up", {"entropy": 3.0}, "entropy rose from 0.80 to 3.00"),
    ("kl", {"kl": 5.0}, "5.0 nats a token from its reference"),
    ("gradient", {"grad_norm": 60.0}, "the gradient's norm jumped to 60, usually 0.5"),
    ("mismatch", {"sampler_mismatch": 0.4}, "engine and learner disagree by 0.40"),
    ("length", {"completions/mean_length": 200.0}, "answers grew from 50 to 200 tokens without more reward"),
    ("collapse", {"reward": 0.1}, "the reward fell from 1.00 to"),
    ("ungraded", {"ungraded": 3.0}, "3 answers could not be graded"),
]


@pytest.mark.parametrize(("sick", "message"), [s[1:] for s in SICK], ids=[s[0] for s in SICK])
def test_each_problem_is_told_once_and_again_only_after_it_was_gone(sick: dict[str, Any], message: str) -> None:
    ill, well = [HEALTHY | sick] * 6, [HEALTHY] * 12
    found = feed([*well, *ill])
    assert len(found) == 1
    assert re.search(message, found[0].what)
    assert found[0].advice
    again = feed([*well, *ill, *well, *well, *ill])
    assert [f.level for f in again] == [found[0].level] * 2
    assert again[0] == found[0]


def test_length_that_pays_is_no_problem() -> None:
    assert feed([HEALTHY | {"completions/mean_length": 40 * 1.1**n, "reward": 0.5 + 0.02 * n} for n in range(30)]) == []


def test_hovering_at_the_threshold_is_told_once() -> None:
    rows = [HEALTHY | {"completions/clipped_ratio": c} for c in [0.55, 0.6, 0.45, 0.55, 0.6, 0.45, 0.6, 0.6]]
    assert len(feed(rows)) == 1


def test_reward_up_and_val_down() -> None:
    rows = [HEALTHY | {"reward": 0.5 + 0.02 * n} for n in range(40)]
    for n, v in zip(range(0, 40, 8), (0.5, 0.6, 0.45, 0.4, 0.38), strict=True):
        rows[n]["val/accuracy"] = v
    found = feed(rows)
    assert len(found) == 1
    assert "val accuracy fell from 60% to 40%" in found[0].what


def test_rows_of_val_alone_and_of_later_updates_are_fine() -> None:
    assert (
        feed([{"val/accuracy": 0.3}, {"loss": 0.1, "entropy": 0.5}, {"phase": "x", "emergence/recoveries": None}]) == []
    )


def test_one_bad_step_of_a_slow_sign_is_no_news() -> None:
    assert feed([*[HEALTHY] * 8, HEALTHY | {"frac_reward_zero_std": 1.0}, *[HEALTHY] * 3]) == []


# the watchdog


def test_a_stall_is_named_once_with_every_stack(tmp_path: Path) -> None:
    said: list[str] = []
    with Watchdog(0.2, said.append, tmp_path / "stacks.txt") as watchdog:
        watchdog.beat("sampling")
        until(lambda: bool(said))
        time.sleep(0.5)
        assert len(said) == 1
        assert re.search(r"no sign of life for \d+ s in phase 'sampling'; .*stacks.txt", said[0])
        watchdog.beat("update")
        until(lambda: len(said) == 2)
        assert "'update'" in said[1]
    text = (tmp_path / "stacks.txt").read_text()
    assert "in phase 'sampling'" in text
    assert "test_a_stall_is_named_once" in text
    assert not [t for t in threading.enumerate() if t.name == "watchdog"]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_beats_keep_it_quiet_and_a_broken_pipe_does_not_end_it(tmp_path: Path) -> None:
    calls = []

    def say(text: str) -> None:
        calls.append(text)
        raise BrokenPipeError

    with Watchdog(30, say) as watchdog:
        for _ in range(5):
            watchdog.beat("update")
    assert calls == []
    with Watchdog(0.05, say, tmp_path / "s.txt") as watchdog:
        until(lambda: len(calls) == 1)
        watchdog.beat("x")
        until(lambda: len(calls) == 2)


def test_the_thread_ends_when_the_block_raises() -> None:
    with pytest.raises(RuntimeError), Watchdog(60, print):
        raise RuntimeError
    assert not [t for t in threading.enumerate() if t.name == "watchdog"]
