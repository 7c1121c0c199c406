"""A study's findings as files, and as one run in MLflow with everything in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctr.errors import CtrError
from ctr.files import atomic_path, atomic_write_text
from ctr.studies import dashboard, page
from ctr.tracking import MlflowTracker

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from ctr.studies.options import Findings

NOTE, COLOR = "mlflow.note.content", "mlflow.runColor"
MAX_NOTE = 7900  # MLflow cuts a tag at 8,000

log = logging.getLogger("ctr")


@dataclass(frozen=True)
class Links:
    """Where a study stands in MLflow, relative to the server's root.

    Attributes:
        runs: the study's runs as a list, folded by optimizer.
        dashboard: the same runs in the ready-made charts.
        report: the report run: table, text, files.
        page: the interactive page among its artifacts.
    """

    runs: str
    dashboard: str
    report: str
    page: str

    def at(self, server: str) -> Links:
        """The same as whole addresses, at ``http://127.0.0.1:5000`` for example."""
        base = server.rstrip("/")
        return Links(base + self.runs, base + self.dashboard, base + self.report, base + self.page)


def write(findings: Findings, folder: Path, title: str) -> None:
    """Writes ``result.csv``, ``result.md``, ``runs.csv``, ``page.html`` and each figure as PNG and SVG.

    Raises:
        CtrError: the extra ``report`` is not installed; nothing is written then.
    """
    page.require()
    atomic_write_text(folder / "result.csv", findings.table.to_csv(index=False))
    atomic_write_text(folder / "result.md", findings.text)
    atomic_write_text(folder / "runs.csv", findings.runs.to_csv(index=False))
    for name, figure in findings.figures.items():
        with atomic_path(folder / f"{name}.png") as tmp:
            figure.savefig(tmp, format="png", dpi=200)
        with atomic_path(folder / f"{name}.svg") as tmp:
            figure.savefig(tmp, format="svg", metadata={"Date": None})
    page.write(findings, folder / "page.html", title)


def publish(findings: Findings, folder: Path, uri: str, experiment: str, study: str, dataset: str) -> Links:
    """Writes the files of a study and makes it visible in MLflow.

    * One report run, with every file of ``folder`` and the text as its description. Those that were published before
      for the same study and dataset are deleted once it is complete (``mlflow gc`` frees their room).
    * The study's training runs, found by their ``config_hash`` and ``data_hash``, get the tags ``study`` (all
      that they serve, with commas), ``method`` and one colour per method; a run that no longer serves it loses the tag.
    * A dashboard view of these runs (`ctr.studies.dashboard`).

    Args:
        findings: what the study found.
        folder: gets the files; what else lies there, such as ``commands.txt``, is kept with the report too.
        uri, experiment: where the training runs were tracked.
        study: table2, fig1, ...
        dataset: as in the runs' tag ``dataset``.

    Raises:
        CtrError: the extra ``report`` is not installed, or MLflow cannot be used.
    """
    write(findings, folder, f"{study} on {dataset}")
    tracker = MlflowTracker(uri, experiment, f"report: {study} on {dataset}")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    try:
        experiment_id = client.get_run(tracker.run_id).info.experiment_id
        _mark_runs(client, experiment_id, findings.runs, study, dataset)
        view = dashboard.create(client, experiment_id, study, dataset)
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                tracker.artifact(path)
        # Last, so that what is called a report is a whole one.
        tracker.tags({"study": study, "dataset": dataset, NOTE: _note(findings.text), "kind": "report"})
    except BaseException as error:
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        if isinstance(error, MlflowException):
            raise CtrError(f"tracking.uri={uri}: {error.message}") from error
        raise
    tracker.finish("FINISHED")
    for old in _search(
        client, [experiment_id], f"{_REPORTS} AND tags.study = '{study}' AND tags.dataset = '{dataset}'"
    ):
        if old.info.run_id != tracker.run_id:
            client.delete_run(old.info.run_id)
    return _links(view, experiment_id, tracker.run_id)


_REPORTS = "tags.kind = 'report'"


