from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from random import Random
from xml.etree import ElementTree

import pytest
from report_fixture import AFTER, BEFORE, make_run, row, weights

from incentive import ledger
from incentive.files import RunError
from incentive.report import svg, write_report
from incentive.report.markup import esc, factor, plain, share, span
from incentive.report.picture import picture
from incentive.report.read import read_run
from incentive.report.samples import highlight
from incentive.report.sources import EVAL, RL, fact

VOID = {"meta", "br", "img", "input", "hr", "link"}


class Page(HTMLParser):
    """Which elements there are, whether they nest, and what they would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, k, v or "") for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(run) -> tuple[str, Page]:
    path = write_report(run)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []  # every element is closed
    return text, page


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "full")


@pytest.fixture(scope="module")
def shown(full):
    return read(full)


def section(page_text: str, ident: str) -> str:
    found = re.search(rf'<section id="{ident}">.*?</section>', page_text, re.DOTALL)
    return found[0] if found else ""


def test_full_run_has_every_part_in_order(shown):
    text, page = shown
    assert re.findall(r'<section id="(\w+)">', text) == [
        "curves",
        "samples",
        "evaluation",
        "controls",
        "skills",
        "settings",
        "cost",
        "record",
    ]
    assert 'charset="utf-8"' in text[:200]
    assert len(text.encode()) < 2_000_000
    assert text.count('<svg class="chart"') > 15
    assert "NaN" not in text
    assert "nan%" not in page.text


def test_one_file_that_loads_and_runs_nothing(shown):
    text, page = shown
    assert not page.tags & {"script", "img", "link", "iframe", "object", "embed", "base", "form", "audio", "video"}
    assert not [a for a in page.attributes if a[1].startswith("on")]
    loads = [v for _, k, v in page.attributes if k in ("src", "href", "srcset", "data", "xlink:href")]
    assert loads
    assert not [v for v in loads if ":" in v or v.startswith("//")]
    assert "url(" not in text
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_model_text_is_escaped(shown):
    text, _page = shown
    assert "&lt;script&gt;alert(&#x27;owned&#x27;)&lt;/script&gt;" in text
    assert "<script" not in text
    assert "<img" not in text
    assert "\ud800" not in text


def test_no_path_of_the_machine(shown, full):
    text, _ = shown
    assert "/home/somebody" not in text
    assert str(full) not in text
    assert "…/base-mini" in text


def test_numbers_are_those_of_the_files(shown, full):
    text, page = shown
    results = {name: json.loads((full / name / "results.json").read_text()) for name in ("before", "after")}
    part = Page(section(text, "evaluation")).text
    for task in BEFORE:
        for name in results:
            found = results[name][task]
            assert f"{share(found['pass@1'])}" in part
            assert span(found["ci95"]) in part
            assert share(found["maj@16"]) in part
            assert share(found["t1"]["pass@1"]) in part
        a, b = BEFORE[task], AFTER[task]
        assert f"×{b[1] / a[1]:.2f}" in page.text
        assert f"×{b[2] / a[2]:.2f}" in page.text
    assert "7 min 42 s" in page.text  # train_seconds of the summary
    run = read_run(full)
    stage = next(s for s in run.stages if s.name == "zero")
    costs = ledger.fold(stage.dir / "metrics.jsonl", 512 * 128 + 6000 * 128, 2, 0.04, scorings=1)
    cost = Page(section(text, "cost")).text
    assert f"{costs.tokens_sampled:,}" in cost
    assert f"{costs.flops:.2e}" in cost
    assert ledger.duration(costs.seconds) in cost
    last = stage.rows[-1]
    assert f"own list {svg.number(last['emergence/reflections_per_response'])}" in page.text  # a hover value


def test_headline_says_what_the_checks_said(shown):
    _text, page = shown
    assert "0 of 400 test problems occur in the base's corpus" in page.text
    assert "raise rl.num_generations" in page.text
    assert "This run records no check of it." not in page.text


def test_claims_of_the_headline_follow_the_checks(tmp_path):
    run = make_run(tmp_path / "run", steps=1, finished=False, rollouts=False)
    assert "never in the base's corpus nor in RL" in read(run)[1].text
    unknown = [{"level": "warn", "what": "the base's corpus is unknown", "advice": "trust the difference"}]
    (run / "preflight.json").write_text(json.dumps(unknown))
    page = read(run)[1]
    assert "never in the base's corpus" not in page.text
    assert "trust the difference" in page.text
    (run / "preflight.json").unlink()
    assert "records no check of it" in read(run)[1].text


def test_skills_are_shares_with_intervals(shown):
    part = Page(section(shown[0], "skills")).text
    assert "99.4% 98.9 to 99.7% 2,000" in part
    assert "34.0%" in part
    assert "0.7" in part  # reflections are no share


def test_settings_stand_beside_the_papers(shown):
    text, _ = shown
    rows = section(text, "settings")
    found = re.search(
        r'<tr class="(\w+)"><th scope="row"><code>optim.learning_rate</code></th><td>([^<]*)</td><td>([^<]*)</td>', rows
    )
    assert found
    assert found.groups() == ("differs", "0.0004", "3e-6")
    assert re.search(r'<tr class="as"><th scope="row"><code>num_generations</code>', rows)
    assert "not restated for R1-Zero" in rows


def test_lineage_environment_and_warnings(shown):
    text, _ = shown
    record = Page(section(text, "record")).text
    assert "base-mini (base0123)" in record
    assert re.search(r"after zero ", record)
    assert "resumed with another torch: 2.12.0, then 2.13.0" in record
    assert "zero/metrics.jsonl" in record


def test_aha_samples_and_before_after_are_there(shown):
    text, _page = shown
    part = section(text, "samples")
    assert "Aha moments" in part
    assert "The same problem, before and after" in part
    assert "<mark>wait</mark>" in part
    assert "✓ right" in part


def test_partial_run(tmp_path):
    run = make_run(tmp_path / "run", steps=12, finished=False, rollouts=False)
    text, page = read(run)
    assert "not finished" in page.text
    assert "12 updates of 120" in page.text
    assert "No rollouts are stored" in page.text
    assert "1 line(s) of metrics.jsonl could not be read" in page.text
    assert not section(text, "controls")
    assert "35%" in page.text  # the evaluation before
    assert section(text, "curves")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_run_that_has_hardly_begun(tmp_path, steps):
    read(make_run(tmp_path / "run", steps=steps, finished=False))


def test_empty_directories_and_torn_files(tmp_path):
    _, page = read(tmp_path)
    assert "has not begun" in page.text
    (tmp_path / "config.toml").write_text("= broken")
    (tmp_path / "run.json").write_text("[1, 2")
    for name in ("controls.json", "skills.json", "preflight.json", "environment.json", "summary.json"):
        (tmp_path / name).write_text('"a text"')
    zero = tmp_path / "zero"
    (zero / "rollouts").mkdir(parents=True)
    (zero / "rollouts/000001.jsonl.zst").write_bytes(b"no zstandard")
    (zero / "metrics.jsonl").write_bytes(b'{"step": 1, "reward": null}\n[1]\n\xff\n{"step": 2, "time/step": -1}\n')
    (zero / "results.json").write_text('{"countdown3": {"pass@1": null}}')
    (zero / "model").mkdir()
    (zero / "model/model.safetensors").write_bytes(b"\xff" * 20)
    _text, page = read(tmp_path)
    assert "cannot be costed" in page.text
    assert (tmp_path / "run.json").read_text() == "[1, 2"  # it only reads


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(RunError, match="no such run directory"):
        write_report(tmp_path / "nowhere")


def test_other_mixtures_of_stages(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    rows = [
        {
            "step": i,
            "nll": 3 - i / 10,
            "grad_norm": 1.0,
            "learning_rate": 1e-3,
            "tokens/trained": 16384,
            "time/step": 1.0,
        }
        for i in range(1, 20)
    ]
    (base / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (base / "skills.json").write_text('{"arithmetic": 0.993, "checking": {"precision": 0.98, "recall": null}}')
    (tmp_path / "zero.old-12345678").mkdir()
    _text, page = read(tmp_path)
    assert "Loss, nats per token" in page.text
    assert "0.993" in page.text
    assert "set aside" in page.text
    evaluation = tmp_path / "final"
    evaluation.mkdir()
    (evaluation / "results.json").write_text('{"logic": {"pass@1": 0.25, "ci95": [0.2, 0.3]}}')
    _, page = read(tmp_path)
    assert "20.0 to 30.0%" in page.text


def test_sparse_rows_where_one_rollout_feeds_many_updates(tmp_path):
    run = make_run(tmp_path / "run", steps=1, finished=False)
    rng = Random(0)
    with (run / "zero/metrics.jsonl").open("w") as file:
        for step in range(1, 1001):
            made = row(rng, step, step / 1000)
            if step % 16 != 1:  # only the first row of a rollout describes it
                made = {
                    k: v
                    for k, v in made.items()
                    if k in ("step", "loss", "grad_norm", "entropy", "kl", "time/step", "time/update")
                }
            file.write(json.dumps(made) + "\n")
    text, _ = read(run)
    assert len(text.encode()) < 2_000_000


def test_long_runs_are_thinned_without_losing_their_ends():
    points = [(float(i), float(i % 7)) for i in range(10_400)]
    thinned = svg.thin(points)
    assert len(thinned) <= svg.LIMIT
    assert sum(y for _, y in thinned) / len(thinned) == pytest.approx(3.0, abs=0.05)
    chart = svg.line_chart([svg.Series("a", points, smooth=True)], about="long")
    assert len(chart) < 60_000


def test_charts_are_sound_xml_with_their_values():
    points = [(2.0**e, e / 10) for e in range(9)]
    band = [(y - 0.05, y + 0.05) for _, y in points]
    charts = [
        svg.line_chart([svg.Series("a <b>", points, bounds=band)], about="x & y", log_x=True, y_format=svg.percent),
        svg.line_chart([svg.Series("dots", points[:1], 2, "dots", band[:1])], about="one"),
        svg.area_chart([1, 2, 3], [("s", [1, 2, 3]), ("t", [0, 1, 0])], about="stack"),
        svg.dot_chart([("task", [svg.Dot("before", 0.3, 0.2, 0.4), svg.Dot("after", 0.9, 0.8, 1.0)])], about="dots"),
        svg.bar_chart([("zero", [("sample", 3.0), ("update", 1.0)])], about="bars"),
    ]
    for chart in charts:
        ElementTree.fromstring(chart)
    assert ">256<" in charts[0]
    assert "80%" in charts[0]
    assert svg.line_chart([], about="nothing") == ""
    assert svg.line_chart([svg.Series("a", [])], about="nothing") == ""
    assert svg.bar_chart([("a", [("x", 0.0)])], about="nothing") == ""


@pytest.mark.parametrize("low", [-3.0, 0.0, 0.97, 12.0])
@pytest.mark.parametrize("width", [1e-6, 0.02, 1.0, 7.0, 10_400.0])
def test_ticks_are_few_and_cover(low, width):
    marks = svg.ticks(low, low + width)
    assert marks[0] <= low + 1e-9
    assert marks[-1] >= low + width - 1e-9
    assert 2 <= len(marks) <= 9
    assert marks == sorted(set(marks))


def test_labels_never_overlap():
    places = svg.spread([50, 50, 50, 51], 0, 200)
    assert all(b - a >= 14 - 1e-9 for a, b in pairwise(places))
    assert svg.spread([199, 199], 0, 200)[1] <= 200


def test_text_is_safe_and_numbers_are_honest():
    assert esc('<b a="1">\x00') == "&lt;b a=&quot;1&quot;&gt;\ufffd"
    assert plain("kept in /home/me/runs/zero.old-1, see a/b") == "kept in …/zero.old-1, see a/b"
    assert plain("3/4 of 1/2") == "3/4 of 1/2"
    assert highlight("but <wait>, waiter") == "<mark>but</mark> &lt;<mark>wait</mark>&gt;, waiter"
    assert share(0.9996, 0) == "99.96%"
    assert share(1.0, 0) == "100%"
    assert share(float("nan")) == "–"
    assert factor(0, 3) == ""
    assert factor(2, 5) == "×2.50"


def test_sources_know_only_settings_that_exist():
    from incentive.config import RL as Section
    from incentive.config import Eval

    for facts, section_ in ((RL, Section), (EVAL, Eval)):
        for key in facts:
            model = section_
            *path, last = key.split(".")
            for name in path:
                model = model.model_fields[name].annotation
            assert last in model.model_fields, key
    assert fact("rl", "epsilon").value == 10
    assert fact("rl", "save_steps") is None


def test_parameters_are_counted_from_the_header(tmp_path):
    weights(tmp_path, {"model.embed_tokens.weight": [512, 128], "a": [128, 128], "norm": [128]})
    assert ledger.count_parameters(tmp_path) == 512 * 128 + 128 * 128 + 128
    weights(tmp_path, {"model.embed_tokens.weight": [512, 128], "lm_head.weight": [512, 128]})
    assert ledger.count_parameters(tmp_path) == 512 * 128  # an embedding that is not the head multiplies nothing
    weights(tmp_path / "state", {"policy.a": [9, 9]})  # a checkpoint's training state is not the model
    (tmp_path / "state/model.safetensors").rename(tmp_path / "training.safetensors")
    assert ledger.count_parameters(tmp_path) == 512 * 128
    assert ledger.count_parameters(tmp_path / "none") is None


def test_picture_is_one_sound_svg(full, tmp_path):
    out = picture(full, tmp_path / "curves.svg")
    text = out.read_text()
    root = ElementTree.fromstring(text)
    assert len([e for e in root.iter() if e.tag.endswith("}svg")]) == 4
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 150_000
    with pytest.raises(RunError, match="no reinforcement steps"):
        picture(tmp_path, tmp_path / "none.svg")


def test_report_imports_no_torch(full):
    code = (
        "import sys; from pathlib import Path; from incentive.report import write_report, picture; "
        "write_report(Path(sys.argv[1])); "
        "heavy = ('torch', 'transformers', 'incentive.stages', 'incentive.engine', 'incentive.model'); "
        "bad = [m for m in sys.modules if m.startswith(heavy)]; sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(full)], check=True, timeout=120)
