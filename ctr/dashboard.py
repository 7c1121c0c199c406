"""``python -m ctr.dashboard``: MLflow's interface on a local database, and where each study is in it.

    python -m ctr.dashboard                                     mlflow.db of this folder, on http://127.0.0.1:5000
    python -m ctr.dashboard --uri sqlite:///runs/mlflow.db --port 5001

Light: one worker and none of MLflow's background jobs (a third of the memory), no telemetry. Open to this machine
alone. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from ctr.cli import Terminated, run_command
from ctr.errors import ArgumentError, CtrError
from ctr.report import mlflow as report
from ctr.training.database import SQLITE, meaning, path_of

HOST = "127.0.0.1"
STARTS_WITHIN = 120.0  # seconds


@contextmanager
def serving(uri: str, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server on a database while the block runs: its address and its process, ready to answer.

    Args:
        uri: ``sqlite:///PATH`` of a database that exists.
        port: 0 picks a free one.

    Raises:
        ArgumentError: no such database, or the port is taken.
        CtrError: the server does not come up.
    """
    database = path_of(uri)
    if database is None:
        raise ArgumentError(f"--uri {uri}: expected {SQLITE}PATH, a local database; a server has its own interface")
    if not database.is_file():
        raise ArgumentError(f"--uri {uri}: no database {database}; a tracked run makes one, such as `make run`")
    port = _usable(port)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"{SQLITE}{database}"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with tempfile.TemporaryFile() as output:
        server = subprocess.Popen(
            [*command, "--host", HOST, "--port", str(port), "--workers", "1"],
            cwd=database.parent,  # where an experiment that is made in the interface would put its artifacts
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the server and its workers
        )
        try:
            address = f"http://{HOST}:{port}"
            _wait(server, address, output, uri)
            yield address, server
        finally:
            _end(server)


def _usable(port: int) -> int:
    """``port``, or for 0 any that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ArgumentError(f"--port {port}: {getattr(error, 'strerror', error)}; choose another") from error
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], address: str, output: IO[bytes], uri: str) -> None:
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:  # not yet
            time.sleep(0.1)
    output.seek(0)
    said = output.read().decode(errors="replace")
    last = (said.strip().splitlines() or ["nothing"])[-1]
    state = "took too long to start" if server.poll() is None else f"ended at once with code {server.returncode}"
    raise CtrError(f"the MLflow server {state}: {meaning(said, uri) or f'its last words: {last}'}")


def _end(server: subprocess.Popen[bytes]) -> None:
    """Ends the server and its workers, by force after ten seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # already gone
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)
            return


def main() -> None:
    first, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m ctr.dashboard", description=first, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--uri", default=f"{SQLITE}mlflow.db", help="the database (default: %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="default: %(default)s; 0: a free one")
    options = parser.parse_args()
    with serving(options.uri, options.port) as (address, server):
        try:
            print(f"MLflow on {options.uri}: {address}   (Ctrl-C ends it)")
            for place in report.overviews(options.uri):
                print(f"  {'all runs':<9}  {address}{place}")
            for title, links in report.published(options.uri).values():
                whole = links.at(address)
                print(f"\n{title}\n  dashboard  {whole.dashboard}\n  report     {whole.report}")
                print(f"  page       {whole.page}")
            sys.stdout.flush()
            while (code := server.poll()) is None:
                time.sleep(0.2)  # not server.wait(): where polars is installed, Ctrl-C does not interrupt that
        except KeyboardInterrupt as stop:
            if isinstance(stop, Terminated):
                raise
            print("\nended")
            return
    raise CtrError(f"the MLflow server ended by itself, with code {code}")


if __name__ == "__main__":
    run_command(main)
