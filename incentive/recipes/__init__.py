"""Recipes: plain functions that return settings, with a pipeline that composes stages from them.

A recipe is named, or is a TOML file, or a Python file of the user's. In a notebook:

    from incentive.recipes import run
    summary = run("zero-mini", "runs/mine", seed=1, rl={"max_steps": 20})
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import inspect
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from incentive import config
from incentive.config import ConfigError
from incentive.recipes import base, controls, limits, plan, r1, r1_findings, scale, stages, zero
from incentive.recipes.base import Pipeline, Recipe, Show, near
from incentive.run import Reached, Run, stored_config
from incentive.stage import Interrupt, Stopped

RECIPES: dict[str, tuple[Callable[[], dict[str, Any]], Pipeline]] = {
    "zero-mini": (zero.zero_mini, zero.pipeline),
    "zero-arithmetic": (zero.zero_arithmetic, zero.pipeline),
    "zero-logic": (zero.zero_logic, zero.pipeline),
    "zero-tiny": (zero.zero_tiny, zero.pipeline),
    "rejection-mini": (zero.rejection_mini, zero.rejection),
    "evaluate-mini": (controls.evaluate_mini, zero.pipeline),
    "controls-mini": (controls.controls_mini, controls.pipeline),
    "base-mini": (base.base_mini, base.pipeline),
    "base-wide": (base.base_wide, base.pipeline),
    "base-student": (base.base_student, base.pipeline),
    "r1-mini": (r1.r1_mini, r1.pipeline),
    "zero-brief": (limits.zero_brief, zero.pipeline),
    "zero-json": (limits.zero_json, zero.pipeline),
    "tool-mini": (limits.tool_mini, limits.pipeline),
    "r1-findings": (r1_findings.r1_findings, r1_findings.pipeline),
    "r1-tiny": (r1.r1_tiny, r1.pipeline),
    "zero-qwen2.5-1.5b": (scale.zero_qwen_1_5b, zero.pipeline),
    "r1-qwen2.5-1.5b": (scale.r1_qwen_1_5b, r1.pipeline),
    "r1-qwen2.5-7b": (scale.r1_qwen_7b, r1.pipeline),
    "distill-qwen2.5-1.5b": (scale.distill_qwen_1_5b, scale.distill),
    "paper": (scale.paper, r1.pipeline),
}


def load(name: str) -> Recipe:
    """The recipe of a name, a .toml file or a .py file.

    Raises:
        ConfigError: there is none, or the file is broken.
    """
    if name in RECIPES:
        make, pipeline = RECIPES[name]
        return Recipe(name, {"recipe": name, **make()}, pipeline, inspect.getdoc(make) or "")
    path = Path(name)
    if path.suffix in (".toml", ".py"):
        if not path.is_file():
            raise ConfigError(f"{name}: no such file")
        return _from_toml(path) if path.suffix == ".toml" else _from_python(path)
    raise ConfigError(
        f"unknown recipe {name!r}{near(name, RECIPES)}\nRecipes: {', '.join(RECIPES)}, or a .toml or .py file."
    )


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `under`, section by section. A table that is no section (shares, weights) is replaced whole."""
    whole = ("tasks", "rewards", "general_tasks", "helpful_rewards", "safe_rewards")
    return {
        **under,
        **{
            k: merge(under[k], v) if isinstance(v, dict) and isinstance(under.get(k), dict) and k not in whole else v
            for k, v in over.items()
        },
    }


def _by_sections(data: dict[str, Any]) -> Pipeline:
    return base.pipeline if data.get("pretrain") is not None and data.get("rl") is None else zero.pipeline


def _from_toml(path: Path) -> Recipe:
    """Settings on top of the recipe that `recipe = "..."` names, or by themselves."""
    data = config.load_toml(path)
    named = data.get("recipe")
    if named is None:
        return Recipe(str(path), {"recipe": str(path), **data}, _by_sections(data))
    if not isinstance(named, str) or Path(named).suffix == ".toml":
        raise ConfigError(f"{path}: recipe = {named!r}: name a shipped recipe or a .py file")
    under = load(named)
    return Recipe(named, merge(under.data, data), under.pipeline, under.doc, under.tasks, under.rewards)


