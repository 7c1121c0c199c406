"""What a person sees, in a real browser: runs, dashboard and report in MLflow, and the page by itself, offline."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ctr.dashboard import serving
from ctr.errors import CtrError
from ctr.report import mlflow as report
from ctr.report import page as page_of
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
METHODS = 2
LOADED = 100  # the most that MLflow loads at once: first the runs that name the methods
DRAWN = LOADED - METHODS

# Parallel coordinates are drawn on a canvas, a stroke for each run: counted since it was last cleared.
COUNT_LINES = """
const canvas = CanvasRenderingContext2D.prototype, {clearRect, stroke} = canvas
canvas.clearRect = function (...area) { this.canvas.lines = 0; return clearRect.apply(this, area) }
canvas.stroke = function (...path) { this.canvas.lines = (this.canvas.lines ?? 0) + 1; return stroke.apply(this, path) }
"""
# Left, right, top and bottom of the parts of a page, and of the titles and labels of its figure.
BOX = "map(one => one.getBoundingClientRect()).map(box => [box.left, box.right, box.top, box.bottom])"
PARTS = f"[...document.body.children].filter(one => !['SCRIPT', 'svg'].includes(one.tagName)).{BOX}"
LABELS = f"[...document.querySelectorAll('#points .main-svg text')].{BOX}"
LINES_DRAWN = """runs => {
    const charts = [...document.querySelectorAll(".parcoords canvas.foreground")]
    return charts.length == 1 && charts.every(chart => chart.lines == runs)
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
    expect(page.get_by_text(f"{LOADED} matching runs")).to_be_visible()
    expect(page.get_by_role("link", name="group_adam seed 0").first).to_be_visible()
    for column in ("Run Name", "auc", "feature_rate", "Dataset", "Source"):
        expect(page.get_by_role("columnheader", name=column, exact=True).first).to_be_in_viewport()

    page.add_init_script(COUNT_LINES)
    look.open_dashboard(page, links)
    # As many as MLflow loads, not the first ten; each a point of the one scatter plot.
    expect(page.locator(look.POINTS)).to_have_count(DRAWN)
    drawn = page.evaluate("document.querySelector('.js-plotly-plot').data.flatMap(trace => trace.x)")
    jobs = invented.rows(SEEDS).dropna(subset="auc")
    order = sorted(map(str, SEEDS))  # MLflow's, as of texts: all cells with the first seeds, most with the next one
    every = DRAWN // CELLS

    def rates(seeds: list[str]) -> list[float]:
        of = zip(jobs.feature_rate, jobs.seed, strict=True)
        return [round(math.log10(rate), 9) for rate, seed in of if str(seed) in seeds]

    drawn = Counter(round(x, 9) for x in drawn)
    assert Counter(rates(order[:every])) <= drawn <= Counter(rates(order[: every + 1]))
    expect(page.get_by_role("heading", name="Parallel Coordinates")).to_have_count(1)
    page.wait_for_function(LINES_DRAWN, arg=DRAWN)  # none is left out for want of a value
    expect(page.get_by_text("Group by: method")).to_be_visible()
    colors = page.locator(look.POINTS).evaluate_all("points => points.map(point => getComputedStyle(point).fill)")
    assert len({*colors}) == METHODS
    # The legend, of which two lines are to be seen, begins with the names of the methods.
    for method in ("group_adam", "adam, pruned by norm"):
        expect(page.locator("svg + span").get_by_text(method, exact=True)).to_be_in_viewport()

    look.goto(page, links.report)
    expect(page.get_by_text("report: table2 on criteo (1,234 rows)").first).to_be_visible()
    expect(page.get_by_role("columnheader", name="lambda21")).to_be_visible()  # folded, but for the table

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
        # The toggles: the paper's points come with a click, a method's runs and means go with one, or stay alone.
        toggles = page.locator(".legend button")
        toggles.nth(2).click()
        expect(points).to_have_count(RUNS + CELLS + 5)
        toggles.nth(0).click()
        expect(points).to_have_count(RUNS // 2 + 5 + 5)
        toggles.nth(0).dblclick()
        expect(points).to_have_count(RUNS // 2 + 5)
        toggles.nth(0).dblclick()
        expect(points).to_have_count(RUNS + CELLS + 5)
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []


@pytest.mark.parametrize("width", [1280, 400])
def test_no_page_is_wider_than_its_window_and_nothing_overprints(width: int, tmp_path: Path) -> None:
    """With the widest table, the longest names and the longest words that studies have."""
    jobs = invented.rows()
    found = invented.findings(jobs)
    long = {name: f"{name}, averaged over the last 30% of the steps" for name in found.points["method"].unique()}
    table = found.table.assign(**{f"minus_soft_at_its_own_rate_{i}_high": 0.12345678 for i in range(20)})
    wide = "# A study\n\n| " + " | ".join(table) + " |\n" + "|---" * len(table.columns) + "|\n\nAnd so on.\n"
    points = found.points.assign(method=found.points["method"].map(long))
    command = "python -m ctr.reproduce dataset.raw=/" + "a_folder_with_a_long_name" * 8
    page_of.write(replace(found, table=table, text=wide, points=points), tmp_path / "page.html", "a study", command)
    with look.browser(width, 900, offline=True) as page:
        page.goto((tmp_path / "page.html").as_uri())
        expect(page.locator(look.POINTS).first).to_be_attached()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        parts, labels = page.evaluate(PARTS), page.evaluate(LABELS)
    assert min(len(parts), len(labels)) > 6
    assert all(left >= 0 and right <= width for left, right, _, _ in (*parts, *labels))
    assert all(below[2] >= above[3] for above, below in pairwise(parts))
