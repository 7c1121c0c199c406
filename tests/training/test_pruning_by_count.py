"""``prune.score=count``: the rows stay that the training rows so far hold most often, ties by id."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import ctr
from ctr.config.compose import resolve
from ctr.datasets.prepared import Prepared
from ctr.datasets.stream import RowStream
from ctr.errors import CtrError
from ctr.training import checkpointing
from ctr.training.experiment import run_family as train
from ctr.training.history import History
from ctr.training.pruning import prune_, sightings
from ctr.training.run import Run
from tests.commands import job
from tests.datasets.criteo_text import lines
from tests.native.built import BACKENDS
from tests.training.runs import configuration, magnitude, run_family, run_one, untimed
from tests.training.test_pruning import table

Feature = tuple[int, str]  # field, value


def test_the_most_frequent_rows_stay_whatever_their_norm() -> None:
    embedding, optimizer = table([[9.0], [1.0], [0.0], [3.0], [2.0], [7.0]], [0, 1, 2, 3, 4])
    counts = np.array([1, 5, 8, 5, 5, 9])  # row 2 is zero, training has not met row 5
    assert prune_(embedding, optimizer, 2, "count", counts) == 2
    assert embedding.weight.flatten().tolist() == [0, 1, 0, 3, 0, 7], "of three equal counts the first two"
    assert counts.tolist() == [1, 5, 8, 5, 5, 9]


def test_counts_that_float32_does_not_tell_apart() -> None:
    embedding, optimizer = table([[1.0], [1.0], [1.0]], [0, 1, 2])
    assert prune_(embedding, optimizer, 1, "count", np.array([2**24, 2**24 + 1, 2**24])) == 1
    assert embedding.weight.flatten().tolist() == [0, 1, 0]


def test_nan_is_refused() -> None:
    embedding, optimizer = table([[float("nan")], [1.0]], [0, 1])
    with pytest.raises(CtrError, match="lower the learning rate"):
        prune_(embedding, optimizer, 1, "count", np.array([5, 1]))


@pytest.mark.parametrize("position", [0, 250, 600, 850, 1200])
def test_sightings_are_those_of_the_rows_so_far_in_every_pass(data: Prepared, position: int) -> None:
    stream = RowStream(data.rows, list(data.split.train) * 2, 32)
    stream.position = position
    ids, _, _ = data.rows[0:600]
    seen = Counter(np.concatenate([ids, ids])[:position].flatten().tolist())
    wanted = [seen[feature] for feature in range(data.manifest.num_features)]
    assert sightings(data, stream, None).tolist() == wanted
    assert sightings(data, stream, History.none().after(data)).tolist() == wanted
    earlier = History(1, np.array([7, 0, 3]), np.zeros(3, np.uint16))
    with_earlier = [wanted[0] + 7, wanted[1], wanted[2] + 3, *wanted[3:]]
    assert sightings(data, stream, earlier.after(data)).tolist() == with_earlier


def most_frequent(made: list[str], finetune: float, batch: int, rate: float) -> set[Feature]:
    """The features that stay, by counting the lines of the training rows."""
    rows: list[list[Feature]] = [list(enumerate(line.split("\t")[14:])) for line in made]
    count = round(rate * len({feature for row in rows for feature in row}))
    first = round((1 - finetune) * -(-len(rows) // batch)) * batch

    def best(counts: Counter[Feature], alive: set[Feature]) -> set[Feature]:
        order = {feature: place for place, feature in enumerate(counts)}  # of first appearance: the ids
        return set(sorted(alive, key=lambda feature: (-counts[feature], order[feature]))[:count])

    before = Counter(feature for row in rows[:first] for feature in row)
    kept = best(before, set(before))
    touched = {feature for row in rows[first:] for feature in row}
    return best(Counter(feature for row in rows for feature in row), kept | touched)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("finetune", [0.0, 0.3])
def test_a_run_keeps_the_most_frequent_values(tmp_path: Path, backend: str, finetune: float) -> None:
    config = configuration(
        tmp_path, "opt=adam", *magnitude(0.2, finetune, "count"), "save=model", f"backend={backend}", "model.hidden=[6]"
    )
    job(config, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    kept = ctr.load(tmp_path / "run").features().fillna({"value": ""})  # a blank is a value too
    names = [f"C{number}" for number in range(1, 27)]
    got = {(names.index(field), value) for field, value in zip(kept["field"], kept["value"], strict=True)}
    assert got == most_frequent(lines(400)[: found["rows_train"]], finetune, 32, 0.2)
    assert (found["score"], found["features_nonzero"]) == ("count", len(got))


@pytest.mark.slow
def test_in_a_family_each_is_the_run_that_it_would_be_alone(tmp_path: Path) -> None:
    options = [[], *(magnitude(0.2, share, score) for share in (0.0, 0.3) for score in ("count", "norm"))]
    members = [["opt=adam", "model.hidden=[6]", "dataset.min_count=2", *own] for own in options]
    together = run_family(tmp_path, *members)
    assert [untimed(one) for one in together] == [untimed(run_one(tmp_path, *own)) for own in members]
    assert len({one["logloss"] for one in together}) == len(members)


def test_it_goes_on_from_a_checkpoint_with_the_same_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointing, "goes_on", lambda run: False)  # each checkpoint is written before the next step
    own = ["opt=adam", "model.hidden=[6]", "checkpoint.every_steps=1", *magnitude(0.2, 0.3, "count")]
    wanted = untimed(run_one(tmp_path, *own))
    config = configuration(tmp_path, *own)
    rows = 0

    def stop(more: int) -> None:
        nonlocal rows
        rows += more
        if rows > 300:  # in the fine-tuning, which begins after 256
            raise KeyboardInterrupt

    run = Run(resolve(config), tmp_path / "stopped", resume=True)
    with pytest.raises(KeyboardInterrupt):
        train([run], stop)
    again = Run(resolve(config), tmp_path / "stopped", resume=True)
    done: list[int] = []
    train([again], done.append)
    assert again.error is None
    assert done[0] >= 256, "not from the first row"
    assert untimed(json.loads((tmp_path / "stopped" / "result.json").read_text())) == wanted


def test_hashed_ids_count_their_buckets(tmp_path: Path) -> None:
    hashed = ["dataset.encoding=hash", "dataset.num_buckets=300"]
    found = run_one(tmp_path, "opt=adam", *magnitude(0.1, score="count"), *hashed)
    assert found["features_nonzero"] == round(0.1 * found["features_present"])
