"""``resume=<run_dir>`` as a user meets it: kills, signals, refusals, the record in MLflow, sweeps and studies."""

import json
import os
import random
import signal
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from ctr import train
from ctr.config import resume
from ctr.errors import ArgumentError, DataError
from ctr.training import checkpointing, precopy
from ctr.training.folder import CONFIG
from ctr.training.trainer import TrainingRun
from tests import commands
from tests.commands import Done, Forked, command, result
from tests.datasets.criteo_text import arguments
from tests.native.built import needs_kernels
from tests.training.runs import untimed

OPTIONS = ["batch_size=32", "checkpoint.every_steps=2"]  # 11 steps


def signalled(module: str, number: int, step: int, copy: bool, overrides: list[str]) -> None:
    """In a process of its own: a command that gets a signal at the end of a step, whichever run makes it."""
    real = TrainingRun.step

    def then(self: TrainingRun, batch: Any) -> Any:
        done = real(self, batch)
        if self.steps == step:
            os.kill(os.getpid(), number)
        return done

    TrainingRun.step = then  # type: ignore[method-assign]
    precopy.WAIT, precopy.ROUNDS = 0, 2  # in two parts, with steps between them
    if not copy:
        checkpointing.goes_on = lambda run: False
    commands.execute(module, overrides)


def stopped(folder: Path, number: int, step: int, *overrides: str, copy: bool = False) -> Done:
    return Forked(folder, signalled, "ctr.train", number, step, copy, list(overrides)).end()


