"""Where a run's parameters, curves and results go: MLflow, or nowhere.

MLflow is imported only when a run is tracked: it takes seconds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from filelock import FileLock

from ctr.errors import ArgumentError, CtrError
from ctr.training import processes

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]
SQLITE = "sqlite:///"
# MLflow takes about 200 single metrics a second, and 9,000 in batches of up to 1,000.
MAX_BATCH = 1000
PROCESS = "process"  # the tag that says whose run it is


class Tracker(Protocol):
    """Watches one run."""

    def parameters(self, values: Mapping[str, object]) -> None:
        """Notes the run's configuration, by dotted name."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Notes what the run can be found by."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Notes a point of each curve."""

    def artifact(self, path: Path) -> None:
        """Keeps a copy of a file."""

    def text(self, name: str, text: str) -> None:
        """Keeps a text as a file."""

    def finish(self, status: Status) -> None:
        """Ends the run; nothing may follow."""


class NoTracker:
    """Keeps nothing."""

    def parameters(self, values: Mapping[str, object]) -> None:
        pass

    def tags(self, values: Mapping[str, str]) -> None:
        pass

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        pass

    def artifact(self, path: Path) -> None:
        pass

    def text(self, name: str, text: str) -> None:
        pass

    def finish(self, status: Status) -> None:
        pass


class MlflowTracker:
    """One MLflow run. Curves are kept back and sent in batches.

    Runs in the experiment that a killed process left running are recorded as killed, where it is certain that it is no
    more (`ctr.training.processes`).

    Args:
        uri: tracking URI; a ``sqlite:///`` database is made if missing, also when several processes want it at once.
        experiment: name of the experiment, made if missing.
        run_name: shown in the list of runs.
        tags: what the run can be found by from the start.
        earlier: a search for a run to go on with, under the new name, instead of making one; the latest that matches.

    Attributes:
        run_id: MLflow's.
        renewed: whether it is an earlier run.

    Raises:
        CtrError: the store cannot be reached or used.
    """

    def __init__(
        self, uri: str, experiment: str, run_name: str, tags: Mapping[str, str] | None = None, earlier: str = ""
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else minutes pass at a server that is not there
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # "Creating initial tables"
        try:
            self._client, experiment_id = _open_store(MlflowClient, uri, experiment)
            _close_left(self._client, experiment_id)
            found = self._client.search_runs([experiment_id], earlier, max_results=1) if earlier else []
            self.renewed = bool(found)
            if self.renewed:
                self._client.update_run(found[0].info.run_id, name=run_name)
                run = found[0]
            else:
                mark = processes.mark()
                marks = {} if mark is None else {PROCESS: mark}
                run = self._client.create_run(experiment_id, run_name=run_name, tags={**(tags or {}), **marks})
        except MlflowException as error:
            raise CtrError(f"tracking.uri={uri}: {error.message}") from error
        self._uri, self.run_id = uri, str(run.info.run_id)
        self._pending: list[Metric] = []

    def parameters(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:6000]) for name, value in values.items()]
        for start in range(0, len(params), 100):  # the most that MLflow takes at once
            self._client.log_batch(self.run_id, params=params[start : start + 100])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in values.items()])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._pending += [Metric(name, value, now, step) for name, value in values.items()]
        if len(self._pending) >= MAX_BATCH // 2:
            self._flush()

    def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            self._client.log_batch(self.run_id, metrics=batch)

    def artifact(self, path: Path) -> None:
        self._client.log_artifact(self.run_id, str(path))

    def remove_artifacts(self, keep: Collection[str]) -> None:
        """Of the files that an earlier run left, those that are not to stay."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        store = get_artifact_repository(self._client.get_run(self.run_id).info.artifact_uri, tracking_uri=self._uri)
        for artifact in self._client.list_artifacts(self.run_id):
            if artifact.path not in keep:
                store.delete_artifacts(artifact.path)

    def text(self, name: str, text: str) -> None:
        self._client.log_text(self.run_id, text, name)

    def finish(self, status: Status) -> None:
        self._flush()
        self._client.set_terminated(self.run_id, status)


def _close_left(client: MlflowClient, experiment_id: str) -> None:
    """Records as killed what ``kill -9`` or a crash left running."""
    for run in client.search_runs([experiment_id], f"attributes.status = 'RUNNING' AND tags.{PROCESS} != ''"):
        if processes.ended(run.data.tags[PROCESS]):
            client.set_terminated(run.info.run_id, "KILLED")


def _open_store(client_class: type[MlflowClient], uri: str, experiment: str) -> tuple[MlflowClient, Any]:
    """A client and the experiment's id. Making a database or an experiment is not safe against another process
    that does the same, so that the first one holds a lock."""
    if not uri.startswith(SQLITE):
        return _open_experiment(client_class(tracking_uri=uri), experiment, None)
    database = Path(uri.removeprefix(SQLITE)).absolute()
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        return _open_experiment(client_class(tracking_uri=uri), experiment, database.with_name("mlartifacts").as_uri())


def _open_experiment(client: MlflowClient, name: str, artifacts: str | None) -> tuple[MlflowClient, Any]:
    found = client.get_experiment_by_name(name)
    if found is None:
        return client, client.create_experiment(name, artifact_location=artifacts)
    if found.lifecycle_stage != "active":
        raise CtrError(f"the MLflow experiment {name!r} is deleted; restore it or choose another tracking.experiment")
    return client, found.experiment_id


def check_uri(uri: str) -> None:
    """Refuses what MLflow would take for a folder of files, which it does not keep runs in any more."""
    scheme, found, rest = uri.partition("://")
    if uri == "databricks":  # MLflow's name of a server
        return
    if not found or scheme == "file" or (scheme == "sqlite" and not rest.startswith("/")):
        path = rest if found else uri
        raise ArgumentError(
            f"tracking.uri={uri}; expected a database, as {SQLITE}{path.strip('/') or 'mlflow.db'}, or a server, as "
            "http://127.0.0.1:5000"
        )


def how_to_look(uri: str) -> str:
    """The command that shows the runs of a local database, or the address of a server."""
    if not uri.startswith(SQLITE):
        return uri
    database = Path(uri.removeprefix(SQLITE)).absolute()
    return f"python -m mlflow server --backend-store-uri {SQLITE}{database}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested configuration -> {"opt.lr": 0.001, ...}."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
