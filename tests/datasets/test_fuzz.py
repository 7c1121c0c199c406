"""Damaged logs: never a traceback, never a silent loss, and the error names file and line. A few of the mutants of
scripts/fuzz.py; and that it finds what must not happen.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ctr.datasets import criteo
from ctr.datasets.schema import Reading
from ctr.datasets.text import Table, read_tables
from ctr.errors import DataError
from tests.scripts import script

fuzz = script("fuzz")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Arrow's threads; it makes its own again


@pytest.mark.slow
def test_no_findings(tmp_path: Path) -> None:
    mutants = 330
    counts = fuzz.campaign(fuzz.READERS, range(mutants), 1, 2, tmp_path, lambda known: None)
    assert [path.read_text() for path in tmp_path.glob("*/reason.txt")] == []
    for reader, count in counts.items():
        assert count.mutants == count.whole + count.skipping + count.refused == mutants, reader
        # They are neither all harmless nor all hopeless.
        assert min(count.whole, count.skipping, count.refused) > mutants // 66, reader
        assert count.rows > mutants
        assert count.findings == 0


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def compute() -> None:
    while True:
        pass


def take_memory() -> None:
    np.ones(10_000_000)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda reading: {}["key"], "KeyError: 'key'"),
        (lambda reading: reading.skip(1, DataError(Path("train.txt"), 1, "?")), "left out of"),
        (lambda reading: setattr(reading, "first_skipped", "line 0"), "; skipping: line 0"),
        (lambda reading: reading.columns, "AttributeError"),
        (lambda reading: crash(), "the process ended with signal SIGKILL"),
        (lambda reading: signal.pause(), "signal SIGALRM: it took more than 0.1 seconds"),
        (lambda reading: compute(), "signal SIGPROF: it took more than 0.1 seconds of the processor"),
        (lambda reading: take_memory(), "took more than 20 MB"),
    ],
    ids=["traceback", "loss", "other row", "attribute", "crash", "time", "processor", "memory"],
)
def test_findings_are_kept(
    fault: Callable[[Reading], object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*args: object) -> Iterator[Table]:
        yield from read_tables(*args)  # type: ignore[arg-type]
        reading = args[-1]
        assert isinstance(reading, Reading)
        if reading.bad_rows == "skip":
            fault(reading)

    monkeypatch.setattr(criteo, "read_tables", faulty)
    monkeypatch.setattr(fuzz, "WALL", 0.1 if "SIGALRM" in reason else 600)
    monkeypatch.setattr(fuzz, "SECONDS", 0.1 if "SIGPROF" in reason else 600)
    monkeypatch.setattr(fuzz, "MEGABYTES", 20)
    counts = fuzz.campaign(["criteo"], range(20, 26), 0, 1, tmp_path, lambda known: None)["criteo"]
    found = sorted(path.parent for path in tmp_path.glob("*/reason.txt"))
    assert counts.mutants == 6
    assert len(found) == counts.findings > 0
    number = int(found[0].name.removeprefix("criteo-"))
    text = (found[0] / "reason.txt").read_text()
    assert reason in text
    assert f"--only criteo --first {number} --mutants 1 --seed 0" in text
    mutant = fuzz.make_mutant("criteo", fuzz.make_logs()["criteo"], 0, number)
    assert (found[0] / "train.txt").read_bytes() == mutant.content


def test_messages_name_the_file(tmp_path: Path) -> None:
    log = fuzz.make_logs()["criteo"]
    for error in (DataError(Path("other"), 1, "x"), DataError(tmp_path / "train.txt", None, "x")):
        with pytest.raises(fuzz.Finding, match="a message"):
            fuzz.check_message(log, "train.txt", error)


@pytest.mark.slow
def test_an_interrupted_campaign_tells_what_it_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(known: object) -> None:
        raise KeyboardInterrupt

    counts = fuzz.campaign(["csv", "parquet"], range(10**6), 0, 2, tmp_path, interrupt)
    assert not multiprocessing.active_children()
    assert 0 <= sum(count.mutants for count in counts.values()) < 10**6
    assert "interrupted" in capsys.readouterr().err
    table = fuzz.report({"csv": fuzz.Counts(9, 4, 3, 2, 1, 7, 0.25, 1.5), "parquet": fuzz.Counts(1, 1)})
    assert "".join(table.splitlines()[-1].split()) == "|all|10|5|3|2|7|1|0.25s|2MB|"
