"""Atomic writes: whole or absent, also when the writer fails or is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ctr.errors import ArgumentError, CtrError
from ctr.files import TMP_PREFIX, atomic_folder, atomic_path, atomic_write_text, expect_new_file, expect_writable, size


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_file_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "rows.csv.gz"
    with atomic_path(target) as tmp:
        tmp.write_text("whole")
        assert not target.exists()
        assert tmp.parent == target.parent
        assert tmp.name.startswith(TMP_PREFIX)
        assert tmp.name.endswith("rows.csv.gz")
    assert target.read_text() == "whole"
    assert names(target.parent) == ["rows.csv.gz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, error: type) -> None:
    target = tmp_path / "rows.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as tmp:
            tmp.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["rows.txt"]


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "rows.txt"):
        pass
    assert names(tmp_path) == []


def test_concurrent_writers_do_not_share_a_temporary_name(tmp_path: Path) -> None:
    target = tmp_path / "rows.txt"
    with atomic_path(target) as first:
        first.write_text("first")
        with atomic_path(target) as second:
            second.write_text("second")
    assert target.read_text() == "first"  # the last to finish
    assert names(tmp_path) == ["rows.txt"]


def test_text_keeps_its_characters_and_line_ends(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "note.txt", "λ = 1e-3\r\nend")
    assert (tmp_path / "note.txt").read_bytes() == b"\xce\xbb = 1e-3\r\nend"


def test_bytes_reach_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(Path(f"/proc/self/fd/{fd}").readlink().name), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append("rename"), replace(self, to)))
    with atomic_path(tmp_path / "rows.txt") as tmp:
        tmp.write_text("whole")
    assert calls == [tmp.name, "rename", tmp_path.name]


def test_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "log"
    for text, file in [("one", "a.txt"), ("two", "b.txt")]:
        with atomic_folder(target) as tmp:
            (tmp / "day").mkdir()
            (tmp / "day" / file).write_text(text)
            assert tmp.name.startswith(TMP_PREFIX)
    assert names(tmp_path) == ["log"]
    assert names(target / "day") == ["b.txt"]
    assert (target / "day" / "b.txt").read_text() == "two"


def test_failed_folder_keeps_the_old_one_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "log"
    with atomic_folder(target) as tmp:
        (tmp / "a.txt").write_text("old")

    def fail() -> None:
        with atomic_folder(target) as tmp:
            (tmp / "a.txt").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["log"]
    assert (target / "a.txt").read_text() == "old"


def test_folder_whose_last_rename_fails_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "log"
    with atomic_folder(target) as tmp:
        (tmp / "a.txt").write_text("old")
    rename = Path.rename

    def refuse_new(self: Path, to: Path) -> Path:
        if to == target and (self / "a.txt").read_text() == "new":
            raise OSError("disk trouble")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OSError, match="disk trouble"), atomic_folder(target) as tmp:
        (tmp / "a.txt").write_text("new")
    assert names(tmp_path) == ["log"]
    assert (target / "a.txt").read_text() == "old"


def test_folder_does_not_overwrite_a_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(NotADirectoryError, match="log is a file"), atomic_folder(tmp_path / "log"):
        pass
    assert (tmp_path / "log").read_text() == "a file"


@pytest.mark.parametrize("kind", ["atomic_path", "atomic_folder"])
def test_killed_writer_leaves_only_a_recognisable_leftover(tmp_path: Path, kind: str) -> None:
    script = f"""
import os, signal
from pathlib import Path
from ctr.files import {kind}
with {kind}(Path({str(tmp_path)!r}) / "rows") as tmp:
    (tmp / "part.txt" if tmp.is_dir() else tmp).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    (leftover,) = names(tmp_path)
    assert leftover.startswith(TMP_PREFIX)


def test_a_folder_that_cannot_be_written_is_named_by_its_key(tmp_path: Path) -> None:
    expect_writable(tmp_path / "a" / "b", "jobs=a/b")
    assert names(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CtrError, match=r"jobs=file/b: .*expected a folder that can be written to"):
        expect_writable(tmp_path / "file" / "b", "jobs=file/b")


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    expect_new_file(tmp_path / "file", "out")
    expect_new_file(tmp_path / "a" / "b.csv", "out", (".parquet", ".csv"))
    assert names(tmp_path) == ["file"]
    for path, kind, said in [
        (Path(), ArgumentError, "out=: expected the name of a file"),
        (tmp_path, ArgumentError, f"out={tmp_path}: expected the name of a file"),
        (Path("p.txt"), ArgumentError, "out=p.txt: expected a name that ends in .parquet or .csv"),
        (
            tmp_path / "file" / "b.csv",
            CtrError,
            f"out={tmp_path}/file/b.csv: Not a directory; expected a file in a folder that can be written to",
        ),
        (
            Path("/proc/b.csv"),
            CtrError,
            "out=/proc/b.csv: No such file or directory; expected a file in a folder that can be written to",
        ),
    ]:
        with pytest.raises(CtrError) as error:
            expect_new_file(path, "out", (".parquet", ".csv"))
        assert type(error.value) is kind
        assert str(error.value) == said


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 kB"), (51_500, "52 kB"), (100_000, "0.1 MB"), (6_440_000, "6.4 MB"), (2e9, "2,000.0 MB")],
)
def test_sizes_are_in_kilobytes_or_megabytes(number: int, text: str) -> None:
    assert size(number) == text
