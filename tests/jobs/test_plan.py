"""From a job's overrides to its configuration, key and command line."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from ctr.config.command_line import command_line, override
from ctr.config.compose import _tried, resolve
from ctr.errors import ArgumentError
from ctr.jobs import plan
from ctr.jobs.cache import Cache
from ctr.jobs.plan import Job, Planner
from ctr.training import build
from ctr.training.settings import CheckpointSettings
from tests.commands import composed
from tests.datasets.criteo_text import lines, write


@pytest.mark.parametrize(
    "value",
    ["/a b/c.txt", "a\\b", "it's", "a\\'b", "end\\", "x=y,z", "1e-3", ".5", "", "null", "TRUE", "${x}", 1e-5, 1, True,
     None, [1, "a b"], [0.1, 1e-7], {"a": 1}],
)  # fmt: skip
def test_overrides_are_read_as_they_were_meant(value: object) -> None:
    (line,) = shlex.split(command_line("m", {"key": value}))[3:]
    assert line == override("key", value)
    assert OverridesParser.create().parse_override(line).value() == value


@pytest.mark.parametrize(
    "value", ["/a b/c.txt", "it's", '"', "`date`", "$HOME", "a\\b!", ["user id", "it;em"], [0.1, 1]]
)
def test_a_command_line_can_be_pasted_into_a_shell(value: object) -> None:
    line = command_line("m", {"key": value}).replace("python -m m", "printf %s")
    assert subprocess.run(["sh", "-c", line], capture_output=True, text=True).stdout == override("key", value)


def test_text_in_quotes_stays_readable() -> None:
    line = command_line("m", {"dataset.raw": "my file.csv", "dataset.categorical": ["user id"]})
    assert line == """python -m m "dataset.raw='my file.csv'" "dataset.categorical=['user id']\""""


def a_planner(folder: Path, **always: object) -> Planner:
    places = {"dataset.raw": str(folder / "train.txt"), "dataset.prepared": str(folder / "prepared")}
    return Planner(Cache(folder / "jobs"), {**places, **always}, {"study": "table2"})


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    write(tmp_path / "train.txt", lines(70))
    return a_planner(tmp_path, threads=1)


def planned(planner: Planner, **overrides: object) -> Job:
    return planner.plan({key.replace("__", "."): value for key, value in overrides.items()})


def test_as_the_command_composes_it(planner: Planner) -> None:
    job = planned(
        planner, opt="adam", seed=3, opt__lr=0.01, model__hidden=[8, 4], prune="magnitude", prune__feature_rate=0.1
    )
    expected = [
        "dataset=criteo", "opt=adam", "seed=3", "opt.lr=0.01", "model.hidden=[8,4]", "threads=1",
        "prune=magnitude", "prune.feature_rate=0.1",
    ]  # fmt: skip
    places = {"dataset.raw": job.settings.data.raw[0], "dataset.prepared": job.settings.data.prepared}
    expected = composed("train", *expected, *(f"{key}={value}" for key, value in places.items()))
    config_hash = resolve(expected).config_hash
    assert job.settings.config_hash == config_hash
    assert job.key.startswith(f"{config_hash}-")
    assert job.settings.tracking is not None
    assert job.settings.tracking.tags == {"study": "table2"}
    assert (job.rows_train, job.rows_test) == (60, 10)
    line = shlex.split(job.command)[3:]
    assert resolve(composed("train", *line)).config_hash == config_hash


def test_keys_and_families(planner: Planner, tmp_path: Path) -> None:
    plain = planned(planner, opt="adam")
    some = planned(planner, opt="adam", prune="magnitude", prune__feature_rate=0.1)
    other = planned(planner, opt="adam", seed=1)
    assert len({plain.key, some.key, other.key}) == 3
    assert plain.family == some.family != other.family
    write(tmp_path / "train.txt", lines(80))
    assert planned(a_planner(tmp_path, threads=1), opt="adam").key != plain.key  # other rows


def test_a_plan_counts_the_rows_of_its_run(planner: Planner) -> None:
    assert planned(planner, train_rows=40).rows_train == 40
    held = planned(planner, train_rows=40, holdout=0.25)
    assert (held.rows_train, held.rows_test) == (30, 10)


def test_more_rows_than_there_are_are_refused(planner: Planner) -> None:
    assert planned(planner, train_rows=60).rows_train == 60
    with pytest.raises(ArgumentError, match=r"^train_rows=1,061; there are 60 rows to train on$"):
        planned(planner, train_rows=1061)


def test_composed_and_built_once_per_choice_of_groups(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expensive: 20 runs are planned in a fraction of a second."""
    made, built = [], []
    original, settle = plan.compose, build.settle_backend
    monkeypatch.setattr(plan, "compose", lambda *chosen: made.append(chosen) or original(*chosen))
    monkeypatch.setattr(build, "settle_backend", lambda *run, **more: built.append(run) or settle(*run, **more))
    _tried.cache_clear()
    for seed in range(20):
        planned(planner, opt="adam", seed=seed)
        planned(planner, opt="group_adam", seed=seed)
    assert (len(made), len(built)) == (2, 2)
    assert planned(planner, opt="adam").settings.seed == 0  # a job leaves nothing to the next


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ({"opt.lamda21": 1}, "lamda21"),
        ({"opt.lambda21": "abc"}, "opt.lambda21"),
        ({"opt": "adamw"}, "adamw"),
        ({"x": 1}, "x"),
    ],
)
def test_wrong_overrides_are_named(planner: Planner, overrides: dict[str, object], text: str) -> None:
    with pytest.raises(Exception, match=text):
        planner.plan({"opt": "group_adam", **overrides})


def test_jobs_write_checkpoints_only_where_a_key_asks(tmp_path: Path) -> None:
    """What they compute is the same."""
    write(tmp_path / "train.txt", lines(60))
    plain = a_planner(tmp_path).plan({"dataset": "criteo"})
    asked = a_planner(tmp_path, **{"checkpoint.every_steps": 5}).plan({"dataset": "criteo"})
    assert plain.settings.checkpoint is None
    assert asked.settings.checkpoint == CheckpointSettings(every_minutes=10, every_steps=5, keep=2, final=False)
    assert (plain.key, plain.family) == (asked.key, asked.family)
    with pytest.raises(ArgumentError, match=r"checkpoint\.keep=0; expected at least 1"):
        a_planner(tmp_path, **{"checkpoint.keep": 0}).plan({"dataset": "criteo"})
    with pytest.raises(ArgumentError, match=r"checkpoint\.every_minutes=0\.0; expected more than 0, or null"):
        a_planner(tmp_path, **{"checkpoint.every_minutes": 0}).plan({"dataset": "criteo"})
