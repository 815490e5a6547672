"""The command line. Heavy modules are imported inside the commands, so that --help answers at once.

Exit codes: 0 done; 1 a fault of ours (with a traceback) or a training that diverged; 2 something for the user to mend,
in one or two lines; 130 stopped by the user; 141 the reader of the output went away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from incentive import judged

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


# faults


def _mistakes() -> tuple[type[Exception], ...]:
    """Errors that are the user's to mend; only modules already loaded can have raised theirs."""
    found: list[type[Exception]] = []
    for module, names in (
        ("incentive.config", ["ConfigError"]), ("incentive.run", ["RunError"]), ("incentive.rewards", ["RewardError"]),
        ("incentive.model.checkpoint", ["CheckpointError"]), ("incentive.ledger", ["LedgerError"]),
        ("incentive.tasks.jsonl", ["TaskError"]), ("incentive.guard", ["GuardError"]),
        ("incentive.report", ["ReportError"]), ("incentive.compare", ["CompareError"]),
        ("incentive.verify.sandbox", ["SandboxMissing", "SandboxDown"]),
    ):  # fmt: skip
        if module in sys.modules:
            found += [kind for n in names if (kind := getattr(sys.modules[module], n, None))]
    return tuple(found)


def _asked_too_much(error: BaseException) -> bool:
    """A ValueError that a task, the mixture of tasks or a template raised on purpose: its last frame lies there."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    here = Path(__file__).parent
    ours = {here / "tasks/__init__.py", here / "tasks/jsonl.py", here / "chat.py"}
    return isinstance(error, ValueError) and trace is not None and Path(trace.tb_frame.f_code.co_filename) in ours


_REFUSALS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.EFBIG,
)  # fmt: skip


def _refused(error: BaseException) -> str | None:
    """A file that the system does not let us read or write, in words."""
    if not isinstance(error, OSError) or error.errno not in _REFUSALS:
        return None
    if error.filename is None:  # the output is a full disk, and Python would try again at exit
        from incentive.live import silence

        silence()
    return f"{error.filename or 'the output'}: {os.strerror(error.errno).lower()}"


def _fail(text: object, code: int) -> int:
    from incentive.live import ascii_only, printable, silence

    try:
        print(printable(str(text), ascii_only(sys.stderr)), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)
    return code


def _terminated(number: int, frame: Any) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Turn what a command raises into an exit code and a line or two."""
    code = 1
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    before: Any = None
    with contextlib.suppress(ValueError):  # not the main thread
        before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
        sys.stdout.flush()
        return
    except typer.Exit:
        raise
    except BrokenPipeError:
        from incentive.live import silence

        silence()
        code = 141
    except KeyboardInterrupt:
        code = _fail("\nstopped", 130)
    except FloatingPointError as error:
        advice = "The last checkpoint is kept. Lower rl.optim.learning_rate and go on with --resume."
        code = _fail(f"the training diverged: {error}\n{advice}", 1)
    except Exception as error:
        stopped = getattr(sys.modules.get("incentive.run"), "Stopped", None)
        if stopped and isinstance(error, stopped):
            code = _fail(error, 130)
        elif isinstance(error, _mistakes()) or _asked_too_much(error):
            code = _fail(f"error: {error}", 2)
        elif said := _refused(error):
            code = _fail(f"error: {said}", 2)
        elif isinstance(error, MemoryError) or "not enough memory" in str(error):
            sizes = "rl.engine.max_num_seqs, rl.learner.tokens_per_micro_batch or rl.sampling.max_tokens"
            code = _fail(f"error: out of memory\nLower {sizes}.", 2)
        else:
            raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    raise typer.Exit(code)


