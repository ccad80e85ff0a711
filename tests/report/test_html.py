import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from compress.errors import RunFolderError
from compress.report import Report, load_report, words, write
from compress.report.html import duration, render, tiny
from compress.report.schema import Figures, HistoryRow
from tests.report.sample import example, samples

VOID = {"meta", "img", "br", "link", "input"}
HACK = "document.documentElement.dataset.evil=1"
EVIL = f'"><script>{HACK}</script><img src=x onerror={HACK}>'


class Page(HTMLParser):
    """What a test asks of a page: its elements with attributes, its headings, its scripts, its figures' texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements, self.headings, self.scripts, self.figures, self.stack = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        record = {"tag": tag, **dict(attributes), "text": ""}
        self.elements.append(record)
        if tag not in VOID:
            self.stack.append(record)

    def handle_endtag(self, tag):
        record = self.stack.pop()
        assert record["tag"] == tag, f"<{record['tag']}> is closed by </{tag}>"
        if tag in ("h1", "h2", "h3"):
            self.headings.append(record["text"].strip())
        if tag == "script":
            self.scripts.append(record)
        if "data-key" in record:
            self.figures.append(record)

    def handle_data(self, data):
        for record in self.stack:
            record["text"] += data


@pytest.fixture(scope="module")
def page():
    return Page(render(example()))


@pytest.fixture(scope="module")
def record():
    return example().to_dict()


def at(record, key):
    """The value that a path of report.json leads to, and its unit where it is a figure."""
    place, parts = record, key.split(".")
    while parts:
        if isinstance(place, dict) and ".".join(parts) in place:  # names of ops hold dots
            place, parts = place[".".join(parts)], []
        else:
            part = parts.pop(0)
            place = place[int(part)] if isinstance(place, list) else place[part]
    return (place["value"], place["unit"]) if isinstance(place, dict) else (place, None)


def test_every_figure_on_the_page_is_the_one_in_report_json(page, record):
    assert len(page.figures) > 400
    for shown in page.figures:
        value, unit = at(record, shown["data-key"])
        assert json.loads(shown["data-value"]) == value, shown["data-key"]
        assert unit in (None, shown["data-unit"]), shown["data-key"]
        text = duration(value) if shown["data-unit"] == "s" else words.value_text(value, shown["data-unit"])
        if value is not None:
            assert shown["text"].strip().startswith(text), shown["data-key"]


def figure_paths(place, path=""):
    if isinstance(place, dict) and set(place) == {"value", "unit", "origin", "n", "interval", "source"}:
        yield path
    elif isinstance(place, (dict, list)):
        for key, inner in place.items() if isinstance(place, dict) else enumerate(place):
            yield from figure_paths(inner, f"{path}.{key}" if path else str(key))


def test_every_figure_of_report_json_is_on_the_page(page, record):
    shown = {figure["data-key"] for figure in page.figures}
    missing = [path for path in figure_paths(record) if path not in shown and ".before." not in path]
    assert missing == []  # a step's "before" is drawn, not printed


def test_every_figure_says_its_origin_and_predictions_print_their_interval(page, record):
    badges = [e for e in page.elements if (e.get("class") or "").startswith("origin ") and "aria-label" in e]
    figures = [f for f in page.figures if f.get("class") == "figure" and "title" in f and f["data-unit"] != "s"]
    assert len(badges) == len(figures)
    for figure, badge in zip(figures, badges, strict=True):
        assert figure["title"] == badge["aria-label"]
        origin = badge["class"].split()[1]
        assert badge["aria-label"].startswith(origin) and badge["text"].lower() == origin[: len(badge["text"])]
    predicted = [f for f in figures if f["title"].startswith("predicted") and f["data-unit"] == "ms"]
    assert len(predicted) > 50
    with_interval = [f for f in predicted if not f["data-key"].startswith("layers.")]
    assert with_interval and all(re.search(r"\[[\d.,]+, [\d.,]+\]", f["text"]) for f in with_interval)


def test_the_four_big_figures_follow_from_the_exact_ones(page, record):
    tiles = {e["data-derived"]: float(e["data-value"]) for e in page.elements if "data-derived" in e}
    teacher, student = record["teacher"], record["student"]
    for key in ("macs", "size_bytes", "latency"):
        assert tiles.pop(key) == student[key]["value"] / teacher[key]["value"]
    assert tiles == {"quality": pytest.approx(100 * (0.8841 - 0.8913))}


def chart_data(page):
    return json.loads(next(s for s in page.scripts if s.get("id") == "charts")["text"])


def test_the_charts_hold_the_numbers_of_report_json(page, record):
    charts = chart_data(page)
    front = next(t for t in charts["pareto"]["data"] if t["name"] == "Pareto front")
    points = {p["number"]: p for p in record["pareto"]["points"]}
    drawn = [n for trace in charts["pareto"]["data"] for n in trace["customdata"]]
    assert set(drawn) == set(points) and set(front["customdata"]) == {n for n in points if points[n]["on_front"]}
    for trace in charts["pareto"]["data"]:
        for number, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True):
            assert x == points[number]["latency_ms"]["value"]
            assert y == 100 * points[number]["quality"]["value"]
    for key, name in (("layers-macs", "macs_{}"), ("layers-latency", "latency_{}_ms")):
        for trace, side in zip(charts[key]["data"], ("before", "after"), strict=True):
            wanted = [(row[name.format(side)] or {}).get("value") for row in record["layers"]]
            assert trace["x"] == wanted and trace["y"] == list(range(30))
    loss = charts["loss-3"]["data"][0]
    assert loss["y"] == [row["losses"]["student/kd"] for row in record["steps"][3]["history"]]
    assert charts["quality-3"]["data"][0]["y"][-1] == 100 * record["steps"][3]["history"][-1]["quality"]


def test_the_waterfall_adds_up_to_what_is_left(page, record):
    trace = chart_data(page)["steps-macs"]["data"][0]
    assert trace["x"] == ["teacher", "1 search", "2 prune", "3 distill", "4 quantize", "student"]
    assert trace["measure"] == ["absolute", "relative", "relative", "relative", "relative", "total"]
    left = 100 * record["student"]["macs"]["value"] / record["teacher"]["macs"]["value"]
    assert sum(trace["y"][:-1]) == pytest.approx(left) == pytest.approx(trace["y"][-1])


def test_nothing_is_fetched_and_only_our_scripts_may_run(page):
    for element in page.elements:
        for name in ("src", "href", "action", "data", "poster"):
            address = element.get(name) or ""
            assert not address or address.startswith(("#", "data:image/")), address
    policy = next(e["content"] for e in page.elements if e.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in policy
    run = [s["text"] for s in page.scripts if s.get("type") != "application/json"]
    assert len(run) == 2
    for script in run:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_headings_tables_and_pictures_can_be_read_aloud(page):
    assert page.headings[0] == "cifar10-resnet20"
    wanted = ["Teacher and student", "Budget", "Artifacts", "Measured on acme A 1, acme B 2 and a host"]
    wanted += ["What each step contributed", "Search: the Pareto front"]
    wanted += ["Layer by layer", "Training", "Samples", "Measured on this host, not on pixel-4 cpu", "Reproduce"]
    assert [h for h in page.headings if h in wanted] == wanted
    assert all(e.get("alt") for e in page.elements if e["tag"] == "img")
    assert all(e.get("aria-label") for e in page.elements if e.get("class") == "plot")
    assert all(e.get("scope") in ("col", "row") for e in page.elements if e["tag"] == "th")
    ids = [e["id"] for e in page.elements if "id" in e]
    assert len(ids) == len(set(ids))
    links = [e["href"][1:] for e in page.elements if e["tag"] == "a"]
    assert links and set(links) <= set(ids)


def device_tables(page):
    """The texts of the rows of the section on devices, two for each measurement."""
    start = next(n for n, e in enumerate(page.elements) if e.get("id") == "devices")
    end = next(n for n, e in enumerate(page.elements) if n > start and e["tag"] == "section")
    return [" ".join(e["text"].split()) for e in page.elements[start:end] if e["tag"] == "tr"][1:]


def test_each_measurement_on_a_device_has_its_prediction_and_conditions(page):
    host, _, cool, conditions, hot, why, *_ = device_tables(page)
    assert cool == "litertw8a8 acme A 1, cpu 2.10 msm2.52 msm 1.91 ms [1.49, 2.33]p −9.03 %too low inside"
    assert conditions.startswith("150 runsLiteRT 2.17.01 threadgovernor schedutil") and "not throttled" in conditions
    assert "mine.csv, line 2" in conditions
    assert "throttled" not in cool and "acme A 1, cputhrottled" in hot and hot.endswith("outside")
    assert "round 3 was 28% slower" in why
    assert "a host, cpu" in host and host.endswith("not compared: measured on a host, predicted for pixel-4 cpu")


def test_without_measurements_there_is_no_section_on_devices():
    report = example()
    for row in report.artifacts:
        row.measured = []
    text = render(report)
    assert not [heading for heading in Page(text).headings if heading.startswith("Measured on a")]
    assert 'href="#devices"' not in text and "on the device that is named" not in text


def test_the_student_stands_among_what_it_is_held_against():
    text = render(example())
    assert 'href="#references"' in text and 'data-key="references.0.more_qualities.calibration error"' in text
    assert 'data-key="references.0.macs" data-value="12400000"' in text
    report = example()
    report.references = []
    assert "#references" not in render(report)


def test_sounds_can_be_listened_to():
    report = example()
    report.samples[0].sounds = {"student": "data:audio/wav;base64,UklGRg=="}
    text = render(report)
    assert '<audio controls preload="none" src="data:audio/wav;base64,UklGRg=="' in text and "media-src data:" in text


def test_what_a_guard_found_stands_with_its_step():
    report = example()
    report.steps[2].history[1] = HistoryRow(epoch=1, findings=["recall fell: rolled back"])
    assert "epoch 2: recall fell: rolled back" in render(report)


def evil_report():
    report = example()
    report.name = report.command = report.quality_name = report.verdict = EVIL
    report.recipe, report.target = {EVIL: EVIL}, {"name": EVIL, "unit": EVIL, "title": EVIL, "sources": {EVIL: EVIL}}
    report.warnings, report.environment.cpu = [EVIL], EVIL
    report.layers[0].where = report.layers[0].kind = report.artifacts[0].reason = report.artifacts[0].format = EVIL
    report.steps[1].settings, report.steps[1].plan, report.steps[1].verb = {EVIL: EVIL}, [{EVIL: EVIL}], EVIL
    report.steps[2].history[0] = HistoryRow(epoch=0, losses={EVIL: 1.0})
    report.steps[2].history[1] = HistoryRow(epoch=1, findings=[EVIL])
    report.references[0].name, report.references[0].more_qualities = EVIL, {EVIL: report.references[0].macs}
    report.samples[0].target, report.samples[0].outputs = EVIL, {EVIL: EVIL}
    assert report.pareto and report.teacher.macs
    report.pareto.points[0].label = report.pareto.study = report.pareto.quality_name = EVIL
    report.teacher.macs.source = report.teacher.macs.unit = EVIL
    device = next(row for artifact in report.artifacts for row in artifact.measured)
    device.is_host, device.device, device.soc, device.notes, device.not_compared = False, EVIL, EVIL, [EVIL], EVIL
    device.file = device.command = device.throttled_why = device.unit = report.measurements[0].path = EVIL
    return report


def test_no_text_of_a_run_becomes_an_element():
    page = Page(render(evil_report()))
    assert [s.get("type") for s in page.scripts] == ["application/json", None, None]
    assert not any(HACK in s["text"] for s in page.scripts if s.get("type") is None)
    assert not any(name.startswith("on") for e in page.elements for name in e)
    assert not any(e.get("src") == "x" for e in page.elements)
    assert page.headings[0] == EVIL
    shown_by_plotly = json.dumps([[c["data"], c["layout"]] for c in chart_data(page).values()])
    assert "<script" not in shown_by_plotly and "<img" not in shown_by_plotly


def test_what_has_no_content_has_no_heading():
    page = Page(render(Report(name="bare", verdict="It ended early.")))
    assert page.headings == ["bare", "Environment"]
    assert page.scripts == [] and page.figures == []
    assert not [e for e in page.elements if e["tag"] in ("table", "figure", "img")]
    assert len(render(Report(name="bare"))) < 20_000  # plotly stays out where nothing is drawn


@pytest.mark.parametrize(
    "field", ["artifacts", "budget", "steps", "layers", "baseline", "samples", "warnings", "pareto"]
)
def test_each_section_can_be_left_out_alone(field):
    headings = {
        "artifacts": "Artifacts",
        "budget": "Budget",
        "steps": "What each step contributed",
        "layers": "Layer by layer",
        "baseline": "Measured on this host, not on pixel-4 cpu",
        "samples": "Samples",
        "warnings": "Warnings",
        "pareto": "Search: the Pareto front",
    }
    report = example()
    setattr(report, field, None if field == "pareto" else [])
    left = Page(render(report)).headings
    assert headings[field] not in left and set(headings.values()) - {headings[field]} <= set(left)


def test_figures_that_are_not_known_say_why():
    report = example()
    report.student = Figures(
        latency={"value": None, "unit": "ms", "origin": "predicted", "source": "no profile for this unit"}
    )
    report.artifacts[0].passed = False
    report.artifacts[0].reason = "SQNR 12 dB, least 20"
    text = render(report)
    page = Page(text)
    shown = next(f for f in page.figures if f["data-key"] == "student.latency")
    assert shown["data-value"] == "null" and "not known" in shown["text"]
    assert "no profile for this unit" in text and "SQNR 12 dB, least 20" in text and "not run here" in text
    assert not [e for e in page.elements if "data-derived" in e]


def test_pictures_as_answers_stand_side_by_side():
    report = example()
    report.samples = samples(pictures=True)
    page = Page(render(report))
    pictures = [e for e in page.elements if e["tag"] == "img" and (e.get("alt") or "").startswith("answer of")]
    assert len(pictures) == 24 and all(e["class"] == "tiny" for e in pictures)
    assert not tiny("data:image/jpeg;base64,AAAA") and not tiny("data:image/png;base64,")


def test_writing_fills_the_verdict_and_both_files(tmp_path):
    report = example()
    json_path, html_path = write(report, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert report.verdict.startswith("The student has 32 %") and load_report(json_path) == report
    assert report.verdict in html_path.read_text(encoding="utf-8").replace("&#39;", "'")


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunFolderError, match="cannot write"):
        write(example(), tmp_path / "taken")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.41, "0.4 s"), (59.94, "59.9 s"), (59.97, "1 min 00 s"), (3840, "1 h 04 min")]
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown
