"""The folder of a study's result: whose it may be, when it is replaced, and what is said of it."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from ctr.errors import ArgumentError, CtrError
from ctr.report.findings import Findings
from ctr.reproduce import reproduce
from ctr.studies.request import folder_of
from ctr.studies.study import Ask, Options
from tests.commands import composed
from tests.reproducing import SAMPLE, no_study, reproduced

pytestmark = pytest.mark.usefixtures("here")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    for folder, problem in [
        ("file", "folder=file is a file"),
        ("thesis", "folder=thesis holds files that are not a study's"),
        (str(tmp_path), "holds the working folder"),
        ("out", "folder=out holds jobs=out/jobs"),
        ("mine", "folder=mine holds tracking.uri=sqlite:///mine/mlflow.db"),
        ("data", "folder=data holds dataset.prepared=data/prepared"),
    ]:
        jobs = f"jobs={folder}/jobs" if folder == "out" else "jobs=jobs"
        uri = "tracking.uri=sqlite:///mine/mlflow.db"
        with pytest.raises(ArgumentError, match=re.escape(problem)):
            reproduced(no_study, "study=table2", *SAMPLE, f"folder={folder}", jobs, uri)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "thesis"}
    assert (tmp_path / "file").read_text() == (tmp_path / "thesis" / "chapter.txt").read_text() == "mine"


def nothing(ask: Ask, options: Options, **own: object) -> Findings:
    return Findings(pd.DataFrame({"auc": [0.5]}), f"{options.select}\n", {}, pd.DataFrame())


def test_an_empty_folder_and_an_earlier_result_are_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The latter not without a word on what differs, before anything is run."""
    (tmp_path / "out").mkdir()
    given = ["study=table2", *SAMPLE, "folder=out", "tracking=none"]
    for select, seeds, said in [
        ("test", "seeds=2", ""),
        ("test", "seeds=2", ""),
        ("validation", "seeds=2", "out holds a result with select=test: it will be replaced; folder=PATH keeps it"),
        ("test", "seeds=[4,7]", "out holds a result with seeds=2 select=validation: it will be replaced; folder"),
    ]:
        reproduced(nothing, *given, f"select={select}", seeds, "workers=1")
        assert (tmp_path / "out" / "result.md").read_text() == f"{select}\n"
        first = capsys.readouterr().out.splitlines()[0].strip()
        assert first.startswith(said) if said else first == select
    with pytest.raises(AssertionError, match="nothing must run"):
        reproduced(no_study, *given, "workers=2")
    assert "with seeds=[4,7]: it will be replaced" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b'{"seeds": ', b"\xff{}", b"[" * 100_000, b"[]", b"null"])
def test_damaged_settings_of_an_earlier_result_are_named(content: bytes, tmp_path: Path) -> None:
    given = ["study=table2", *SAMPLE, "folder=out", "tracking=none"]
    reproduced(nothing, *given)
    settings = tmp_path / "out" / "settings.json"
    settings.write_bytes(content)
    with pytest.raises(CtrError, match=r"^out/settings.json: damaged; expected .*[Dd]elete the file and start again$"):
        reproduced(no_study, *given)
    settings.unlink()
    reproduced(nothing, *given)


def test_what_cannot_be_written_or_read_is_said_before_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CtrError, match=r"folder=file/y: .*expected a folder that can be written to"):
        reproduced(no_study, "study=table2", *SAMPLE, "folder=file/y", "tracking=none")
    given = ["study=table2", "folder=out", "tracking=none"]
    reproduced(nothing, *given, *SAMPLE)
    capsys.readouterr()
    with pytest.raises(ArgumentError, match=r"dataset\.raw=nowhere: no such file or folder"):
        reproduced(no_study, *given, "dataset.raw=nowhere", "seeds=2")
    assert capsys.readouterr().out == ""  # nothing is replaced


def test_the_page_names_the_command_as_a_shell_takes_it(tmp_path: Path) -> None:
    reproduced(nothing, "study=table2", *SAMPLE, "folder=out", "tracking=none", "seeds=[4,7]", "select=test")
    said = "python -m ctr.reproduce study=table2 dataset=criteo dataset.source=sample dataset.sample_rows=2000 "
    assert (
        f"<code>{said}dataset.prepared=data/prepared folder=out tracking=none &#x27;seeds=[4,7]&#x27; select=test"
        in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    )


def test_jobs_of_a_sweep_do_not_replace_one_another(tmp_path: Path) -> None:
    taken: set[Path] = set()

    def job(lambda21: str, folder: str) -> None:
        given = ["study=table2", *SAMPLE, f"lambda21=[{lambda21}]", f"folder={folder}", "tracking=none"]
        reproduce(composed("reproduce", *given), given, nothing, taken)

    job("1e-3", "out/a")
    with pytest.raises(ArgumentError, match="holds the result of an earlier job of this sweep"):
        job("1e-2", "out/../out/a")
    job("1e-2", "out/${name}-${lambda21}")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "table2-[0.01]"}


class Interrupted(Figure):
    """A figure at whose drawing the study is stopped, half of it written."""

    def savefig(self, path: Any, **how: Any) -> None:
        Path(path).write_bytes(b"half a fig")
        raise KeyboardInterrupt


def test_a_study_that_is_stopped_while_it_writes_leaves_its_earlier_result_whole(tmp_path: Path) -> None:
    figures: dict[str, Figure] = {"a": Figure()}

    def drawn(ask: Ask, options: Options, **own: object) -> Findings:
        return Findings(pd.DataFrame({"auc": [0.5]}), f"{len(figures)} figures\n", figures, pd.DataFrame())

    def of_result() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    reproduced(drawn, "study=table2", *SAMPLE, "folder=out", "tracking=none")
    earlier = of_result()
    assert {"a.png", "a.svg", "result.md", "page.html"} <= {*earlier}
    figures["b"] = Interrupted()
    for folder in ("out", "new"):
        with pytest.raises(KeyboardInterrupt):
            reproduced(drawn, "study=table2", *SAMPLE, f"folder={folder}", "tracking=none")
    assert of_result() == earlier
    assert {path.name for path in tmp_path.iterdir()} == {"out", "data"}


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["study=table2", "dataset=avazu"], "table2-avazu"),
        (["study=fig1", "dataset=avazu", "model=dcn", "select=validation"], "fig1-avazu-dcn-validation"),
        (["study=fig1", "dataset=criteo", "dataset.source=sample", "model.hidden=[8]"], "fig1-criteo-sample"),
        (["study=table5", "dataset=csv", "dataset.label=click"], "table5-csv"),
        (["study=table5", "dataset=csv", "dataset.label=click", "select=test"], "table5-csv-test"),
    ],
)
def test_the_folder_names_what_was_chosen(overrides: list[str], name: str) -> None:
    given = [override.partition("=")[0] for override in overrides]
    assert folder_of(composed("reproduce", *overrides), given) == Path("runs/studies", name)
