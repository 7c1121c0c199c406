"""A study in MLflow: one report run with all its files, and tags that mark its training runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctr.errors import CtrError
from ctr.report import view
from ctr.report.interactive import PALETTE
from ctr.report.subject import SHOWN, TRIED, Subject, tag
from ctr.training.store import explained, quiet
from ctr.training.tracking import SOURCE, MlflowTracker, status_of

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from ctr.report.findings import Findings

NOTE, COLOR = "mlflow.note.content", "mlflow.runColor"
LEGEND = "legend"  # the kind of a run that names a method's colour
MAX_NOTE = 7900  # MLflow cuts a tag at 8,000

log = logging.getLogger("ctr")


@dataclass(frozen=True)
class Links:
    """The links of a study in MLflow, relative to the server's root.

    Attributes:
        runs: the study's runs as a list, folded by method.
        dashboard: the same runs in the ready-made charts.
        report: the report run: table, text, files.
        page: the interactive page among its artifacts.
    """

    runs: str
    dashboard: str
    report: str
    page: str

    def at(self, server: str) -> Links:
        """The same as full addresses, at ``http://127.0.0.1:5000`` for example."""
        base = server.rstrip("/")
        return Links(base + self.runs, base + self.dashboard, base + self.report, base + self.page)


def publish(findings: Findings, folder: Path, uri: str, experiment: str, subject: Subject) -> Links:
    """Publishes a study, whose files are already written, in MLflow.

    * One report run, with every file of ``folder`` and the text as its description. An earlier report on the same
      subject is updated, so that its links stay valid.
    * The study's training runs, found by the hashes of their configuration, data and code, get the subject's tag,
      ``method`` and one colour per method; a run that is no longer part of the study loses the tag. A run without
      figures for each method names its colour in the charts' legends.
    * A dashboard view of the runs that are points of its figures (`ctr.report.view`).

    Args:
        findings: what the study found.
        folder: with the study's files (`ctr.report.folder`); all of them are uploaded.
        uri, experiment: where the training runs were tracked.
        subject: identifies the study.

    Raises:
        CtrError: MLflow cannot be used.
    """
    earlier = f"{_REPORTS} AND tags.subject = '{subject.key}'"
    tracker = MlflowTracker(uri, experiment, f"report: {subject.title}", earlier=earlier)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    try:
        with explained(uri):
            experiment_id = client.get_run(tracker.run_id).info.experiment_id
            colors = _mark_runs(client, experiment_id, findings, subject)
            _name_methods(client, experiment_id, subject, colors)
            address = view.create(client, experiment_id, subject, rates=not findings.points.empty)
        files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
        for path in files:
            tracker.artifact(path)
        tracker.remove_artifacts(keep={path.name for path in files})
        about = {"study": subject.study, "dataset": subject.dataset, "source": subject.source}
        about |= {"data_hash": subject.data_hash, "subject": subject.key, "title": subject.title}
        about |= {SOURCE: "ctr.reproduce"}
        # Last, so that what is called a report is a whole one.
        tracker.tags({**about, NOTE: _note(findings.text), "kind": "report"})
    except BaseException as error:
        if not tracker.renewed:  # an earlier report stays one
            with suppress(CtrError):  # the error itself says more
                tracker.finish(status_of(error))
        raise
    tracker.finish("FINISHED")
    return _links(address, experiment_id, tracker.run_id)


_REPORTS = "tags.kind = 'report'"


def published(uri: str) -> dict[str, tuple[str, Links]]:
    """The studies in a database: key of the subject -> title and links, in order of their keys."""
    quiet()
    from mlflow.tracking import MlflowClient

    found: dict[str, tuple[str, Links]] = {}
    with explained(uri):
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        finished = f"{_REPORTS} AND tags.subject != '' AND attributes.status = 'FINISHED'"
        for run in _search(client, experiments, finished):
            key, title, experiment_id = run.data.tags["subject"], run.data.tags["title"], run.info.experiment_id
            address = view.address(experiment_id, key)
            found.setdefault(key, (title, _links(address, experiment_id, run.info.run_id)))  # the latest comes first
    return dict(sorted(found.items()))


def overviews(uri: str) -> list[str]:
    """Makes a view of all training runs in each experiment of a database that has one; where they are, relative to the
    server's root. Where they cannot be written, such as in a read-only database, a warning says so."""
    quiet()
    from mlflow.tracking import MlflowClient

    with explained(uri):
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        tracked = [one for one in experiments if client.search_runs([one], "tags.opt != ''", max_results=1)]
    try:
        with explained(uri):
            return [view.create_overview(client, one) for one in tracked]
    except CtrError as error:
        log.warning("warning: there is no new view of all runs: %s", error)
        return []


def _links(view: str, experiment_id: str, run_id: str) -> Links:
    runs = f"/#/experiments/{experiment_id}/runs"
    run, training = f"{runs}/{run_id}", "?workflowType=machine_learning"  # else MLflow shows its menu for agents
    return Links(
        view.replace("&compareRunsMode=CHART", ""), view, run + training, f"{run}/artifacts/page.html{training}"
    )


