"""``python -m ctr.export``: what it prints, what it refuses, and that no file has its name before it is checked."""

import os
from pathlib import Path

import onnxruntime
import pytest

from ctr import export
from ctr.artifact import agreement
from ctr.errors import CtrError
from tests.artifact.runs import trained
from tests.commands import refuses


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = trained("dataset=criteo"), tmp_path / "new" / "model.onnx"
    capsys.readouterr()  # of the run
    export.main([f"model={run.folder}", "to=onnx", f"out={out}", "rows=int8", f"raw={run.raw}"])
    lines = {line[:19].strip(): line[20:] for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == ["model", "file", "inputs", "probabilities", "AUC"]
    assert lines["model"].split(": ")[1].startswith("dcn on criteo, ")
    assert lines["file"].startswith(f"{os.path.relpath(out)} (0.")
    assert lines["file"].endswith(" MB, rows as int8)")
    assert lines["inputs"].startswith("39 columns")
    assert " on 2,000 rows; the saved model's is 0." in lines["AUC"]
    assert len(onnxruntime.InferenceSession(out).get_inputs()) == 39


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=nowhere"], "nowhere: no such folder; expected a saved model"),
        ([], "model is needed: give model=..."),
        (["model=a", "to=torchscript"], "to=torchscript: expected one of onnx"),
        (["model=a", "rows=int4"], "rows=int4: expected one of float32, float16, int8"),
        (["model=a", "row=int8"], "row: no such key; did you mean"),
        (["model=m", "to=onnx", "out="], "out=: expected the name of a file"),
    ],
)
def test_wrong_arguments(tmp_path: Path, overrides: list[str], said: str) -> None:
    refuses(tmp_path, "ctr.export", overrides, 2, said)


def test_a_log_that_is_not_there_is_found_first(tmp_path: Path) -> None:
    run = trained("dataset=criteo")
    refuses(tmp_path, "ctr.export", [f"model={run.folder}", "raw=nowhere"], 2, "raw=nowhere: no such file or folder")
    assert not (tmp_path / "model.onnx").exists()


def test_a_folder_that_cannot_be_written_to_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    overrides = [f"model={trained('dataset=criteo').folder}", "out=file/model.onnx"]
    refuses(tmp_path, "ctr.export", overrides, 1, "out=file/model.onnx: Not a directory; expected a file in a folder")


@pytest.mark.parametrize(
    ("options", "said"),
    [(["save.keys=hash"], "save.keys=hash"), (["dataset.encoding=hash"], "dataset.encoding=hash")],
)
def test_hashed_values_are_refused(tmp_path: Path, options: list[str], said: str) -> None:
    run = trained("dataset=criteo", *options)
    said = f"({said}), and ONNX has no operator for the hash"
    refuses(tmp_path, "ctr.export", [f"model={run.folder}"], 2, said)


@pytest.mark.slow
def test_a_file_that_is_not_right_does_not_get_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older one stays."""

    def wrong(*_: object) -> None:
        raise CtrError("the ONNX file gives a row another probability")

    monkeypatch.setattr(agreement, "check", wrong)
    out = tmp_path / "model.onnx"
    out.write_text("older")
    with pytest.raises(CtrError, match="another probability"):
        export.main([f"model={trained('dataset=criteo').folder}", f"out={out}"])
    assert out.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
