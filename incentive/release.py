"""A finished run as a folder that others can use and check: `incentive release RUN`.

    OUT/  config.json model.safetensors tokenizer... generation_config.json   the checkpoint, as transformers and vLLM open it
          README.md       model card: results with intervals, limits, safety, data, cost, commands
          results.json    every evaluation in the card    recipe.toml   the run's settings
          manifest.json   the stages, what each was made from, and the SHA-256 of every file

The card says only what the run measured, and says what it did not. The bundle is written whole or not at all, and checked
before it appears: opened with transformers, asked for an answer, its weights looked through, its hashes compared.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from incentive import card
from incentive.files import RunError, file_hash, write_atomic, write_folder, write_json
from incentive.keys import folder_key
from incentive.report.read import RunFiles, inputs, read_run

MODEL_FILES = (
    "config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*", "generation_config.json",
)  # fmt: skip
NEEDED = ("config.json", "generation_config.json", "tokenizer_config.json", "README.md", "results.json", "recipe.toml")


def release(
    run: Path, out: Path | None = None, stage: str | None = None, evals: list[Path] | None = None, licence: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Write the bundle of a run's model; returns its folder.

    Args:
        stage: whose model; by default that of the last stage that made one.
        evals: folders of `incentive eval --suite` on this very model.
        licence: an SPDX name; by default that of the base model's card.

    Raises:
        RunError: the run is not finished, a part is missing or not of this model, or the bundle fails its checks.
    """
    found = _finished(run)
    made, model = _model(found, stage)
    licence = licence or _base_licence(found)
    results = _results(found, made, [_evaluation(Path(e), model) for e in evals or []])
    target = out or run / "release"
    if target.exists() and not (target / "manifest.json").is_file() and any(target.iterdir()):
        raise RunError(f"{target} holds other files\nGive another --out.")
    with write_folder(target) as folder:
        for pattern in MODEL_FILES:
            for path in model.glob(pattern):
                shutil.copyfile(path, folder / path.name)
        shutil.copyfile(run / "config.toml", folder / "recipe.toml")
        write_json(folder / "results.json", results)
        manifest = _manifest(found, made, licence)
        write_atomic(folder / "README.md", card.text(found, made, manifest, results, licence, target.resolve().name))
        files = sorted(p for p in folder.iterdir() if p.is_file())
        write_json(folder / "manifest.json", manifest | {"files": {p.name: file_hash(p) for p in files}})
        check(folder)
    say(f"{target}: checked; it opens with transformers and answers, and its {len(files)} files match their hashes")
    return target


# what is released


def _finished(run: Path) -> RunFiles:
    if not (run / "run.json").is_file():
        raise RunError(f"{run}: no run here (a folder that `incentive run` made)")
    found = read_run(run)
    if not found.done:
        undone = [s.name for s in found.stages if not s.done]
        where = f"; {undone[0]} is not done" if undone else ""
        raise RunError(
            f"{run} is not finished{where}\nFinish it: incentive run {found.about.get('recipe')} --run {run} --resume"
        )
    return found


def _model(found: RunFiles, stage: str | None) -> tuple[str, Path]:
    """(stage, folder) of the model."""
    made = {s.name: s.dir / s.done["path"] for s in found.stages if s.done.get("kind") == "weights"}
    if not made:
        raise RunError(f"{found.dir}: no stage of this run made a model")
    if stage is not None and stage not in made:
        raise RunError(f"--stage {stage}: no such model in {found.dir}\nStages with one: {', '.join(made)}.")
    name = stage or list(made)[-1]
    if not (made[name] / "config.json").is_file():
        raise RunError(f"{made[name]}: the model of stage {name} is gone\nMake it again: --resume --rerun {name}")
    return name, made[name]


def _base_licence(found: RunFiles) -> str:
    """The licence in the base model's card; a run that pretrains has no base, and its licence is ours."""
    base = str(found.config.get("base", ""))
    if "pretrain" in found.config and "rl" not in found.config:
        return "apache-2.0"
    for folder in (Path(base), Path(__file__).parent / "assets" / base):
        if (folder / "README.md").is_file():
            text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
            if told := re.search(r"\A---\n(?:.*\n)*?license:\s*(\S+)", text):
                return told[1]
    raise RunError(f"the base {base} has no card that states its licence\nLook it up and give it: --license apache-2.0")