def _note(text: str) -> str:
    """The text as a run's description: its first table first, as MLflow folds all but some lines away, and without its
    heading, which is the run's name; cut between paragraphs if it is longer than MLflow allows."""
    heading = "# " if text.startswith("# ") else ""
    parts = text.split("\n\n")[1 if heading else 0 :]
    first = next((i for i, part in enumerate(parts) if part.startswith(("|", "#"))), 0)
    if parts and parts[first].startswith("|"):
        parts.insert(0, parts.pop(first))
    text = "\n\n".join(parts)
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


def _mark_runs(client: MlflowClient, experiment_id: str, findings: Findings, subject: Subject) -> dict[str, str]:
    """Gives the study's runs, and no others, the tags by which its dashboard finds, groups and colours them, and the
    metrics that its charts need of every run; returns the colours of the methods that it shows."""
    from mlflow.entities import Metric, RunTag

    roles, mark = _roles(findings), tag(subject.key)
    runs = list(_search(client, [experiment_id], "attributes.status = 'FINISHED' AND metrics.auc > 0"))
    colors = {run.data.tags["method"]: run.data.tags[COLOR] for run in runs if {"method", COLOR} <= {*run.data.tags}}
    missing = set(roles)
    # What the figures show gets its colours first, in the order in which it was asked for: as on the page.
    places = {key: (role != SHOWN, number) for number, (key, role) in enumerate(roles.items())}
    ours = [(places[key], _method(run.data.params)) for run in runs if (key := _hashes(run.data.tags)) in places]
    for _, method in sorted(ours):
        _color(method, colors)
    for run in runs:  # the latest first
        tags = run.data.tags
        key = _hashes(tags)
        if key in missing:
            missing.remove(key)  # a second run of the same configuration would be a second point at the same place
            method = _method(run.data.params)
            new = {mark: roles[key], "method": method, COLOR: _color(method, colors)}
            needed = view.coordinates(run.data.params)
            changed = [RunTag(name, value) for name, value in new.items() if tags.get(name) != value]
            added = [
                Metric(name, needed[name], run.info.end_time, 0) for name in needed if name not in run.data.metrics
            ]
            if changed or added:
                client.log_batch(run.info.run_id, metrics=added, tags=changed)
        elif mark in tags:
            client.delete_tag(run.info.run_id, mark)
    if missing:
        log.warning(
            "%d of the study's %d runs are not in this MLflow experiment: the dashboard cannot show them; "
            "the report has them all",
            len(missing),
            len(roles),
        )
    return {method: colors[method] for (tried, _), method in sorted(ours) if not tried}


def _name_methods(client: MlflowClient, experiment_id: str, subject: Subject, colors: Mapping[str, str]) -> None:
    """Keeps a run for each method, without figures: MLflow's legends list runs, these first (`view.state`), and so tell
    which colour is which method's. All studies of an experiment share them."""
    mark, named = tag(subject.key), dict[str, str]()
    for run in _search(client, [experiment_id], f"tags.kind = '{LEGEND}'"):
        named[run.info.run_name] = run.info.run_id
        if mark in run.data.tags and run.info.run_name not in colors:
            client.delete_tag(run.info.run_id, mark)
    for method, color in colors.items():
        if method not in named:
            about = {"kind": LEGEND, COLOR: color, SOURCE: "ctr.reproduce", NOTE: "The name of a colour in charts."}
            run = client.create_run(experiment_id, run_name=method, tags=about)
            client.log_param(run.info.run_id, "seed", view.BEFORE_SEEDS)
            client.set_terminated(run.info.run_id)
            named[method] = run.info.run_id
        client.set_tag(named[method], mark, SHOWN)


HASHES = ("config_hash", "data_hash", "code_hash")  # what a run computed: other code has other figures


def _hashes(values: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(values.get(name) for name in HASHES)


def _roles(findings: Findings) -> dict[tuple[object, ...], str]:
    """The role of each finished run, by its hashes: `SHOWN` if it is a point of the study's figures (all are if there
    are no points), else `TRIED`."""
    figures = ["seed", "auc", "feature_rate"]
    if not {*HASHES, *figures} <= {*findings.runs.columns}:
        return {}
    points = set(findings.points[figures].itertuples(index=False, name=None))
    done = findings.runs.dropna(subset=[*HASHES])
    return {
        _hashes(row): SHOWN if not points or tuple(row[name] for name in figures) in points else TRIED
        for row in done.to_dict("records")
    }


def _method(params: Mapping[str, str]) -> str:
    """Names the way in which features are selected: "adam, pruned by norm"."""
    name = params.get("opt.name", "unknown")
    if params.get("opt.threshold", "soft") != "soft":
        name += f", {params['opt.threshold']}"
    if params.get("prune.name", "none") != "none":
        name += f", pruned by {params.get('prune.score', 'norm')}"
    return name


def _color(method: str, taken: dict[str, str]) -> str:
    """The method's colour in this experiment; a new method gets an unused one."""
    if method not in taken:
        free = [color for color in PALETTE if color not in taken.values()]
        taken[method] = free[0] if free else PALETTE[len(taken) % len(PALETTE)]
    return taken[method]