def _out(text: str = "") -> None:
    from incentive.live import ascii_only, printable

    print(printable(text, ascii_only()))


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
      base-wide        a base of the wide world: two languages, programs, talk (an hour)
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
    with _guarded():
        from incentive import recipes
        from incentive.run import RunError, stored_config

        found = recipes.load(recipe)
        where = directory or recipes.default_dir(recipe)
        if where.exists() and not where.is_dir():
            raise RunError(f"--run {where} is a file\nGive a folder, new or of a run to --resume.")
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
    _out(config.to_toml(settings))
    _out(f"# Plan of {recipe.name} in {where}; nothing was started.")
    for line in lines:
        _out(f"# {line}" if line else "#")


# eval and sample


def _settings(max_tokens: int, temperature: float, top_p: float) -> Any:
    from pydantic import ValidationError

    from incentive import config

    try:
        return config.Sampling.model_validate({"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens})
    except ValidationError as error:
        raise config.ConfigError(
            config.explain(error, config.Sampling).replace("max_tokens:", "--max-tokens:")
        ) from None


@app.command("eval")
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint folder, run directory (its last model), or a name: base-mini.", show_default=False
        ),
    ],
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Task or .jsonl file; repeatable.  [default: countdown3]")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", help="A benchmark in place of tasks; repeatable. docs/suites.md lists them."),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Suites: a local copy of the data set.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Suites: where answers and results go.  [default: evals/MODEL-SUITE]")
    ] = None,
    device: Annotated[str, typer.Option(help="Suites: cpu or cuda.")] = "cpu",
    problems: Annotated[
        int | None, typer.Option("--problems", min=1, help="Distinct problems a task.  [default: 100; a suite: all]")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", min=1, help="Answers to each problem: pass@k up to this k.  [default: 4; a suite: the paper's]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of problems and answers.")] = 0,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p", help="Nucleus; the paper's is 0.95.")] = 0.95,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Longest answer.  [default: 320; a suite: the paper's]")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="mini, r1-zero or chat.  [default: mini; a suite: what fits the model]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads.")] = 2,
    as_json: Annotated[
        bool, typer.Option("--json", help="The result as JSON on stdout, each problem's share in it.")
    ] = False,
) -> None:
    """Measure a model on problems it has not seen: pass@k, majority vote, 95% interval, length, reflections.

    A suite keeps every answer in its folder; the same command goes on where it was stopped or killed.

    \b
    Examples:
      incentive eval base-mini --task countdown3
      incentive eval runs/zero-mini --task countdown3 --task countdown4 --problems 200 --samples 16
      incentive eval my-model --task mine.jsonl --template chat --json > mine.json
      incentive eval runs/zero-mini --suite mini
      incentive eval my-model --suite aime24 --data aime_2024.parquet
    """
    with _guarded():
        _together(
            suite,
            {"--task": task, "--split": split != "test"},
            {"--data": data, "--out": out, "--device": device != "cpu"},
        )
        if suite:
            from incentive.harness import evaluate as on_suites

            found = on_suites(
                model, suite, data=data, k=samples, problems=problems, seed=seed, temperature=temperature, top_p=top_p,
                max_tokens=max_tokens, template=template, out=out, threads=threads, device=device, count=_counter(),
            )  # fmt: skip
            if as_json:
                _out(json.dumps(found, indent=2))
            else:
                _told_suites(found)
            return
        from incentive.compare import measure_model

        names = task or ["countdown3"]
        how = _settings(max_tokens or 320, temperature, top_p)
        found = measure_model(
            model, names, problems or 100, samples or 4, seed, split, how, template or "mini", threads, _counter()
        )
        if as_json:
            _out(json.dumps(found, indent=2))
            return
        for name, result in found["tasks"].items():
            low, high = result["ci95"]
            asked = f"{result['problems']} {split} problems, {result['samples']} answers each"
            _out(f"{name}: {asked}, T {temperature:g}, top-p {top_p:g}")
            _out(f"  right answers (pass@1)  {result['pass@1']:.1%}   95% interval {low:.1%} to {high:.1%}")
            for key in (k for k in result if k.startswith(("pass@", "maj@")) and k != "pass@1"):
                _out(f"  {key:22}  {result[key]:.1%}")
            _out(f"  in the required form    {result['format']:.1%}")
            _out(f"  ended by itself         {result['stop']['stop']:.1%}")
            _out(f"  tokens an answer        {result['mean_tokens']:.1f}")
            _out(f"  reflections an answer   {result['reflections_per_response']:.2f}")


