"""Output and files that cannot be written: one line, the right exit code, nothing half-written."""

import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pytest

from ctr.cli import message, run_command
from ctr.errors import SPACE
from ctr.files import atomic_folder, atomic_path
from ctr.output import LogFile
from tests.commands import command, job
from tests.limits import file_size_limit, small_disk
from tests.training.runs import configuration

Write = Callable[[Path], None]


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `run_command` sets for the whole process."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    yield
    signal.signal(signal.SIGTERM, before)


def unread_pipe() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def full() -> Any:
    return Path("/dev/full").open("w")


@pytest.mark.parametrize("printed", ["at once", "in the end", "with an error"])
@pytest.mark.parametrize(
    ("stream", "code", "said"),
    [(unread_pipe, 141, ""), (full, 1, f"error: standard output: No space left on device; {SPACE}\n")],
)
def test_standard_output_that_cannot_be_written(
    stream: Any, code: int, said: str, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """141 as of a program that SIGPIPE ended, without a word, and nothing is left for Python to fail at in the end."""

    def main() -> None:
        print("a table", flush=printed == "at once")
        if printed == "with an error":
            raise ValueError("of its own")

    with stream() as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        with pytest.raises(SystemExit) as end:
            run_command(main)
    own = "error: ValueError: of its own\n" if printed == "with an error" else ""
    assert (end.value.code, capsys.readouterr().err) == (code, own + said)


def test_standard_error_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> None:
        print("a bar", file=sys.stderr, flush=True)

    with unread_pipe() as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        with pytest.raises(SystemExit) as end:
            run_command(main)
    assert end.value.code == 141


def test_another_broken_pipe_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        with unread_pipe() as pipe:
            os.write(pipe.fileno(), b"x")

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert (end.value.code, capsys.readouterr().err) == (1, "error: Broken pipe\n")


def python(path: Path) -> None:
    path.write_bytes(b"x" * 100_000)


def arrow(path: Path) -> None:
    pyarrow.feather.write_feather(pa.table({"a": list(range(100_000))}), path, compression="uncompressed")


def wrapped(path: Path) -> None:
    """As `logging.config` does."""
    try:
        python(path)
    except OSError as error:
        raise ValueError("Unable to configure handler 'file'") from error


def in_file(path: Path, write: Write) -> None:
    with atomic_path(path) as tmp:
        write(tmp)


def in_folder(path: Path, write: Write) -> None:
    with atomic_folder(path.parent) as tmp:
        write(tmp / path.name)


def plainly(path: Path, write: Write) -> None:
    write(path)


@pytest.mark.parametrize(
    ("place", "write", "named"),
    [
        (in_file, python, "out/rows"),
        (in_file, arrow, "out/rows"),
        (in_folder, python, "out/rows"),
        (in_folder, arrow, "out"),
        (plainly, python, "rows"),
        (plainly, wrapped, "rows"),
    ],
)
def test_a_file_that_may_not_grow_is_named(tmp_path: Path, place: Any, write: Write, named: str) -> None:
    """Under its own name, not the temporary one; whatever library writes it."""
    with pytest.raises((OSError, ValueError)) as error, file_size_limit(4096):  # its text is asked for
        place(tmp_path / ("out/rows" if place is not plainly else "rows"), write)
    advice = "a limit on the size of files is reached: raise it (ulimit -f), and start it again"
    assert message(error.value) == f"{tmp_path / named}: File too large; {advice}"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and place is not plainly]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, f"; {SPACE}"),
        (errno.EROFS, "; choose another place"),
        (errno.ENOTDIR, "; expected a folder; choose another place"),
        (errno.EIO, ""),
    ],
)
def test_what_to_do_is_said(number: int, advice: str) -> None:
    error = OSError(number, "in the words of a library\nof two lines", "there")
    assert message(error) == f"there: {os.strerror(number)}{advice}"


def test_a_log_file_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.log"
    path.symlink_to("/dev/full")
    handler = LogFile(path)
    for _ in range(3):
        handler.handle(logging.makeLogRecord({"msg": "x"}))
    with suppress(OSError):
        handler.close()
    assert capsys.readouterr().err == f"warning: {path}: No space left on device; the log is not whole\n"


def test_a_run_on_a_full_disk(tmp_path: Path) -> None:
    """The run folder fills up; then there is room again, and the same run is done."""
    disk = tmp_path / "disk"
    disk.mkdir()
    config = configuration(tmp_path)
    with small_disk(disk, 1 << 20):
        filled = disk / "filled"
        with pytest.raises(OSError, match="No space left"):
            filled.write_bytes(b"x" * (2 << 20))
        with pytest.raises(OSError, match="No space left") as error:
            job(config, disk / "run")
        assert re.fullmatch(rf"{disk}/run\S*: No space left on device; {SPACE}", message(error.value))
        assert not [path for path in disk.rglob("*") if path.name.startswith(".tmp-") or path.name == "result.json"]
        filled.unlink()
        job(config, disk / "run")
        assert (disk / "run" / "result.json").is_file()


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A file in its place, as an example of a folder that cannot be written; Hydra would make it."""
    (tmp_path / "file").touch()
    done = command(tmp_path, "ctr.train", "dataset=criteo", "run_dir=file/run", "tracking=none")
    said = "error: run_dir=file/run: Not a directory; expected a folder that can be written to\n"
    assert (done.returncode, done.stderr) == (1, said)
