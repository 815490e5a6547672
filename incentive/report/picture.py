"""The three main curves as one standalone SVG, for a README: `python -m incentive.report.picture RUN_DIR OUT.svg`."""

from __future__ import annotations

import html
import sys
from pathlib import Path

from incentive.files import RunError, write_atomic
from incentive.report import svg
from incentive.report.curves import accuracy, length, reflection
from incentive.report.read import read_run

WIDTH, HEIGHT, PAD, GAP = 990.0, 300.0, 18.0, 18.0


def picture(run_dir: Path, out: Path) -> Path:
    """Draw accuracy, length and reflection of the run's last RL stage.

    Raises:
        RunError: the run has no RL step yet, or the file cannot be written.
    """
    run_dir, out = Path(run_dir), Path(out)
    stages = read_run(run_dir).of("rl") if run_dir.is_dir() else []
    stage = next((s for s in reversed(stages) if s.series("completions/mean_length")), None)
    if stage is None:
        raise RunError(f"{run_dir}: no reinforcement steps to draw\nGive the directory of a run that has made some.")
    charts = (
        ("Right answers", accuracy),
        ("Tokens per response", length),
        ("Reflective words per response", reflection),
    )
    each = (WIDTH - 2 * PAD - 2 * GAP) / 3
    parts = []
    for i, (title, draw) in enumerate(charts):
        x = PAD + i * (each + GAP)
        size = svg.Size(each, 240, f'x="{x:.1f}" y="46" width="{each:.1f}" height="240"')
        parts.append(f'<text class="title" x="{x:.1f}" y="30">{html.escape(title)}</text>')
        parts.append(draw(stage, size))
    style = svg.STYLE + ".chart .title { font-size: 14px; font-weight: 600; fill: var(--ink); }\n"
    write_atomic(
        out,
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" '
        f'width="{WIDTH:.0f}" '
        f'height="{HEIGHT:.0f}" role="img" aria-label="accuracy, length and reflection over steps">\n'
        f"<style>{style}</style>\n"
        f'<rect width="100%" height="100%" rx="8" style="fill:var(--bg)"/>\n{"".join(parts)}\n</svg>\n',
    )
    return out


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m incentive.report.picture RUN_DIR OUT.svg")
    try:
        print(picture(Path(sys.argv[1]), Path(sys.argv[2])))
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
