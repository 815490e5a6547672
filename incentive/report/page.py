"""The page: a run directory in, report.html out, in the order in which a reader asks.

What came out? How did it grow? What does it write? How sure is it? Is it real? What was it, what did it cost, and where
does everything lie? One file, no script, no network; a policy in its head forbids both, since it quotes model text.
"""

from __future__ import annotations

from pathlib import Path

from incentive.files import RunError, write_atomic
from incentive.report import outcome, record
from incentive.report.curves import curves
from incentive.report.data import data
from incentive.report.document import document
from incentive.report.limits import limits
from incentive.report.lineage import lineage
from incentive.report.markup import Html, join, plain, tag
from incentive.report.read import RunFiles, read_run
from incentive.report.samples import samples
from incentive.report.stages import markdown, stages

NAMES = {
    "stages": "Stage table",
    "lineage": "Lineage",
    "curves": "Curves",
    "samples": "Samples",
    "data": "Data",
    "evaluation": "Evaluation",
    "limits": "Limits",
    "controls": "Controls",
    "skills": "Base model",
    "settings": "Settings",
    "cost": "Cost",
    "record": "Record",
}


def page(run: RunFiles) -> str:
    """The whole HTML document."""
    sections = {
        "stages": stages(run),
        "lineage": lineage(run),
        "curves": curves(run),
        "samples": samples(run),
        "data": data(run),
        "evaluation": outcome.evaluation(run),
        "limits": limits(run.limits),
        "controls": outcome.controls(run),
        "skills": outcome.skills(run),
        "settings": record.settings(run),
        "cost": record.cost(run),
        "record": record.surroundings(run),
    }
    links = join(tag("a", NAMES[k], href=f"#{k}") for k, v in sections.items() if v)
    recipe = plain(run.about.get("recipe") or run.config.get("recipe") or "run")
    parts = [
        outcome.headline(run),
        tag("nav", links) if links else Html(""),
        tag("main", join(sections.values())),
    ]
    return document(f"{recipe} – incentive report", parts, "the files of this run")


def write_report(run_dir: Path) -> Path:
    """Write `report.html` into a run directory, finished or not, and return its path; `table.md`, the stage table, beside
    it where the run has evaluated stages.

    Raises:
        RunError: there is no such directory, or it cannot be written to.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise RunError(f"{run_dir}: no such run directory\nGive the folder that --run named.")
    path, run = run_dir / "report.html", read_run(run_dir)
    if told := markdown(run):
        write_atomic(run_dir / "table.md", told)
    write_atomic(path, page(run))
    return path
