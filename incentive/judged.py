"""The commands that judge a model by what no rule can check: `judge`, `safety`, `bias`. Heavy modules load inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from incentive.console import (
    Device,
    Keywords,
    Longest,
    Model,
    Temperature,
    Threads,
    TopP,
    controlled,
    counter,
    guarded,
    sampling,
    tell,
)

Out = Annotated[Path | None, typer.Option("--out", help="Where answers and results go.  [default: under evals/]")]
Seed = Annotated[int, typer.Option(help="Of the answers.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Longest answer.  [default: 32768; tasks of the world: 320]")
]
Template = Annotated[
    str | None,
    typer.Option(help="mini, r1-zero or chat.  [default: the model's chat template; tasks of the world: mini]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
Number = Annotated[int | None, typer.Option("--problems", min=1, help="Only so many requests of each set.")]


def judge(
    a: Annotated[str, typer.Argument(help="A model, or a .json or .jsonl file of its answers.", show_default=False)],
    b: Annotated[str, typer.Argument(help="The other.", show_default=False)],
    judge: Annotated[
        str,
        typer.Option(
            "--judge", help="An endpoint's .toml, a model, or for tasks of the world: world, proxy.", show_default=False
        ),
    ],
    prompts: Annotated[
        str, typer.Option("--prompts", help="general, general-zh, arena-hard, alpaca-eval, or a file.")
    ] = "general",
    problems: Number = None,
    out: Out = None,
    seed: Seed = 0,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = None,
    template: Template = None,
    threads: Threads = 2,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Which of two models does a judge prefer? Both orders, final answers alone; also at equal length, as AlpacaEval has it.

    \b
    Examples:
      incentive judge runs/r1-mini base-wide --judge world --problems 200
      incentive judge my-model other-model --judge judge.toml --prompts arena-hard
      incentive judge my-model gpt4_outputs.json --judge my-judge --prompts alpaca_eval.json
    """
    with guarded():
        from incentive import arena
        from incentive.tasks import SHIPPED

        how = sampling(max_tokens or (320 if prompts in SHIPPED else 32768), temperature, top_p)
        found = arena.evaluate(
            a, b, judge, of=prompts, problems=problems, seed=seed, sampling=how, template=template, out=out,
            threads=threads, device=device, count=counter(),
        )  # fmt: skip
        tell(found, arena.told, as_json)


def safety(
    model: Model,
    judge: Annotated[
        str,
        typer.Option(
            "--judge", help="An endpoint's .toml, a model, or for tasks of the world: world.", show_default=False
        ),
    ],
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompts",
            help="own, harmbench, strongreject, xstest, aya, harm, harm-zh, or a file; repeatable.  [default: own]",
        ),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="A local copy of the one set.")] = None,
    jailbreak: Annotated[
        list[str] | None,
        typer.Option("--jailbreak", help="all, or role, prefix, story, translation, authority, encoding; repeatable."),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            "--risk-control", help="Also with a risk control. Its reviewer: as --judge, or a safety reward model."
        ),
    ] = None,
    keywords: Keywords = None,
    final: Annotated[bool, typer.Option("--final", help="Judge final answers alone, thinking left out.")] = False,
    problems: Number = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers to each request.")] = 1,
    out: Out = None,
    seed: Seed = 0,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    max_tokens: MaxTokens = None,
    template: Template = None,
    threads: Threads = 2,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """How often does a model do harm, and how often does it refuse what is fine? Plain, under jailbreaks, with a risk control.

    \b
    Examples:
      incentive safety my-model --judge judge.toml --jailbreak all --risk-control judge.toml
      incentive safety my-model --judge judge.toml --prompts xstest --data xstest_prompts.csv
      incentive safety runs/r1-mini --judge world --prompts harm --prompts harm-zh --risk-control runs/r1-mini/safety/model
    """
    with guarded():
        from incentive.safety import evaluate as module
        from incentive.safety.control import KEYWORDS
        from incentive.safety.sets import WORLD

        controlled(control, keywords)
        of = prompts or ["own"]
        how = sampling(max_tokens or (320 if all(p in WORLD for p in of) else 32768), temperature, top_p)
        found = module.evaluate(
            model, judge, of=of, jailbreaks=jailbreak or [], control=control, keywords=keywords or KEYWORDS, final=final,
            data=data, problems=problems, k=samples, seed=seed, sampling=how, template=template, out=out, threads=threads,
            device=device, count=counter(),
        )  # fmt: skip
        tell(found, module.told, as_json)


def bias(
    model: Model,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers to each prompt.")] = 4,
    out: Out = None,
    seed: Seed = 0,
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    max_tokens: Longest = 32768,
    template: Annotated[
        str | None, typer.Option(help="mini, r1-zero or chat.  [default: the model's chat template]")
    ] = None,
    threads: Threads = 2,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Is a model's code less secure where the prompt mentions something sensitive and irrelevant? bandit counts; nothing is run.

    \b
    Examples:
      incentive bias my-model
      incentive bias my-model --samples 8 --max-tokens 8192 --out evals/my-bias
    """
    with guarded():
        from incentive import bias as module

        found = module.evaluate(
            model, k=samples, seed=seed, sampling=sampling(max_tokens, temperature, top_p), template=template, out=out,
            threads=threads, device=device, count=counter(),
        )  # fmt: skip
        tell(found, module.told, as_json)
