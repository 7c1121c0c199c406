"""Runs are kept by what they computed: configuration, data and code; and only there."""

import json
import shutil
import threading
from pathlib import Path

import pytest

import ctr
from ctr import provenance
from ctr.errors import CtrError
from ctr.files import sealed
from ctr.jobs.cache import Cache
from ctr.training import identity
from ctr.training.folder import claim, reserve
from ctr.training.identity import CODE, SOURCES, run_key, training_code
from tests.commands import speaking

PACKAGE = Path(ctr.__file__).parent


def leaves(folder: Path, config: str, data: str) -> object:
    """A run that ends with these hashes in its result."""
    folder.mkdir(exist_ok=True, parents=True)
    return (folder / "result.json").write_text(sealed(figures(config, data)))


def figures(config: str, data: str) -> dict[str, object]:
    return {"auc": 0.5, "config_hash": config, "data_hash": data, "code_hash": CODE}


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    kept, out = Cache(tmp_path / "jobs"), tmp_path / "out"
    key = run_key("c", "d")
    assert kept.once(key, out, lambda: leaves(out, "c", "d"))
    assert kept.result(key) == figures("c", "d")
    assert not kept.once(key, out, lambda: pytest.fail("it was finished"))


@pytest.mark.parametrize("done", [True, False])
def test_an_interruption_after_the_result_loses_nothing(tmp_path: Path, done: bool) -> None:
    kept, out = Cache(tmp_path / "jobs"), tmp_path / "out"

    def run() -> None:
        if done:
            leaves(out, "c", "d")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.once(run_key("c", "d"), out, run)
    assert kept.result(run_key("c", "d")) == (figures("c", "d") if done else None)


def test_a_run_on_other_data_than_planned_is_not_kept(tmp_path: Path) -> None:
    kept, out = Cache(tmp_path / "jobs"), tmp_path / "out"
    planned, computed = run_key("c", "before"), run_key("c", "after")
    with pytest.raises(CtrError, match=rf"planned as {planned}, but is {computed}.* data"):
        kept.once(planned, out, lambda: leaves(out, "c", "after"))
    assert not (out / "result.json").exists()
    assert kept.result(planned) is None
    assert kept.result(computed) is None


def test_a_run_of_other_code_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, out = Cache(tmp_path / "jobs"), tmp_path / "out"
    before = run_key("c", "d")
    kept.once(before, out, lambda: leaves(out, "c", "d"))
    monkeypatch.setattr(identity, "CODE", "0" * 16)
    assert run_key("c", "d") != before
    assert kept.once(run_key("c", "d"), out, lambda: leaves(out, "c", "d"))
    assert kept.result(before) is not None  # the older stays too


@pytest.mark.slow
def test_what_counts_as_the_code_of_a_run(tmp_path: Path) -> None:
    """A change of anything that the figures depend on, and of nothing else."""
    copy = tmp_path / "ctr"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert training_code(copy) == training_code() == CODE
    for pattern in SOURCES:
        assert list(copy.glob(pattern)), pattern
    for name in (
        "optim/core.py", "optim/shrinkage.py", "optim/group_adam.py", "models/dcn.py", "models/dropout.py",
        "metrics.py", "native/src/step.cpp", "native/src/vec.h", "training/trainer.py", "training/step.py",
        "training/pruning.py",
        "training/trunk.py", "training/build.py", "training/experiment.py", "training/run.py",
        "training/compiled/step.py",
        "datasets/stream.py", "datasets/rows.py", "datasets/split.py",
    ):  # fmt: skip
        text = (copy / name).read_text()
        (copy / name).write_text(
            f"{text}\nint added = 1;\n" if name.endswith((".cpp", ".h")) else f"{text}\nadded = 1\n"
        )
        assert training_code(copy) != CODE, name
        (copy / name).write_text(text)
    for name in ("studies/table2.py", "dashboard.py", "jobs/pool.py"):
        (copy / name).write_text("\n")
    assert training_code(copy) == CODE
    (copy / "optim" / "core.py").rename(copy / "optim" / "other.py")
    assert training_code(copy) != CODE


def test_comments_docstrings_and_layout_do_not_count(tmp_path: Path) -> None:
    python, cpp = tmp_path / "a.py", tmp_path / "a.cpp"
    python.write_text("def f(x):\n    return x + 1\n")
    cpp.write_text('const char* s = "// kept"; int f() { return 1; }\n')
    before = provenance.code_hash([python, cpp])
    python.write_text(
        '"""Of the module."""\n\n\n# why\ndef f(x):\n    """Of the function."""\n    return (x\n            + 1)\n'
    )
    cpp.write_text('// why\nconst char* s = "// kept";\n/* two\n lines */ int f() { return 1; }\n')
    assert provenance.code_hash([python, cpp]) == before
    cpp.write_text('const char* s = "// changed"; int f() { return 1; }\n')
    assert provenance.code_hash([python, cpp]) != before


def test_versions_and_vector_width_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for change in ("torch.__version__", "numpy.__version__"):
        with monkeypatch.context() as patch:
            patch.setattr(change, "0.1")
            assert training_code() != CODE
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX1024")
    assert training_code() != CODE


def test_a_result_that_is_not_the_runs_does_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cut, empty, changed or of another run; said once, with its name."""
    kept, key = Cache(tmp_path), run_key("c", "d")
    path = kept.folder(key) / "result.json"
    leaves(path.parent, "c", "d")
    whole = path.read_text()
    assert kept.result(key) == figures("c", "d")
    changed = [whole.replace("0.5", "0.6"), json.dumps(figures("c", "d"))]
    for text in (whole[:40], "", "{}", "[]", "7", changed[0], "\xff\0" * 20, changed[1]):
        path.write_bytes(text.encode("latin-1"))
        assert kept.result(key) is None
    leaves(path.parent, "c", "of another")
    assert kept.result(key) is kept.result(key) is None
    path.unlink()
    path.mkdir()
    assert kept.result(key) is None
    assert [record.getMessage() for record in caplog.records] == [
        f"warning: {path}: {problem}; it does not count as finished"
        for problem in (
            "not JSON",
            "no checksum: damaged, or of another version",
            "not as it was written (checksum)",
            f"is of the run {run_key('c', 'of another')}",
        )
    ]
    assert kept.result(run_key("x", "d")) is None
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
    claims = "held = claim(Path(sys.argv[1])); print('held', flush=True); input()"
    code = f"import sys; from ctr.training.folder import *; {claims}"
    process, said = speaking(code, folder)
    assert said == "held"
    another()
    process.kill()
    process.communicate()
    reserve(folder)
    claim(folder).release()
    claim(folder).release()