def _from_python(path: Path) -> Recipe:
    """A file of the user's: `tasks`, `rewards`, `recipe()` and `pipeline(run, show)`, each optional."""
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that dataclasses and pickling in it work
    make = None
    try:
        spec.loader.exec_module(module)
        tasks, rewards = _named(module, "tasks"), _named(module, "rewards")
        make = getattr(module, "recipe", None)
        if make is None and not tasks:
            raise ConfigError("defines neither recipe() nor tasks")
        data = make() if make else zero.zero(dict.fromkeys(tasks, 1.0))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except Exception as error:  # the user's code, so any kind
        lines: list[Any] = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(path.name)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or ["?"])[-1]
        raise ConfigError(f"{path}:{line}: {type(error).__name__}: {error}") from error
    if isinstance(data, config.Run):
        data = data.model_dump(mode="json", exclude_none=True)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: recipe() returned {type(data).__name__}; return a dict of settings or a config.Run")
    own = getattr(module, "pipeline", None)
    pipeline: Pipeline = (lambda run, show, _: own(run, show)) if own else _by_sections(data)
    doc = inspect.getdoc(make) if make else module.__doc__
    return Recipe(str(path), {**data, "recipe": str(path)}, pipeline, doc or "", tasks, rewards)


def _named(module: Any, what: str) -> dict[str, Any]:
    """`tasks` or `rewards` of a user's file: a dict, or a list whose items have a name."""
    found = getattr(module, what, {})
    if isinstance(found, list | tuple):
        found = {getattr(x, "name", getattr(x, "__name__", "")): x for x in found}
    if not isinstance(found, dict) or "" in found:
        raise ConfigError(f"{what} is a dict by name, or a list of objects with a name")
    if what == "tasks":
        for name, task in found.items():
            lacking = [m for m in ("problem", "check", "gold", "vote_key") if not callable(getattr(task, m, None))]
            if lacking:
                raise ConfigError(
                    f"task {name!r} lacks {', '.join(m + '()' for m in lacking)}; see incentive/tasks/base.py"
                )
    return found


def resolve(
    recipe: Recipe,
    sets: list[str] = [],  # noqa: B006  read only
    seed: int | None = None,
    stored: dict[str, Any] | None = None,
) -> config.Run:
    """The settings of a start: the recipe's, or on resume the stored ones, then the seed, then each `a.b=c`.

    Raises:
        ConfigError: a key is unknown or a value is wrong.
    """
    data = dict(stored or recipe.data)
    files = [Path(recipe.name), Path(str(data["recipe"]))]
    if stored and not (all(f.is_file() for f in files) and os.path.samefile(*files)):
        data["recipe"] = recipe.name  # another recipe is refused; one file may be written in several ways
    if seed is not None:
        data["seed"] = seed
    return config.build(config.with_overrides(data, sets))


def _keep_memory() -> None:
    """One heap for all threads of glibc, which keeps what a tensor has let go of for the next one. By default each thread has
    its own, and large pieces go back to the system: a higher peak, and more pages to clear."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((-8, 1), (-4, 0), (-1, -1)):  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
            libc.mallopt(option, value)


def settle(threads: int) -> None:
    """Memory, threads and determinism, before the first tensor."""
    _keep_memory()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # it keeps a compiled product for each shape it has met. The learner's are few (`model.packed`), but a large model's, or
    # an engine's whose rows end, are new at every step: of those a thousand were 600 MB
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    import torch

    torch.set_num_threads(threads)
    # as use_deterministic_algorithms(True, warn_only=True), which imports torch's compiler besides
    torch.set_deterministic_debug_mode("warn")
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  costs time, helps nothing


def _measured(settings: config.Run, say: Callable[[str], None] = print) -> config.Run:
    """The settings with each `auto` replaced by what is fastest here, and with micro-batches that fit into memory, so
    that a resumed run computes as it began."""
    from incentive.model.checkpoint import fastest_dtype

    fastest = functools.cache(fastest_dtype)  # one answer for all stages
    shape = plan.base_of(settings.base)

    def settled(at: str, section: Any) -> Any:
        """A section with its learner settled, and those within it."""
        new: dict[str, Any] = {}
        for name in type(section).model_fields:
            inner = getattr(section, name)
            if name == "learner" and inner.dtype == "auto":
                new[name] = inner.model_copy(update={"dtype": fastest(inner.device)})
            elif name != "learner" and isinstance(inner, config.Section):
                new[name] = settled(f"{at}{name}.", inner)
        section = section.model_copy(update=new)
        if isinstance(section, config.RL) and shape:
            fits = plan.micro_batch(section, *shape, settings.threads)
            if fits < section.learner.tokens_per_micro_batch:
                say(
                    f"{at}learner.tokens_per_micro_batch is lowered to {fits} to fit into memory; the results stay the same"
                )
                learner = section.learner.model_copy(update={"tokens_per_micro_batch": fits})
                section = section.model_copy(update={"learner": learner})
        return section

    found: config.Run = settled("", settings)
    return found


@contextlib.contextmanager
def _tidy(directory: Path, before: set[str] | None) -> Iterator[None]:
    """Take back a run directory made by a start that failed before it did anything, so that the same command works.

    Entered with the lock held: what another process made in the meantime is not ours to take back.

    Args:
        before: names in the directory before it was opened; None where there was no directory.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception:
        made = (found for what in ("metrics.jsonl", "rollouts/*", "corpus/*") for found in directory.glob(f"*/{what}"))
        if "run.json" not in (before or ()) and not any(made):
            for p in directory.iterdir():
                if p.name not in (before or ()):
                    shutil.rmtree(p) if p.is_dir() else p.unlink()
            if before is None:
                directory.rmdir()
        raise


