"""The pieces of a run: the digits of the command, by a loop of one's own."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import ctr
from ctr.api import pieces
from ctr.errors import ArgumentError
from tests.api import shop
from tests.commands import composed, job, result

DAILY = ["dataset.test_days=[20240504]", "average=0.5"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by the command."""
    folder = tmp_path_factory.mktemp("command")
    keys = [*shop.KEYS, *DAILY, f"dataset.raw={shop.files()}", f"dataset.prepared={folder / 'prepared'}"]
    job(composed("train", *keys), folder / "run")
    return folder / "run"


@pytest.mark.parametrize("raw", ["files", "frame"])
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_loop_of_ones_own_gives_the_digits_of_the_command(
    raw: str, by_hand: bool, command: Path, tmp_path: Path
) -> None:
    if raw == "frame":
        rows, labels = shop.frame()
        pieces.write_log(rows.assign(clicked=labels), tmp_path / "shop.parquet")
    path = shop.files() if raw == "files" else tmp_path / "shop.parquet"
    keys = [*shop.KEYS, *DAILY, f"dataset.raw={path}", f"dataset.prepared={tmp_path / 'prepared'}"]
    settings = pieces.configure(*keys)
    data = pieces.open_data(settings)
    run = pieces.build(settings, data)
    if by_hand:
        for batch in run.stream:
            run.step(batch)
        run.finish()
    else:
        pieces.train(run)
    figures = pieces.evaluate(run, data)
    expected = result(command)
    got: dict[str, Any] = asdict(figures)
    for name in ("auc", "logloss", "calibration", "normalised_entropy"):
        assert got[name] == expected[name]
    assert {str(day): auc for day, auc in figures.auc_by_day.items()} == expected["auc_by_day"]
    pieces.save(tmp_path / "model", settings, data, run, figures)
    test, _ = shop.frame(shop.TRAIN)
    saved = ctr.load(tmp_path / "model")
    assert saved.predict(test).tolist() == ctr.load(command).predict(test).tolist()
    assert saved.manifest.run["auc"] == expected["auc"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["opt=adam", "prune=magnitude", "prune.feature_rate=0.5"], "^prune: a loop of one's own has no such part"),
        (["retrain=true", "tracking=mlflow"], "^retrain, tracking: a loop of one's own"),
        (["opt.lr=fast"], "opt.lr=fast"),
    ],
)
def test_what_a_loop_has_not_is_refused(overrides: list[str], problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        pieces.configure(*shop.KEYS, f"dataset.raw={shop.files()}", *overrides)


def test_without_test_rows_there_are_no_figures(tmp_path: Path) -> None:
    keys = [*shop.KEYS, f"dataset.raw={shop.files()}", f"dataset.prepared={tmp_path}"]
    settings = pieces.configure(*keys, "dataset.test_fraction=0", "progressive=false", "save=none")
    data = pieces.open_data(settings)
    run = pieces.build(settings, data)
    with pytest.raises(ArgumentError, match="no row tests"):
        pieces.evaluate(run, data)
    with pytest.raises(ArgumentError, match="save=none"):
        pieces.save(tmp_path / "model", settings, data, run, None)
