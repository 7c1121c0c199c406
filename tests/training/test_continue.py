"""A model that goes on with tomorrow's log: against one run over both logs, to the last bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from ctr.datasets.checked import Checksum
from ctr.datasets.vocabulary import batches
from ctr.training.checkpoint import load_final
from ctr.training.history import FEATURES, read_features
from tests.commands import composed, jobs
from tests.datasets.criteo_text import arguments, lines, write
from tests.native.built import needs_kernels
from tests.training.runs import equal

TODAY, TOMORROW = lines(192), lines(200, seed=1)  # six batches, and some
BACKENDS = [pytest.param("native", marks=needs_kernels), "torch"]


def log(folder: Path, made: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder / "train.txt", made)
    return folder


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("logs")
    return {
        "today": log(root / "today", TODAY),
        "tomorrow": log(root / "tomorrow", TOMORROW),
        "both": log(root / "both", TODAY + TOMORROW),
    }


SHARED = ["tracking=none", "batch_size=32", "dataset.test_fraction=0", "progressive=true", "model.hidden=[6,4]"]


def run(folder: Path, name: str, *overrides: str) -> tuple[Path, dict[str, Any]]:
    """A run on one of the logs that keeps the state at its end; its folder and its result."""
    place = folder / name
    config = composed("train", *arguments(folder, *SHARED, "opt.lr=0.01", "checkpoint.final=true", *overrides))
    assert jobs([config], [place]) == [None]
    return place, json.loads((place / "result.json").read_text())


def state(place: Path) -> dict[str, Any]:
    """All that the end of a run left, but for what counts from its first row."""
    final = load_final(place)
    with final.stored() as stored:
        kept = {key: stored.state[key] for key in ("model", "step", "rng")}
        return {**kept, "ids": stored.ids, "rows": stored.rows[:]}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("opt", ["group_adam", "group_adagrad", "adam", "group_momentum", "group_adahessian"])
def test_two_days_are_one_run_over_both(logs: dict[str, Path], opt: str, backend: str) -> None:
    """Rows, moments, steps, net, generator, history and scores before learning, to the last bit; with dropout."""
    if backend == "native" and opt in ("group_momentum", "group_adahessian"):
        pytest.skip("no compiled step")
    keys = [f"opt={opt}", f"backend={backend}", "model=opnn"]
    keys += ["opt.lambda21=0.003"] if opt.startswith("group_") else []
    name = f"{opt}-{backend}"
    whole, expected = run(logs["both"], name, *keys)
    first, _ = run(logs["today"], name, *keys)
    second, got = run(logs["tomorrow"], name, *keys, f"init={first}")
    assert equal(state(second), state(whole))
    assert values(second) == values(whole)
    same = ("features_present", "features_nonzero", "feature_rate", "table_rows")
    assert {key: got[key] for key in same} == {key: expected[key] for key in same}


def values(place: Path) -> list[dict[str, Any]]:
    """Field, value and count of each row that a run has left."""
    final = load_final(place)
    found, history = read_features(
        final.path / FEATURES, [Checksum(**block) for block in final.manifest["known"]["features"]], 1
    )
    assert found is not None
    shown = [row for batch in batches(found) for row in batch.to_pylist()]
    return [{**row, "count": count} for row, count in zip(shown, history.counts.tolist(), strict=True)]
