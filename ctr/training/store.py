"""Where MLflow keeps runs: a local database or a server, opened, checked and named in errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ctr.errors import ArgumentError, CtrError
from ctr.training import database, processes
from ctr.training.database import SQLITE

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PROCESS = "process"  # the tag that says whose run it is


def quiet() -> None:
    """Settings for MLflow before it is loaded: no telemetry, no long waits, and its errors are ours to print."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Else minutes pass at a server that is not there, or that does not answer.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    for name in ("mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns whatever a store raises, each kind its own errors, into a `CtrError` of one line."""
    try:
        yield
    except CtrError:
        raise
    except Exception as error:
        raise CtrError(f"tracking.uri={uri}: {database.explain(error, uri)}") from error


def close_left(client: MlflowClient, experiment_id: str) -> None:
    """Records as killed what ``kill -9`` or a crash left running."""
    for run in client.search_runs([experiment_id], f"attributes.status = 'RUNNING' AND tags.{PROCESS} != ''"):
        if processes.ended(run.data.tags[PROCESS]):
            client.set_terminated(run.info.run_id, "KILLED")


def open_store(client_class: type[MlflowClient], uri: str, experiment: str) -> tuple[MlflowClient, Any]:
    """A client and the experiment's id. Making a database or an experiment is not safe against another process
    that does the same, so that the first one holds a lock."""
    path = database.path_of(uri)
    if path is None:
        return _open_experiment(client_class(tracking_uri=uri), experiment, None)
    path.parent.mkdir(parents=True, exist_ok=True)
    database.expect_usable(path)
    artifacts = path.with_name("mlartifacts").as_uri()
    with FileLock(f"{path}.lock"):
        database.make(path, artifacts)
        return _open_experiment(client_class(tracking_uri=uri), experiment, artifacts)


def _open_experiment(client: MlflowClient, name: str, artifacts: str | None) -> tuple[MlflowClient, Any]:
    found = client.get_experiment_by_name(name)
    if found is None:
        return client, client.create_experiment(name, artifact_location=artifacts)
    if found.lifecycle_stage != "active":
        raise CtrError(f"the MLflow experiment {name!r} is deleted; restore it or choose another tracking.experiment")
    return client, found.experiment_id


def check_uri(uri: str) -> None:
    """Refuses what MLflow would take for a folder of files, which it does not keep runs in any more.

    Raises:
        ArgumentError: with what to give instead.
    """
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
    path = database.path_of(uri)
    return uri if path is None else f"python -m mlflow server --backend-store-uri {SQLITE}{path}"
