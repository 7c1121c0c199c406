"""Prepared folders: right, whole or absent, and made only when they must be."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ctr import errors
from ctr.datasets import criteo, source
from ctr.datasets import lines as text_lines
from ctr.datasets.manifest import Manifest, SplitRule
from ctr.datasets.prepared import Prepared, prepare, read_vocabulary
from ctr.datasets.split import by_day, by_position, days_of
from ctr.errors import CtrError, DataError
from tests.datasets.criteo_text import expected, lines, write


def prepared(raw: Path, folder: Path, **options: object) -> Prepared:
    options.setdefault("split", SplitRule(test_fraction=1 / 7))
    return prepare(criteo.make(), raw, folder, **options)  # type: ignore[arg-type]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write(tmp_path / "train.txt", lines(300))


def test_rows_vocabulary_and_manifest(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 10_000)  # several blocks
    data = prepared(raw, tmp_path / "out")
    ids, dense, labels, vocabulary = expected(lines(300))
    got_ids, got_dense, got_label = data.rows[0:300]
    assert got_ids.tolist() == ids
    assert (got_ids.dtype, got_dense.dtype, got_label.dtype) == (np.int32, np.float32, np.uint8)
    np.testing.assert_allclose(got_dense, dense, rtol=1e-6)
    assert got_label.tolist() == labels
    got = read_vocabulary(data)
    assert list(zip(got["field"].to_pylist(), got["value"].to_pylist(), strict=True)) == vocabulary

    manifest = data.manifest
    assert (manifest.rows, manifest.positives) == (300, sum(labels))
    assert manifest.num_features == len(vocabulary)
    assert manifest.values_per_field == [sum(field == f for f, _ in vocabulary) for field in range(26)]
    assert data.split.train == [(0, 257)]  # floor(6 * 300 / 7)
    assert data.split.test == [(257, 300)]
    assert data.split.features_train == len({i for row in ids[:257] for i in row})
    assert Manifest.read(data.folder) == manifest


def test_days_of_rows() -> None:
    days = [(20130606, 0, 3), (20130607, 3, 5), (20131019, 5, 6), (20130607, 6, 9)]
    of_row = [day for day, start, stop in days for _ in range(start, stop)]
    got = days_of([(7, 9), (2, 4), (5, 6)], days)
    assert got is not None
    assert got.tolist() == [of_row[row] for row in (7, 8, 2, 3, 5)]
    assert days_of([(0, 3)], []) is None


def test_slices_within_and_across_blocks(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 10_000)
    data = prepared(raw, tmp_path / "out")
    ids = np.array(expected(lines(300))[0])
    for start, stop in [(0, 0), (5, 6), (0, 300), (30, 290), (299, 300), (300, 300), (250, 400)]:
        assert data.rows[start:stop][0].tolist() == ids[start:stop].tolist()


def test_made_again_only_when_something_changed(raw: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    first = prepared(raw, folder)
    assert not first.reused
    again = prepared(raw, folder)
    assert again.reused
    assert again.manifest == first.manifest
    other_split = prepared(raw, folder, split=SplitRule(test_fraction=0.5))
    assert other_split.reused
    assert other_split.split.train == [(0, 150)]
    assert not prepared(raw, folder, bad_rows="skip").reused
    assert not prepared(raw, folder, num_buckets=50).reused
    assert not prepared(raw, folder).reused
    write(raw, lines(301))
    changed = prepared(raw, folder)
    assert not changed.reused
    assert changed.manifest.rows == 301
    assert changed.manifest.data_hash != first.manifest.data_hash


def test_data_hash_is_that_of_content_and_settings(raw: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "train.txt"
    moved.parent.mkdir()
    moved.write_bytes(raw.read_bytes())
    here, there = prepared(raw, tmp_path / "a"), prepared(moved, tmp_path / "b")
    assert here.manifest.data_hash == there.manifest.data_hash
    assert here.manifest.data_hash != prepared(raw, tmp_path / "c", num_buckets=50).manifest.data_hash


def test_changed_code_prepares_again(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(raw, tmp_path / "out")
    monkeypatch.setattr("ctr.datasets.prepared.code_hash", lambda modules: "of other code")
    assert not prepared(raw, tmp_path / "out").reused


def test_chosen_learning_rates_outlive_a_new_preparation(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept while the log's content and the recipe stay the same; other rows need other rates."""
    rates = tmp_path / "out" / "learning_rates.json"
    prepared(raw, tmp_path / "out")
    rates.write_text("chosen")
    (tmp_path / "out" / "rows.arrow").unlink()
    assert not prepared(raw, tmp_path / "out").reused
    assert rates.read_text() == "chosen"
    os.utime(raw, (1, 1))
    assert not prepared(raw, tmp_path / "out").reused
    assert rates.read_text() == "chosen"
    monkeypatch.setattr("ctr.datasets.prepared.code_hash", lambda modules: "of other code")
    assert not prepared(raw, tmp_path / "out").reused
    assert rates.read_text() == "chosen"
    assert sorted(path.name for path in rates.parent.iterdir()) == [
        *("learning_rates.json", "manifest.json", "rows.arrow", "vocabulary.arrow")
    ]
    prepared(raw, tmp_path / "out", bad_rows="skip")
    assert not rates.exists()
    rates.write_text("chosen")
    write(raw, lines(299))
    prepared(raw, tmp_path / "out", bad_rows="skip")
    assert not rates.exists()


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    raw = write(tmp_path / "train.txt", [*lines(50), "bad"])
    with pytest.raises(DataError, match="line 51"):
        prepared(raw, tmp_path / "prepared" / "out")
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == ["out.lock"]


