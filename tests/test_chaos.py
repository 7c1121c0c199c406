"""The campaign of `scripts/chaos.py`: it sees what is wrong, and the commands hold in 30 rounds."""

import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

from tests.scripts import SCRIPTS, script

ROUNDS = 30


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("chaos_commands")


@pytest.mark.slow
def test_thirty_rounds(tmp_path: Path) -> None:
    """In a process of its own: it must have no threads."""
    line = [sys.executable, SCRIPTS / "chaos.py", "--rounds", str(ROUNDS), "--seed", "5", "--folder", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (total,) = (line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| all "))
    _, _, rounds, ended, interrupted, repaired, refused, wrong = (cell.strip(" |") for cell in total)
    assert int(rounds) == int(repaired) + int(refused) == ROUNDS
    assert (int(interrupted) > 5, int(ended) > 0, wrong) == (True, True, "0")
    assert not [*tmp_path.iterdir()]


def test_a_figure_that_differs_in_the_last_bit_is_seen(commands: ModuleType, tmp_path: Path) -> None:
    (command,) = (command for command in commands.COMMANDS if command.name == "train native")
    path = tmp_path / "runs" / "native" / "result.json"
    path.parent.mkdir(parents=True)
    figures = {"auc": 0.7, "auc_by_day": {"20141030": 0.1 + 0.2}, "train_seconds": 1.5}
    path.write_text(json.dumps(figures))
    expected = commands.figures(command, tmp_path)
    path.write_text(json.dumps({**figures, "train_seconds": 9.0}))
    assert commands.figures(command, tmp_path) == expected
    path.write_text(json.dumps({**figures, "auc_by_day": {"20141030": 0.3}}))
    found = commands.figures(command, tmp_path)
    assert found != expected
    assert commands.difference(found, expected) == "auc_by_day 20141030 0.3, expected 0.30000000000000004"


def test_prepared_rows_are_compared_byte_for_byte(commands: ModuleType, tmp_path: Path) -> None:
    (command,) = (command for command in commands.COMMANDS if command.name == "prepare avazu")
    folder = tmp_path / "data" / "avazu" / "prepared" / "sample-onehot-0"
    folder.mkdir(parents=True)
    (folder / "rows.arrow").write_bytes(b"rows")
    (folder / "manifest.json").write_text('{"rows": 3, "input": {"files": ["here"], "sha256": "0"}}')
    before = commands.figures(command, tmp_path)
    (folder / "manifest.json").write_text('{"rows": 3, "input": {"files": ["there"], "sha256": "0"}}')
    assert commands.figures(command, tmp_path) == before
    (folder / "rows.arrow").write_bytes(b"rowz")
    assert commands.figures(command, tmp_path) != before


def test_half_written_files_are_seen_but_for_temporary_and_damaged_ones(commands: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "whole.json").write_text("{}")
    (tmp_path / "half.json").write_text('{"auc": 0.')
    (tmp_path / "hurt.json").write_text("{")
    (tmp_path / ".tmp-1-later.json").write_text("{")
    (tmp_path / "half.jsonl").write_text('{"job": 0}\n{"job')
    with pa.ipc.new_file(str(tmp_path / "rows.arrow"), pa.schema({"id": pa.int32()})) as writer:
        writer.write_batch(pa.record_batch({"id": pa.array([1, 2], pa.int32())}))
    assert commands.half_written(tmp_path, {tmp_path / "hurt.json"}) == ["half.json", "half.jsonl"]
    (tmp_path / "rows.arrow").write_bytes((tmp_path / "rows.arrow").read_bytes()[:-5])
    assert "rows.arrow" in commands.half_written(tmp_path, {tmp_path / "hurt.json"})


def test_damage_changes_the_file_and_is_the_same_for_the_same_seed(commands: ModuleType, tmp_path: Path) -> None:
    path, content = tmp_path / "rows.arrow", bytes(range(1, 251))
    seen = set()
    for seed in range(40):
        found = []
        for _ in range(2):
            path.write_bytes(content)
            said = commands.damage(path, random.Random(seed))
            found.append((said, path.read_bytes()))
        assert found[0] == found[1]
        assert found[0][1] != content
        seen.add(found[0][0].split()[0])
    assert seen == {"flip", "zero", "cut", "empty"}


def test_a_killed_worker_is_to_be_named_and_no_other() -> None:
    workers, process = script("chaos_workers"), script("chaos_process")
    line = "error: rank 1 has ended (of 2); the run cannot go on without it\n"

    def problems(killed: int | None, code: int = 0, err: str = line) -> list[str]:
        return workers.problems(process.Ended(code, 1.0, "", f"train: 70%|##{err}goes on\n", []), killed)

    assert problems(1) == problems(None, err="") == []
    assert problems(0) == problems(None) == ["ranks named as ended: ['1']"]
    assert problems(1, err="") == ["ranks named as ended: []"]
    assert problems(1, code=1) == ["exit code 1"]
    assert workers.problems(process.Ended(0, 1.0, "", line, ["left behind: x"]), 1) == ["left behind: x"]


def test_a_round_that_went_wrong_is_no_recovery() -> None:
    play = script("chaos_workers").Round(3, 1, 7)
    assert (play.outcome, play.row()[2]) == ("ended before", "")
    play.killed, play.resumed = True, 24
    assert play.row() == ["3", "rank 1", "step 24", "recovered"]
    play.problems.append("other results")
    assert play.row()[3] == "WRONG"


def test_a_worker_is_found_by_its_rank() -> None:
    line = [sys.executable, "-S", "-c", "import sys; print(flush=True); sys.stdin.read()"]
    find = script("chaos_process").worker_of
    with subprocess.Popen(line, env={"RANK": "11"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert find(os.getpid(), 11) == child.pid
        with pytest.raises(LookupError, match="no worker of rank 1"):
            find(os.getpid(), 1)
        child.communicate()