def _together(suite: list[str] | None, of_tasks: dict[str, Any], of_suites: dict[str, Any]) -> None:
    """Refuse options that would be passed over: some are for tasks alone, some for suites alone."""
    from incentive.config import ConfigError

    given = [name for name, value in (of_tasks if suite else of_suites).items() if value]
    if given:
        fix = "Leave it out, or give --task in place of --suite." if suite else "Give the --suite that it is for."
        raise ConfigError(f"{given[0]} does not go with {'--suite' if suite else 'a task'}\n{fix}")


def _told_suites(found: dict[str, Any]) -> None:
    """The results of suites in words; what differs from the suite's own protocol is said."""
    for name, about in found["suites"].items():
        _out(f"{name}: k = {about['k']}, T {about['temperature']:g}, top-p {about['top_p']:g}, {about['max_tokens']} tokens, "
             f"template {found['template']}")  # fmt: skip
        if about["k"] != about["suite_k"] or about["max_tokens"] != about["suite_max_tokens"]:
            _out(f"  not as the suite states it: k = {about['suite_k']}, {about['suite_max_tokens']} tokens")
        if "data" in about:
            left = sum(about["left_out"].values())
            _out(
                f"  {about['data']['dataset']} at {about['data']['revision'][:12]}"
                + (f", {left} rows left out" if left else "")
            )
        if "sandbox" in about:
            _out(f"  programs ran in the sandbox tier {about['sandbox']}")
    for name, result in found["tasks"].items():
        low, high = result["ci95"]
        _out(f"{name}: {result['problems']} problems, {result['samples']} answers each")
        _out(f"  pass@1            {result['pass@1']:.1%}   95% interval {low:.1%} to {high:.1%}")
        for key in (x for x in result if x.startswith(("pass@", "cons@")) and x != "pass@1" and "ci95" not in x):
            within = (
                "   95% interval {:.1%} to {:.1%}".format(*result[f"{key}_ci95"]) if f"{key}_ci95" in result else ""
            )
            _out(f"  {key:16}  {result[key]:.1%}{within}")
        for key in ("prompt_loose", "instruction_strict", "instruction_loose"):
            if key in result:
                _out(f"  {key.replace('_', ', '):16}  {result[key]:.1%}")
        _out(f"  marked an answer  {result['marked']:.1%}")
        _out(f"  ended by itself   {result['stop']['stop']:.1%}")
        _out(f"  tokens an answer  {result['mean_tokens']:.1f}")
        if result["ungraded"]:
            _out(f"  could not be graded, counted as wrong: {result['ungraded']}")
    _out(f"answers and results: {found['directory']}")


def _counter() -> Any:
    """Progress on stderr, where that is a terminal."""
    import time

    last = 0.0

    def count(name: str, done: int, total: int) -> None:
        nonlocal last
        if sys.stderr.isatty() and (time.monotonic() - last > 0.25 or done == total):
            last = time.monotonic()
            end = "\r\033[K" if done == total else ""
            print(f"\r{name} {done}/{total}\033[K{end}", end="", file=sys.stderr, flush=True)

    return count


