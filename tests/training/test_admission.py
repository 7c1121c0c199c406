"""``admit=k`` in runs: stopped, pruned, forked, repeated, continued; against counts of the lines in dictionaries."""

from collections import Counter
from pathlib import Path

import pytest

from ctr.config.compose import resolve
from ctr.datasets.vocabulary import REST
from ctr.errors import ArgumentError
from ctr.training.experiment import run_family
from ctr.training.run import Run
from tests.datasets.criteo_text import lines
from tests.native.built import BACKENDS, needs_kernels
from tests.training.checkpoints import figures, go, stopped, whole
from tests.training.runs import configuration, equal, magnitude, run_one, untimed
from tests.training.runs import run_family as run_members
from tests.training.test_continue import TODAY, TOMORROW, columns_of, log, logs, rows_of, run, state, values  # noqa: F401

ADMIT = ["admit=3", "dataset.unseen=row", "opt.lr=0.01", "model.hidden=[6]"]


def counts(made: list[str]) -> Counter[tuple[int, str | None]]:
    return Counter((field, value or None) for line in made for field, value in enumerate(line.split("\t")[14:]))


def features(made: list[str], k: int = 3) -> int:
    """Values that occur at least k times, and the row of each field, which every field's first values read."""
    return sum(count >= k for count in counts(made).values()) + 26


def test_a_run_says_what_it_held_back(tmp_path: Path) -> None:
    got = run_one(tmp_path, "opt.lambda21=0", *ADMIT)
    trained = lines(400)[: got["rows_train"]]
    held = sum(min(count, 2) for count in counts(trained).values())
    assert got["not_admitted"] == pytest.approx(held / (26 * len(trained)), rel=1e-12)
    assert (got["admit"], got["features_present"]) == (3, features(trained))
    assert got["table_rows"] == len(counts(lines(400))) + 26
    assert run_one(tmp_path, "opt.lambda21=0")["not_admitted"] is None


def test_the_table_says_it_too(tmp_path: Path) -> None:
    one = Run(resolve(configuration(tmp_path, *ADMIT)), tmp_path / "run")
    run_family([one], lambda rows: None)
    assert one.result is not None
    assert f"  not admitted      {one.result.not_admitted:.4f}   (share of the occurrences" in one.table()


@needs_kernels
def test_both_backends_read_the_same_rows(tmp_path: Path) -> None:
    one, other = (
        untimed(run_one(tmp_path, f"backend={backend}", "opt.lambda21=0", "threads=1", *ADMIT))
        for backend in ("native", "torch")
    )
    same = ("features_present", "features_nonzero", "values_unseen", "table_rows", "not_admitted")
    assert [one[key] for key in same] == [other[key] for key in same]
    assert one["logloss"] == pytest.approx(other["logloss"], rel=1e-4)


