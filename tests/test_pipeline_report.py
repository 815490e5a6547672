"""The report of a whole pipeline: the stage table beside the paper's, lineage and what follows from it, data, time."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline_fixture import BASE, SCORES, SMALL, TASKS, evaluated, key, make_pipeline, reinforced, stage
from test_report import Page, read, section

from incentive.measure import wilson
from incentive.report import write_report
from incentive.report.lineage import draw, graph, statement
from incentive.report.markup import share
from incentive.report.paper import CHAIN, KINDS, kind_of
from incentive.report.read import read_run
from incentive.report.standing import Score, answers, consistent, framed, mean_of, models, steps


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "run")


@pytest.fixture(scope="module")
def shown(whole: Path) -> tuple[str, Page]:
    return read(whole)


def rows_of(html: str) -> dict[str, list[str]]:
    """First cell -> the other cells, as text, of every row of every table."""
    found = {}
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL):
        first, *rest = [re.sub(r"\s+", " ", Page(c).text).strip() for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]  # fmt: skip
        found.setdefault(first, rest)
    return found


def test_sections_stand_in_the_order_of_a_reader(shown):
    text, _ = shown
    assert re.findall(r'<section id="(\w+)">', text) == ["stages", "lineage", "curves", "samples", "data", "evaluation", "settings", "cost", "record"]  # fmt: skip
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text


def test_the_stage_table_has_every_model_and_benchmark_and_the_papers_beside(shown):
    part = section(shown[0], "stages")
    rows = rows_of(part)
    assert rows["benchmark"] == ["base", "R1-Zero", "Dev1", "Dev2", "Dev3", "R1", "student", "seen in training"]
    for task in TASKS:
        assert [cell.split(" ")[0] for cell in rows[task][:7]] == [share(SCORES[m][_kind(task)]) for m in SCORES]
        assert rows[task][7] == "0 of 200"
    low, high = wilson(0.6 * 200, 200)
    assert f"{100 * low:.0f} to {100 * high:.0f}%" in rows["countdown3"][5]
    assert rows["paper: AIME 2024"][:6] == ["15.6", "77.9", "59.0", "74.0", "78.1", "79.8"]
    assert rows["paper: IFEval"][:6] == ["", "46.6", "71.7", "72.0", "78.1", "83.3"]
    assert "paper: no such benchmark" in rows
    best = re.findall(r"<b>([\d.]+%)</b>", part)
    assert len(best) == len(TASKS)
    assert set(best) == {share(SCORES["r1"][i]) for i in range(6)}


def _kind(task: str) -> int:
    return [*KINDS].index(kind_of(task) or "") if kind_of(task) != "reasoning" else 0


def test_signs_and_sizes_stand_beside_the_papers(whole):
    found = framed(models(read_run(whole)))
    by = {(s.kind, s.old, s.new): s for s in steps(found)}
    fall = by["reasoning", "zero", "dev1"]
    assert fall.ours.value == pytest.approx(-0.15)
    assert fall.theirs == pytest.approx({"AIME 2024": -18.9, "MATH-500": -1.7, "CNMO 2024": -30.1})
    assert fall.verdict == "as the paper"
    assert by["choice", "dev1", "dev2"].verdict == "not clear here"
    assert by["general", "dev1", "dev2"].verdict == "the paper's signs differ"  # AlpacaEval rises, Arena-Hard falls
    assert by["harm", "dev3", "r1"].verdict == "no number in the paper"
    seen = {question: verdict for question, _, _, verdict in answers(found)}
    assert set(seen.values()) == {"yes"}
    assert len(seen) == 7


def test_a_sign_against_the_papers_is_called_so(tmp_path):
    run = make_pipeline(tmp_path / "run")
    for old, new in (("zero", "dev1"), ("dev1", "zero")):
        (run / f"eval-{old}/results.json").rename(run / f"{new}.json")
    for name in ("zero", "dev1"):
        (run / f"{name}.json").rename(run / f"eval-{name}/results.json")
    found = framed(models(read_run(run)))
    assert {s.verdict for s in steps(found) if (s.kind, s.new) == ("reasoning", "dev1")} == {"against the paper"}
    assert {q: v for q, _, _, v in answers(found)}["Dev1 below R1-Zero at reasoning: what readability costs"] == "no, the other way"  # fmt: skip


def test_the_interval_of_a_difference_is_newcombes():
    """His example: 56 of 70 against 48 of 80, 0.0524 to 0.3339 (Statistics in Medicine 17:873, method 10)."""

    def one(c: int, n: int) -> Score:
        found = Score.of([{"pass@1": c / n, "ci95": list(wilson(c, n))}])
        assert found
        return found

    d = one(56, 70).minus(one(48, 80))
    assert (round(d.value, 4), round(d.low, 4), round(d.high, 4)) == (0.2, 0.0524, 0.3339)
    assert d.sign == 1
    assert one(48, 80).minus(one(56, 70)).sign == -1


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(50, 90)), min_size=1, max_size=5))
def test_means_of_tasks_stay_within_their_intervals(found):
    results = [{"pass@1": c / n, "ci95": list(wilson(c, n))} for c, n in found]
    mean = Score.of(results)
    assert mean
    assert mean.low <= mean.value <= mean.high
    widest = max(r["ci95"][1] - r["ci95"][0] for r in results)
    assert mean.high - mean.low <= widest + 1e-9
    assert Score.of([*results, None]) is None  # a mean over other tasks is another quantity


def test_language_is_weighed_by_thoughts_that_have_a_word():
    def r(consistent: float, wordless: float) -> dict:
        return {"pass@1": 0.0, "language": {"thoughts": 100, "wordless": wordless, "consistent": consistent}}

    found = {
        "zero": {"countdown3": r(1.0, 0.9), "program": r(0.5, 0.1), "logic-zh": r(0.2, 0.0), "general": r(0.0, 0.0)}
    }
    assert consistent(found, "zero", "en") == pytest.approx((10 * 1.0 + 90 * 0.5) / 100)
    assert consistent(found, "zero", "zh") == pytest.approx(0.2)
    assert consistent(found, "dev1", "zh") is None


def test_markdown_is_sound_and_says_what_is_missing(whole, tmp_path):
    write_report(whole)
    text = (whole / "table.md").read_text()
    blocks = [b.split("\n") for b in text.split("\n\n") if b.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        assert len({line.count("|") for line in block if line}) == 1
    assert "| countdown3 | 10.0% (7 to 15%) |" in text
    assert "**60.0%**" in text
    assert "Not evaluated" not in text
    half = make_pipeline(tmp_path / "half", until="dev2")
    _, page = read(half)
    told = (half / "table.md").read_text()
    assert "Not evaluated yet: Dev1, Dev2, Dev3, R1." in told
    assert "Not evaluated yet: Dev1, Dev2, Dev3, R1." in page.text
    assert "not finished" in page.text
    assert "| 55.0% (" not in told  # the best of its row
    early = make_pipeline(tmp_path / "early", until="zero")
    read(early)
    assert not (early / "table.md").exists()


def test_a_score_whose_problems_were_seen_is_marked(tmp_path):
    run = make_pipeline(tmp_path / "run", until="dev2")
    evaluated(run, "dev1", key("dev1"), contaminated=3)
    rows = rows_of(section(read(run)[0], "stages"))
    assert "3 seen" in rows["countdown3"][2]
    assert "seen" not in rows["countdown3"][1]
    assert rows["countdown3"][-1] == "3 of 200"
    assert "3 seen" in (run / "table.md").read_text()


# lineage


def test_the_graph_is_the_recipes(whole):
    nodes, edges = graph(read_run(whole))
    found = {(e.old, e.new, e.kind) for e in edges}
    assert {(f"outside {BASE}", n, "weights") for n in ("zero", "dev1", "dev3")} <= found
    assert {("zero", "cold-start", "answers"), ("cold-start", "dev1", "data"), ("dev1", "dev2", "weights"), ("rows", "rejection-sampling", "data"),
            ("rejection-sampling", "dev3", "data"), ("pairs", "helpful", "data"), ("r1-reasoning", "r1", "weights"), ("helpful", "r1", "grades"),
            ("safety", "r1", "grades"), ("rejection-sampling", "student", "data")} <= found  # fmt: skip
    assert ("dev3", "r1", "weights") not in found  # it goes on from the part before
    assert len({n.row for n in nodes if not n.name.startswith("outside")}) == 14
    row = {n.name: n.row for n in nodes}
    assert all(row[e.old] <= row[e.new] for e in edges)
    said = {n.name: n.said for n in nodes}
    assert said["zero"].startswith("RL, 120 steps of 32 × 8 answers, ")
    assert said["r1"].startswith("RL, 30 steps")  # its own, not those of the part before
    assert said["rejection-sampling"].startswith("5,200 answers, 1,140 kept")


def test_the_drawing_is_sound_and_lines_stay_off_boxes(whole):
    run = read_run(whole)
    text = draw(run)
    root = ElementTree.fromstring(text)
    boxes = [tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for r in root.iter("rect")]
    assert len(boxes) == 16
    for a, b in pairwise(sorted(boxes)):
        assert a[0] + a[2] <= b[0] or a[1] + a[3] <= b[1]  # none on another
    for path in root.iter("path"):
        points = _corners(path.get("d") or "")
        for (x1, y1), (x2, y2) in pairwise(points):
            for x, y, w, h in boxes:
                inside = y1 == y2 and y < y1 < y + h and max(min(x1, x2), x) < min(max(x1, x2), x + w) - 0.1
                crossed = x1 == x2 and x < x1 < x + w and max(min(y1, y2), y) < min(max(y1, y2), y + h) - 0.1
                assert not inside, (path.get("d"), (x, y))
                assert not crossed, (path.get("d"), (x, y))


def _corners(d: str) -> list[tuple[float, float]]:
    """The corners of a path of right angles."""
    out: list[tuple[float, float]] = []
    for op, args in re.findall(r"([MHVh])([\d. -]*)", d):
        values = [float(v) for v in args.split()]
        x, y = out[-1] if out else (0.0, 0.0)
        out.append({"M": tuple(values), "H": (values[0], y), "V": (x, values[0]), "h": (x + values[0], y)}[op])
    return out


def test_what_the_records_say_of_human_reasoning(whole, tmp_path):
    verdict, lines = statement(read_run(whole))
    assert verdict.startswith("No human-written reasoning entered RL")
    assert [line.split(" ")[0] for line in lines] == ["R1-Zero", "Dev2", "r1-reasoning", "R1"]
    assert "no data set came before it" in lines[0]
    assert "answers of R1-Zero, rewritten by incentive.restyle.restyle" in lines[1]
    assert "answers of Dev2 and 300 rows of stage rows" in lines[3]
    assert "graded by helpful, safety" in lines[3]

    run = make_pipeline(tmp_path / "unsaid")
    done = json.loads((run / "rows/done.json").read_text())
    (run / "rows/done.json").write_text(json.dumps(done | {"meta": {"rows": 300}}))
    verdict, _ = statement(read_run(run))
    assert "came rows, of which the run cannot say who wrote it" in verdict

    run = make_pipeline(tmp_path / "outside")
    about = json.loads((run / "dev1/stage.json").read_text())
    about["of"]["inputs"]["data"].append("0ff5" * 4)
    (run / "dev1/stage.json").write_text(json.dumps(about))
    verdict, lines = statement(read_run(run))
    assert "0ff50ff5" in verdict
    assert "data from outside the run" in lines[1]
    assert "outside" not in lines[3]  # Dev3 starts from the base, not from Dev1
    assert "from outside" in draw(read_run(run))

    run = make_pipeline(tmp_path / "fed")
    about = json.loads((run / "dev2/stage.json").read_text())
    about["of"]["inputs"]["data"] = [key("rows")]
    (run / "dev2/stage.json").write_text(json.dumps(about))
    assert statement(read_run(run))[0].startswith("Data was given to RL itself (Dev2)")


def test_stages_stand_in_the_order_of_the_recipe(whole):
    names = [s.name for s in read_run(whole).stages if s.kind != "eval"]
    assert names == ["zero", "cold-start", "dev1", "dev2", "rows", "rejection-sampling", "dev3", "r1-reasoning", "pairs",
                     "helpful", "labels", "safety", "r1", "student"]  # fmt: skip
    assert [s.kind for s in read_run(whole).stages][:6] == ["rl", "curate", "sft", "rl", "other", "curate"]


# data, time, curves


def test_data_says_what_was_dropped_and_how_good_the_reward_models_are(shown, whole):
    part = section(shown[0], "data")
    text = Page(part).text
    rows = rows_of(part)
    assert rows["countdown3"] == ["610", "1.0", "88", "63.0%", "Math: 395,285", "6,094", "55.9%"]
    assert "mixed language" in text
    assert "contaminated: general" in text
    told = json.loads((whole / "helpful/results.json").read_text())
    assert share(told["accuracy"]["share"]) in rows["right on held-out ones (95% interval; n)"][0]
    assert rows["calibration error"][0] == share(told["calibration"]["ece"])
    assert rows["two calls on a pair agree"] == ["71.0%"]
    assert rows["zero"] == ["3,840", "0 problems met"]
    assert "none was found" in shown[1].text


def test_the_longest_stage_is_named_with_its_share(shown):
    part = section(shown[0], "cost")
    text = Page(part).text
    rows = rows_of(part)
    assert "The longest stage is zero" in text
    assert "Evaluation took 14%" in text
    shares = [
        int(cells[1][:-1]) for name, cells in rows.items() if name not in ("stage", "together") and len(cells) == 9
    ]
    assert 95 <= sum(shares) <= 105
    assert "The aim is 20 minutes" in text


def test_every_rl_stage_has_its_curves(shown):
    part = section(shown[0], "curves")
    for name, steps_ in (
        ("R1-Zero", 120),
        ("Dev2", 60),
        ("r1-reasoning", 20),
        ("R1", 30),
        ("Dev1", 30),
        ("helpful", 8),
    ):
        assert f"<summary>Stage {name}, {steps_} steps</summary>" in part
    assert "RL steps, all stages 230" in part.replace("\n", " ")  # 120 + 60 + 20 + 30 on one axis
    assert part.count("<details open") == 1


def test_torn_records_leave_the_page_whole(tmp_path):
    run = make_pipeline(tmp_path / "run")
    (run / "eval-zero/results.json").write_text('{"countdown3": {"pass@1": null, "ci95": 3, "contaminated": 1}}')
    (run / "helpful/results.json").write_text('{"accuracy": null, "kind": "pairwise"}')
    (run / "cold-start/results.json").write_text('{"domains": {"a": {}}, "total": {}}')
    (run / "contamination.json").write_text('{"evaluation": 3}')
    (run / "rows/stage.json").write_text("[1")
    stage(run, "strange", "dataset", None, key("strange"), (key("strange"),))  # made from itself
    read(run)
    for name in ("a", "b", "c", "d"):  # four stages that took no time
        stage(run, name, "weights", {"epochs": 1}).record({"step": 1, "nll": 1.0})
    for file in run.glob("*/metrics.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        kept = [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]
        file.write_text("".join(json.dumps(r) + "\n" for r in kept))
    read(run)


def test_a_second_phase_and_a_students_rl_are_named_rightly(tmp_path):
    run = make_pipeline(tmp_path / "run", until="dev2")
    with (run / "config.toml").open("a") as file:
        file.write("[rl]\nmax_steps = 120\n[r1.longer]\nmax_steps = 300\n")
    reinforced(run, "zero-longer", BASE, 180, 120, continue_from=key("zero"))
    reinforced(run, "student-zero", SMALL, 3)
    found = read_run(run)
    assert {s.name: s.section.get("max_steps") for s in found.of("rl")}["zero-longer"] == 300
    assert {n.title for n in graph(found)[0] if n.said == "base model"} == {"base-wide", "small-base"}


def test_paper_rows_have_all_stages():
    for kind in KINDS.values():
        for benchmark in kind.theirs:
            assert set(benchmark.scores) >= set(CHAIN[1:])
    assert [kind_of(t) for t in ("countdown4-zh", "program", "harm-zh", "aime24")] == [
        "reasoning",
        "code",
        "harm",
        None,
    ]
    assert mean_of({}, "zero", "code") is None
