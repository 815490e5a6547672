"""What the controls' page says comes from the digests, and the digests from the answers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from incentive.recipes import controls, findings
from incentive.tasks.expression import OPS


def result(right: list[int], samples: int) -> dict[str, Any]:
    share = sum(right) / samples / len(right)
    return {
        "samples": samples, "problems": len(right), "pass@1": share, "ci95": [share, share], "mean_tokens": 20.0,
        "reflections_per_response": 0.5,
    }  # fmt: skip


def write(root: Path, arm: str, before: list[int], after: list[int], problems: str = "a") -> None:
    shape = {"first": 0.2, "each": 0.2, "tries": 1.0, "even": 0.2, "precision": 1.0, "recall": 1.0}
    found = {
        when: {
            "results": {t: result(right, 4) for t in controls.TASKS},
            "right": dict.fromkeys(controls.TASKS, right),
            "problems": dict.fromkeys(controls.TASKS, problems),
            "decomposition": dict.fromkeys(controls.TASKS, shape),
        }
        for when, right in (("before", before), ("after", after))
    }
    (root / f"{arm}.json").write_text(json.dumps(found))


def test_tables_from_digests_and_arms_that_are_missing(tmp_path: Path) -> None:
    zero = f"zero-{controls.SEEDS[0]}"
    write(tmp_path, zero, [0, 1, 2, 1], [4, 4, 3, 4])
    write(tmp_path, "coin", [0, 1, 2, 1], [0, 1, 1, 1])
    found = findings.collect(tmp_path)
    assert [t["title"] for t in found["tables"]][:2] == ["R1-Zero on the test split", "Controls"]
    assert found["tables"][0]["rows"][0][4].startswith("+68.8 (")  # (15 - 4) of 16
    coin = next(r for r in found["tables"][1]["rows"] if r[0] == findings.LABELS["coin"])
    assert coin[3].startswith("-75.0 (")
    findings.write_page(tmp_path / "page.md", found)
    assert "a coin for a reward" in (tmp_path / "page.md").read_text()


def test_other_problems_are_not_paired(tmp_path: Path) -> None:
    write(tmp_path, "x", [0], [1])
    write(tmp_path, "y", [0], [1], problems="b")
    with pytest.raises(ValueError, match="different problems"):
        findings.paired(tmp_path, ("x", "after"), ("y", "after"), controls.TASKS[0])


def brute(numbers: tuple[int, ...], target: int) -> tuple[int, int]:
    """All left-to-right chains by permutation; a first sum or product in both orders is one."""
    seen: dict[tuple[Any, ...], int] = {}
    for order in set(itertools.permutations(numbers)):
        for ops in itertools.product(OPS, repeat=len(order) - 1):
            value, ok = order[0], True
            for op, n in zip(ops, order[1:], strict=True):
                value = OPS[op](value, n)
                ok = ok and 0 <= value <= 99
            if ok:
                pair = order[:2] if ops[0] == "-" else tuple(sorted(order[:2]))
                seen[(pair, order[2:], ops)] = value
    return len(seen), sum(v == target for v in seen.values())


@pytest.mark.parametrize(
    ("numbers", "target"), [((3, 7, 25), 46), ((4, 4, 9), 20), ((2, 5, 6, 9), 33), ((5, 5, 5), 15)]
)
def test_enumerator_counts_every_chain_once(numbers: tuple[int, ...], target: int) -> None:
    total, right = findings.chains(numbers, target)
    assert (total, right) == brute(numbers, target)
    assert findings.enumerator(numbers, target, 1) == pytest.approx(right / total)
    assert findings.enumerator(numbers, target, total) == (1.0 if right else 0.0)


def test_arms_come_after_what_they_need() -> None:
    seen: set[str] = set()
    for arm in controls.arms():
        assert set(arm.needs) <= seen
        seen.add(arm.name)
