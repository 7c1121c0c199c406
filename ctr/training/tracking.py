"""Where a run's parameters, curves and results go: MLflow, or nowhere.

MLflow is imported only when a run is tracked: it takes seconds.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ctr.errors import CtrError, system_message
from ctr.files import atomic_write_text
from ctr.training import processes
from ctr.training.store import PROCESS, close_left, explained, open_store, quiet

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.models import Model

Status = Literal["FINISHED", "FAILED", "KILLED"]
# MLflow takes about 200 single metrics a second, and 9,000 in batches of up to 1,000.
MAX_BATCH = 1000
MODEL = "model"  # name of a run's model
# Tags: the columns "Source" and "Version" of the list.
SOURCE, COMMIT = "mlflow.source.name", "mlflow.source.git.commit"

log = logging.getLogger("ctr")


class WriteModel(Protocol):
    """Makes a model of MLflow in a folder ``made``, of a saved one: `ctr.artifact.pyfunc.write`."""

    def __call__(self, folder: Path, made: Path, model: Model) -> None: ...


class Tracker(Protocol):
    """Watches one run."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Notes what the run can be found by."""

    def data(self, name: str, digest: str, place: str, rows: int) -> None:
        """Notes what the run is on, for the column "Dataset" of MLflow's list: see `MlflowTracker.data`."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Notes a point of each curve."""

    def text(self, name: str, text: str) -> None:
        """Keeps a text as a file."""

    def flush(self) -> None:
        """Sends what is held back."""

    def model(self, folder: Path, write: WriteModel, registered: str | None) -> None:
        """Keeps a saved model, to be loaded and served from there.

        Args:
            folder: of the saved model.
            write: makes a model of MLflow of it.
            registered: the name under which it becomes a new version in the registry; None: it is not registered.
        """

    def finish(self, status: Status) -> None:
        """Ends the run; nothing may follow but its page."""

    def page(self, path: Path) -> None:
        """Keeps the page of a run that has ended."""