def published(uri: str) -> dict[tuple[str, str], Links]:
    """The studies in a database: (study, dataset) -> links, in order of their names."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = {}
    for run in _search(client, experiments, f"{_REPORTS} AND attributes.status = 'FINISHED'"):
        study, dataset, experiment_id = run.data.tags["study"], run.data.tags["dataset"], run.info.experiment_id
        view = dashboard.address(experiment_id, study, dataset)
        found[study, dataset] = _links(view, experiment_id, run.info.run_id)
    return dict(sorted(found.items()))


def _links(view: str, experiment_id: str, run_id: str) -> Links:
    runs = f"/#/experiments/{experiment_id}/runs"
    run, training = f"{runs}/{run_id}", "?workflowType=machine_learning"  # else MLflow shows its menu for agents
    return Links(
        view.replace("&compareRunsMode=CHART", ""), view, run + training, f"{run}/artifacts/page.html{training}"
    )


def _note(text: str) -> str:
    """The text as a run's description, cut between paragraphs where it is longer than MLflow keeps."""
    if len(text) <= MAX_NOTE:
        return text
    ending = "\n\n*Cut here; the whole text is in `result.md` and `page.html`.*\n"
    head = text[: MAX_NOTE - len(ending)]
    return head[: max(head.rfind("\n\n"), head.rfind("\n"))] + ending


def _search(client: MlflowClient, experiments: list[str], query: str) -> Iterator[Run]:
    """All runs that match, page by page."""
    token = None
    while True:
        found = client.search_runs(experiments, query, max_results=1000, page_token=token)
        yield from found
        token = found.token
        if not token:
            return


def _mark_runs(client: MlflowClient, experiment_id: str, rows: pd.DataFrame, study: str, dataset: str) -> None:
    """Gives the study's runs, and them alone, the tags by which its dashboard finds, groups and colours them, and the
    metrics that its charts need of every run."""
    from mlflow.entities import Metric, RunTag

    wanted = {(row["config_hash"], row["data_hash"]) for row in _hashed(rows)}
    runs = list(_search(client, [experiment_id], "attributes.status = 'FINISHED' AND metrics.auc > 0"))
    colors = {run.data.tags["method"]: run.data.tags[COLOR] for run in runs if {"method", COLOR} <= {*run.data.tags}}
    missing = set(wanted)
    ours = {_method(run.data.params) for run in runs if _hashes(run) in wanted}
    for method in sorted(ours, key=lambda name: (not name.startswith("group"), name)):
        _color(method, colors)
    for run in runs:  # the latest first
        tags = run.data.tags
        key = _hashes(run)
        studies = {name for name in tags.get("study", "").split(",") if name}
        if key in missing:
            missing.remove(key)  # a second run of the same configuration would be a second point at the same place
            method = _method(run.data.params)
            new = {"study": ",".join(sorted(studies | {study})), "method": method, COLOR: _color(method, colors)}
            needed = dashboard.coordinates(run.data.params)
        elif study in studies and tags.get("dataset") == dataset:
            new = {"study": ",".join(sorted(studies - {study}))}
            needed = {}
        else:
            continue
        changed = [RunTag(name, value) for name, value in new.items() if tags.get(name) != value]
        added = [Metric(name, needed[name], run.info.end_time, 0) for name in needed if name not in run.data.metrics]
        if changed or added:
            client.log_batch(run.info.run_id, metrics=added, tags=changed)
    if missing:
        log.warning(
            "%d of the study's %d runs are not in this MLflow experiment: the dashboard cannot show them; "
            "the report has them all",
            len(missing),
            len(wanted),
        )


def _hashes(run: Run) -> tuple[object, object]:
    return run.data.tags.get("config_hash"), run.data.tags.get("data_hash")


def _hashed(rows: pd.DataFrame) -> Iterable[Mapping[str, object]]:
    """The rows of jobs that succeeded."""
    if not {"config_hash", "data_hash"} <= {*rows.columns}:
        return []
    done = rows.dropna(subset=["config_hash", "data_hash"])
    return done[["config_hash", "data_hash"]].to_dict("records")


def _method(params: Mapping[str, str]) -> str:
    """What a person would call the way in which features are selected: "adam, pruned by norm"."""
    name = params.get("opt.name", "unknown")
    if params.get("opt.threshold", "soft") != "soft":
        name += f", {params['opt.threshold']}"
    if params.get("prune.name", "none") != "none":
        name += f", pruned by {params.get('prune.score', 'norm')}"
    return name


def _color(method: str, taken: dict[str, str]) -> str:
    """The method's colour in this experiment; a new method gets one that the others leave."""
    if method not in taken:
        free = [color for color in page.PALETTE if color not in taken.values()]
        taken[method] = free[0] if free else page.PALETTE[len(taken) % len(page.PALETTE)]
    return taken[method]
