"""A model that goes on with tomorrow's log: against one run over both logs, to the last bit."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import ctr
from ctr.artifact.init import load
from ctr.artifact.save import save_model
from ctr.config.compose import resolve
from ctr.datasets.checked import Checksum
from ctr.datasets.source import open_data
from ctr.datasets.stream import RowStream
from ctr.datasets.vocabulary import Batches, batches
from ctr.errors import ArgumentError, CtrError, DataError
from ctr.training.build import narrowed, start
from ctr.training.checkpoint import load_final
from ctr.training.experiment import run_family
from ctr.training.history import FEATURES, NEVER, History, read_features
from ctr.training.run import Run
from ctr.training.trainer import evaluate_progressive, train
from tests.commands import composed, jobs
from tests.datasets.criteo_text import arguments, lines, write
from tests.native.built import needs_kernels
from tests.training.runs import TIMES, equal, untimed

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
    """A run on one of the logs that keeps the state at its end, and its model if that is asked for, which takes as
    long; its folder and its result."""
    place = folder / name
    keys = [*SHARED, "opt.lr=0.01", "checkpoint.final=true", *overrides]
    if not any(key.startswith("save") for key in keys):
        keys.append("save=none")
    config = composed("train", *arguments(folder, *keys))
    assert jobs([config], [place]) == [None]
    return place, json.loads((place / "result.json").read_text())


def state(place: Path) -> dict[str, Any]:
    """All that the end of a run left, but for what counts from its first row."""
    final = load_final(place)
    with final.stored() as stored:
        kept = {key: stored.state[key] for key in ("model", "step", "rng")}
        (part,) = stored.parts
        return {**kept, "ids": part.ids, "rows": part.rows[:]}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "opt",
    [
        *("group_adam", "group_adaembed"),
        *(pytest.param(opt, marks=pytest.mark.slow) for opt in ("group_adagrad", "adam", "group_momentum")),
        pytest.param("group_adahessian", marks=pytest.mark.slow),
    ],
)
def test_two_days_are_one_run_over_both(logs: dict[str, Path], opt: str, backend: str) -> None:
    """Rows, moments, steps, net, generator, history and scores before learning, to the last bit; with dropout."""
    if backend == "native" and opt in ("group_momentum", "group_adahessian", "group_adaembed"):
        pytest.skip("no compiled step")
    keys = [f"opt={opt}", f"backend={backend}", "model=opnn"]
    if opt == "group_adaembed":
        keys += ["opt.features=60", "opt.every=3"]
    elif opt.startswith("group_"):
        keys += ["opt.lambda21=0.003"]
    name = f"{opt}-{backend}"
    whole, expected = run(logs["both"], name, *keys)
    first, _ = run(logs["today"], name, *keys)
    second, got = run(logs["tomorrow"], name, *keys, f"init={first}")
    assert equal(state(second), state(whole))
    assert values(second) == values(whole)
    same = ("features_present", "features_nonzero", "feature_rate", "table_rows")
    assert {key: got[key] for key in same} == {key: expected[key] for key in same}


@pytest.mark.parametrize("features", ["null", "100000"])
def test_all_values_have_places_where_they_are_not_scarce_any_more(logs: dict[str, Path], features: str) -> None:
    first, _ = run(logs["today"], f"scarce-{features}", "opt=group_adaembed", "opt.features=60", "opt.every=3")
    assert not state(first)["step"]["row_optimizer"]["state"][0]["owns"].all()
    keys = ["opt=group_adaembed", f"opt.features={features}", f"init={first}"]
    second, _ = run(logs["tomorrow"], f"enough-{features}", *keys)
    assert state(second)["step"]["row_optimizer"]["state"][0]["owns"].all()


def left_by(place: Path) -> tuple[Batches | None, History]:
    final = load_final(place)
    blocks = [Checksum(**block) for block in final.manifest["known"]["features"]]
    return read_features(final.path / FEATURES, blocks, final.manifest["known"]["logs"])


def values(place: Path) -> list[dict[str, Any]]:
    """Field and value, unless they are hashed, and count of each row that a run has left."""
    found, history = left_by(place)
    named = [{} for _ in history.counts] if found is None else [row for b in batches(found) for row in b.to_pylist()]
    return [{**row, "count": count} for row, count in zip(named, history.counts.tolist(), strict=True)]


def results_of(*places: Path) -> list[dict[str, Any]]:
    return [json.loads((place / "result.json").read_text()) for place in places]


@pytest.fixture(scope="module")
def today(logs: dict[str, Path]) -> Path:
    """A run that has kept the state at its end, and its model."""
    return run(logs["today"], "kept", "save=model")[0]


def rows_of(place: Path) -> dict[tuple[int, str | None], torch.Tensor]:
    """Weights and optimizer's state of the trained rows that a run has left, by field and value."""
    found, entries = state(place), values(place)
    named = [(entry["field"], entry["value"]) for entry in entries]
    return {named[i]: row for i, row in zip(found["ids"].tolist(), found["rows"], strict=True)}


