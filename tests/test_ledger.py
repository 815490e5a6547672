from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incentive.ledger import Costs, LedgerError, fold, table

ROW = {
    "step": 1,
    "reward/mean": 0.5,
    "time/step": 10.0,
    "time/sample": 6.0,
    "time/reward": 0.5,
    "time/score": 1.0,
    "time/update": 2.0,
    "tokens/prompt": 100,
    "tokens/sampled": 1000,
    "tokens/trained": 1100,
}


@pytest.fixture
def metrics(tmp_path):
    def write(*lines, end="\n"):
        path = tmp_path / "metrics.jsonl"
        text = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        path.write_bytes(b"\n".join(text) + end.encode())
        return path

    return write


def test_fold_sums_what_was_measured(metrics):
    costs = fold(metrics(ROW, ROW, ROW), parameters=1_000_000, cores=2, price=0.04, watts_per_core=15)
    assert (costs.seconds, costs.steps) == (30, 3)
    assert costs.core_hours == pytest.approx(60 / 3600)
    assert (costs.tokens_prompt, costs.tokens_sampled, costs.tokens_trained) == (300, 3000, 3300)
    assert costs.money == pytest.approx(60 / 3600 * 0.04)
    assert costs.energy_wh == pytest.approx(60 / 3600 * 15)
    assert costs.phases == {"sample": 18, "reward": 1.5, "score": 3, "update": 6}


@pytest.mark.parametrize(("scorings", "each"), [(2, 10), (1, 8), (0, 6)])
def test_flops_by_hand(metrics, scorings, each):
    """2N for a token through the engine, 6N for a trained one, 2N more for each scoring of it."""
    costs = fold(metrics(ROW), parameters=1_000_000, cores=2, price=0.04, scorings=scorings)
    assert costs.flops == 1e6 * (2 * 1100 + each * 1100)


def test_a_row_without_step_costs_its_phases(metrics):
    costs = fold(metrics({"time/evaluate": 4.0}, {"note": "no costs"}, ROW), parameters=1, cores=1, price=0)
    assert costs.seconds == 14
    assert costs.steps == 1
    assert costs.phases["evaluate"] == 4


@pytest.mark.parametrize("torn", [b'{"time/step": 1', b"{", b'{"note": "\xe4', b"\x00\x00"])
def test_a_torn_last_line_is_left_out(metrics, torn):
    assert fold(metrics(ROW, torn, end=""), parameters=1, cores=1, price=0).seconds == 10


def test_a_whole_last_line_without_its_end_counts(metrics):
    assert fold(metrics(ROW, ROW, end=""), parameters=1, cores=1, price=0).seconds == 20


@given(st.integers(0, 300))
def test_any_cut_of_a_file_folds(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    whole = (json.dumps(ROW) + "\n").encode() * 2
    path.write_bytes(whole[:cut])
    length = len(whole) // 2
    rows = (cut >= length - 1) + (cut >= 2 * length - 1)
    assert fold(path, parameters=1, cores=1, price=0).seconds == 10 * rows


@pytest.mark.parametrize("broken", [b'{"time/step": 1', b"[1]", b'"text"', b"\xff"])
def test_a_corrupt_line_is_named(metrics, broken):
    with pytest.raises(LedgerError, match=r"metrics\.jsonl:2: not"):
        fold(metrics(ROW, broken, ROW), parameters=1, cores=1, price=0)


def test_a_corrupt_last_line_with_its_end_was_not_torn(metrics):
    with pytest.raises(LedgerError, match=r"metrics\.jsonl:2"):
        fold(metrics(ROW, b'{"time/step": 1'), parameters=1, cores=1, price=0)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 10**400, "3", None, True, [1]])
@pytest.mark.parametrize("key", ["time/step", "time/sample", "tokens/sampled"])
def test_a_cost_that_is_no_cost_is_named(metrics, key, value):
    with pytest.raises(LedgerError, match=rf"metrics\.jsonl:2: {key} is"):
        fold(metrics(ROW, {key: value}), parameters=1, cores=1, price=0)


def test_no_rows_cost_nothing_and_no_file_is_an_error(metrics, tmp_path):
    assert fold(metrics(end=""), parameters=1, cores=1, price=0) == Costs()
    with pytest.raises(FileNotFoundError):
        fold(tmp_path / "none.jsonl", parameters=1, cores=1, price=0)


def test_costs_add(metrics):
    one = fold(metrics(ROW), parameters=1000, cores=2, price=0.04)
    three = fold(metrics(ROW, ROW, ROW), parameters=1000, cores=2, price=0.04)
    total = sum([one, one, one], Costs())
    assert total == three
    assert one.phases == {"sample": 6, "reward": 0.5, "score": 1, "update": 2}  # adding changes no addend
    merged = Costs(phases={"a": 1.0}) + Costs(phases={"b": 2.0, "a": 1.0})
    assert merged.phases == {"a": 2.0, "b": 2.0}


def test_table(metrics):
    rows = dict(table(fold(metrics(*[ROW] * 36), parameters=1_000_000, cores=2, price=0.04)))
    assert rows["wall time"] == "6 min 0 s"
    assert rows["  sample"] == "3 min 36 s (60%)"
    assert rows["  other"] == "18.0 s (5%)"
    assert rows["core-hours"] == "0.200"
    assert rows["sampled tokens"] == "36,000"
    assert rows["money"] == "$0.0080 at $0.040 a core-hour"
    assert rows["energy (estimate)"] == "2.00 Wh at 10.0 W a core"
    assert dict(table(Costs()))["money"] == "$0.0000"