def test_pruning_and_budget_count_the_rows_that_were_trained(tmp_path: Path) -> None:
    present = features(lines(400)[: 6 * 400 // 7])
    for score in ("norm", "count"):
        pruned = run_one(tmp_path, "opt=adam", *magnitude(0.2, 0.3, score), *ADMIT)
        assert pruned["features_present"] == present
        assert pruned["features_nonzero"] == round(0.2 * present)
    budget = run_one(tmp_path, "opt.budget=0.1", "average=0.3", *ADMIT)
    assert budget["features_nonzero"] == budget["budget"] == round(0.1 * present)


@pytest.mark.parametrize("held", [["holdout=0.25"], ["train_rows=200"]])
def test_rows_that_are_not_trained_on_do_not_count(tmp_path: Path, held: list[str]) -> None:
    got = run_one(tmp_path, *held, *ADMIT)
    assert got["features_present"] == features(lines(400)[: got["rows_train"]])


def test_later_passes_admit_nothing_new(tmp_path: Path) -> None:
    one, two = (run_one(tmp_path, f"epochs={epochs}", *ADMIT) for epochs in (1, 2))
    same = ("features_present", "not_admitted", "table_rows")
    assert [one[key] for key in same] == [two[key] for key in same]
    assert one["auc"] != two["auc"]


def test_retraining_keeps_the_rows_of_fields(tmp_path: Path) -> None:
    got = run_one(tmp_path, "opt.lambda21=1e-3", "retrain=true", *ADMIT)
    assert 0 < got["features_nonzero"] < got["features_present"]
    assert got["auc_retrained"] is not None


@pytest.mark.parametrize("call", [4, 10])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("waiting")
def test_a_stopped_run_goes_on_to_the_last_bit(tmp_path: Path, backend: str, call: int) -> None:
    """Its counts are part of the checkpoint, in training and in fine-tuning."""
    keys = [*ADMIT, "opt=adam", f"backend={backend}", "progressive=true", *magnitude(0.3, 0.3)]
    stopped(tmp_path, tmp_path / "run", call, *keys, "checkpoint.every_steps=1")
    again = go(tmp_path, tmp_path / "run", *keys, "checkpoint.every_steps=1", resume=True)
    assert figures(again) == whole(tmp_path, *keys)


def test_runs_of_a_family_equal_runs_alone(tmp_path: Path) -> None:
    """Counts are forked with the rest."""
    members = [["opt=adam", *magnitude(0.2, share), *ADMIT] for share in (0.5, 0.3, 0.0)]
    assert [untimed(one) for one in run_members(tmp_path, *members)] == [
        untimed(run_one(tmp_path, *member)) for member in members
    ]


@pytest.mark.parametrize("unseen", ["zero", "row"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_days_are_one_run_over_both(logs: dict[str, Path], backend: str, unseen: str) -> None:  # noqa: F811
    """A value seen twice today and once tomorrow is admitted then; rows, counts and state to the last bit."""
    keys = [f"backend={backend}", "admit=3", f"dataset.unseen={unseen}", "opt.lambda21=0.003"]
    name = f"admit-{backend}-{unseen}"
    of_both, expected = run(logs["both"], name, *keys)
    first, before = run(logs["today"], name, *keys)
    second, got = run(logs["tomorrow"], name, *keys, f"init={first}")
    assert equal(state(second), state(of_both))
    assert values(second) == values(of_both)
    same = ("features_present", "features_nonzero", "table_rows")
    assert {key: got[key] for key in same} == {key: expected[key] for key in same}
    assert before["features_present"] == features(TODAY)
    assert got["features_present"] == features(TODAY + TOMORROW)
    today, both = counts(TODAY), counts(TODAY + TOMORROW)
    held = sum(min(count, 2) - min(today[value], 2) for value, count in both.items())
    assert got["not_admitted"] == pytest.approx(held / (26 * len(TOMORROW)), rel=1e-12)
    late = {value for value, count in both.items() if today[value] == 2 < count}
    assert late
    assert late.isdisjoint(rows_of(first))
    assert late <= rows_of(second).keys()
    left = {(entry["field"], entry["value"]): entry["count"] for entry in values(second)}
    assert {name: count for name, count in left.items() if name[1] != REST} == both
    of_field = Counter(field for (field, _), count in both.items() for _ in range(min(count, 2)))
    assert {name[0]: count for name, count in left.items() if name[1] == REST} == of_field


@pytest.mark.parametrize("before", ["admit=1", "dataset.min_count=2"])
def test_values_that_a_model_has_trained_keep_their_rows(logs: dict[str, Path], before: str) -> None:  # noqa: F811
    name = before.replace("=", "-")
    first, _ = run(logs["today"], name, before, "opt=adam")
    second, got = run(logs["tomorrow"], name, "opt=adam", "admit=3", f"init={first}")
    known, today = rows_of(first), counts(TOMORROW)
    new = {value for value, count in today.items() if value not in known and count >= 3}
    if before == "admit=1":
        assert rows_of(second).keys() == {*known, *new, *((field, REST) for field in range(26))}
    else:
        assert rows_of(second).keys() >= {*known, *new}
    assert got["features_present"] == len(rows_of(second))


def test_a_saved_model_goes_on_with_the_rows_of_its_fields(logs: dict[str, Path]) -> None:  # noqa: F811
    """Values that it has no row of count from nothing."""
    first, _ = run(logs["today"], "saved-admit", "admit=3", "opt=adam", "save=model")
    second, got = run(logs["tomorrow"], "saved-admit", "admit=3", "opt=adam", f"init={first / 'model'}")
    kept = {value for value, count in counts(TODAY).items() if count >= 3}
    new = {value for value, count in counts(TOMORROW).items() if count >= 3}
    own = {(field, REST) for field in range(26)}
    assert rows_of(second).keys() == {*kept, *new, *own}
    assert got["features_known"] == len(kept) + 26


def test_a_dropped_value_counts_anew(logs: dict[str, Path]) -> None:  # noqa: F811
    """With evict_after=0 a value that was not admitted yet goes with its count."""
    first, _ = run(logs["today"], "dropped", "admit=3", "opt=adam")
    second, got = run(
        logs["tomorrow"], "dropped", "admit=3", "opt=adam", f"init={first}", "evict=dead", "evict_after=0"
    )
    today = counts(TODAY)
    kept = {value for value, count in today.items() if count >= 3}
    assert got["features_known"] == len(kept) + 26
    assert rows_of(second).keys() - {(f, REST) for f in range(26)} == kept | {
        value for value, count in counts(TOMORROW).items() if count >= 3
    }


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (["admit=0"], r"^admit=0; expected 1 \(every value has a row\) to 255$"),
        (["admit=256"], r"^admit=256; expected 1"),
        (["admit=2", "dataset.min_count=2"], r"^admit=2 counts values as they come, dataset\.min_count=2 in the whole"),
        (["admit=2", "dataset.encoding=hash"], r"^admit=2 is for dataset\.encoding=onehot: hashed values share"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, keys: list[str], problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        resolve(configuration(tmp_path, *keys))
