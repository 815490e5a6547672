"""What a user can get wrong: each case a line or two that name the key, the file or the line, exit code 2, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import call, mistake, sets

from incentive import config, recipes
from incentive.files import RunError, write_folder
from incentive.model.checkpoint import CheckpointError, load_policy
from incentive.stage import Stage

# settings


def refusal(*overrides: str, **data: Any) -> str:
    plain = {"recipe": "test", "rl": {}, "eval": {}, **data}
    with pytest.raises(config.ConfigError) as caught:
        config.build(config.with_overrides(plain, list(overrides)))
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("rl.learning_rate", "rl.optim.learning_rate"), ("max_tokens", "rl.sampling.max_tokens"),
        ("rl.optim.learning_rates", "rl.optim.learning_rate"), ("evla.problems", "eval"), ("lr_", None),
    ],
)  # fmt: skip
def test_an_unknown_setting_is_looked_for_in_every_section(wrong: str, meant: str | None) -> None:
    said = refusal(f"{wrong}=1")
    assert said.endswith(f"did you mean {meant!r}?" if meant else f"unknown setting {wrong!r}")
    assert meant is None or meant in config.known_settings()


def test_the_example_of_a_setting_is_a_setting() -> None:
    assert refusal("rl").split("--set ")[-1].partition("=")[0] in config.known_settings()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rl.max_steps=many", "rl.max_steps: give a whole number, not 'many'"),
        ("rl.max_steps=1.5", "rl.max_steps: give a whole number, not 1.5"),
        ("rl.num_generations=1", "rl.num_generations: give a value greater than 1, not 1"),
        ("rl.optim.learning_rate=inf", "rl.optim.learning_rate: give a finite number, not inf"),
        ("rl.rewards={accuracy=nan}", "rl.rewards.accuracy: give a finite number, not nan"),
        ("rl.rewards={}", "rl.rewards: give one or more, not {}"),
        ("rl.tasks={}", "rl.tasks: give one or more, not {}"),
        ("rl.tasks={logic=0}", "rl.tasks.logic: give a value greater than 0, not 0"),
        ("rl.tasks=logic", "rl.tasks: give a table, as {name = 1.0}, not 'logic'"),
        ("eval.tasks=logic", 'eval.tasks: give a list, as ["a", "b"], not \'logic\''),
        ("eval.tasks=[]", "eval.tasks: give one or more, not []"),
        ("rl.advantage=ppo", "rl.advantage: give 'grpo', 'dr_grpo' or 'rloo', not 'ppo'"),
        ("threads=100000", "threads: give a value less than or equal to 1024, not 100000"),
        ("pretrain.model.vocab_size=5", "pretrain.model.vocab_size: give a value greater than or equal to 262, not 5"),
        ("pretrain.model.num_attention_heads=3", "pretrain.model: hidden_size must be a multiple of twice num_attention"),
        ("pretrain.model.num_key_value_heads=3", "pretrain.model: num_attention_heads must be a multiple of num_key"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_in_plain_words(override: str, said: str) -> None:
    assert refusal(override).startswith(said)


def test_a_dry_run_looks_names_up(tmp_path: Path) -> None:
    dry = ("run", "zero-mini", "--dry-run", "--set")
    assert "did you mean 'countdown3'?" in mistake(*dry, "rl.tasks={countdwn3=1.0}")
    assert "unknown task 'nothing'" in mistake(*dry, 'eval.tasks=["nothing"]')
    assert "did you mean 'accuracy'?" in mistake(*dry, "rl.rewards={acuracy=1.0}")
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "answer": "1"}\n{"prompt": \n')
    assert "a.jsonl:2: not valid JSON" in mistake(*dry, f'rl.tasks={{"{tmp_path}/a.jsonl"=1.0}}')


# a model


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_no_such_device(tiny_model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"learner\.device = 'gpu' is no device; set it to 'cpu'"):
        load_policy(tiny_model, device="gpu")


def test_a_broken_generation_config_and_chat_template(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{% for %}")
    assert "the chat template fails: TemplateSyntaxError" in mistake("sample", copy, "1+1?", "--template", "chat")
    for text in ("{", "[]"):
        (copy / "generation_config.json").write_text(text)
        assert "generation_config.json: not valid JSON" in mistake("sample", copy, "1+1?")


def test_broken_hashes_of_the_corpus(copy: Path, tmp_path: Path) -> None:
    (copy / "corpus_keys.npy").write_bytes(b"x")
    run = tmp_path / "run"
    assert "corpus_keys.npy: no readable list" in call("run", "zero-tiny", "--run", run, *sets(base=copy), code=2)
    assert not run.exists()


def test_weights_that_may_not_be_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuse(path: Path, *args: Any, **kw: Any) -> Any:
        if path.suffix == ".safetensors":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kw)

    monkeypatch.setattr(Path, "open", refuse)
    assert "model.safetensors: permission denied" in mistake("sample", copy, "1+1?")
    assert "model.safetensors: permission denied" in mistake("run", "zero-tiny", "--run", copy / "r", *sets(base=copy))


@pytest.mark.parametrize(
    ("recipe", "key"),
    [("evaluate-mini", "eval.sampling.max_tokens"), ("rejection-mini", "collect.sampling.max_tokens")],
)
def test_answers_beyond_the_context_without_a_preflight(
    recipe: str, key: str, tmp_path: Path, tiny_model: Path
) -> None:
    small = {"base": tiny_model, "threads": 1, "eval.problems": 2, "eval.samples": 1, "eval.sampling.max_tokens": 8}
    args = [x for k, v in {**small, "eval.also_t1": "false", key: 600}.items() for x in ("--set", f"{k}={v}")]
    text = call("run", recipe, "--run", tmp_path / "run", "--plain", *args, code=2)
    assert "the model's context is 512" in text
    assert f"Set {key} = 4" in text


# the user's own task and rewards

OWN = """
from incentive.records import Problem, split_of

