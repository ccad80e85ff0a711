"""The page in a real browser: every chart drawn, no script error, nothing too wide, nothing run but ours."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from compress.report import write
from tests.report.sample import example, layers, samples
from tests.report.test_html import evil_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files"),
    *("--enable-logging=stderr", "--virtual-time-budget=10000", "--window-size=1300,900", "--dump-dom"),
)
WIDTHS = (400, 760, 1280)
ASK = """<!doctype html><body>{frames}<script>
const ask = (frame) => {{
  const page = frame.contentDocument, count = (what) => page.querySelectorAll(what).length;
  const plots = [...page.querySelectorAll(".plot")], drawing = (plot) => plot.querySelector("svg.main-svg");
  return {{
    drawn: page.documentElement.dataset.plots, evil: page.documentElement.dataset.evil ?? "", plots: plots.length,
    empty: plots.filter((plot) => !drawing(plot)).map((plot) => plot.id),
    cut: plots.filter((plot) => drawing(plot)?.clientWidth > plot.clientWidth).map((plot) => plot.id),
    bars: count("#plot-layers-macs .barlayer .point"), candidates: count("#plot-pareto .scatterlayer .point"),
    window: frame.clientWidth, room: page.documentElement.clientWidth, page: page.documentElement.scrollWidth,
  }};
}};
addEventListener("load", () => setTimeout(() => {{
  const said = document.createElement("pre");
  said.id = "said";
  said.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(ask));
  document.body.append(said);
}}, 2000));
</script>"""


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    """One visit to a page that frames an honest report at three widths and a hostile one: answers and log."""
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser here (looked for {', '.join(NAMES)}): the page was not opened")
    folder = tmp_path_factory.mktemp("browser")
    report = example()
    report.layers, report.samples = layers(90), samples(pictures=True)
    for name, written in (("honest", report), ("hostile", evil_report())):
        (folder / name).mkdir()
        write(written, folder / name)
    pages = [*(("honest", width) for width in WIDTHS), ("hostile", 1000)]
    style = "height:900px;border:0"
    frames = "".join(f'<iframe src="{name}/report.html" style="width:{w}px;{style}"></iframe>' for name, w in pages)
    (folder / "ask.html").write_text(ASK.format(frames=frames))
    own = (f"--screenshot={folder / 'page.png'}", f"--user-data-dir={folder / 'profile'}")
    command = [browser, *FLAGS, *own, (folder / "ask.html").as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    answers = json.loads(unescape(re.search(r'<pre id="said">(.*?)</pre>', run.stdout).group(1)))
    complaints = [
        line for line in run.stderr.splitlines() if "CONSOLE" in line and re.search("rror|efused|iolat", line)
    ]
    return answers, complaints, folder / "page.png"


def test_every_chart_is_drawn_at_every_width(visit):
    answers, complaints, screenshot = visit
    assert complaints == []
    assert [answer["window"] for answer in answers[:3]] == list(WIDTHS)
    for answer in answers[:3]:
        assert answer["plots"] == int(answer["drawn"]) == 13
        assert answer["empty"] == [] and answer["cut"] == []
        assert answer["bars"] >= 150 and answer["candidates"] >= 40
    assert screenshot.stat().st_size > 20_000


def test_nothing_is_wider_than_the_window(visit):
    assert [answer["page"] for answer in visit[0]] == [answer["room"] for answer in visit[0]]


def test_a_hostile_report_is_drawn_and_runs_nothing(visit):
    answer = visit[0][3]
    assert answer["plots"] == int(answer["drawn"]) > 5 and answer["empty"] == []
    assert answer["evil"] == ""
