"""docs/your-log.md: its commands run, and print what it shows (the digits of figures aside)."""

import contextlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.commands import command, composed
from tests.pages import blocks, masked

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "your-log.md").read_text()
(USE,) = re.findall(r"^## Use the model$.*?(?=^## )", PAGE, re.MULTILINE | re.DOTALL)


BLOCKS = blocks(PAGE.replace(USE, ""))
(MINE,) = re.findall(r'^MINE="(.*)"$', PAGE, re.MULTILINE)


def shown() -> list[tuple[str, list[str]]]:
    """Each ``python -m`` command of the page with the lines that the blocks after it say it prints."""
    found: list[tuple[str, list[str]]] = []
    for block in BLOCKS:
        lines = block.splitlines()
        if lines[-1].startswith("python -m "):
            found.append((lines[-1].replace("$MINE", MINE), []))
        elif not lines[0].startswith("python "):
            found[-1][1].extend(lines)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write = runpy.run_path(str(DOCS / "examples" / "make_shop.py"))["write"]
    write(folder / "shop")
    write(folder / "shop_tags", tags=True)
    return folder


def test_commands_are_understood_and_each_shows_what_it_prints() -> None:
    assert len(shown()) > 8
    for line, lines in shown():
        assert lines
        composed("train", *shlex.split(line)[3:])


def test_the_log_is_what_the_page_shows(folder: Path) -> None:
    first = (folder / "shop" / "day_1.csv").read_text().splitlines()[:3]
    assert "\n".join(f"    {line}" for line in first) in PAGE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "lines"), shown(), ids=[line.removeprefix(f"python -m ctr.train {MINE}") for line, _ in shown()]
)
def test_a_command_prints_what_the_page_shows(line: str, lines: list[str], folder: Path, tmp_path: Path) -> None:
    _, _, module, *overrides = shlex.split(line)
    # Prepared anew for each: columns and transforms are shown once.
    done = command(folder, module, *overrides, "tracking=none", f"dataset.prepared={tmp_path}/prepared")
    printed = {masked(text) for text in (done.stdout + done.stderr).splitlines()}
    assert [text for text in lines if masked(text) not in printed] == []
    assert bool(done.returncode) == lines[0].startswith("error: ")


@pytest.mark.slow
def test_the_model_is_used_as_the_page_shows(folder: Path) -> None:
    printed: set[str] = set()
    for block in blocks(USE):
        if not block.startswith("python "):
            assert [line for line in block.splitlines() if masked(line) not in printed] == []
            continue
        for line in block.replace("$MINE", MINE).splitlines():
            _, first, *rest = shlex.split(line)
            if first == "-m":
                done = command(folder, *rest)
            else:
                client = [sys.executable, str(DOCS / "examples" / first), *rest]
                done = subprocess.run(client, cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            printed |= {masked(text) for text in done.stdout.splitlines()}
    (code,) = blocks(USE, "python")
    with contextlib.chdir(folder):
        found: dict[str, Any] = {}
        exec(code, found)
    assert found["clicks"] == pytest.approx(pd.read_parquet(folder / "clicks.parquet")["p"], abs=1e-6)
