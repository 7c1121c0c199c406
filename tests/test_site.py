"""The documentation: links lead somewhere, the site builds without a warning and is read without a network, and its
figure of a row's life shows what an optimizer of numpy computes too."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scripts import script

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in DOCS.rglob("*.md") if "node_modules" not in page.parts)])
BATCH, LR, DIM = 64, 0.02, 4


def prose(page: Path) -> str:
    """The text without blocks and spans of code."""
    text = re.sub(r"^( *)(```+|~~~+).*?^\1\2 *$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", lambda span: re.sub(r"[\[\]()]", "", span[0]), text)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them, and of its own ids."""
    found: set[str] = set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(next(s for n in range(99) if (s := f"{slug}-{n}" if n else slug) not in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(\s*([^)\s]+)", prose(page)):
        if re.match(r"\w+:", link):
            continue
        target, _, anchor = link.partition("#")
        to = page.parent / target if target else page
        assert to.exists(), f"{page.name}: {link}"
        if anchor:
            assert to.suffix == ".md", f"{page.name}: {link}"
            assert anchor in anchors(to), f"{page.name}: {link}; there are {sorted(anchors(to))}"


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `a_b`, c & d!\n## One\n```\n# no heading\n```\n## One\n## [Two](x.md) λ21\n")
    assert anchors(page) == {"a_b-c--d", "one", "one-1", "two-λ21"}


def row_life() -> dict[str, Any]:
    text = (DOCS / "_static" / "row-life-data.js").read_text()
    return json.loads(re.search(r"const ROW_LIFE = (.*);", text)[1])  # type: ignore[index]


def adam(m: np.ndarray, v: np.ndarray, gradient: np.ndarray, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Updates the moments; returns the first one and D."""
    m += 0.1 * (gradient - m)
    v += 0.001 * (gradient**2 - v)
    return m / (1 - 0.9**t), (np.sqrt(v / (1 - 0.999**t)) + 1e-8) / LR


@pytest.mark.parametrize("run", row_life()["runs"], ids=lambda run: f"lambda21={run['lambda21']}")
def test_the_rows_lives_are_those_of_the_papers_algorithm(run: dict[str, Any]) -> None:
    """Algorithm 2 as printed, with z and the D of a row's last touch, and the model's derivatives by hand."""
    stream = script("row_life").problem()
    x, net = stream.table.copy(), np.append(stream.out, -1.0)
    z, before, m, v = np.zeros((4, *x.shape))
    net_m, net_v = np.zeros((2, DIM + 1))
    lives: list[tuple[list[float], list[float]]] = [([], []) for _ in run["rows"]]
    for t, (present, clicks) in enumerate(zip(stream.present, stream.clicks, strict=True), 1):
        inputs = np.column_stack([present @ x, np.ones(BATCH)])
        error = (1 / (1 + np.exp(-inputs @ net)) - clicks) / BATCH
        touched = present.any(0)
        row_m, row_v = m[touched], v[touched]
        first, D = adam(row_m, row_v, np.outer(present.T @ error, net[:DIM])[touched], t)
        m[touched], v[touched] = row_m, row_v
        z[touched] += first - (D - before[touched]) * x[touched]
        before[touched] = D
        length = np.linalg.norm(z[touched], axis=1, keepdims=True)
        x[touched] = np.maximum(1 - np.sqrt(DIM) * run["lambda21"] / length, 0) * -z[touched] / D
        first, D = adam(net_m, net_v, inputs.T @ error, t)
        net -= first / D
        for i, (score, norm) in enumerate(lives):
            if touched[i]:
                score.append(np.linalg.norm(z[i]) / np.sqrt(DIM))
                norm.append(np.linalg.norm(x[i]))
    assert run["alive"] == x.any(axis=1).sum()
    for row, (score, norm) in zip(run["rows"], lives, strict=True):
        np.testing.assert_allclose(row["score"], score, rtol=1e-3)
        np.testing.assert_allclose(row["norm"], norm, rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_the_script_makes_the_data_with_group_adam() -> None:
    look = script("row_life")
    (expected,) = (run for run in row_life()["runs"] if run["lambda21"] == 0.2)
    found = look.life(look.problem(), 0.2)
    assert found["alive"] == expected["alive"]
    for row, wanted in zip(found["rows"], expected["rows"], strict=True):
        for name in ("score", "norm"):
            np.testing.assert_allclose(row[name], wanted[name], rtol=1e-3, atol=1e-9)


def test_the_page_says_what_its_figure_shows() -> None:
    data, text = row_life(), " ".join((DOCS / "how-it-works.md").read_text().split())
    runs = {run["lambda21"]: run for run in data["runs"]}
    frequent, rare, _, rare_noise, later = range(5)

    def lives(lambda21: float, row: int, after: int = 0) -> list[int]:
        """The steps at which a touch leaves the row alive."""
        norms = runs[lambda21]["rows"][row]["norm"]
        return [step for step, norm in zip(data["rows"][row]["steps"], norms, strict=True) if norm and step > after]

    norms = [f"{runs[lambda21]['rows'][frequent]['norm'][-1]:.2f}" for lambda21 in (0, 0.2, 1)]
    assert "ends at {} with `lambda21=0`, at {} with 0.2, at {} with 1.".format(*norms) in text
    assert f"{len(data['rows'][rare]['steps'])} of the {data['steps']} batches have it" in text
    assert f"from step {lives(0.2, rare)[0]} on with 0.2, from step {lives(1, rare)[0]} on with 1." in text
    assert [lambda21 for lambda21 in runs if not lives(lambda21, rare_noise)] == [0.05, 0.1, 0.2, 0.5, 1]
    assert 0 < len(lives(0.2, later)) - len(lives(0.2, later, data["change"])) < 100
    assert f"revives at step {lives(0.2, later, data['change'])[0]}." in text
    alive = [runs[0.2]["rows"][row]["norm"][-1] > 0 for row in range(5)]
    assert alive == [True, True, False, False, True]
    for lambda21, rows in {0: "", 0.2: " with 10 rows", 1: " with 9 rows"}.items():
        assert f"is {runs[lambda21]['loss']:.4f}{rows}".replace("0.", ".") in text
        assert f"{runs[lambda21]['alive']}" in (rows or "60")


class Assets(HTMLParser):
    """Collects what a browser loads of a page by itself."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = dict(attributes)
        loads = {"link": of.get("href"), "script": of.get("src"), "img": of.get("src"), "iframe": of.get("src")}
        if (address := loads.get(tag)) and of.get("rel") not in ("canonical", "prev", "next", "author"):
            self.found.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, where CTR_SITE says that it is (from `make docs`), else made; a warning is an error."""
    if built_before := os.environ.get("CTR_SITE"):
        assert (ROOT / built_before / "index.html").is_file()
        return ROOT / built_before
    pytest.importorskip("sphinx", reason="sphinx is not installed: pip install -e '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-j", "auto", DOCS, out]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return out


@pytest.mark.slow
def test_the_site_is_read_without_a_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert {site / "index.html", site / "api/optim.html", site / "results/real/table2-criteo.html"} <= {*pages}
    for page in pages:
        assets = Assets(page).found
        assert assets
        for address in assets:
            assert not re.match(r"(\w+:)?//", address) or address.startswith("data:"), f"{page.name}: {address}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.slow
def test_the_figure_of_a_rows_life(site: Path) -> None:
    """In a browser, offline, from the disk: the slider changes the curves, and the values are those of the data."""
    pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[dev]'")
    look = script("screenshots")
    try:
        look.chromium()
    except look.CtrError as error:
        pytest.skip(str(error))
    data = row_life()
    with look.browser(400, 900, offline=True) as page:
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((site / "how-it-works.html").as_uri())
        figure = page.locator("#row-life")
        curve = figure.locator("[data-chart=score] .curve")
        slider, step = figure.locator("[data-lambda]"), figure.locator("[data-step]")
        assert figure.locator("img").count() == 0  # the still is for readers without JavaScript
        for r, row in enumerate(data["rows"]):
            figure.locator("[data-row]").select_option(label=row["name"])
            slider.focus()
            page.keyboard.press("Home")
            curves = []
            for run in data["runs"]:
                touch = len(row["steps"]) // 2
                step.fill(str(row["steps"][touch]))
                said = figure.locator("[data-values]").inner_text()
                score, norm = (run["rows"][r][name][touch] for name in ("score", "norm"))
                numbers = [float(n) for n in re.findall(r"(?:Score|threshold|=) (\d\S*?)[.;:]? ", said + " ")]
                assert numbers == [score, run["lambda21"], norm]
                assert ("dead" in said) == (norm == 0)
                curves.append(curve.get_attribute("d"))
                slider.focus()
                page.keyboard.press("ArrowRight")
            assert len(set(curves)) == len(data["runs"])
        assert errors == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