class Double:
    name = "double"
    def problem(self, seed, split, i):
        n = next(n for n in range(i * 100, 10**9) if split_of(f"double:{n}") == split)
        return Problem(f"double/{split}/{i}", f"double:{n}", f"compute {n}+{n}", str(2 * n), {"task": "double"})
    def check(self, problem, answer): return answer.strip() == problem.answer
    def gold(self, problem): return problem.answer
    def vote_key(self, answer): return answer.strip()

def boom(*_): raise KeyError("gone")

tasks = [Double()]
"""


def own(folder: Path, tiny_model: Path, code: str, rewards: str = "{accuracy=1.0}") -> list[Any]:
    file = folder / "mine.py"
    file.write_text(OWN + code)
    return ["run", file, "--run", folder / "run", "--plain", *sets(base=tiny_model, rl__rewards=rewards)]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Double.problem = boom", "mine.py:13: problem(0, 'train', 0) of task 'double' raised KeyError: 'gone'"),
        ("Double.vote_key = boom", "vote_key('0') of task 'double' raised KeyError"),
        ("Double.gold = boom", "gold('double/train/0') of task 'double' raised KeyError"),
        ("Double.problem = lambda *_: None", "task 'double': problem() returned NoneType, not a Problem"),
        ("Double.gold = lambda *_: 7", "gives a gold answer that is int, not text"),
        ("Double.gold = lambda *_: '7'", "task double rejects its own gold answer '7'"),
    ],
)
def test_a_task_that_fails_is_named_with_its_line(code: str, message: str, tmp_path: Path, tiny_model: Path) -> None:
    text = call(*own(tmp_path, tiny_model, code), code=2)
    assert message in text
    assert "Traceback" not in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("boom()", "mine: KeyError: 'gone'"),
        ("return [float('nan')] * len(s)", "reward 'mine' returned nan for sample"),
        ("return [True] * len(s)", "reward 'mine' returned True for sample"),
        ("return [1.0]", "reward 'mine' returned 1 values for 2 samples"),
        ("s.sort(key=id); s.pop(); return [1.0] * 2", "reward 'mine' changed its samples"),
    ],
)
def test_a_reward_that_breaks_its_contract_stops_the_start(
    body: str, message: str, tmp_path: Path, tiny_model: Path
) -> None:
    code = f"def mine(p, s):\n    {body}\nrewards = [mine]\n"
    text = call(*own(tmp_path, tiny_model, code, "{mine=1.0}"), code=2)
    told = text[text.index("error: ") :].strip()
    assert message in told
    assert len(told.splitlines()) == 1
    assert not told.endswith(":")
    assert not (tmp_path / "run").exists()


def test_a_reward_that_fails_within_a_run_is_mended_and_the_run_goes_on(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import os
n = 0
def mine(p, s):
    global n
    n += 1
    if "BROKEN" in os.environ and n > 22: boom()  # 17 calls before step 1, 4 a step
    return [0.0] * len(s)
rewards = [mine]
"""
    args = own(tmp_path, tiny_model, code, "{accuracy=1.0,mine=1.0}")
    run = tmp_path / "run"
    monkeypatch.setenv("BROKEN", "1")
    text = call(*args, code=2)
    assert "samples could not be graded; the first, 5:double/" in text
    assert "mine: KeyError: 'gone'" in text
    assert f"--run {run} --resume" in text
    before = (run / "zero/metrics.jsonl").read_text().splitlines()
    monkeypatch.delenv("BROKEN")
    assert "What was learned" in call(*args[:4], "--plain", "--resume")
    after = (run / "zero/metrics.jsonl").read_text().splitlines()
    assert after[: len(before)] == before
    assert json.loads(after[-1])["step"] == 2


