"""The bench's arithmetic: ratios, bounds against FLOPs counted by hand, the page. No speed is tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the bench is no part of the installed package

from bench import comparisons, limits, measure, page, works

SHAPE = limits.Shape(hidden=8, intermediate=16, layers=2, q=8, kv=4, vocabulary=100)
MACHINE = {"float32": 1000.0, "bfloat16": 2000.0, "bandwidth": 500.0}


def test_ratio_is_formed_pair_by_pair() -> None:
    slow = measure.advantage([1.0, 2.0, 4.0], [8.0, 20.0, 36.0], "lower")
    assert (slow.median, slow.low, slow.high) == (9.0, 8.0, 10.0)  # 8, 10, 9; that of medians would be 10
    fast = measure.advantage([100.0, 90.0], [50.0, 30.0, 1.0], "higher")
    assert (fast.median, fast.low, fast.high) == (2.5, 2.0, 3.0)  # the third has no pair
    assert str(measure.spread([0.5])) == "0.500"
    assert str(measure.spread([14.5, 2.41, 1234.5])) == "14.5 (2.41 to 1,234)"
    assert [measure.figure(x) for x in (0.0, 9.999, 0.00123, 99.5)] == ["0", "10.00", "0.00123", "99.5"]


def test_pairs_run_in_turn_and_a_failed_side_stops_alone() -> None:
    order: list[str] = []

    def side(name: str, fails: bool = False) -> measure.Side:
        def run(number: int) -> measure.Run:
            order.append(f"{name}{number}")
            return {"error": "no such peer"} if fails else {"x": number}

        return run

    heard: list[int] = []
    runs = measure.pairs(
        {"a": side("a"), "b": side("b", fails=True), "c": side("c")}, 2, lambda r: heard.append(len(r))
    )
    assert order == ["a0", "b0", "c0", "a1", "c1"]
    assert runs == {"a": [{"x": 0}, {"x": 1}], "b": [{"error": "no such peer"}], "c": [{"x": 0}, {"x": 1}]}
    assert len(heard) == 5


def test_a_side_is_its_json_line_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "OUT", tmp_path)
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    run = measure.spawn(
        [sys.executable, "-c", "print('a'); print('{\"x\": 1}'); print('b')"], "a", threads=1, watch=True
    )
    assert run["x"] == 1
    assert "peak_mib" in run
    failed = measure.spawn([sys.executable, "-c", "raise ValueError('no weights')"], "bad", threads=1)
    assert failed == {"error": "ValueError: no weights (see logs/bad.log)"}


def test_memory_is_that_of_a_process_and_all_below_it() -> None:
    child = "x = bytearray(48 << 20); print('ready', flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        members = measure.family(process.pid)
        sizes = [measure.pss(pid) / 2**20 for pid in members]
        process.communicate(b"\n")
    assert members[0] == process.pid
    assert len(members) == 2
    assert sizes[0] < 48 < sizes[1] < 80
    assert measure.family(process.pid) == []
    assert measure.pss(process.pid) == 0


def test_bounds_equal_flops_counted_by_hand() -> None:
    # a layer: q 8x8, k and v 8x4 each, o 8x8, gate, up and down 8x16 each
    assert SHAPE.matrices == 2 * (64 + 32 + 32 + 64 + 3 * 128)
    assert SHAPE.parameters == SHAPE.matrices + 800 + 5 * 8
    # rows of 3 and 2 tokens see 1+2+3 and 1+2 tokens; q.k and a.v are 2 * 8 operations each, in 2 layers
    once = limits.forward(SHAPE, [3, 2], scored=4)
    assert once.flops == 2 * 1152 * 5 + (6 + 3) * 2 * (16 + 16) + 2 * 800 * 4
    assert once.bytes == 4 * (1152 + 800)
    assert limits.forward(SHAPE, [3, 2], 4, width=2).bytes == once.bytes / 2
    # after a prompt of 5 that stands elsewhere, a row of 3 sees 5 more thrice
    assert limits.forward(SHAPE, [3], 0, before=[5]).flops == 2 * 1152 * 3 + (6 + 15) * 2 * (16 + 16)
    # samples of 3 and 1 tokens after prompts of 5 and 4: the second decodes nothing, the first sees 6, then 7
    grown = limits.decode(SHAPE, [5, 4], [3, 1])
    assert grown.flops == 2 * (2 * (1152 + 800)) + 13 * 2 * (16 + 16)
    assert grown.bytes == 4 * (2 * (1152 + 800) + 13 * 2 * (4 + 4))
    assert limits.backward(once).flops == 2 * once.flops
    assert limits.optimizer(SHAPE).bytes == 28 * SHAPE.parameters
    assert limits.bound(limits.Cost(4000, 500), MACHINE, "float32") == (4.0, "multiply-adds")
    assert limits.bound(limits.Cost(4000, 5000), MACHINE, "bfloat16") == (10.0, "bytes")


def test_shape_of_base_mini_is_its_parameter_count() -> None:
    folder = works.Work(1, 1, 1).folder
    header = (folder / "model.safetensors").open("rb")
    with header:
        shapes = json.loads(header.read(int.from_bytes(header.read(8), "little")))
    count = sum(
        t["shape"][0] * (t["shape"][1] if len(t["shape"]) > 1 else 1) for k, t in shapes.items() if k != "__metadata__"
    )
    assert limits.shape_of(folder).parameters == count


def test_phases_add_up_to_the_step() -> None:
    row = {"time/step": 10.0, "time/sample": 5.0, "time/reward": 0.5, "time/score": 1.0, "time/update": 3.0}
    clock = {"prefill": 1.0, "decoder": 3.0, "draw": 0.5, "forward": 1.0, "backward": 1.5, "optimizer": 0.25}
    rollout = ([5], [5, 5], [3, 2])
    found = {p["name"]: p for p in limits.phases(SHAPE, MACHINE, "float32", [rollout] * 2, [row] * 2, [clock] * 2)}
    assert sum(p["seconds"] for p in found.values() if not p["of"] and p["name"] != "step") == 20.0
    assert found["decode"]["seconds"] == 8.0
    assert found["forward pass and loss"]["seconds"] == 2.5
    assert found["all else"]["seconds"] == 1.0
    assert "bound" not in found["reward"]
    update = sum(found[name]["bound"] for name in ("forward pass and loss", "backward", "optimizer"))
    assert found["update"]["bound"] == pytest.approx(update)
    assert found["prefill"]["flops"] == 2 * limits.forward(SHAPE, [5], 1).flops
    gone = dict.fromkeys(clock, 0.0)  # the product has moved its functions: phases are told together
    names = [p["name"] for p in limits.phases(SHAPE, MACHINE, "float32", [rollout], [row], [gone])]
    assert names == ["sampling", "reward", "log-probs of the reference", "update", "all else", "step"]


def test_time_to_the_goal_is_that_of_a_running_mean() -> None:
    seconds, reward = [2.0] * 10, [0.0, 0, 0, 1, 0, 1, 1, 1, 1, 1]
    assert comparisons.reached(seconds, reward, 0.8) == 16.0  # 1 0 1 1 1 at the eighth update
    assert comparisons.reached(seconds, reward, 1.1) is None
    assert comparisons.final(reward) == 1.0


def test_trl_settings_are_chosen_by_what_was_measured() -> None:
    tried: works.Sweep = [
        (works.Setting("float32", 32), {"seconds": [9.0, 3.0], "peak_mib": 900.0}),
        (works.Setting("bfloat16", 64), {"seconds": [1.0, 4.0], "peak_mib": 700.0}),
        (works.Setting("bfloat16", 256), {"error": "out of memory"}),
    ]
    assert works.best(tried) == works.Setting("float32", 32)  # the first update warms up
    assert works.leanest(tried) == works.Setting("bfloat16", 64)
    assert works.best(tried[2:]) is None
    with pytest.raises(ValueError, match="PROBLEMSxSAMPLESxTOKENS"):
        works.work_of("32x8")


def test_page_has_figures_failures_and_what_is_missing() -> None:
    where: dict[str, Any] = dict.fromkeys(
        ("cpu", "cores", "threads", "platform", "python", "torch", "transformers"), "x"
    )
    sides = {
        "ours": {"setting": "as it is", "values": [1.0, 2.0], "error": None},
        "TRL": {"setting": "bfloat16", "values": [8.0, 20.0], "error": None},
        "other": {"setting": "", "values": [], "error": "no environment for other | pip"},
    }
    result = {
        "comparison": "step", "about": "A step.\n\nMore about\nit.", "quick": True, "finished": False,
        "machine": where | {"memory_gib": 24.0, "load": 2.5},
        "lines": [{"work": "32 x 8", "figure": "seconds a step", "better": "lower", "sides": sides}],
        "tables": [{"title": "Phases", "rows": [{"phase": "decode", "share of the limit": 0.456, "empty": None}]}],
    }  # fmt: skip
    text = page.page({"step": result}, ["step", "sampling", "gpu"])
    for part in (
        "## A step\n\nMore about it.", "quick version", "Broken off", "load 2.5",
        "| 32 x 8 | seconds a step | ours: as it is | 1.50 (1.00 to 2.00) |  |",
        "|  |  | TRL: bfloat16 | 14.0 (8.00 to 20.0) | 9.00 (8.00 to 10.0) |",
        "failed: no environment for other \\| pip", "| decode | 46% |", "`python -m bench sampling`", "python -m bench gpu",
    ):  # fmt: skip
        assert part in text, part
    assert "empty" not in text
    assert "Nothing is measured yet" in page.page({}, ["step"])
    assert len(page.terminal(result)) == 4
