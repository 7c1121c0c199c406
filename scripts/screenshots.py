"""Takes the pictures of README: a study's runs, its dashboard and its report in MLflow, as a person sees them; without
``--study`` the training curves of all runs; with ``--run`` the page of one run, without MLflow.

    python scripts/screenshots.py                                            mlflow.png
    python scripts/screenshots.py --study "table2 on criteo"                 from mlflow.db into docs/images/
    python scripts/screenshots.py --run runs/mine                             run-page.png
    python scripts/screenshots.py --uri sqlite:///runs/mlflow.db --study "fig1 on avazu" --out /tmp/pictures

Needs runs, or a study that `ctr.reproduce` published, playwright (extra `dev`) and a Chromium of the system, found on
the PATH or named by CHROMIUM.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ctr.cli import run_command
from ctr.dashboard import serving
from ctr.errors import ArgumentError, CtrError
from ctr.report.mlflow import Links, overviews, published
from ctr.training.folder import PAGE

if TYPE_CHECKING:
    from playwright.sync_api import ElementHandle, Frame, Page

TIMEOUT = 30_000  # milliseconds until something is to be seen


def chromium() -> str:
    """The path of the system's browser.

    Raises:
        CtrError: there is none.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        raise CtrError("no Chromium on the PATH; Debian and Ubuntu: apt-get install chromium. Or name one by CHROMIUM")
    return found


@contextmanager
def browser(width: int = 1440, height: int = 900, offline: bool = False) -> Iterator[Page]:
    """A page of a new, headless browser without a past."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers have neither the user namespaces that its sandbox wants nor a large /dev/shm.
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        program = playwright.chromium.launch(executable_path=chromium(), args=options)
        try:
            context = program.new_context(viewport={"width": width, "height": height}, offline=offline)
            context.set_default_timeout(TIMEOUT)
            yield context.new_page()
        finally:
            program.close()


SCATTER = ".js-plotly-plot .scatterlayer"
POINTS = f"{SCATTER} .points path"


def goto(page: Page, address: str) -> None:
    """Opens an address of MLflow, its assistant put aside."""
    page.goto("about:blank")  # else a new part after the # is no new page
    page.goto(address)
    aside = page.locator("[data-component-id='mlflow.assistant.chat_panel.close']")
    page.get_by_text("Model training").first.wait_for()
    if aside.count():
        aside.first.click()


def open_runs(page: Page, links: Links) -> None:
    """The list of runs, once it shows the first ones."""
    goto(page, links.runs)
    page.get_by_role("link", name="seed").first.wait_for()


def open_dashboard(page: Page, links: Links) -> None:
    """The study's charts, once their points are drawn."""
    goto(page, links.dashboard)
    page.locator(POINTS).first.wait_for(state="attached")


def open_curves(page: Page, address: str) -> None:
    """The view of all training runs, once their curves are drawn."""
    goto(page, address)
    page.locator(SCATTER).first.wait_for(state="attached")


def open_page(page: Page, folder: Path) -> None:
    """The page of a run, from its folder."""
    page.goto((folder / PAGE).resolve().as_uri())
    page.locator("svg").first.wait_for()


def take(shown: Page | ElementHandle, path: Path) -> None:
    """A picture of a page, or of one of its parts."""
    time.sleep(1.5)  # until what slides and fades has come to rest
    shown.screenshot(path=path)
    print(path)


def open_report(page: Page, links: Links) -> Frame:
    """The interactive page within MLflow's viewer of artifacts, once its points are drawn; returns its frame."""
    goto(page, links.page)
    inside = page.frame_locator("iframe").locator(POINTS).first
    inside.wait_for(state="attached")
    frame = inside.element_handle().owner_frame()
    assert frame is not None
    return frame


def main() -> None:
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uri", default="sqlite:///mlflow.db", help="the database (default: %(default)s)")
    parser.add_argument("--study", help="how its title begins: table2 on criteo")
    parser.add_argument("--run", type=Path, help="folder of a run that has left its page")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.run is not None:
        with browser(1280, 1660, offline=True) as page:
            open_page(page, options.run)
            take(page, options.out / "run-page.png")
        return
    with serving(options.uri, 0) as (server, _):
        if options.study is None:
            with browser(1400, 760) as page:
                open_curves(page, server + overviews(options.uri)[0])
                take(page, options.out / "mlflow.png")
            return
        studies = dict(published(options.uri).values())
        named = [title for title in studies if title.startswith(options.study)]
        if len(named) != 1:
            there = "; ".join(studies) or "none"
            raise ArgumentError(f"--study {options.study}: {len(named)} titles begin so; published: {there}")
        links = studies[named[0]].at(server)
        with browser() as page:
            for name, show in {"runs": open_runs, "dashboard": open_dashboard}.items():
                show(page, links)
                take(page, options.out / f"{name}.png")
        with browser(1500, 1400) as page:
            take(open_report(page, links).frame_element(), options.out / "report.png")


if __name__ == "__main__":
    run_command(main)