class NoTracker:
    """Keeps nothing."""

    def tags(self, values: Mapping[str, str]) -> None:
        pass

    def data(self, name: str, digest: str, place: str, rows: int) -> None:
        pass

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        pass

    def text(self, name: str, text: str) -> None:
        pass

    def flush(self) -> None:
        pass

    def model(self, folder: Path, write: WriteModel, registered: str | None) -> None:
        pass

    def finish(self, status: Status) -> None:
        pass

    def page(self, path: Path) -> None:
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
        parameters: the run's configuration, by dotted name.
        files: to be kept from the start.
        earlier: a search for a run to go on with, under the new name, instead of making one; the latest that matches.
        runs_again: the earlier run is running again, until it is finished. Else it keeps its status in the meantime.

    Attributes:
        run_id: MLflow's.
        renewed: whether it is an earlier run.

    Raises:
        CtrError: the store cannot be reached or used. So does every method.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_name: str,
        tags: Mapping[str, str] | None = None,
        *,
        parameters: Mapping[str, object] | None = None,
        files: Collection[Path] = (),
        earlier: str = "",
        runs_again: bool = False,
    ) -> None:
        quiet()
        self.uri = uri
        self._pending: list[Metric] = []
        with explained(uri):
            from mlflow.tracking import MlflowClient

            self._client, self._experiment_id = open_store(MlflowClient, uri, experiment)
            close_left(self._client, self._experiment_id)
            found = self._client.search_runs([self._experiment_id], earlier, max_results=1) if earlier else []
            self.renewed = bool(found)
            run = self._renew(found[0], run_name, runs_again) if found else self._new(run_name, tags or {})
            self.run_id = str(run.info.run_id)
            try:
                self._parameters({} if found else parameters or {})  # they cannot be changed
                for path in files:
                    self.artifact(path)
            except BaseException as error:
                with suppress(CtrError):  # the error itself says more
                    self.finish(status_of(error))
                raise

    def _renew(self, run: Run, name: str, runs_again: bool) -> Run:
        self._client.update_run(run.info.run_id, status="RUNNING" if runs_again else None, name=name)
        if runs_again and (mark := processes.mark()) is not None:
            self._client.set_tag(run.info.run_id, PROCESS, mark)
        return run

    def _new(self, name: str, tags: Mapping[str, str]) -> Run:
        mark = processes.mark()
        marks = {} if mark is None else {PROCESS: mark}
        return self._client.create_run(self._experiment_id, run_name=name, tags={**tags, **marks})

    def _parameters(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:6000]) for name, value in values.items()]
        for start in range(0, len(params), 100):  # the most that MLflow takes at once
            self._client.log_batch(self.run_id, params=params[start : start + 100])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        with explained(self.uri):
            self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in values.items()])

    def data(self, name: str, digest: str, place: str, rows: int) -> None:
        """Notes what the run is on.

        Args:
            name: of the log, for a reader; ``digest``: of its prepared rows, at most 36 characters.
            place: of the raw log.
            rows: of the whole log.
        """
        from mlflow.entities import Dataset, DatasetInput
        from mlflow.exceptions import MlflowException

        source, profile = json.dumps({"uri": place}), json.dumps({"num_rows": rows})
        inputs = [DatasetInput(Dataset(name, digest, "local", source, profile=profile))]
        with explained(self.uri):
            try:
                self._client.log_inputs(self.run_id, inputs)
            except MlflowException:  # a run that began at the same time has noted the same data meanwhile
                self._client.log_inputs(self.run_id, inputs)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Notes a point of each curve; if that fails they are not taken, and earlier ones are `unsent`."""
        from mlflow.entities import Metric

        if len(self._pending) + len(values) > MAX_BATCH // 2:
            self.flush()
        now = _milliseconds()
        self._pending += [Metric(name, value, now, step) for name, value in values.items()]

    def flush(self) -> None:
        with explained(self.uri):
            while batch := self._pending[:MAX_BATCH]:
                self._client.log_batch(self.run_id, metrics=batch)
                del self._pending[:MAX_BATCH]

    def unsent(self) -> list[Metric]:
        """The points that were taken and did not reach the store."""
        return list(self._pending)

    def artifact(self, path: Path) -> None:
        """Keeps a copy of a file."""
        with explained(self.uri):
            self._client.log_artifact(self.run_id, str(path))

    def remove_artifacts(self, keep: Collection[str]) -> None:
        """Of the files that an earlier run left, those that are not to stay."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with explained(self.uri):
            store = get_artifact_repository(self._client.get_run(self.run_id).info.artifact_uri, tracking_uri=self.uri)
            for artifact in self._client.list_artifacts(self.run_id):
                if artifact.path not in keep:
                    store.delete_artifacts(artifact.path)

    def text(self, name: str, text: str) -> None:
        with explained(self.uri):
            self._client.log_text(self.run_id, text, name)

    def model(self, folder: Path, write: WriteModel, registered: str | None) -> str:
        """Keeps a saved model, see `Tracker`; returns the URI by which it can be loaded."""
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        with explained(self.uri), TemporaryDirectory() as place:
            entry = self._client.create_logged_model(self._experiment_id, MODEL, source_run_id=self.run_id)
            id_, made = entry.model_id, Path(place, MODEL)
            try:
                write(folder, made, Model(run_id=self.run_id, model_id=id_, artifact_path=entry.artifact_location))
                self._client.log_model_artifacts(id_, str(made))
            except BaseException:
                with suppress(Exception):  # the error itself says more
                    self._client.finalize_logged_model(id_, "FAILED")
                raise
            self._client.finalize_logged_model(id_, "READY")
            self._client.log_outputs(self.run_id, [LoggedModelOutput(id_, step=0)])
        return f"models:/{id_}" if registered is None else self._register(registered, entry)

    def _register(self, name: str, entry: LoggedModel) -> str:
        from mlflow.exceptions import MlflowException

        with explained(self.uri):
            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            # Not models:/<id>, which MLflow would look up in the store of its global setting.
            place, id_ = entry.artifact_location, entry.model_id
            version = self._client.create_model_version(name, place, self.run_id, model_id=id_)
        return f"models:/{name}/{version.version}"

    def finish(self, status: Status) -> None:
        self.flush()
        with explained(self.uri):
            self._client.set_terminated(self.run_id, status)