# the run directory


def test_a_path_that_the_system_refuses(tmp_path: Path, tiny_model: Path) -> None:
    long = tmp_path / ("a" * 300)
    assert "file name too long" in mistake("run", "zero-tiny", "--run", long, *sets(base=tiny_model))
    assert "file name too long" in mistake("sample", long, "1+1?")
    (tmp_path / "file").write_text("x")
    assert "is a file, not a folder" in mistake(
        "run", "zero-tiny", "--run", tmp_path / "file/x", *sets(base=tiny_model)
    )


def test_a_run_without_its_settings_is_not_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "recipe": "zero-tiny"}))
    assert "config.toml: No such file" in mistake("run", "zero-tiny", "--run", tmp_path, "--resume")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_start_refused_leaves_the_others_files(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two starts at the same moment: the one that does not get the lock takes nothing back."""

    def refuse(directory: Path, *_: Any, **__: Any) -> None:
        for name in ("lock", "config.toml", "run.json"):
            (directory / name).write_text("{}")
        raise RunError("in use")

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(recipes.Run, "open", refuse)
    assert "in use" in mistake("run", "zero-tiny", "--run", tmp_path / "run", *sets(base=tiny_model))
    assert len(list((tmp_path / "run").iterdir())) == 3


def test_a_file_size_limit_is_told_whoever_writes(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with pytest.raises(RunError, match="file too large"), write_folder(stage.dir / "model"):
        raise RuntimeError("Error while serializing: I/O error: File too large (os error 27)")
    assert not list(tmp_path.iterdir())


# the output


def ends(command: str, code: int, **env: str) -> str:
    """stderr of a shell command around `incentive` that ends with `code`."""
    shell = ["bash", "-c", f"set -o pipefail; {command.replace('incentive', f'{sys.executable} -m incentive')}"]
    done = subprocess.run(shell, capture_output=True, text=True, env={**os.environ, **env}, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("incentive tasks >&-", 0), ("incentive tasks <&- >&- 2>&-", 0), ("incentive tasks > /dev/full", 2),
        ("incentive run zero-tini 2> /dev/full", 2), ("incentive tasks | true", 141),
    ],
)  # fmt: skip
def test_an_output_that_is_closed_or_full(command: str, code: int) -> None:
    text = ends(command, code)
    assert ("space" in text) == (command.endswith("> /dev/full") and "2>" not in command)


def test_words_that_the_locale_cannot_read() -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    assert "set PYTHONUTF8=1" in ends("incentive sample base-mini zürich", 2, **plain)
    assert ends("incentive tasks", 0, **plain) == ""
    assert ends("incentive run --help", 0, **plain) == ""