@app.command()
def sample(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, run directory, or base-mini.", show_default=False)],
    problem: Annotated[
        str, typer.Argument(help="Any text; `incentive tasks` shows how problems read.", show_default=False)
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="Answers.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p")] = 0.95,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1)] = 320,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer.")] = 0,
    template: Annotated[str, typer.Option(help="mini, r1-zero or chat.")] = "mini",
    raw: Annotated[bool, typer.Option("--raw", help="The text as it was written, tags and all.")] = False,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads.")] = 2,
) -> None:
    """Ask a model one question: its thinking dim, its answer bold.

    \b
    Examples:
      incentive sample base-mini "use 3,7,25 to make 46"
      incentive sample runs/zero-mini "use 3,7,25 to make 46" -n 4 --temperature 1
    """
    with _guarded():
        from incentive import chat
        from incentive.compare import ask_model
        from incentive.live import rich_terminal

        colour = rich_terminal()
        if not problem.strip():
            from incentive.config import ConfigError

            raise ConfigError("the problem is empty")
        how = _settings(max_tokens, temperature, top_p)
        for number, found in enumerate(ask_model(model, problem, n, seed, how, template, threads)):
            if number:
                _out()
            if raw:
                _out(found.text)
                continue
            thinking, answer = chat.split(found.text)
            cut = "" if found.stop == "stop" else f" (cut at {max_tokens} tokens)"
            if thinking:
                _styled(thinking, "2", colour)
            _styled(answer if answer is not None else f"no answer{cut}", "1", colour)


def _styled(text: str, code: str, colour: bool) -> None:
    from incentive.live import ascii_only, printable

    text = printable(text, ascii_only())
    print(f"\033[{code}m{text}\033[0m" if colour else text, flush=True)


# the rest