def columns_of(made: list[str]) -> set[tuple[int, str | None]]:
    """Field and value of all that is in some lines."""
    return {(field, value or None) for line in made for field, value in enumerate(line.split("\t")[14:])}


def test_a_run_that_goes_on_says_so(logs: dict[str, Path], today: Path) -> None:
    _, got = run(logs["tomorrow"], "says", f"init={today}")
    known, both = columns_of(TODAY), columns_of(TODAY + TOMORROW)
    assert (got["logs"], got["features_known"], got["features_evicted"]) == (2, len(known), 0)
    assert (got["table_rows"], got["features_present"]) == (len(both), len(both))
    assert (got["rows_test"], got["auc"], got["logloss"], got["auc_by_day"]) == (0, None, None, {})
    assert len(got["started_from"]) == 16
    assert results_of(today)[0]["started_from"] is None


def test_rows_of_known_values_that_do_not_occur_stay_as_they_are(logs: dict[str, Path], today: Path) -> None:
    second, _ = run(logs["tomorrow"], "stays", f"init={today}", "train_rows=32")
    before, after = rows_of(today), rows_of(second)
    touched = columns_of(TOMORROW[:32])
    assert before.keys() <= after.keys()
    for name, row in before.items():
        assert torch.equal(row, after[name]) == (name not in touched) or not row.any()


@pytest.mark.parametrize("after", [0, 1, 2])
def test_dead_rows_are_dropped_once_they_have_been_idle(logs: dict[str, Path], today: Path, after: int) -> None:
    """Living rows stay as they are; a dead one that was in the last ``evict_after`` logs too."""
    second, _ = run(logs["tomorrow"], f"second-{after}", f"init={today}")
    third, got = run(
        logs["today"], f"third-{after}", f"init={second}", "evict=dead", f"evict_after={after}", "train_rows=1"
    )
    rows = rows_of(second)
    dim = len(next(iter(rows.values()))) // 4
    alive = {name for name, row in rows.items() if row[:dim].any()}
    recent = {0: set(), 1: columns_of(TOMORROW), 2: columns_of(TODAY + TOMORROW)}[after]
    kept = alive | recent
    assert got["features_known"] == len(kept)
    assert got["features_evicted"] == len(rows) - len(kept)
    left = rows_of(third)
    touched = columns_of(TODAY[:1])
    for name in kept - touched:
        assert torch.equal(left[name], rows[name])
    assert left.keys() == kept | touched  # what has come back and what is new
    assert {(v["field"], v["value"]) for v in values(third)} == kept | columns_of(TODAY)


def test_what_was_never_trained_is_dropped_first(logs: dict[str, Path]) -> None:
    first, _ = run(logs["today"], "half", "train_rows=32")
    _, got = run(logs["today"], "rest", f"init={first}", "evict=dead", "evict_after=9")
    assert got["features_known"] == len(columns_of(TODAY[:32]))