class LastingTracker:
    """Hands everything on to an MLflow run; once that fails, keeps it and all that follows in a file. Nothing raises.

    The file is written when the run ends, after what it holds already, a JSON object on each line: first ``run``
    (``uri``, ``run_id`` and the ``error``), then in their order ``metrics`` (``values``, ``step``, ``time`` in
    milliseconds), ``tags`` (``values``), ``data`` (``name``, ``digest``, ``place``, ``rows``), ``text`` (``name``,
    ``text``), ``model`` (``folder``, ``registered``) and ``finish`` (``status``), each named by ``kind``.

    Args:
        tracker: of a run that has begun.
        path: of the file.

    Attributes:
        error: why the store takes nothing any more; None while it does.
        logged_model: URI of the model that it has taken.
    """

    def __init__(self, tracker: MlflowTracker, path: Path) -> None:
        self._tracker, self.path = tracker, path
        self.error: str | None = None
        self.logged_model: str | None = None
        self._kept: list[dict[str, object]] = []

    @property
    def run(self) -> Mapping[str, str]:
        """Where the record is: ``uri`` and ``run_id``."""
        return {"uri": self._tracker.uri, "run_id": self._tracker.run_id}

    def tags(self, values: Mapping[str, str]) -> None:
        self._hand_on(lambda: self._tracker.tags(values), {"kind": "tags", "values": dict(values)})

    def data(self, name: str, digest: str, place: str, rows: int) -> None:
        record = {"kind": "data", "name": name, "digest": digest, "place": place, "rows": rows}
        self._hand_on(lambda: self._tracker.data(name, digest, place, rows), record)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        record = {"kind": "metrics", "values": dict(values), "step": step, "time": _milliseconds()}
        self._hand_on(lambda: self._tracker.metrics(values, step), record)

    def text(self, name: str, text: str) -> None:
        self._hand_on(lambda: self._tracker.text(name, text), {"kind": "text", "name": name, "text": text})

    def flush(self) -> None:
        if self.error is None:
            try:
                self._tracker.flush()
            except Exception as error:
                self._give_up(error)

    def model(self, folder: Path, write: WriteModel, registered: str | None) -> None:
        """As the others; where a model alone cannot be kept, the rest of the record still is."""
        if self.error is not None:
            self._kept.append({"kind": "model", "folder": str(folder), "registered": registered})
            return
        try:
            self.logged_model = self._tracker.model(folder, write, registered)
        except Exception as error:
            log.warning("warning: the model is not logged: %s. The run goes on; the model is in %s", error, folder)
            log.debug("%s", error, exc_info=error)

    def finish(self, status: Status) -> None:
        self._hand_on(lambda: self._tracker.finish(status), {"kind": "finish", "status": status})
        if self.error is not None:
            try:
                before = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
                atomic_write_text(self.path, before + "".join(f"{json.dumps(line)}\n" for line in self._kept))
            except OSError as error:
                log.warning("warning: what was not tracked is lost: %s", system_message(error))

    def page(self, path: Path) -> None:
        """As the others, but what is not kept is warned of alone: it is in the run's folder."""
        if self.error is None:
            try:
                self._tracker.artifact(path)
            except Exception as error:
                log.warning("warning: the page is not logged: %s. It is %s", error, path)
                log.debug("%s", error, exc_info=error)

    def _hand_on(self, send: Callable[[], None], record: dict[str, object]) -> None:
        if self.error is None:
            try:
                send()
                return
            except Exception as error:
                self._give_up(error)
        self._kept.append(record)

    def _give_up(self, error: Exception) -> None:
        self.error = str(error) if isinstance(error, CtrError) else f"{type(error).__name__}: {error}"
        log.warning("warning: %s. The run goes on; what is not tracked will be in %s", self.error, self.path)
        log.debug("%s", error, exc_info=error)
        run = {**self.run, "error": self.error}
        points = [
            {"kind": "metrics", "values": {point.key: point.value}, "step": point.step, "time": point.timestamp}
            for point in self._tracker.unsent()
        ]
        self._kept += [{"kind": "run", **run}, *points]


def status_of(error: BaseException) -> Status:
    """How a run ended that an error ended."""
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def _milliseconds() -> int:
    return int(time.time() * 1000)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested configuration -> {"opt.lr": 0.001, ...}."""
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
