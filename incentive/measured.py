"""The commands that ask a model and count: `eval`, `sample`, `compare`, `limits`. Heavy modules load inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from incentive.console import Longest, Model, Temperature, Threads, TopP, counter, guarded, put, sampling, tell
from incentive.terminal import ascii_only, printable, rich_terminal

Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="Task or .jsonl file; repeatable.  [default: countdown3]")
]
Suites = Annotated[
    list[str] | None,
    typer.Option("--suite", help="A benchmark in place of tasks; repeatable. docs/suites.md lists them."),
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Suites: where answers and results go.  [default: evals/MODEL-SUITE]")
]
Problems = Annotated[
    int | None, typer.Option("--problems", min=1, help="Distinct problems a task.  [default: 100; a suite: all]")
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples", min=1, help="Answers to each problem: pass@k up to this k.  [default: 4; a suite: the paper's]"
    ),
]
Seed = Annotated[int, typer.Option(help="Of problems and answers.")]
Split = Annotated[str, typer.Option(help="test or val.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Longest answer.  [default: 320; a suite: the paper's]")
]
Template = Annotated[
    str | None, typer.Option(help="mini, r1-zero or chat.  [default: mini; a suite: what fits the model]")
]


def evaluate(
    model: Model,
    task: Tasks = None,
    suite: Suites = None,
    data: Annotated[str | None, typer.Option("--data", help="Suites: a local copy of the data set.")] = None,
    out: Out = None,
    device: Annotated[str, typer.Option(help="Suites: cpu or cuda.")] = "cpu",
    problems: Problems = None,
    samples: Samples = None,
    seed: Seed = 0,
    split: Split = "test",
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = None,
    template: Template = None,
    threads: Threads = 2,
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
    with guarded():
        of_tasks = {"--task": task, "--split": split != "test"}
        _together(suite, of_tasks, {"--data": data, "--out": out, "--device": device != "cpu"})
        if suite:
            from incentive import harness

            found = harness.evaluate(
                model, suite, data=data, k=samples, problems=problems, seed=seed, temperature=temperature, top_p=top_p,
                max_tokens=max_tokens, template=template, out=out, threads=threads, device=device, count=counter(),
            )  # fmt: skip
            tell(found, harness.told, as_json)
            return
        from incentive import compare as module

        names, how = task or ["countdown3"], sampling(max_tokens or 320, temperature, top_p)
        found = module.measure_model(
            model, names, problems or 100, samples or 4, seed, split, how, template or "mini", threads, counter()
        )
        tell(found, module.told_alone, as_json)


def _together(suite: list[str] | None, of_tasks: dict[str, Any], of_suites: dict[str, Any]) -> None:
    """Refuse options that would be passed over: some are for tasks alone, some for suites alone."""
    from incentive.config import ConfigError

    given = [name for name, value in (of_tasks if suite else of_suites).items() if value]
    if given:
        fix = "Leave it out, or give --task in place of --suite." if suite else "Give the --suite that it is for."
        raise ConfigError(f"{given[0]} does not go with {'--suite' if suite else 'a task'}\n{fix}")


def sample(
    model: Model,
    problem: Annotated[
        str, typer.Argument(help="Any text; `incentive tasks` shows how problems read.", show_default=False)
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="Answers.")] = 1,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    max_tokens: Longest = 320,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer.")] = 0,
    template: Annotated[str, typer.Option(help="mini, r1-zero or chat.")] = "mini",
    raw: Annotated[bool, typer.Option("--raw", help="The text as it was written, tags and all.")] = False,
    threads: Threads = 2,
) -> None:
    """Ask a model one question: its thinking dim, its answer bold.

    \b
    Examples:
      incentive sample base-mini "use 3,7,25 to make 46"
      incentive sample runs/zero-mini "use 3,7,25 to make 46" -n 4 --temperature 1
    """
    with guarded():
        from incentive import chat
        from incentive.compare import ask_model
        from incentive.config import ConfigError

        colour = rich_terminal()
        if not problem.strip():
            raise ConfigError("the problem is empty")
        how = sampling(max_tokens, temperature, top_p)
        for number, found in enumerate(ask_model(model, problem, n, seed, how, template, threads)):
            if number:
                put()
            if raw:
                put(found.text)
                continue
            thinking, answer = chat.split(found.text)
            cut = "" if found.stop == "stop" else f" (cut at {max_tokens} tokens)"
            if thinking:
                _styled(thinking, "2", colour)
            _styled(answer if answer is not None else f"no answer{cut}", "1", colour)


def _styled(text: str, code: str, colour: bool) -> None:
    text = printable(text, ascii_only())
    print(f"\033[{code}m{text}\033[0m" if colour else text, flush=True)


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
    with guarded():
        from incentive import compare as module

        def model(name: str) -> dict[str, Any]:
            how = sampling(max_tokens, 0.6, 0.95)
            return module.measure_model(
                name, task or ["countdown3"], problems, samples, seed, "test", how, template, threads, counter()
            )

        found = module.differences(module.read(a, model), module.read(b, model), task)
        tell(found, lambda f: module.told(f, a, b), as_json)


def limits(
    model: Model,
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
    seed: Seed = 0,
    split: Split = "test",
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    max_tokens: Longest = 320,
    template: Annotated[str, typer.Option(help="mini, r1-zero or chat.")] = "mini",
    against: Annotated[
        Path | None, typer.Option("--against", help="A limits.json of another model: tokens and right answers, paired.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where limits.json and limits.html go.  [default: the run, or limits/MODEL]"),
    ] = None,
    threads: Threads = 2,
) -> None:
    """Measure R1's limits: overthinking, prompt sensitivity, language mixing, tool use, structured output.

    Plots go into limits.html and, for a run directory, into its report.

    \b
    Examples:
      incentive limits runs/zero-mini
      incentive limits base-mini --only overthinking --task countdown4 --problems 200 --samples 8
      incentive limits runs/brief --only overthinking --against runs/zero-mini/limits.json
    """
    with guarded():
        from incentive import limits as module
        from incentive.config import ConfigError

        if against and only and "overthinking" not in only:
            raise ConfigError("--against compares overthinking, which --only leaves out\nAdd --only overthinking.")
        other = module.read(against) if against else None
        how = sampling(max_tokens, temperature, top_p)
        asked = module.Asked(model, problems, samples, seed, split, how, template, threads)  # type: ignore[arg-type]
        found = module.measure_limits(asked, only or (), task or (), counter())
        if other is not None:
            found["against"] = {"name": str(against), "tasks": module.compared(found, other)}
        where = out or (Path(model) if (Path(model) / "run.json").is_file() else Path("limits") / Path(model).name)
        page = module.write(found, where)
        for line in module.told(found):
            put(line)
        put(f"plots: {page}")
