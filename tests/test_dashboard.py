"""``python -m ctr.dashboard``."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import command
from tests.report import invented


@pytest.mark.slow
def test_prints_the_links_and_ends_with_ctrl_c(ready_database: Path, tmp_path: Path) -> None:
    uri, jobs = invented.database(ready_database, tmp_path), invented.rows().head(2)
    invented.track(uri, jobs)
    links = invented.publish(invented.findings(jobs), tmp_path / "files", uri, invented.SUBJECT)
    process = subprocess.Popen(
        [sys.executable, "-m", "ctr.dashboard", "--port", "0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(7)]
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert lines[0].startswith("MLflow on sqlite:///mlflow.db: http://127.0.0.1:")
    server = lines[0].split()[3]
    runs = f"{server}/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
    assert lines[1].split() == ["all", "runs", f"{runs}&viewStateShareKey=all-runs"]
    assert lines[3] == "table2 on criteo (1,234 rows)\n"
    whole = links.at(server)
    assert [line.split() for line in lines[4:]] == [
        ["dashboard", whole.dashboard],
        ["report", whole.report],
        ["page", whole.page],
    ]
    assert (rest, errors, process.returncode) == ("\nended\n", "", 0)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(server.rpartition(":")[2]))) != 0, "the server is still there"


@pytest.mark.slow
def test_errors_are_one_line(tmp_path: Path, ready_database: Path) -> None:
    done = command(tmp_path, "ctr.dashboard")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --uri sqlite:///mlflow.db: no database {tmp_path}{os.sep}mlflow.db; ")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = command(tmp_path, "ctr.dashboard", "--uri", f"sqlite:///{ready_database}", "--port", port)
    assert (done.returncode, done.stderr) == (2, f"error: --port {port}: Address already in use; choose another\n")
