"""What a person sees, in a real browser: runs, dashboard and report in MLflow, and the page by itself, offline."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctr.dashboard import serving
from ctr.errors import CtrError
from ctr.report import mlflow as report
from tests.commands import composed, job
from tests.datasets.criteo_text import arguments
from tests.report import invented
from tests.scripts import script

pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[dev]'")

from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow

look = script("screenshots")
SEEDS = range(12)
CELLS = 10
RUNS = CELLS * len(SEEDS)
DRAWN = 100  # the most that MLflow loads at once

# Parallel coordinates are drawn on a canvas, a stroke for each run: counted since it was last cleared.
COUNT_LINES = """
const canvas = CanvasRenderingContext2D.prototype, {clearRect, stroke} = canvas
canvas.clearRect = function (...area) { this.canvas.lines = 0; return clearRect.apply(this, area) }
canvas.stroke = function (...path) { this.canvas.lines = (this.canvas.lines ?? 0) + 1; return stroke.apply(this, path) }
"""
LINES_DRAWN = """runs => {
    const charts = [...document.querySelectorAll(".parcoords canvas.foreground")]
    return charts.length == 2 && charts.every(chart => chart.lines == runs)
}"""


@pytest.fixture(scope="module", autouse=True)
def _needs_chromium() -> None:
    try:
        look.chromium()
    except CtrError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def links(ready_database: Path, folder: Path) -> Iterator[report.Links]:
    """A published study on a running server."""
    uri, jobs = invented.database(ready_database, folder), invented.rows(SEEDS)
    invented.track(uri, jobs)
    links = invented.publish(invented.findings(jobs), folder / "files", uri, invented.SUBJECT)
    with serving(uri, 0) as (server, _):
        yield links.at(server)


@pytest.fixture
def page() -> Iterator[Page]:
    with look.browser() as page:
        yield page


def test_mlflow(links: report.Links, page: Page) -> None:
    look.open_runs(page, links)
    expect(page.get_by_text(f"{DRAWN} matching runs")).to_be_visible()
    expect(page.get_by_role("link", name="group_adam seed 0").first).to_be_visible()

    page.add_init_script(COUNT_LINES)
    look.open_dashboard(page, links)
    # As many as MLflow loads, not the first ten; each a point of the one scatter plot.
    expect(page.locator(look.POINTS)).to_have_count(DRAWN)
    drawn = page.evaluate("document.querySelector('.js-plotly-plot').data.flatMap(trace => trace.x)")
    jobs = invented.rows(SEEDS).dropna(subset="auc")
    seeds = sorted(map(str, SEEDS))[: DRAWN // CELLS]  # every cell, with the first seeds in the order of their text
    wanted = [math.log10(rate) for rate, seed in zip(jobs.feature_rate, jobs.seed, strict=True) if str(seed) in seeds]
    assert sorted(drawn) == pytest.approx(sorted(wanted))
    expect(page.get_by_role("heading", name="Parallel Coordinates")).to_have_count(2)
    page.wait_for_function(LINES_DRAWN, arg=DRAWN)  # none is left out for want of a value
    expect(page.get_by_text("Group by: opt.name")).to_be_visible()
    colors = page.locator(look.POINTS).evaluate_all("points => points.map(point => getComputedStyle(point).fill)")
    assert len({*colors}) == 2  # one per method

    look.goto(page, links.report)
    expect(page.get_by_text("report: table2 on criteo (1,234 rows)").first).to_be_visible()
    expect(page.get_by_text("Invented figures,")).to_be_visible()

    inside = look.open_report(page, links)
    assert inside.locator(look.POINTS).count() == RUNS + CELLS  # and a mean per method and lambda21


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its page."""
    folder = tmp_path_factory.mktemp("run")
    keys = ["tracking=none", "report=true", "window=2", "batch_size=32", "model.hidden=[4]", "opt.lr=0.01"]
    job(composed("train", *arguments(folder, *keys)), folder)
    return folder


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_of_a_run_fits_the_screen(run_folder: Path, width: int) -> None:
    """Offline: nothing is asked for but the file."""
    asked: list[str] = []
    with look.browser(width, offline=True) as page:
        page.on("request", lambda request: asked.append(request.url))
        look.open_page(page, run_folder)
        assert asked == [(run_folder / "report.html").as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        drawings = page.locator("svg")
        assert drawings.count() >= 5
        for box in [drawing.bounding_box() for drawing in drawings.all()]:
            assert box is not None
            assert 0 <= box["x"] < box["x"] + box["width"] <= width
        smallest = "Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height))"
        assert page.evaluate(smallest) >= 9  # pixels


def test_the_page_alone_and_offline(links: report.Links, folder: Path) -> None:
    asked: list[str] = []
    with look.browser(offline=True) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "files" / "page.html").as_uri())
        points = page.locator(look.POINTS)
        expect(points).to_have_count(RUNS + CELLS)
        expect(page.get_by_text("Invented figures,")).to_be_visible()
        expect(page.get_by_role("cell", name=".8022").first).to_be_visible()
        # The toggles: the paper's points come with a click, a method's runs and means go with one.
        toggles = page.locator(".legendtoggle")
        toggles.nth(2).click()
        expect(points).to_have_count(RUNS + CELLS + 5)
        page.wait_for_timeout(500)  # two clicks within 300 ms would be a double click
        toggles.nth(0).click()
        expect(points).to_have_count(RUNS // 2 + 5 + 5)
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