def figures(folder: Path) -> dict[str, Any]:
    return untimed(result(folder))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log, its prepared rows, and of undisturbed runs."""
    return tmp_path_factory.mktemp("log")


def whole(log: Path, *options: str) -> dict[str, Any]:
    folder = log / ",".join(options).replace("/", "-")
    if not folder.exists():
        done = command(log, "ctr.train", *arguments(log, "tracking=none", *options, f"run_dir='{folder}'"))
        assert done.returncode == 0, done.stderr
    return figures(folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
@pytest.mark.parametrize("backend", ["torch", pytest.param("native", marks=needs_kernels)])
def test_killed_at_random_steps(log: Path, tmp_path: Path, backend: str, number: int) -> None:
    """``kill -9``, while a thread may be writing, once or twice: the same bits as ever."""
    chance = random.Random(f"{backend} {number}")
    options = [f"backend={backend}", f"opt={chance.choice(['group_adam', 'adagrad'])}", "batch_size=32", "save=none"]
    every = f"checkpoint.every_steps={chance.choice([1, 2, 3])}"
    first = arguments(log, "tracking=none", *options, every, "run_dir=run")
    for line in [first, ["resume=run"]][: chance.randint(1, 2)]:
        done = stopped(tmp_path, signal.SIGKILL, chance.randint(1, 11), *line, copy=chance.random() < 0.7)
        if done.returncode == 0:  # it went on behind the step
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    if not (tmp_path / "run" / "result.json").exists():
        done = command(tmp_path, "ctr.train", "resume=run")
        assert done.returncode == 0, done.stderr
    assert figures(tmp_path / "run") == whole(log, *options)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow)],
)
def test_a_signal_leaves_a_checkpoint_and_the_way_to_go_on(
    log: Path, tmp_path: Path, number: int, code: int, said: str
) -> None:
    """At the step that was done, whatever the interval; the last line says how, and that works."""
    options = ["batch_size=32", "opt=adam"]
    done = stopped(tmp_path, number, 7, *arguments(log, "tracking=none", *options, "run_dir='my run'"))
    assert done.returncode == code
    *before, last = done.stderr.splitlines()
    assert "writing a checkpoint; Ctrl-C again ends at once" in before  # on a line of its own, not behind the bar
    assert last == f"error: {said}; resume with: python -m ctr.train \"resume='my run'\""
    (manifest,) = (tmp_path / "my run" / "checkpoints").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["steps"] == 7
    recorded = yaml.safe_load((tmp_path / "my run" / ".hydra" / "config.yaml").read_text())
    again = command(tmp_path, "ctr.train", "resume='my run'")
    assert again.returncode == 0, again.stderr
    assert "goes on after step 7 (row 224 of 342)" in again.stderr
    assert figures(tmp_path / "my run") == whole(log, *options)
    line = " ".join(["python -m ctr.train", *arguments(log, "tracking=none", *options), "report=false"])
    assert again.stdout.splitlines()[-1] == f"  to repeat         {line}"
    after = yaml.safe_load((tmp_path / "my run" / ".hydra" / "config.yaml").read_text())
    assert after == recorded
    assert list(tmp_path.iterdir()) == [tmp_path / "my run"]  # and nothing elsewhere


@pytest.mark.slow
def test_without_checkpoints_a_signal_ends_it_as_ever(log: Path, tmp_path: Path) -> None:
    off = arguments(log, "tracking=none", "batch_size=32", "checkpoint.every_minutes=null", "run_dir=run")
    done = stopped(tmp_path, signal.SIGINT, 7, *off)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "error: interrupted")
    again = command(tmp_path, "ctr.train", "resume=run")
    assert again.returncode == 0
    assert "no checkpoint in " in again.stderr
    assert figures(tmp_path / "run") == whole(log, "batch_size=32")


@pytest.mark.slow
def test_a_finished_run_says_so(log: Path, tmp_path: Path) -> None:
    assert command(tmp_path, "ctr.train", *arguments(log, "tracking=none", "run_dir=run")).returncode == 0
    path = tmp_path / "run" / "result.json"
    before = path.read_text()
    again = command(tmp_path, "ctr.train", "resume=run")
    assert again.returncode == 0
    assert f"test AUC          {json.loads(before)['auc']:.4f}" in again.stdout
    assert again.stdout.endswith("finished already: there is nothing to go on with\n")
    assert path.read_text() == before
    path.write_text(before.replace('"auc"', '"acu"'))
    done = command(tmp_path, "ctr.train", "resume=run")
    assert done.returncode == 0
    assert "result.json: not as it was written (checksum); the run does not count as finished" in done.stderr
    assert untimed(json.loads(path.read_text())) == untimed(json.loads(before))


def test_what_does_not_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("seed: 0\n")
    run = f"resume={tmp_path / 'run'}"
    for line, said in [
        ([run, "-m"], "without -m; a sweep goes on when its own command is repeated"),
        ([run, "--multirun"], "without -m"),
        (
            [run, "opt.lr=0.1"],
            f"{run}: the run keeps its configuration, so opt.lr=0.1 cannot be given; leave it out, or start a new run",
        ),
        ([run, "opt=adam"], "so opt=adam cannot be given"),
        ([run, "run_dir=elsewhere"], "so run_dir=elsewhere cannot be given"),
        ([run, "checkpoints.keep=1"], "so checkpoints.keep=1 cannot be given"),
        (
            ["resume=nowhere"],
            "resume=nowhere: no run there; expected the folder of a run, with .hydra/config.yaml in it",
        ),
        ([f"resume={tmp_path}"], "no run there"),
    ]:
        with pytest.raises(ArgumentError) as error:
            resume.command_line(line)
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="file: a file; expected a folder, or a name that is not in use"):
        resume.command_line(["dataset=criteo", f"run_dir={tmp_path / 'file'}"])
    free = [
        run,
        "tracking=none",
        "checkpoint.keep=1",
        "backend=torch",
        "threads=1",
        "dataset.raw=x",
        "hydra.verbose=true",
    ]
    assert resume.command_line(free)[: len(free)] == free
    for line in (["seed=3"], ["resume=null"], ["--help"], ["seed=[1"]):
        assert resume.command_line(line) == line


def test_a_configuration_that_was_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Hydra writes it in place: a full disk or ``kill -9`` leaves its beginning."""
    config = commands.composed("train", "dataset=criteo")
    text = OmegaConf.to_yaml(config)
    path = tmp_path / CONFIG
    path.parent.mkdir()
    for length in [*range(0, len(text) - 1, 23), *range(len(text) - 40, len(text))]:
        path.write_text(text[:length])
        with pytest.raises(
            DataError, match=r"config.yaml: (not the configuration of a run, or cut; without it|it lacks)"
        ):
            resume.recorded(tmp_path, config, [])
    path.write_text(text)
    assert resume.recorded(tmp_path, config, []) == config
    older = OmegaConf.masked_copy(config, [key for key in config if key not in ("average", "report")])
    path.write_text(OmegaConf.to_yaml(older))
    with pytest.raises(
        DataError, match=r"it lacks report, average: written by an earlier version of ctr, or cut; go on"
    ):
        resume.recorded(tmp_path, config, [])