def test_logs_since_a_value_occurred(logs: dict[str, Path], today: Path) -> None:
    second, _ = run(logs["tomorrow"], "idle", f"init={today}", "train_rows=64")
    third, _ = run(logs["tomorrow"], "idle-again", f"init={second}", "train_rows=32")
    _, history = left_by(third)
    latest, second_latest, first = columns_of(TOMORROW[:32]), columns_of(TOMORROW[:64]), columns_of(TODAY)
    for entry, idle in zip(values(third), history.idle.tolist(), strict=True):
        name = (entry["field"], entry["value"])
        expected = 0 if name in latest else 1 if name in second_latest else 2 if name in first else NEVER
        assert idle == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_model_goes_on_with_its_rows_alone(logs: dict[str, Path], today: Path, backend: str) -> None:
    """Its rows and net are there, moments and steps begin anew; a dead value begins as a new one."""
    second, got = run(
        logs["tomorrow"], f"saved-{backend}", f"init={today / 'model'}", f"backend={backend}", "train_rows=32"
    )
    saved = ctr.load(today)
    assert (got["logs"], got["features_known"]) == (2, len(saved.rows) - 1)
    kept = [(row["field"], row["value"]) for row in saved.vocabulary.to_pylist()]
    rows, touched = rows_of(second), columns_of(TOMORROW[:32])
    assert rows.keys() == {*kept, *touched}
    for name, row in zip(kept, saved.rows[1:], strict=True):
        if name not in touched:
            assert torch.equal(rows[name], torch.cat([row, torch.zeros(3 * len(row))]))
    assert state(second)["step"]["row_optimizer"]["state"][0]["step"] == 1