def test_bad_input_keeps_the_older_rows(raw: Path, tmp_path: Path) -> None:
    first = prepared(raw, tmp_path / "out")
    write(raw, [*lines(50), "bad"])
    with pytest.raises(DataError):
        prepared(raw, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_text() == first.manifest.to_json()


def test_skipped_rows_are_reported(tmp_path: Path) -> None:
    raw = write(tmp_path / "train.txt", [*lines(20), "bad", *lines(20)])
    manifest = prepared(raw, tmp_path / "out", bad_rows="skip").manifest
    assert (manifest.rows, manifest.rows_skipped) == (40, 1)
    assert manifest.first_skipped == f"{raw}, line 21: 1 column; expected 40 tab-separated columns per line"


def test_killed_preparation(tmp_path: Path) -> None:
    """SIGKILL in the middle: nothing that looks complete; the next preparation clears up and succeeds."""
    raw = write(tmp_path / "train.txt", lines(3000))
    folder = tmp_path / "prepared" / "out"
    script = f"""
        import sys, time
        from pathlib import Path
        from ctr.datasets import lines as text_lines
        from ctr.datasets import criteo
        from ctr.datasets.manifest import SplitRule
        from ctr.datasets.prepared import prepare
        text_lines.BLOCK_BYTES = 20_000
        def slow(rows, share):
            print(rows, flush=True)
            time.sleep(60 if rows > 500 else 0)
        prepare(criteo.make(), Path({str(raw)!r}), Path({str(folder)!r}), split=SplitRule(0.5), progress=slow)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) <= 500:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = {path.name for path in folder.parent.iterdir()}
    assert "out" not in left
    assert any(name.startswith(".tmp-") for name in left)
    data = prepared(raw, folder)
    assert data.manifest.rows == 3000
    assert {path.name for path in folder.parent.iterdir()} == {"out", "out.lock"}


def _prepare_and_tell(raw: Path, folder: Path, barrier: object, answers: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    answers.put(prepared(raw, folder).reused)  # type: ignore[attr-defined]


def test_processes_that_want_the_same_rows_wait(raw: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    barrier, answers = context.Barrier(3), context.Queue()
    arguments = (raw, tmp_path / "out", barrier, answers)
    workers = [context.Process(target=_prepare_and_tell, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert sorted(answers.get(timeout=60) for _ in workers) == [False, True, True]
    for worker in workers:
        worker.join()


@pytest.mark.parametrize("damage", ["{", "{}", json.dumps({"data_hash": ""})])
def test_unreadable_manifest_means_prepare_again(raw: Path, tmp_path: Path, damage: str) -> None:
    prepared(raw, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(damage)
    assert not prepared(raw, tmp_path / "out").reused


@pytest.mark.parametrize("damage", [lambda rows: rows.unlink(), lambda rows: rows.write_bytes(rows.read_bytes()[:500])])
def test_damaged_rows_mean_prepare_again(raw: Path, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    whole = prepared(raw, tmp_path / "out").rows[0:300][0].tolist()
    damage(tmp_path / "out" / "rows.arrow")
    again = prepared(raw, tmp_path / "out")
    assert not again.reused
    assert again.rows[0:300][0].tolist() == whole


def test_prepared_rows_are_opened_without_writing(raw: Path, tmp_path: Path) -> None:
    """They may lie on a read-only disk; another split writes nothing either."""
    prepared(raw, tmp_path / "prepared" / "out")
    (tmp_path / "prepared" / "out.lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*")}
    assert prepared(raw, tmp_path / "prepared" / "out").reused
    assert prepared(raw, tmp_path / "prepared" / "out", split=SplitRule(0.5)).split.train == [(0, 150)]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "prepared").rglob("*")} == before


def test_a_split_that_cannot_be_does_not_cost_the_rows(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(CtrError, match="names no days"):
        prepared(raw, tmp_path / "out", split=SplitRule(test_days=[20200101]))
    assert prepared(raw, tmp_path / "out").reused


def test_hashed_rows_have_no_vocabulary(raw: Path, tmp_path: Path) -> None:
    data = prepared(raw, tmp_path / "out", num_buckets=100)
    assert not (data.folder / "vocabulary.arrow").exists()
    assert data.manifest.num_features == 100
    assert data.rows[0:300][0].max() < 100
    assert data.split.features_train == len(np.unique(data.rows[0:257][0]))
    distinct = sum(data.manifest.values_per_field)
    assert data.manifest.collision_rate == pytest.approx(1 - len(np.unique(data.rows[0:300][0])) / distinct)


@pytest.mark.parametrize("rows", [7, 8, 49, 137_139, 45_840_617])
def test_six_sevenths(rows: int) -> None:
    """floor(6 n / 7), also from the rounded 1/7 of a configuration file."""
    train, test = by_position(rows, 0.14285714285714285)
    assert train == [(0, 6 * rows // 7)]
    assert test == [(6 * rows // 7, rows)]
    assert by_position(rows, float(Fraction(1, 7))) == (train, test)


def test_without_a_test_part() -> None:
    assert by_position(100, 0.0) == ([(0, 100)], [])


@pytest.mark.parametrize("share", [1.0, 1e-9])
def test_empty_part_by_position(share: float) -> None:
    with pytest.raises(CtrError, match=r"test_fraction=.* of 100 rows to train on; training and test both need"):
        by_position(100, share)


def test_by_day() -> None:
    days = [(20141021, 0, 10), (20141022, 10, 25), (20141023, 25, 30)]
    assert by_day(days, [20141023]) == ([(0, 10), (10, 25)], [(25, 30)])
    assert by_day(days, [20141022]) == ([(0, 10), (25, 30)], [(10, 25)])
    with pytest.raises(CtrError, match=r"\[20150101\] not in the log; days found: 20141021, 20141022, 20141023"):
        by_day(days, [20150101])
    with pytest.raises(CtrError, match="leaves no day to train on; days found: 20141021, 20141022, 20141023"):
        by_day(days, [20141021, 20141022, 20141023])
    with pytest.raises(CtrError, match="leaves no day to test"):
        by_day(days, [])
    with pytest.raises(CtrError, match=r"this log names no days, use dataset.test_fraction"):
        by_day([], [20141021])


def test_touched_input_is_noticed(raw: Path, tmp_path: Path) -> None:
    prepared(raw, tmp_path / "out")
    later = time.time() + 10
    os.utime(raw, (later, later))
    assert not prepared(raw, tmp_path / "out").reused


@pytest.mark.parametrize(
    ("test_days", "warned"),
    [([20141022], "up to 20141023"), ([20141021, 20141022], "up to 20141023"), ([20141023], None)],
)
def test_days_before_those_trained_on_are_warned_of(
    test_days: list[int], warned: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    errors.warn_once.cache_clear()
    source._warn_of_later_days(test_days, [20141021, 20141022, 20141023])
    source._warn_of_later_days(test_days, [20141021, 20141022, 20141023])
    assert len(caplog.messages) == (warned is not None)
    assert warned is None or warned in caplog.text