def test_ctrl_c_before_a_run_goes_on_says_how_to_go_on(log: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **more: object) -> None:
        raise KeyboardInterrupt

    config = commands.composed("train", *arguments(log, "tracking=none", "resume=run"))
    monkeypatch.setattr(
        train, "HydraConfig", SimpleNamespace(get=lambda: SimpleNamespace(overrides=SimpleNamespace(task=[])))
    )
    monkeypatch.setattr(resume, "recorded", lambda folder, config, given: config)
    monkeypatch.setattr(train, "_resolved", interrupted)
    with pytest.raises(KeyboardInterrupt) as stop:
        train.run(config, here / "run")
    assert stop.value.args == ("resume with: python -m ctr.train resume=run",)


@pytest.mark.slow
def test_given_values_reach_the_run(log: Path, tmp_path: Path) -> None:
    """A log that was moved, another backend and interval: the run goes on, with a warning of what differs."""
    line = arguments(log, "tracking=none", *OPTIONS, "backend=torch", "seed=5", "run_dir=run")
    assert stopped(tmp_path, signal.SIGKILL, 8, *line).returncode == -signal.SIGKILL
    moved = tmp_path / "moved.txt"
    os.link(log / "train.txt", moved)
    more = [f"dataset.raw={moved}", f"dataset.prepared={tmp_path / 'prepared'}", "threads=1", "checkpoint.final=true"]
    done = command(tmp_path, "ctr.train", "resume=run", *more)
    assert done.returncode == 0, done.stderr
    assert "warning: since the checkpoint changed: threads was 2, is 1. " in done.stderr
    assert "goes on after step 6" in done.stderr
    got = figures(tmp_path / "run")
    expected = whole(log, "batch_size=32", "backend=torch", "seed=5")
    assert got["auc"] == pytest.approx(expected["auc"], abs=2e-3)
    assert (tmp_path / "run" / "checkpoints" / "final").is_dir()
    (tmp_path / "run" / ".hydra" / "config.yaml").write_text("[]")
    (tmp_path / "run" / "result.json").unlink()
    broken = command(tmp_path, "ctr.train", "resume=run")
    assert broken.returncode == 1
    assert (
        "config.yaml: not the configuration of a run, or cut; without it the run cannot go on: start" in broken.stderr
    )