def test_the_saved_model_has_the_rows_of_all_logs(logs: dict[str, Path], today: Path) -> None:
    second, got = run(logs["tomorrow"], "all", f"init={today}", "save=model")
    found = ctr.load(second).vocabulary.to_pylist()
    occurred = Counter((f, v or None) for line in TODAY + TOMORROW for f, v in enumerate(line.split("\t")[14:]))
    assert {(row["field"], row["value"]): row["count"] for row in found}.items() <= occurred.items()
    assert len(found) == got["features_nonzero"] > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_hashed_ids_go_on_too(logs: dict[str, Path], backend: str) -> None:
    keys = ["dataset.encoding=hash", "dataset.num_buckets=500", f"backend={backend}"]
    whole, _ = run(logs["both"], f"hashed-{backend}", *keys)
    first, _ = run(logs["today"], f"hashed-{backend}", *keys, "save=model")
    second, got = run(logs["tomorrow"], f"hashed-{backend}", *keys, f"init={first}")
    assert equal(state(second), state(whole))
    assert values(second) == values(whole)
    _, of_model = run(logs["tomorrow"], f"hashed-model-{backend}", *keys, f"init={first / 'model'}")
    living = results_of(first)[0]["features_nonzero"]
    assert got["features_known"] == of_model["features_known"] == 500
    assert living <= of_model["features_present"] <= got["features_present"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_budget_counts_the_rows_of_all_logs(logs: dict[str, Path], backend: str) -> None:
    keys = ["opt.budget=150", "opt.lambda21=0", f"backend={backend}"]
    first, of_first = run(logs["today"], f"budget-{backend}", *keys)
    _, got = run(logs["tomorrow"], f"budget-{backend}", *keys, f"init={first}")
    assert of_first["features_nonzero"] == got["features_nonzero"] == 150
    assert got["auc_progressive"] is not None


def test_scores_before_learning_change_nothing_else(logs: dict[str, Path]) -> None:
    keys = ("model=opnn", "dataset.test_fraction=0.25")
    _, scored = run(logs["both"], "scored", *keys)
    _, plain = run(logs["both"], "plain", *keys, "progressive=false")
    differ = {key for key in scored if scored[key] != plain[key]} - {*TIMES, "config_hash"}
    assert differ == {"auc_progressive", "logloss_progressive"}
    assert (plain["auc_progressive"], plain["auc_progressive_by_day"]) == (None, {})


def test_each_batch_is_scored_as_a_test_of_the_model_before_it(logs: dict[str, Path]) -> None:
    """In evaluation mode: without dropout, and what was never seen reads as zero."""
    logits, labels = [], []
    for rows in (32, 64, 96):
        settings = resolve(composed("train", *arguments(logs["both"], *SHARED, "model=opnn", f"train_rows={rows}")))
        data = narrowed(settings, open_data(settings.data, quiet=True))
        training = start(settings, data)
        train(training)
        batch = next(iter(RowStream(data.rows, [(rows, rows + 32)], 32)))
        logits.append(training.learner.predict(batch).numpy())
        labels.append(batch.label.numpy())
    settings = resolve(composed("train", *arguments(logs["both"], *SHARED, "model=opnn", "train_rows=128")))
    training = start(settings, narrowed(settings, open_data(settings.data, quiet=True)))
    train(training)
    assert training.scores is not None
    assert np.array_equal(training.scores[32:].numpy(), np.concatenate(logits))
    got = evaluate_progressive(training)
    everything = np.concatenate([training.scores[:32].numpy(), *logits])
    truth = np.concatenate([[int(line[0]) for line in (TODAY + TOMORROW)[:32]], *labels])
    assert got.auc == pytest.approx(roc_auc_score(truth, everything), abs=1e-12)


def test_a_stopped_run_that_goes_on_with_a_model_can_be_resumed(logs: dict[str, Path], today: Path) -> None:
    keys = ("model=dcn", f"init={today}", "checkpoint.every_steps=2", "checkpoint.every_minutes=null", "save=model")
    expected, whole = run(logs["tomorrow"], "whole", *keys)
    place = logs["tomorrow"] / "stopped"
    config = composed("train", *arguments(logs["tomorrow"], *SHARED, "opt.lr=0.01", "checkpoint.final=true", *keys))
    left = [4 * 32]

    def stop(rows: int) -> None:
        left[0] -= rows
        if left[0] < 0:
            raise KeyboardInterrupt

    one = Run(resolve(config), place, save=save_model)
    with pytest.raises(KeyboardInterrupt):
        run_family([one], on_rows=stop)
    again = Run(resolve(config), place, save=save_model, resume=True)
    run_family([again], on_rows=lambda rows: None)
    assert untimed(results_of(place)[0]) == untimed(whole)
    assert equal(state(place), state(expected))
    assert values(place) == values(expected)


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("model.embedding_dim=4", "its model has model.embedding_dim=8; this run has model.embedding_dim=4"),
        ("model=opnn", "its model has model=dcn"),
        ("model.hidden=[6]", r"its model has model.hidden=\[6, 4\]; this run has model.hidden=\[6\]"),
        ("dataset.encoding=hash", "its model has dataset.encoding=onehot"),
        ("opt=group_adagrad", "its model has opt=group_adam; this run has opt=group_adagrad"),
        ("retrain=true", "retrain=true trains from the first row of a model"),
        ("evict_after=-1", "evict_after=-1; expected at least 0"),
        ("progressive=perhaps", "progressive=perhaps; expected true, false or auto"),
    ],
)
def test_what_does_not_fit_is_named(logs: dict[str, Path], today: Path, override: str, problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        resolve(composed("train", *arguments(logs["tomorrow"], *SHARED, f"init={today}", override)))


def test_of_another_dataset_or_model_nothing_else_is_said(logs: dict[str, Path], today: Path) -> None:
    """All other keys differ because of it."""
    with pytest.raises(ArgumentError, match=r"^init=.*: its model has dataset=criteo; this run has dataset=avazu$"):
        resolve(composed("train", "dataset=avazu", "dataset.source=sample", "tracking=none", f"init={today}"))
    with pytest.raises(ArgumentError, match=r"^init=.*: its model has model=dcn; this run has model=mlp$"):
        resolve(composed("train", *arguments(logs["tomorrow"], "tracking=none", f"init={today}", "model=mlp")))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["evict=dead"], "evict=dead drops rows of a known model; it needs init="),
        (["progressive=auto"], "test_fraction=0 leaves no row to test on; progressive=true"),
        (["init=nowhere"], "init=nowhere: no run and no saved model there"),
        (["init={unkept}"], r"checkpoint.final=true; init=.*model goes on with its rows and net alone"),
        (["init={bare}"], r"which takes checkpoint.final=true$"),
        (["init={hidden}/model"], "hashes in place of values"),
        (["init={model}", "opt.lambda_schedule=linear"], "lambda_schedule: at its end every row"),
        (["init={model}", "opt.budget=0.1", "opt.lambda21=0"], "opt.budget: at its end every row"),
        (["init={hashed}", "dataset.encoding=hash", "dataset.num_buckets=400"], "num_buckets=500; this run has .*=400"),
        (
            ["init={hashed}", "dataset.encoding=hash", "dataset.num_buckets=500", "evict=dead"],
            "hashed ids have a fixed number of rows",
        ),
    ],
)
def test_mistakes_without_a_model_to_go_on_with(
    logs: dict[str, Path], places: dict[str, Path], overrides: list[str], problem: str
) -> None:
    given = [override.format(**places) for override in overrides]
    with pytest.raises(ArgumentError, match=problem):
        resolve(composed("train", *arguments(logs["tomorrow"], *SHARED, *given)))


