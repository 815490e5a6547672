"""The page: a run directory in, report.html out, in the order in which a reader asks.

What came out? How did it grow? What does it write? How sure is it? Is it real? What was it, what did it cost, and where
does everything lie? One file, no script, no network; a policy in its head forbids both, since it quotes model text.
"""

from __future__ import annotations

from pathlib import Path

from incentive.report import outcome, record
from incentive.report.curves import curves
from incentive.report.data import data
from incentive.report.lineage import lineage
from incentive.report.markup import Html, esc, join, plain, tag
from incentive.report.read import RunFiles, read_run
from incentive.report.samples import samples
from incentive.report.stages import markdown, stages
from incentive.report.svg import STYLE
from incentive.run import RunError, write_atomic

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
NAMES = {
    "stages": "Stage table",
    "lineage": "Lineage",
    "curves": "Curves",
    "samples": "Samples",
    "data": "Data",
    "evaluation": "Evaluation",
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
        "controls": outcome.controls(run),
        "skills": outcome.skills(run),
        "settings": record.settings(run),
        "cost": record.cost(run),
        "record": record.surroundings(run),
    }
    links = join(tag("a", NAMES[k], href=f"#{k}") for k, v in sections.items() if v)
    recipe = plain(run.about.get("recipe") or run.config.get("recipe") or "run")
    style = STYLE + (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    parts = [
        outcome.headline(run),
        tag("nav", links) if links else Html(""),
        tag("main", join(sections.values())),
        tag("footer", "Made by incentive from the files of this run; nothing on this page is loaded from elsewhere."),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{esc(recipe)} – incentive report</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n{join(parts)}\n</body>\n</html>\n"
    )


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
