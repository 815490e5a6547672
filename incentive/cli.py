"""The command line. Heavy modules are imported inside the commands, so that --help answers at once. What a command
raises becomes an exit code in `console`."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from incentive import judged, measured
from incentive.console import Control, Device, Keywords, Model, Threads, controlled, fail, guarded, put

if TYPE_CHECKING:
    from incentive.recipes import Recipe

app = typer.Typer(
    name="incentive",
    help="A base model learns to reason by itself: only right answers are rewarded (DeepSeek-R1-Zero, open).\n\n"
    "\b\nStart here:\n"
    "  incentive run zero-mini            train, and watch accuracy and thinking grow\n"
    "  incentive sample base-mini \"use 3,7,25 to make 46\"\n"
    "  incentive tasks                    what it can be trained on",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip


# run


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A name, a .toml file or a .py file.", show_default=False)],
    directory: Annotated[Path | None, typer.Option("--run", help="Run directory.  [default: runs/RECIPE]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn.  [default: the recipe's, 0]")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a stopped or killed run, or extend a finished one.")
    ] = False,
    until: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after this stage; --resume goes on from there.")
    ] = None,
    rerun: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Do a stage and what follows from it anew; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings and plan; start nothing.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines in place of the live view.")] = False,
) -> None:
    """Train: run a recipe in a directory of its own.

    \b
    Recipes:
      zero-mini        R1-Zero in minutes on two cores: Countdown with 3 and 4 numbers
      zero-arithmetic  the same on multi-step arithmetic
      zero-logic       the same on knights and knaves
      zero-tiny        the same code in 90 seconds, with no claim to learn
      base-mini        make the base model from nothing (half an hour)
      base-wide        a base of the wide world: two languages, programs, talk (half an hour or more)
      base-student     a smaller one, for distillation
      r1-mini          the whole recipe: R1-Zero, every stage to R1, a small model
      zero-brief       R1-Zero goes on with a reward for short right answers
      zero-json        answers in JSON, paid for the form that a schema asks for
      tool-mini        sums with a calculator that the model learns to ask
      r1-tiny          the same stages in 90 seconds, with no claim to learn
      r1-findings      r1-mini with the arms that its findings are compared with
      rejection-mini   a control: the base fine-tuned on its own right answers
      evaluate-mini    evaluate one model, every answer kept
      controls-mini    R1-Zero on several seeds beside all its controls (hours)
      paper            every setting of the paper; needs its hardware
      zero-qwen2.5-1.5b r1-qwen2.5-1.5b r1-qwen2.5-7b distill-qwen2.5-1.5b    on GPUs (docs/scale.md)

    \b
    Examples:
      incentive run zero-mini
      incentive run zero-mini --seed 1 --run runs/second
      incentive run zero-mini --resume --set rl.max_steps=200     train on
      incentive run zero-mini --set base=my-model --dry-run       look first
      incentive run zero-mini --resume --rerun after              evaluate anew
      incentive run r1-mini --until dev2                          the first stages alone
      incentive run mine.py                                       your own task

    Ctrl-C saves and says how to go on. A resume starts from the settings stored in the directory; --seed and --set
    change them.
    """
    with guarded():
        from incentive import recipes
        from incentive.files import RunError
        from incentive.run import stored_config

        found = recipes.load(recipe)
        where = directory or recipes.default_dir(recipe)
        resume = resume or bool(rerun)
        stored = stored_config(where) if resume else None
        settings = recipes.resolve(found, sets or [], seed, stored)
        if dry_run:
            _plan(found, settings, where, until)
            return
        if rerun and not (where / "run.json").is_file():
            raise RunError(f"--rerun {rerun[0]}: there is no run in {where}\nGive its directory with --run.")
        recipes.launch(found, settings, where, resume, rerun or [], plain or None, until)


def _plan(recipe: Recipe, settings: Any, where: Path, until: str | None) -> None:
    """Settings, and what they mean in words."""
    from incentive import config
    from incentive.recipes.plan import plan

    lines = plan(recipe, settings, until)
    put(config.to_toml(settings))
    put(f"# Plan of {recipe.name} in {where}; nothing was started.")
    for line in lines:
        put(f"# {line}" if line else "#")


for _name, _command in (
    ("eval", measured.evaluate), ("sample", measured.sample), ("compare", measured.compare), ("judge", judged.judge),
    ("safety", judged.safety), ("bias", judged.bias), ("limits", measured.limits),
):  # fmt: skip
    app.command(_name)(_command)


# the rest


@app.command()
def serve(
    model: Model,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="127.0.0.1 answers this machine only.")] = "127.0.0.1",
    name: Annotated[
        str | None, typer.Option("--name", help="What clients call it.  [default: the folder's name]")
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", min=1, help="Answers written at once.  [default: up to 64, by memory]")
    ] = None,
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", min=2, help="Prompt and answer together.  [default: the model's]")
    ] = None,
    threads: Threads = 2,
    device: Device = "cpu",
    control: Control = None,
    keywords: Keywords = None,
) -> None:
    """Serve a model under OpenAI's API: /v1/completions, /v1/chat/completions. There is no password: keep it local.

    \b
    Examples:
      incentive serve runs/zero-mini
      incentive serve base-mini --port 8001
      incentive serve my-model --risk-control judge.toml
    """
    with guarded():
        from incentive.serve.server import serve as answer

        controlled(control, keywords)
        answer(model, host, port, name, slots, max_model_len, threads, device, put, control, keywords)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="Run directory, finished or not.", show_default=False)],
) -> None:
    """Write the report of a run anew: one HTML file that opens offline."""
    with guarded():
        from incentive.files import RunError
        from incentive.report import write_report

        if not (directory / "run.json").is_file():
            raise RunError(f"{directory}: no run here (a folder that `incentive run` made)")
        put(str(write_report(directory)))


@app.command()
def release(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="The bundle's folder.  [default: RUN/release]")] = None,
    stage: Annotated[str | None, typer.Option(help="Whose model.  [default: the last that made one]")] = None,
    evals: Annotated[
        list[Path] | None, typer.Option("--eval", help="Folder of `incentive eval --suite` on this model; repeatable.")
    ] = None,
    licence: Annotated[str | None, typer.Option("--license", help="SPDX name.  [default: the base's]")] = None,
) -> None:
    """Bundle a run's model for others: checkpoint, model card, results, manifest with hashes; then check the bundle.

    \b
    Examples:
      incentive release runs/zero-mini
      incentive release runs/zero-mini --eval evals/zero-mini-mini --out zero-mini
    """
    with guarded():
        from incentive.release import release as bundle

        bundle(directory, out, stage, evals, licence, put)


@app.command()
def tasks(
    name: Annotated[
        str | None,
        typer.Argument(help="One task, a data set (hub:...), or reasoning-gym for its list.  [default: all shipped]"),
    ] = None,
) -> None:
    """List the tasks, each with a problem and its answer.

    \b
    Examples:
      incentive tasks
      incentive tasks reasoning-gym                          the names of its generators
      incentive tasks "reasoning-gym/countdown?min_numbers=3"

    Your own problems need no code: a .jsonl file with one {"prompt": "...", "answer": "..."} a line is a task.
    """
    with guarded():
        from incentive.tasks import SHIPPED, find

        if name == "reasoning-gym":
            from incentive.tasks import gym

            for one in gym.names():
                put(f"{gym.PREFIX}{one}")
            return
        for one, found in SHIPPED.items() if name is None else [(name, find(name))]:
            problem = found.problem(0, "train", 0)
            put(one)
            put("  " + (inspect.getdoc(type(found)) or "").split("\n")[0])
            put(f"  problem: {problem.prompt}")
            put(f"  answer:  {found.gold(problem)}\n")
        if name is not None:
            return
        put('Your own: mine.jsonl, one {"prompt": "...", "answer": "..."} a line')
        put("  incentive run zero-mini --set 'rl.tasks={\"mine.jsonl\"=1.0}' --set 'eval.tasks=[\"mine.jsonl\"]'")
        put("More: data sets of the Hub (hub:owner/name?..., docs/suites.md); incentive tasks reasoning-gym")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"incentive {version('incentive')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The command, as a process of its own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for number, name in enumerate(("stdin", "stdout", "stderr")):  # a closed one's number must not go to a file of ours
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r" if number == 0 else "w"))  # noqa: SIM115
    for word in sys.argv[1:]:
        if any("\ud800" <= c <= "\udfff" for c in word):
            sys.exit(fail(f"error: {word!r} cannot be read in this locale; set PYTHONUTF8=1", 2))
    try:
        app()
    finally:  # a further Ctrl-C while Python ends would only change the exit code
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    main()