def curve(database: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(
            "SELECT DISTINCT run_uuid, key, step, value FROM metrics WHERE key IN ('train/loss', 'train/auc', 'auc') "
            "ORDER BY key, step"
        ).fetchall()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the connections that MLflow leaves
def test_the_record_goes_on(log: Path, tmp_path: Path, ready_database: Path) -> None:
    """One MLflow run with the curves of an undisturbed one; where it is gone, a new one names it."""
    for name in ("whole", "killed"):
        (tmp_path / f"{name}.db").write_bytes(ready_database.read_bytes())
    options = [*OPTIONS, "window=2"]
    line = arguments(log, *options, f"tracking.uri=sqlite:///{tmp_path / 'whole.db'}", "run_dir=whole")
    assert command(tmp_path, "ctr.train", *line).returncode == 0
    database = tmp_path / "killed.db"
    line = arguments(log, *options, f"tracking.uri=sqlite:///{database}", "run_dir=run")
    assert stopped(tmp_path, signal.SIGKILL, 7, *line).returncode == -signal.SIGKILL
    lost = tmp_path / "lost.db"
    lost.write_bytes(ready_database.read_bytes())
    kept = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for place, more in ((database, ["threads=2"]), (lost, [f"tracking.uri=sqlite:///{lost}"])):
        done = command(tmp_path, "ctr.train", "resume=run", *more)
        assert done.returncode == 0, done.stderr
        with sqlite3.connect(place) as connection:
            ((run, status),) = connection.execute("SELECT run_uuid, status FROM runs").fetchall()
            tags = dict(connection.execute("SELECT key, value FROM tags"))
        assert status == "FINISHED"
        if place == database:
            first = run
            assert [point[1:] for point in curve(database)] == [point[1:] for point in curve(tmp_path / "whole.db")]
            assert "resumed_from" not in tags
        else:
            assert tags["resumed_from"] == first
        for path, content in kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (tmp_path / "run" / "result.json").unlink()


@pytest.mark.slow
def test_a_sweep_goes_on_when_it_is_asked_to(log: Path, tmp_path: Path) -> None:
    """The same command again, in another run folder."""
    sweep = ["-m", *arguments(log, "tracking=none", "batch_size=32", "seed=1,2")]
    assert stopped(tmp_path, signal.SIGKILL, 9, *sweep).returncode == -signal.SIGKILL
    assert not list(tmp_path.rglob("checkpoints"))  # not asked
    sweep += ["checkpoint.every_steps=2"]
    assert stopped(tmp_path, signal.SIGKILL, 9, *sweep).returncode == -signal.SIGKILL
    assert len([*tmp_path.glob("runs/jobs/*/checkpoints/0*")]) == 2
    done = command(tmp_path, "ctr.train", *sweep)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("goes on after step 8") == 1
    assert not list(tmp_path.rglob("checkpoints"))
    got = [untimed(json.loads(path.read_text())) for path in tmp_path.glob("runs/jobs/*/result.json")]
    assert sorted(got, key=lambda figures: figures["seed"]) == [
        whole(log, "batch_size=32", f"seed={seed}") for seed in (1, 2)
    ]


@pytest.mark.slow
def test_a_study_goes_on_when_it_is_asked_to(log: Path, tmp_path: Path) -> None:
    study = ["study=table2", *arguments(log, "tracking=none", "seeds=[0]", "lambda21=[1e-3]", "finetune=[0.3]")]
    study += ["lr=1e-3", "workers=1", "+train.batch_size=32", "model.hidden=[8]"]
    asked = "+train.checkpoint.every_steps=2"
    jobs = tmp_path / "runs" / "jobs"
    assert command(tmp_path, "ctr.reproduce", *study).returncode == 0
    expected = {path.parent.name: untimed(json.loads(path.read_text())) for path in jobs.glob("*/result.json")}
    for number, folder in enumerate(jobs.iterdir()):  # as a kill would leave them
        if folder.is_dir() and number % 2:
            (folder / "result.json").unlink(missing_ok=True)
    done = command(tmp_path, "ctr.reproduce", *study, asked)
    assert done.returncode == 0, done.stderr
    found = {path.parent.name: untimed(json.loads(path.read_text())) for path in jobs.glob("*/result.json")}
    assert found == expected
    assert not list(jobs.rglob("checkpoints"))


def test_the_line_to_repeat_a_run_names_where_its_parts_are_found(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- model=nfm\n- run_dir=out\n")
    found = {"hydra": {"overrides": {"hydra": ["hydra.mode=RUN", "hydra.searchpath=[pkg://shop.conf]"]}}}
    (tmp_path / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(found))
    expected = "python -m ctr.train 'hydra.searchpath=[pkg://shop.conf]' model=nfm"
    assert resume.started_by(tmp_path) == expected
    (tmp_path / ".hydra" / "hydra.yaml").unlink()
    assert resume.started_by(tmp_path) == ""
