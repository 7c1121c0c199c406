"""Runs are kept by what they computed: configuration, data and code; and only there."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ctr
from ctr import store
from ctr.errors import CtrError
from ctr.store import SOURCES, Store, claim, code_hash, job_key, reserve, result_text

PACKAGE = Path(ctr.__file__).parent


def leaves(folder: Path, config: str, data: str) -> object:
    """A run that ends with these hashes in its result."""
    folder.mkdir(exist_ok=True, parents=True)
    return (folder / "result.json").write_text(result_text(figures(config, data)))


def figures(config: str, data: str) -> dict[str, object]:
    return {"auc": 0.5, "config_hash": config, "data_hash": data, "code_hash": store.CODE}


def test_once(tmp_path: Path) -> None:
    kept, out = Store(tmp_path / "jobs"), tmp_path / "out"
    key = job_key("c", "d")
    assert kept.once(key, out, lambda: leaves(out, "c", "d"))
    assert kept.result(key) == figures("c", "d")
    assert not kept.once(key, out, lambda: pytest.fail("it was finished"))


def test_a_run_on_other_data_than_planned_is_not_kept(tmp_path: Path) -> None:
    kept, out = Store(tmp_path / "jobs"), tmp_path / "out"
    planned, computed = job_key("c", "before"), job_key("c", "after")
    with pytest.raises(CtrError, match=rf"planned as {planned}, but is {computed}.* data"):
        kept.once(planned, out, lambda: leaves(out, "c", "after"))
    assert not (out / "result.json").exists()
    assert kept.result(planned) is None
    assert kept.result(computed) is None


def test_a_run_of_other_code_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, out = Store(tmp_path / "jobs"), tmp_path / "out"
    before = job_key("c", "d")
    kept.once(before, out, lambda: leaves(out, "c", "d"))
    monkeypatch.setattr(store, "CODE", "0" * 16)
    assert job_key("c", "d") != before
    assert kept.once(job_key("c", "d"), out, lambda: leaves(out, "c", "d"))
    assert kept.result(before) is not None  # the older stays too


def test_what_counts_as_the_code_of_a_run(tmp_path: Path) -> None:
    """A change of anything that the figures depend on, and of nothing else."""
    copy = tmp_path / "ctr"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert code_hash(copy) == code_hash(PACKAGE) == store.CODE
    for pattern in SOURCES:
        assert list(copy.glob(pattern)), pattern
    for name in (
        "optim/core.py", "optim/group_adam.py", "models/dcn.py", "models/dropout.py", "native/step.py",
        "native/src/step.cpp", "native/src/vec.h", "trainer.py", "step.py", "pruning.py", "forking.py", "metrics.py",
        "run.py", "train.py", "result.py", "datasets/stream.py", "datasets/rows.py", "datasets/split.py",
    ):  # fmt: skip
        text = (copy / name).read_text()
        (copy / name).write_text(f"{text}\n")
        assert code_hash(copy) != store.CODE, name
        (copy / name).write_text(text)
    for name in ("tracking.py", "studies/table2.py", "dashboard.py"):
        (copy / name).write_text("\n")
    assert code_hash(copy) == store.CODE
    (copy / "optim" / "core.py").rename(copy / "optim" / "other.py")
    assert code_hash(copy) != store.CODE


def test_a_result_that_is_not_the_runs_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cut, empty, changed or of another run; said once, with its name."""
    kept, key = Store(tmp_path), job_key("c", "d")
    path = kept.folder(key) / "result.json"
    leaves(path.parent, "c", "d")
    whole = path.read_text()
    assert kept.result(key) == figures("c", "d")
    damaged = [
        whole[:40],
        "",
        "{}",
        "[]",
        "7",
        whole.replace("0.5", "0.6"),
        "\xff\0" * 20,
        json.dumps(figures("c", "d")),
    ]
    for text in damaged:
        path.write_bytes(text.encode("latin-1"))
        assert kept.result(key) is None
    leaves(path.parent, "c", "of another")
    assert kept.result(key) is kept.result(key) is None
    path.unlink()
    path.mkdir()
    assert kept.result(key) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"warning: {path}: is damaged, or not a run's result; it does not count as finished",
        f"warning: {path}: is of the run {job_key('c', 'of another')}; it does not count as finished",
    ]
    assert kept.result(job_key("x", "d")) is None
    path.rmdir()
    assert kept.once(key, tmp_path / "out", lambda: leaves(tmp_path / "out", "c", "d"))
    assert kept.result(key) == figures("c", "d")


def test_a_folder_is_of_one_run_at_a_time(tmp_path: Path) -> None:
    """Also among threads; until its process dies, however it does."""
    folder, refused = tmp_path / "run", "run is in use by another run; wait for its end, or give another run_dir=PATH"
    mine = claim(folder)
    seen: list[str] = []

    def another() -> None:
        with pytest.raises(CtrError) as error:
            claim(folder)
        seen.append(str(error.value))

    thread = threading.Thread(target=another)
    thread.start()
    thread.join()
    another()
    assert [text.endswith(refused) for text in seen] == [True, True]
    mine.release()
    code = "import sys; from ctr.store import *; held = claim(Path(sys.argv[1])); print('held', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    another()
    process.kill()
    process.communicate()
    reserve(folder)
    claim(folder).release()
    claim(folder).release()