def _evaluation(folder: Path, model: Path) -> dict[str, Any]:
    """The results of an evaluation of this very model."""
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        key, tasks = found["model"], found["tasks"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"--eval {folder}: no finished evaluation (a folder of `incentive eval --suite`)") from None
    if key != folder_key(model):
        raise RunError(f"--eval {folder}: of another model\nEvaluate this one: incentive eval {model} --suite ...")
    return {**found, "tasks": {t: {k: v for k, v in r.items() if k != "by_problem"} for t, r in tasks.items()}}


def _results(found: RunFiles, made: str, evals: list[dict[str, Any]]) -> dict[str, Any]:
    """What was measured on the released model and, beside it, on the model that the run began with."""
    of = {s.name: str(s.done.get("artifact")) for s in found.stages}
    own = {s.name: s.results for s in found.stages if s.results and of[made] in inputs(s)}
    first = {n: r for n, r in found.evaluations().items() if n == "before"}
    return {"model": own, "base": first, "suites": evals}


def _manifest(found: RunFiles, made: str, licence: str) -> dict[str, Any]:
    """Every stage, its inputs and its settings: the way from the base to this model."""
    names = {str(s.done.get("artifact")): s.name for s in found.stages}
    stages = []
    for s in found.stages:
        of = s.about.get("of", {})
        given = of.get("inputs", {})
        stages.append({
            "stage": s.name, "kind": s.done.get("kind"), "key": s.done.get("key"), "artifact": s.done.get("artifact"),
            "made_from": [names.get(k, k) for k in inputs(s)], "steps": s.done.get("steps"),
            "data": {k: v for k, v in given.items() if k not in ("start", "data") and v}, "settings": of.get("section"),
        })  # fmt: skip
    return {
        "released": made, "recipe": found.about.get("recipe"), "seed": found.about.get("seed"), "licence": licence,
        "base": found.config.get("base"), "environment": {k: v for k, v in found.environment.items() if k != "earlier"},
        "stages": stages,
    }  # fmt: skip


# the check


def check(folder: Path) -> None:
    """A bundle is whole and works.

    Raises:
        RunError: a file is missing or changed, the weights hold NaN, transformers cannot open it, or it does not answer.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{folder}: no manifest.json, or a damaged one\nRelease the run again.") from None
    for name in NEEDED:
        if name not in manifest:
            raise RunError(f"{folder}: {name} is missing from the bundle\nThe stage's model folder lacks it.")
    for name, digest in manifest.items():
        if not (folder / name).is_file():
            raise RunError(f"{folder}: {name} is missing\nRelease the run again.")
        if file_hash(folder / name) != digest:
            raise RunError(f"{folder}: {name} has changed since the release\nRelease the run again.")
    strange = sorted(p.name for p in folder.iterdir() if p.name not in manifest and p.name != "manifest.json")
    if strange:
        raise RunError(f"{folder}: {strange[0]} is not in the manifest\nTake it away, or release the run again.")
    _opens(folder)


def _opens(folder: Path) -> None:
    """transformers loads it and it writes an answer of finite probability."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from incentive.model.checkpoint import CheckpointError, read_weights

    try:
        read_weights(folder)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    except CheckpointError as error:
        raise RunError(str(error)) from None
    except Exception as error:  # transformers raises many kinds
        raise RunError(
            f"{folder}: transformers cannot open it: {str(error).splitlines()[0]}\nLook at the stage's model folder."
        ) from None
    if getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "1+1"}], tokenize=False, add_generation_prompt=True
        )
    else:
        text = "User: 1+1"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(ids).logits
        written = model.generate(ids, max_new_tokens=8, do_sample=False)
    if not torch.isfinite(logits).all() or written.shape[1] <= ids.shape[1]:
        raise RunError(
            f"{folder}: the model opens, but does not answer\nIts logits are not finite, or it writes nothing."
        )
