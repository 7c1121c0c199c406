"""What MLflow holds after a study is published."""

import base64
import json
import math
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ctr.errors import CtrError
from ctr.report import folder as files
from ctr.report import interactive, page, view
from ctr.report import mlflow as report
from ctr.report.findings import Column, Findings
from ctr.report.subject import Subject
from tests.report import invented
from tests.report.invented import SUBJECT


@pytest.fixture
def uri(ready_database: Path, tmp_path: Path) -> str:
    return invented.database(ready_database, tmp_path)


def search(uri: str, query: str) -> list[Run]:
    return list(MlflowClient(uri).search_runs(["1"], query))


def shown(uri: str, subject: Subject = SUBJECT) -> list[Run]:
    """The training runs that a study's view shows."""
    return [run for run in search(uri, view.run_filter(subject.key)) if "opt.name" in run.data.params]


FIG1 = replace(SUBJECT, study="fig1")


def publish(jobs: pd.DataFrame, uri: str, folder: Path, subject: Subject = SUBJECT) -> report.Links:
    return invented.publish(invented.findings(jobs), folder, uri, subject)


@pytest.mark.slow
def test_publish(uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs = invented.rows()
    done = jobs[jobs["error"].isna()]
    other = done.assign(data_hash="other data")
    invented.track(uri, pd.concat([other.head(2), done]))
    folder = tmp_path / "table2-criteo"
    folder.mkdir()
    (folder / "commands.txt").write_text("python -m ctr.train ...\n")

    first = publish(jobs, uri, folder)
    (run,) = search(uri, "tags.kind = 'report'")
    names = {"result.csv", "result.md", "runs.csv", "page.html", "fig1.png", "fig1.svg", "commands.txt"}
    assert {path.name for path in folder.iterdir()} == names
    assert {artifact.path for artifact in MlflowClient(uri).list_artifacts(run.info.run_id)} == names
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.note.content"].startswith("| method | lambda21 | AUC | paper |")
    assert "Invented figures, *not* measured." in run.data.tags["mlflow.note.content"]
    report_id = run.info.run_id
    assert report_id in first.report
    assert len(pd.read_csv(folder / "runs.csv")) == len(jobs)

    marked = shown(uri)
    assert {run.data.tags["config_hash"] for run in marked} == {*done["config_hash"]}
    assert {run.data.tags["data_hash"] for run in marked} == {SUBJECT.data_hash}
    looks = {(run.data.tags["method"], run.data.tags["mlflow.runColor"]) for run in marked}
    assert looks == {("group_adam", interactive.PALETTE[0]), ("adam, pruned by norm", interactive.PALETTE[1])}
    assert not caplog.records
    # Each run has a place on every axis, else MLflow would leave it out of the chart.
    for chart in view.state(SUBJECT)["compareRunCharts"]:
        for run in marked:
            assert {*chart.get("selectedParams", [])} <= {*run.data.params}
            assert {*chart.get("selectedMetrics", [])} <= {*run.data.metrics}
    assert {run.data.metrics["log10_lr"] for run in marked} == {-3.0}
    found = {(run.data.tags["opt"], run.data.metrics["lambda21"], run.data.metrics["finetune"]) for run in marked}
    assert found == {("group_adam", value, 0) for value in invented.LAMBDAS} | {("adam", 0, x) for x in (0, 0.1, 0.2)}

    # Another study on some of the runs; then the first one again, on fewer.
    publish(jobs.head(5), uri, tmp_path / "fig1-criteo", FIG1)
    (folder / "fig1.svg").rename(folder / "fig2.svg")
    (folder / "fig1.png").unlink()
    second = invented.publish(replace(invented.findings(jobs.head(10)), figures={}), folder, uri, SUBJECT)
    assert len(shown(uri, FIG1)) == 5
    assert len(shown(uri)) == 10
    assert {run.data.tags["study"] for run in search(uri, "tags.kind = 'report'")} == {"table2", "fig1"}
    assert len(search(uri, "tags.kind = 'report'")) == 2
    assert second == first  # links that were printed stay alive
    names = names - {"fig1.svg", "fig1.png"} | {"fig2.svg"}
    assert {artifact.path for artifact in MlflowClient(uri).list_artifacts(report_id)} == names
    kept = Path(mlflow.artifacts.download_artifacts(run_id=report_id, artifact_path="runs.csv", tracking_uri=uri))
    assert len(pd.read_csv(kept)) == 10
    assert report.published(uri) == {
        FIG1.key: ("fig1 on criteo (1,234 rows)", report.published(uri)[FIG1.key][1]),
        SUBJECT.key: ("table2 on criteo (1,234 rows)", second),
    }


@pytest.mark.slow
def test_other_data_has_a_report_and_a_view_of_its_own(uri: str, tmp_path: Path) -> None:
    """Real and generated rows of the same dataset, as the same study has them one after the other."""
    jobs = invented.rows()
    made = replace(SUBJECT, source="generated", data_hash="e1" * 8)
    generated = jobs.head(12).assign(data_hash=made.data_hash)
    invented.track(uri, pd.concat([jobs, generated]))
    first, other = publish(jobs, uri, tmp_path / "a"), publish(generated, uri, tmp_path / "b", made)
    assert publish(jobs, uri, tmp_path / "a") == first
    titles = {"table2 on criteo (1,234 rows)": first, "table2 on criteo (1,234 generated rows)": other}
    assert dict(report.published(uri).values()) == titles
    assert len({first.dashboard, other.dashboard, first.report, other.report}) == 4
    for subject, count in ((SUBJECT, 30), (made, 12)):
        found = shown(uri, subject)
        assert [run.data.tags["data_hash"] for run in found] == [subject.data_hash] * count
    saved = MlflowClient(uri).get_experiment("1").tags
    names = {json.loads(saved_view)["name"] for name, saved_view in saved.items() if name.startswith(view.TAG)}
    assert names == {*titles}


@pytest.mark.slow
def test_the_same_run_of_other_code_is_not_taken_for_the_studys(uri: str, tmp_path: Path) -> None:
    jobs = invented.rows().head(1)
    invented.track(uri, jobs)
    invented.track(uri, jobs.assign(code_hash="later", auc=0.1))
    publish(jobs, uri, tmp_path / "study")
    (found,) = shown(uri)
    assert found.data.metrics["auc"] == jobs["auc"][0]


@pytest.mark.slow
def test_the_view_shows_the_points_of_the_figures(uri: str, tmp_path: Path) -> None:
    """Not what was tried on the way, such as other learning rates."""
    jobs = invented.rows()
    invented.track(uri, jobs)
    chosen = replace(invented.findings(jobs), points=invented.findings(jobs.iloc[15:30]).points)
    invented.publish(chosen, tmp_path / "study", uri, SUBJECT)
    found = shown(uri)
    assert {run.data.tags["config_hash"] for run in found} == {*jobs["config_hash"].iloc[15:30]}
    assert len(search(uri, f"tags.`study.{SUBJECT.key}` = 'tried'")) == 15
    colors = {run.data.tags["method"]: run.data.tags["mlflow.runColor"] for run in search(uri, "metrics.auc > 0")}
    assert colors == dict(
        zip(("adam, pruned by norm", "group_adam"), interactive.PALETTE, strict=False)
    )  # the shown first
    invented.publish(replace(chosen, points=chosen.points.head(0)), tmp_path / "study", uri, SUBJECT)
    assert len(shown(uri)) == 30  # a study without points shows all


@pytest.mark.slow
@pytest.mark.parametrize("call", ["artifact", "tags", "finish"])
def test_a_report_that_is_stopped_half_way_leaves_the_earlier_one(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    jobs = invented.rows()
    invented.track(uri, jobs)
    first = publish(jobs, uri, tmp_path / "study")

    def stopped(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(report.MlflowTracker, call, stopped)
    with pytest.raises(KeyboardInterrupt):
        publish(jobs, uri, tmp_path / "study")
    assert report.published(uri) == {SUBJECT.key: (SUBJECT.title, first)}
    assert publish(jobs, uri, tmp_path / "study") == first
    (run,) = search(uri, "tags.kind = 'report'")
    assert run.info.run_id in first.report


def test_runs_that_are_not_tracked_are_said_to_be_missing(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = invented.rows()
    invented.track(uri, jobs.head(4))
    publish(jobs, uri, tmp_path / "study")
    assert "26 of the study's 30 runs are not in this MLflow experiment" in caplog.text


def test_a_long_text_is_cut_between_lines() -> None:
    text = "".join(f"line {i}\n" for i in range(2000))
    note = report._note(text)
    assert len(note) < 8000
    kept, _, said = note.partition("\n\n*")
    assert text.startswith(kept + "\n")
    assert "result.md" in said
    assert report._note("short\n") == "short\n"


def test_a_description_begins_with_the_table_where_it_stands_before_other_headings() -> None:
    assert report._note("# Title\n\nWhat.\n\n| a |\n| 1 |\n\nMore.\n") == "| a |\n| 1 |\n\nWhat.\n\nMore.\n"
    assert report._note("# Title\n\nWhat.\n\n## Part\n\n| a |\n") == "What.\n\n## Part\n\n| a |\n"


def test_links_as_addresses() -> None:
    links = report.Links("/#/r", "/#/d", "/#/report", "/#/p").at("http://127.0.0.1:5000/")
    assert links == report.Links(*(f"http://127.0.0.1:5000/#/{name}" for name in ("r", "d", "report", "p")))


def test_the_view_as_mlflow_reads_it(uri: str) -> None:
    client = MlflowClient(uri)
    address = view.create(client, "1", FIG1)
    assert address.endswith("viewStateShareKey=fig1-criteo-d0d0d0d0")
    saved = json.loads(client.get_experiment("1").tags["mlflow.sharedViewState.fig1-criteo-d0d0d0d0"])
    assert {name: type(value) for name, value in saved.items()} == {
        "name": str, "createdAt": int, "updatedAt": int, "state": str
    }  # fmt: skip
    kind, _, packed = saved["state"].partition(";")
    assert kind == "deflate"
    assert json.loads(zlib.decompress(base64.b64decode(packed))) == view.state(FIG1)


@pytest.mark.slow
def test_each_method_of_the_figures_has_a_run_that_names_its_colour(uri: str, tmp_path: Path) -> None:
    """One for all studies of the experiment: MLflow's legends list runs."""

    def legend(subject: Subject) -> dict[str, str]:
        found = search(uri, f"{view.run_filter(subject.key)} AND tags.kind = 'legend'")
        assert all(run.data.params == {"seed": "-"} and not run.data.metrics for run in found)
        return {run.info.run_name: run.data.tags["mlflow.runColor"] for run in found}

    jobs = invented.rows()
    invented.track(uri, jobs)
    publish(jobs, uri, tmp_path / "a")
    publish(jobs.head(5), uri, tmp_path / "b", FIG1)
    first, second = interactive.PALETTE[:2]
    assert legend(SUBJECT) == {"group_adam": first, "adam, pruned by norm": second}
    assert legend(FIG1) == {"group_adam": first}
    publish(jobs.iloc[15:20], uri, tmp_path / "a")
    assert legend(SUBJECT) == {"adam, pruned by norm": second}
    assert len(search(uri, "tags.kind = 'legend'")) == 2
    (first_loaded, *_) = MlflowClient(uri).search_runs(["1"], view.run_filter(FIG1.key), order_by=["params.`seed` ASC"])
    assert first_loaded.info.run_name == "group_adam"


@pytest.mark.slow
def test_the_view_draws_auc_against_what_the_study_compares_on_a_log_axis(uri: str, tmp_path: Path) -> None:
    def axes(subject: Subject) -> list[str]:
        saved = json.loads(MlflowClient(uri).get_experiment("1").tags[view.TAG + subject.key])
        state = json.loads(zlib.decompress(base64.b64decode(saved["state"].partition(";")[2])))
        return [chart["xaxis"]["key"] for chart in state["compareRunCharts"] if chart["type"] == "SCATTER"]

    jobs = invented.rows().head(3)
    invented.track(uri, jobs)
    found = invented.findings(jobs)
    invented.publish(found, tmp_path / "a", uri)
    assert axes(SUBJECT) == ["log10_feature_rate"]
    invented.publish(replace(found, points=found.points.head(0)), tmp_path / "a", uri)
    assert axes(SUBJECT) == ["log10_lr"]


def test_the_view_of_all_runs_shows_no_reports(uri: str, tmp_path: Path) -> None:
    """An experiment without training runs gets none."""
    assert report.overviews(uri) == []
    jobs = invented.rows().head(3)
    invented.track(uri, jobs)
    publish(jobs, uri, tmp_path / "study")
    (place,) = report.overviews(uri)
    assert place.endswith("viewStateShareKey=all-runs")
    assert len(search(uri, view.overview()["searchFilter"])) == 3
    saved = json.loads(MlflowClient(uri).get_experiment("1").tags[f"{view.TAG}all-runs"])
    assert saved["name"] == "All training runs"


def test_a_database_that_cannot_be_written_to_is_shown_all_the_same(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("(sqlite3.OperationalError) attempt to write a readonly database")

    invented.track(uri, invented.rows().head(1))
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    assert report.overviews(uri) == []
    assert "warning: there is no new view of all runs: " in caplog.text
    assert "is read-only, or was deleted" in caplog.text


def test_another_mlflow_gets_no_view_and_says_so(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowClient(uri)
    monkeypatch.setattr(mlflow, "__version__", "3.30.1")
    address = view.create(client, "1", FIG1)
    assert "viewStateShareKey" not in address
    assert "searchFilter=tags.%60study.fig1-criteo-d0d0d0d0%60" in address
    assert not client.get_experiment("1").tags
    assert "MLflow 3.30.1: the ready-made dashboard is made for 3.17 only" in caplog.text


def test_without_plotly_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(CtrError, match=r'needs plotly, which is not installed: pip install -e "\.\[report\]"'):
        files.write_findings(invented.findings(invented.rows()), tmp_path / "study", "a study")
    assert not (tmp_path / "study").exists()


def findings(points: list[dict[str, Any]], table: pd.DataFrame, text: str) -> Findings:
    columns = ["method", "lambda21", "seed", "auc", "feature_rate"]
    return Findings(table, text, {}, pd.DataFrame(), pd.DataFrame(points, columns=columns))


def test_a_page_without_points_has_no_figure_and_escapes_what_it_shows(tmp_path: Path) -> None:
    table = pd.DataFrame({"rate": [0.25, None], "<name>": ["a & b", None]})
    path = tmp_path / "page.html"
    page.write(findings([], table, "# Found\n\n<script>alert(1)</script>\n\n| a |\n|---|\n| 1 |\n"), path, "<title>")
    text = path.read_text()
    assert "<script" not in text
    assert "<dt>study</dt><dd>&lt;title&gt;</dd>" in text
    assert "&lt;name&gt;" in text
    assert "a &amp; b" in text
    assert '<td class="number">0.25</td>' in text
    assert "<h1>Found</h1>" in text
    assert len(text) < 10_000


def test_a_page_says_what_it_is_of_then_shows_its_table_then_the_figure_then_the_rest(tmp_path: Path) -> None:
    found = replace(
        invented.findings(invented.rows()),
        text="# Table\n\nOf *all*.\n\n| a |\n|---|\n| 1 |\n\nMore.\n\n| b |\n|---|\n| 2 |\n",
    )
    path = tmp_path / "page.html"
    page.write(found, path, "table2 on criteo", "python -m ctr.reproduce study=table2")
    text = path.read_text()
    wanted = [
        "<h1>Table</h1>", "Generated rows: these figures say nothing about real clicks.", "<dd>table2 on criteo</dd>",
        "<dt>dataset</dt><dd>criteo</dd>", "<dt>source</dt><dd>generated rows</dd>", "<dt>seeds</dt><dd>0, 1, 2</dd>",
        "<code>python -m ctr.reproduce study=table2</code>", "<dt>machine</dt><dd>Invented, 2 cores</dd>",
        '<div class="scroll"><table>', "<th>a</th>", '<div class="legend">', "Group Adam</button>", 'id="points"',
        "<p>More.</p>", "<th>b</th>", "All columns (result.csv)",
    ]  # fmt: skip
    places = [text.index(one) for one in wanted]
    assert places == sorted(places)
    assert text.count("<table>") == text.count('<div class="scroll"><table>') == 3
    assert text.count("<link") + text.count(" src=") == 0  # nothing is loaded
    page.write(replace(found, runs=found.runs.assign(source="raw")), path)
    text = path.read_text()
    assert "<dd>real rows</dd>" in text
    assert "say nothing about real clicks" not in text


def test_a_study_of_learning_rates_is_drawn_against_these(tmp_path: Path) -> None:
    rates = {"opt.lr": [0.1, 0.1, 0.001], "seed": [0, 1, 0], "auc": [0.5, 0.7, math.nan]}
    runs = pd.DataFrame({"opt": ["adam", "adam", "adagrad"], **rates})
    axis, shown = interactive.of(replace(findings([], pd.DataFrame(), ""), runs=runs))
    assert axis.name == "learning rate"
    assert shown[["method", "x", "auc"]].to_numpy().tolist() == [["adam", 0.1, 0.5], ["adam", 0.1, 0.7]]
    single, mean = interactive._traces(axis, "adam", shown, 0)
    assert (single.x, single.y) == ((0.1, 0.1), (0.5, 0.7))
    assert (*mean.x, *mean.y) == pytest.approx((0.1, 0.6))


def test_the_meaning_of_every_column_is_written_and_shown(tmp_path: Path) -> None:
    columns = [Column("auc", "test AUC, mean <over> seeds")]
    found = replace(findings([], pd.DataFrame({"auc": [0.5]}), "# Found\n"), columns=columns)
    files.write_findings(found, tmp_path, "a study")
    assert (tmp_path / "columns.md").read_text() == "# Columns of result.csv\n\n* `auc`: test AUC, mean <over> seeds\n"
    assert (
        '<td>auc</td><td class="meaning">test AUC, mean &lt;over&gt; seeds</td>' in (tmp_path / "page.html").read_text()
    )


def test_runs_without_a_rate_or_an_auc_are_left_out_of_the_figure(tmp_path: Path) -> None:
    seen = {"method": "adam", "lambda21": 1e-3, "seed": 0, "auc": 0.75, "feature_rate": 0.5}
    points = [seen, {**seen, "auc": None}, {**seen, "feature_rate": 0.0}, {**seen, "lambda21": None, "seed": 1}]
    axis, shown = interactive.of(findings(points, pd.DataFrame(), ""))
    traces = interactive._traces(axis, "adam", shown.head(1), 0)
    assert [len(trace.x) for trace in traces] == [1, 1]
    page.write(findings(points, pd.DataFrame(), ""), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert '"x":[0.5,0.5]' in text  # two of the four
    assert "src=" not in text.split("</script>")[-1]