def launch(
    recipe: Recipe,
    settings: config.Run,
    directory: Path,
    resume: bool = False,
    rerun: list[str] = [],  # noqa: B006  read only
    plain: bool | None = None,
    until: str | None = None,
) -> tuple[dict[str, Any], Path | None]:
    """Run a recipe in a directory: (summary, where the report lies).

    Args:
        rerun: stages to do anew, with all that follows from them.
        until: the last stage to run; the rest is left for a resume.

    Raises:
        Stopped: the user asked to stop; it is saved, and the message says how to go on.
        RunError, ConfigError, CheckpointError, RewardError: the user's to mend.
    """
    from incentive import live

    ahead = stages.planned(recipe, settings)
    stages.check_names(recipe, settings)  # what is missing is said before anything is written
    if until is not None:
        stages.check_until(recipe, ahead, until)
        until = None if until == ahead[-1].name else until  # all of it
    settle(settings.threads)
    settings = _measured(settings)
    ahead = stages.planned(recipe, settings)
    if recipe.pipeline is zero.pipeline:
        zero.parts(recipe, settings)
    before = {p.name for p in directory.iterdir()} if directory.is_dir() else None
    with (
        Interrupt() as interrupt,
        live.View(settings, directory, interrupt, plain, ahead, until) as view,
        Run.open(directory, settings, resume, interrupt, view.say) as run,
        _tidy(directory, before),
    ):
        run.stages, run.until = tuple(p.name for p in ahead), until
        if rerun:
            stages.set_aside(run, rerun, ahead)
        try:
            summary = recipe.pipeline(run, view.show, recipe)
            run.finish(summary)
        except Reached:
            summary = stages.stop(run, ahead)
        report = write_report(directory, view.say)
        view.close()
        view.tell([*live.learned(summary, directory, report), *stages.told(run, ahead)])
    return summary, report


def write_report(directory: Path, say: Callable[[str], None] = print) -> Path | None:
    """The report of a run; its absence or a fault in it must not fail a run that is done."""
    try:
        from incentive.report import write_report as write
    except ImportError:
        return None
    try:
        return write(directory)
    except Exception as error:  # the run is done and saved
        why = str(error).partition("\n")[0]
        say(f"warning: the report could not be written: {type(error).__name__}: {why}\n"
            f"Everything it needs is in {directory}; try again with: incentive report {directory}")  # fmt: skip
        return None


def run(
    recipe: str,
    run_dir: str | Path | None = None,
    *,
    seed: int | None = None,
    resume: bool = False,
    plain: bool | None = None,
    until: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Run a recipe from Python or a notebook; returns the summary.

    Args:
        run_dir: by default runs/<recipe>.
        until: the last stage to run.
        overrides: settings on top of the recipe's, `rl={"max_steps": 20}`, `base="my-model"`.
    """
    found = load(recipe)
    directory = Path(run_dir or default_dir(recipe))
    stored = stored_config(directory) if resume else None
    plain_over = {k: v.model_dump(mode="json") if hasattr(v, "model_dump") else v for k, v in overrides.items()}
    settings = resolve(found, [], seed, merge(stored or found.data, plain_over))
    return launch(found, settings, directory, resume, plain=plain, until=until)[0]


def default_dir(recipe: str) -> Path:
    return Path("runs") / (recipe if recipe in RECIPES else Path(recipe).stem)


__all__ = ["RECIPES", "Recipe", "Show", "launch", "load", "merge", "resolve", "run"]