@app.command()
def compare(
    a: Annotated[
        str,
        typer.Argument(
            help="Run directory, evaluation stage, JSON of `incentive eval --json`, or a model.", show_default=False
        ),
    ],
    b: Annotated[str, typer.Argument(help="The other.", show_default=False)],
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Only these tasks; for models: what to ask.  [default: countdown3]"),
    ] = None,
    problems: Annotated[int, typer.Option("--problems", min=1, help="Models only.")] = 100,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Models only.")] = 4,
    seed: Annotated[int, typer.Option(help="Models only.")] = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Models only.")] = 320,
    template: Annotated[str, typer.Option(help="Models only.")] = "mini",
    threads: Annotated[int, typer.Option(min=1, help="Models only.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Is B better than A? Paired difference in right answers, with its 95% interval and p.

    A run stands for its last evaluation. Problems that both were asked are paired; where there are none, it says so.

    \b
    Examples:
      incentive compare runs/zero-mini runs/second
      incentive compare runs/zero-mini/before runs/zero-mini/after
      incentive compare base-mini runs/zero-mini/zero/model --task countdown3 --problems 200
    """
    with _guarded():
        from incentive import compare as module

        def model(name: str) -> dict[str, Any]:
            how = _settings(max_tokens, 0.6, 0.95)
            return module.measure_model(
                name, task or ["countdown3"], problems, samples, seed, "test", how, template, threads, _counter()
            )

        found = module.differences(module.read(a, model), module.read(b, model), task)
        if as_json:
            _out(json.dumps(found, indent=2))
            return
        for line in module.told(found, a, b):
            _out(line)


for _command in (judged.judge, judged.safety, judged.bias):
    app.command()(_command)


@app.command()
def limits(
    model: Annotated[
        str, typer.Argument(help="Checkpoint folder, run directory (its last model), or base-mini.", show_default=False)
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", help="overthinking, sensitivity, mixing, tools or structured; repeatable.  [default: all]"
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="In place of each limit's own tasks; repeatable.")
    ] = None,
    problems: Annotated[int, typer.Option("--problems", min=2, help="Distinct problems a task.")] = 100,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers to each.")] = 4,
    seed: Annotated[int, typer.Option(help="Of problems and answers.")] = 0,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.6,
    top_p: Annotated[float, typer.Option("--top-p")] = 0.95,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 320,
    template: Annotated[str, typer.Option(help="mini, r1-zero or chat.")] = "mini",
    against: Annotated[
        Path | None, typer.Option("--against", help="A limits.json of another model: tokens and right answers, paired.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where limits.json and limits.html go.  [default: the run, or limits/MODEL]"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads.")] = 2,
) -> None:
    """Measure R1's limits: overthinking, prompt sensitivity, language mixing, tool use, structured output.

    Plots go into limits.html and, for a run directory, into its report.

    \b
    Examples:
      incentive limits runs/zero-mini
      incentive limits base-mini --only overthinking --task countdown4 --problems 200 --samples 8
      incentive limits runs/brief --only overthinking --against runs/zero-mini/limits.json
    """
    with _guarded():
        from incentive import limits as module

        other = module.read(against, only or ()) if against else None
        how = _settings(max_tokens, temperature, top_p)
        asked = module.Asked(model, problems, samples, seed, split, how, template, threads)  # type: ignore[arg-type]
        found = module.measure_limits(asked, only or (), task or (), _counter())
        if other is not None:
            found["against"] = {"name": str(against), "tasks": module.compared(found, other)}
        where = out or (Path(model) if (Path(model) / "run.json").is_file() else Path("limits") / Path(model).name)
        page = module.write(found, where)
        for line in module.told(found):
            _out(line)
        _out(f"plots: {page}")


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, run directory, or base-mini.", show_default=False)],
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
    threads: Annotated[int, typer.Option(min=1, max=1024, help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    control: Annotated[
        str | None,
        typer.Option(
            "--risk-control",
            help="Review answers to risky requests. By: an endpoint's .toml, a model, a safety reward model.",
        ),
    ] = None,
    keywords: Annotated[
        Path | None, typer.Option("--keywords", help="The risk control's words, one a line.  [default: ours]")
    ] = None,
) -> None:
    """Serve a model under OpenAI's API: /v1/completions, /v1/chat/completions. There is no password: keep it local.

    \b
    Examples:
      incentive serve runs/zero-mini
      incentive serve base-mini --port 8001
      incentive serve my-model --risk-control judge.toml
    """
    with _guarded():
        from incentive.serve.server import serve as answer

        if keywords is not None and control is None:
            from incentive.config import ConfigError

            raise ConfigError("--keywords belong to a risk control\nGive its reviewer with --risk-control.")
        answer(model, host, port, name, slots, max_model_len, threads, device, _out, control, keywords)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="Run directory, finished or not.", show_default=False)],
) -> None:
    """Write the report of a run anew: one HTML file that opens offline."""
    with _guarded():
        from incentive.run import RunError

        if not (directory / "run.json").is_file():
            raise RunError(f"{directory}: no run here (a folder that `incentive run` made)")
        try:
            from incentive.report import write_report
        except ImportError:
            raise RunError("this version of incentive has no report yet") from None
        _out(str(write_report(directory)))


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
    with _guarded():
        from incentive.release import release as bundle

        bundle(directory, out, stage, evals, licence, _out)


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
    with _guarded():
        import inspect

        from incentive.tasks import SHIPPED, find

        if name == "reasoning-gym":
            from incentive.tasks import gym

            for one in gym.names():
                _out(f"{gym.PREFIX}{one}")
            return
        for one, found in SHIPPED.items() if name is None else [(name, find(name))]:
            problem = found.problem(0, "train", 0)
            _out(one)
            _out("  " + (inspect.getdoc(type(found)) or "").split("\n")[0])
            _out(f"  problem: {problem.prompt}")
            _out(f"  answer:  {found.gold(problem)}\n")
        if name is not None:
            return
        _out('Your own: mine.jsonl, one {"prompt": "...", "answer": "..."} a line')
        _out("  incentive run zero-mini --set 'rl.tasks={\"mine.jsonl\"=1.0}' --set 'eval.tasks=[\"mine.jsonl\"]'")
        _out("More: data sets of the Hub (hub:owner/name?..., docs/suites.md); incentive tasks reasoning-gym")


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
            sys.exit(_fail(f"error: {word!r} cannot be read in this locale; set PYTHONUTF8=1", 2))
    try:
        app()
    finally:  # a further Ctrl-C while Python ends would only change the exit code
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    main()
