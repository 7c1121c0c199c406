"""``python -m ctr.predict``, and ``ctr <command>``."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from ctr import __main__, predict
from ctr.artifact.saved import load
from ctr.cli import _exit_code, message
from ctr.config import help
from tests.artifact.runs import log_of_test_rows, trained
from tests.commands import command


def test_a_log_with_labels_prints_figures_and_leaves_predictions(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("dataset=criteo")
    log = log_of_test_rows(run, here, labels=True)
    predict.main([f"model={run.folder}", f"raw={log}", "out=preds.csv"])
    said = capsys.readouterr().out
    auc = f"{run.result['auc']:.4f}"
    assert f"AUC               {auc}   (of the run's test rows: {auc})" in said
    assert f"logloss           {run.result['logloss']:.4f}" in said
    assert "predictions       preds.csv" in said
    table = pd.read_csv("preds.csv")
    assert list(table) == ["row", "p", "label"]
    assert len(table) == run.result["rows_test"]


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        ([], 2, "model is needed: give model=..."),
        (["model=M", "raw=log", "out=p.txt"], 2, "out=p.txt: expected a name that ends in .parquet or .csv"),
        (
            ["model=nothing", "raw=log", "out=p.csv"],
            2,
            "nothing: no such folder; expected a saved model, or the folder",
        ),
        (["model=M", "raw=nothing", "out=p.csv"], 2, "raw=nothing: no such file or folder"),
        (["model=M", "ra=log", "out=p.csv"], 2, "ra: no such key; did you mean raw? --help lists all keys"),
        (["model=M", "raw=log", "out=p.csv", "bad_rows=keep"], 2, "bad_rows=keep: expected one of error, skip"),
        (["model=M", "raw=log", "out=p.csv", "threads=two"], 2, "threads=two: expected a whole number"),
        (["model=M", "raw=log", "out=p.csv", "threads=0"], 2, "threads=0; expected 1 to 1,024"),
        (["model=M", "raw=[]", "out=p.csv"], 2, "raw=[]; expected a path, or a list of paths: raw=[a.csv,b.csv]"),
        (["model=M", "raw=*.txt", "out=p.csv"], 2, "raw=*.txt: no such file or folder"),
        (["model=M", "raw=[log,log]", "out=p.csv"], 2, "raw: 2 names; dataset=criteo expects one file or folder"),
        (["model=M", "raw=a,b", "out=p.csv"], 2, "raw=a,b: several values; expected one"),
        (["model=M", "raw=log", "out"], 2, "out: expected key=value"),
        (["-m", "model=M", "raw=log"], 2, "-m: no such option; expected key=value, or --help"),
        (
            ["model=M", "raw=log", "out=log/p.csv"],
            1,
            "out=log/p.csv: Not a directory; expected a file in a folder that can be written to",
        ),
        (["model=M", "raw=log", "out=p.csv"], 1, "log, line 1: 2 columns; expected 40 tab-separated columns per line"),
    ],
)
def test_mistakes_are_named(here: Path, overrides: list[str], code: int, said: str) -> None:
    Path("log").write_text("a\tb\n")
    folder = trained("dataset=criteo").folder
    with pytest.raises(Exception) as error:  # noqa: PT011  # its code and message are asked for
        predict.main([override.replace("=M", f"={folder}") for override in overrides])
    assert said in message(error.value)
    assert _exit_code(error.value) == code


def test_the_command_ends_with_one_line_and_its_code(here: Path) -> None:
    done = command(here, "ctr.predict", "model=nothing", "raw=log", "out=p.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nothing: no such folder; expected a saved model")
    assert len(done.stderr.splitlines()) == 1


def test_help_lists_the_keys() -> None:
    said = help.text("predict", [])
    for key in ("model=???", "raw=???", "out=???", "bad_rows=error", "threads=null", "allow_module=false"):
        assert f"\n  {key} " in said


def test_ctr_runs_a_command(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("dataset=criteo")
    log = log_of_test_rows(run, here, labels=False)
    monkeypatch.setattr(sys, "argv", ["ctr", "predict", f"model={run.folder}", f"raw={log}", "out=p.parquet"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.delitem(sys.modules, "ctr.predict")
    __main__.main()
    assert "predictions       p.parquet" in capsys.readouterr().out
    assert len(load(run.folder).predict(log.read_text().splitlines())) == len(pd.read_parquet("p.parquet"))


def test_ctr_lists_its_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ctr"])
    __main__.main()
    said = capsys.readouterr().out
    for name in ("train", "prepare", "predict", "features", "export", "reproduce", "dashboard"):
        assert f"\n  {name} " in said
    monkeypatch.setattr(sys, "argv", ["ctr", "trian"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 2
    assert "error: trian: no such command; expected one of train, prepare" in capsys.readouterr().err