@pytest.fixture(scope="module")
def places(logs: dict[str, Path], today: Path) -> dict[str, Path]:
    """Runs that have left something else."""
    short = "train_rows=32"
    return {
        "model": today / "model",
        "unkept": run(logs["today"], "unkept", short, "checkpoint.final=false", "save=model")[0],
        "bare": run(logs["today"], "bare", short, "checkpoint.final=false", "save=none")[0],
        "hidden": run(logs["today"], "hidden", short, "save.keys=hash", "checkpoint.final=false")[0],
        "hashed": run(logs["today"], "hashed", short, "dataset.encoding=hash", "dataset.num_buckets=500")[0],
    }


@pytest.mark.parametrize("name", ["manifest.json", "state.safetensors", "features.arrow"])
def test_damage_is_named(logs: dict[str, Path], today: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(today, copy)
    settings = resolve(composed("train", *arguments(logs["tomorrow"], *SHARED, "opt.lr=0.01", f"init={copy}")))
    path = copy / "checkpoints" / "final" / name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=re.escape(str(path))):
        load(settings)


def test_what_it_starts_from_is_part_of_what_a_run_computes(logs: dict[str, Path], today: Path, tmp_path: Path) -> None:
    """By content: a copy elsewhere is the same, another model is not."""
    copy, other = tmp_path / "copy", run(logs["today"], "other", "seed=1")[0]
    shutil.copytree(today, copy)

    def hashes(*overrides: str) -> str:
        return resolve(composed("train", *arguments(logs["tomorrow"], *SHARED, *overrides))).config_hash

    assert hashes(f"init={today}") == hashes(f"init={copy}")
    assert len({hashes(), hashes(f"init={today}"), hashes(f"init={other}"), hashes(f"init={today / 'model'}")}) == 4
    assert hashes(f"init={today}", "evict=dead") != hashes(f"init={today}", "evict=dead", "evict_after=7")
    assert hashes("evict_after=7") == hashes()  # without effect


def test_a_model_that_changed_meanwhile_is_refused(logs: dict[str, Path], tmp_path: Path) -> None:
    place = run(logs["today"], "changing", "train_rows=32")[0]
    settings = resolve(composed("train", *arguments(logs["tomorrow"], *SHARED, f"init={place}")))
    run(logs["today"], "changing", "train_rows=64")
    with pytest.raises(CtrError, match="has changed since the run was planned"):
        load(settings)
