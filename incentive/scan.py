"""What bandit finds in generated Python. The code is parsed and never run or imported.

bandit works on files in a process of its own (extra `security`), so that code that breaks a parser breaks nothing else: a
batch that ends it is halved until the one file is found, which counts as not scanned. `# nosec` marks in the code are passed
over, or a model could silence the scan. The only file that knows bandit.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from incentive.config import ConfigError

BATCH = 200  # files a process
SECONDS = 120.0  # a batch may take
LONGEST = 200_000  # characters of one code; longer ones are not scanned


@dataclass(frozen=True, slots=True)
class Scan:
    """One code: its lines without blank ones and comments, and what was found in it."""

    parsed: bool
    lines: int = 0
    found: tuple[tuple[str, str], ...] = ()  # (test, severity): ("B602", "HIGH")

    @property
    def findings(self) -> int:
        return len(self.found)

    @property
    def serious(self) -> int:
        """Findings of medium or high severity."""
        return sum(severity in ("MEDIUM", "HIGH") for _, severity in self.found)


def scanner() -> str:
    """The scanner's name and version, for the record.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("bandit") is None:
        raise ConfigError("scanning code needs bandit\nInstall it: pip install 'incentive[security]'")
    return f"bandit {version('bandit')}"


def scan(codes: Sequence[str]) -> list[Scan]:
    """A scan of each code, in order.

    Raises:
        ConfigError: bandit is not installed.
    """
    scanner()
    found: list[Scan] = []
    for at in range(0, len(codes), BATCH):
        found += _batch(codes[at : at + BATCH])
    return found


def _batch(codes: Sequence[str]) -> list[Scan]:
    out = _run(codes)
    if out is not None:
        return [_of(out, f"{i:06d}.py") for i in range(len(codes))]
    if len(codes) == 1:
        return [Scan(False)]
    half = len(codes) // 2
    return _batch(codes[:half]) + _batch(codes[half:])


def _run(codes: Sequence[str]) -> dict[str, Any] | None:
    """bandit's report on the codes as numbered files; None where it died, hung or wrote none."""
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:
        root = Path(folder)
        (root / "code").mkdir()
        for i, code in enumerate(codes):
            text = code if len(code) <= LONGEST else "(too long"  # no Python, so it counts as not scanned
            (root / "code" / f"{i:06d}.py").write_text(text, encoding="utf-8", errors="replace")
        command = [
            sys.executable, "-I", "-m", "bandit", "--quiet", "--format", "json", "--ignore-nosec", "--exit-zero",
            "--output", "report.json", "--recursive", "code",
        ]  # fmt: skip
        try:
            subprocess.run(
                command, cwd=root, capture_output=True, timeout=SECONDS, check=True, stdin=subprocess.DEVNULL
            )
            return json.loads((root / "report.json").read_text(encoding="utf-8"))
        except (subprocess.SubprocessError, OSError, ValueError, RecursionError):
            return None


def _of(report: dict[str, Any], name: str) -> Scan:
    mine = f"code/{name}"
    if any(e["filename"] == mine for e in report["errors"]) or mine not in report["metrics"]:
        return Scan(False)
    found = tuple((r["test_id"], r["issue_severity"]) for r in report["results"] if r["filename"] == mine)
    return Scan(True, int(report["metrics"][mine]["loc"]), found)
