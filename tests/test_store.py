"""Runs are kept by what they computed: configuration, data and code; and only there."""

import json
import shutil
from pathlib import Path

import pytest

import ctr
from ctr import store
from ctr.errors import CtrError
from ctr.store import SOURCES, Store, code_hash, job_key

PACKAGE = Path(ctr.__file__).parent


def leaves(folder: Path, config: str, data: str) -> object:
    """A run that ends with these hashes in its result."""
    folder.mkdir(exist_ok=True)
    return (folder / "result.json").write_text(json.dumps({"auc": 0.5, "config_hash": config, "data_hash": data}))


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    kept, out = Store(tmp_path / "jobs"), tmp_path / "out"
    key = job_key("c", "d")
    assert kept.once(key, out, lambda: leaves(out, "c", "d"))
    assert kept.result(key) == {"auc": 0.5, "config_hash": "c", "data_hash": "d"}
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
