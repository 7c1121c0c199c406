"""docs/tomorrow.md: its days are written as its commands name them, and the commands are understood."""

import re
import runpy
import shlex
from pathlib import Path

import pandas as pd

from tests.commands import composed

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = re.findall(r"^python -m ctr\.train (.*)$", (DOCS / "tomorrow.md").read_text(), re.MULTILINE)


def test_the_days_are_where_the_commands_read_them(tmp_path: Path) -> None:
    runpy.run_path(str(DOCS / "examples" / "make_days.py"))["write"](tmp_path / "days", rows=50)
    words = [word for line in COMMANDS for word in shlex.split(line)]
    raws = [word.removeprefix("dataset.raw=") for word in words if word.startswith("dataset.raw=")]
    days = [pd.read_csv(tmp_path / raw) for raw in raws]
    assert [len(day) for day in days] == [50, 50]
    assert [set(day["hour"] // 100) for day in days] == [{141001}, {141002}]


def test_the_second_command_begins_with_the_first_run() -> None:
    first, second = (composed("train", *shlex.split(line)) for line in COMMANDS)
    assert second.init == first.run_dir
    assert first.checkpoint.final
