"""What a run leaves of its model: the rows that are not zero, whose they are, and the net; nothing else."""

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ctr
from ctr import train
from ctr.artifact.save import save_model
from ctr.config.compose import resolve
from ctr.datasets.prepared import read_vocabulary
from ctr.errors import ArgumentError, CtrError
from ctr.jobs.cache import Cache
from ctr.jobs.plan import Planner
from ctr.report import run_page
from ctr.training.experiment import run_family
from ctr.training.run import Run
from tests.artifact.runs import log_of_test_rows, trained
from tests.commands import composed, job, jobs
from tests.datasets.criteo_text import arguments, lines

OPTIMIZERS = ["adam", "adagrad", "momentum", "amsgrad", "sgd", "adahessian"]
SMALL = ["tracking=none", "batch_size=32", "model.hidden=[6]", "opt.lr=0.01"]


def watched(folder: Path, *overrides: str) -> dict[str, Any]:
    """What is in memory when a run saves its model, and the model loaded."""
    held: dict[str, Any] = {}

    def save(path: Path, settings: Any, data: Any, training: Any, result: Any, *more: Any) -> None:
        embedding, optimizer = training.model.embedding, training.learner.row_optimizer
        held.update(weight=embedding.weight.detach().clone(), seen=embedding.seen.clone(), data=data, result=result)
        held["D"] = torch.cat([D(None) for _, _, _, D in optimizer.stored_rows(embedding.weight)])
        before = torch.get_rng_state()
        save_model(path, settings, data, training, result, *more)
        held["random"] = torch.equal(before, torch.get_rng_state())

    run = Run(resolve(composed("train", *arguments(folder, *SMALL, *overrides))), folder / "run", save=save)
    run_family([run], lambda rows: None)
    if run.error:
        raise run.error
    return {**held, "model": ctr.load(folder / "run")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return watched(tmp_path_factory.mktemp("saved"), "opt.lambda21=3e-3")


def test_rows_are_those_that_training_has_seen_and_not_removed(saved: dict[str, Any]) -> None:
    weight, seen, model = saved["weight"], saved["seen"], saved["model"]
    alive = (weight != 0).any(1) & seen
    assert 0 < alive.sum() < seen.sum() < len(seen)
    assert torch.equal(model.rows, torch.cat([torch.zeros(1, weight.shape[1]), weight[alive]]))
    vocabulary = read_vocabulary(saved["data"]).filter(alive.numpy())
    assert model.vocabulary["field"].to_pylist() == vocabulary["field"].to_pylist()
    assert model.vocabulary["value"].to_pylist() == vocabulary["value"].to_pylist()


def test_counts_are_those_of_the_training_lines(saved: dict[str, Any]) -> None:
    made = [line.split("\t")[14:] for line in lines(400)][: saved["result"].rows_train]
    counted = Counter((field, value or None) for line in made for field, value in enumerate(line))
    found = saved["model"].vocabulary.to_pylist()
    assert [row["count"] for row in found] == [counted[row["field"], row["value"]] for row in found]
    seen = Counter(field for field, _ in counted)
    assert [field.seen for field in saved["model"].manifest.fields] == [seen[f] for f in range(26)]
    kept = Counter(row["field"] for row in found)
    assert [field.kept for field in saved["model"].manifest.fields] == [kept[f] for f in range(26)]


def test_effects_are_norms_of_the_weights_times_their_denominators(saved: dict[str, Any]) -> None:
    weight, D = saved["weight"], saved["D"]
    alive = (weight != 0).any(1) & saved["seen"]
    expected = ((weight * D)[alive] ** 2).sum(1).sqrt()
    np.testing.assert_allclose(saved["model"].vocabulary["effect"].to_numpy(), expected.numpy(), rtol=1e-5)


def test_saving_draws_no_random_number(saved: dict[str, Any]) -> None:
    assert saved["random"]


@pytest.mark.parametrize("opt", [*OPTIMIZERS, *(f"group_{name}" for name in OPTIMIZERS)])
def test_every_optimizer(tmp_path: Path, opt: str) -> None:
    lambdas = ["opt.lambda21=1e-3"] if opt.startswith("group_") else []
    got = watched(tmp_path, f"opt={opt}", "opt.lr=1e-4", "model.embedding_dim=2", *lambdas)
    assert got["model"].manifest.run["auc"] == got["result"].auc
    assert got["model"].manifest.rows == got["result"].features_nonzero
    assert (got["model"].vocabulary["effect"].to_numpy() > 0).all()


def test_a_pruned_and_retrained_run_leaves_what_its_figures_are_of(tmp_path: Path) -> None:
    pruned = ["opt=adam", "prune=magnitude", "prune.feature_rate=0.2", "prune.finetune=0.3", "retrain=true"]
    got = watched(tmp_path, *pruned)
    assert got["result"].auc_retrained is not None
    weight, seen = got["weight"], got["seen"]
    assert torch.equal(got["model"].rows[1:], weight[(weight != 0).any(1) & seen])
    assert got["model"].manifest.rows == round(0.2 * got["result"].features_present)


def test_each_run_of_a_family_leaves_its_own_model(tmp_path: Path) -> None:
    members = [["opt=adam"], *(["opt=adam", "prune=magnitude", f"prune.feature_rate={r}"] for r in (0.1, 0.4))]
    configs = [composed("train", *arguments(tmp_path, *SMALL, *member)) for member in members]
    folders = [tmp_path / f"family-{number}" for number in range(3)]
    assert jobs(configs, folders) == [None] * 3
    for number, config in enumerate(configs):
        job(config, tmp_path / f"alone-{number}")
        one, other = ctr.load(folders[number]), ctr.load(tmp_path / f"alone-{number}")
        assert torch.equal(one.rows, other.rows)
        assert one.vocabulary.equals(other.vocabulary)
    assert len({ctr.load(folder).manifest.rows for folder in folders}) == 3


def test_hashed_keys_leave_no_value(tmp_path: Path) -> None:
    run = trained("dataset=ipinyou", "save.keys=hash")
    kept = trained("dataset=ipinyou")
    files = b"".join(path.read_bytes() for path in (run.folder / "model").iterdir())
    raw = b"".join(path.read_bytes() for path in (kept.folder / "model").iterdir())
    values = [value for value in read_vocabulary(run.data)["value"].to_pylist() if value and len(value) > 10]
    assert len(values) > 100
    assert sum(value.encode() in raw for value in values) > 100
    assert not any(value.encode() in files for value in values)
    log = log_of_test_rows(run, tmp_path)
    frames = [line.split("\t") for line in next(log.glob("imp.*")).read_text().splitlines()]
    lines = ["\t".join(row) for row in frames]
    np.testing.assert_array_equal(ctr.load(run.folder).predict(lines), ctr.load(kept.folder).predict(lines))


def test_the_folder_is_small_and_holds_no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained("dataset=criteo")
    names = {path.name for path in (run.folder / "model").iterdir()}
    assert names == {"manifest.json", "model.safetensors", "vocabulary.arrow"}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for place, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(place, name, refuse)
    assert ctr.load(run.folder).manifest.rows > 0


def test_what_is_kept_does_not_change_what_a_run_computes(tmp_path: Path) -> None:
    texts = ("save=model", "save=none", "save.keys=hash")
    settings = [resolve(composed("train", *arguments(tmp_path), text)) for text in texts]
    assert len({one.config_hash for one in settings}) == 1
    assert len({one.family for one in settings}) == 1
    assert [one.save and one.save.keys for one in settings] == ["raw", None, "hash"]


def test_initial_values_of_unseen_features_cannot_be_saved(tmp_path: Path) -> None:
    init = arguments(tmp_path, *SMALL, "dataset.unseen=init")
    with pytest.raises(
        ArgumentError, match=r"dataset\.unseen=init: a saved model has no initial values; give save=none"
    ):
        resolve(composed("train", *init))
    assert resolve(composed("train", *init, "save=none")).save is None


def test_a_run_that_leaves_none_removes_an_older_one(tmp_path: Path) -> None:
    job(composed("train", *arguments(tmp_path, *SMALL)), tmp_path / "run")
    assert (tmp_path / "run/model/manifest.json").exists()
    job(composed("train", *arguments(tmp_path, *SMALL, "save=none")), tmp_path / "run")
    with pytest.raises(ArgumentError, match=r"run: no manifest\.json in it or in its folder model; expected a saved"):
        ctr.load(tmp_path / "run")


def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/model/mine.txt").write_text("x")
    with pytest.raises(CtrError, match="model is there, and is no saved model; move it away, give another run_dir"):
        job(composed("train", *arguments(tmp_path, *SMALL)), tmp_path / "run")
    job(composed("train", *arguments(tmp_path, *SMALL, "save=none")), tmp_path / "run")
    assert (tmp_path / "run/model/mine.txt").read_text() == "x"


def test_a_model_that_has_kept_nothing(tmp_path: Path) -> None:
    got = watched(tmp_path, "opt.lambda21=1e3")
    assert got["result"].features_nonzero == 0
    assert len(got["model"].rows) == 1
    assert len(set(got["model"].predict([lines(1)[0]]).tolist())) == 1
    assert got["model"].features().empty


def test_settings_that_ask_for_a_model_need_something_that_saves_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was given that saves or logs it"):
        Run(resolve(composed("train", *arguments(tmp_path))), tmp_path)


@pytest.mark.slow
def test_a_sweep_leaves_models_and_pages_only_if_it_is_told_to(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "write", lambda path, *_: path.write_text("page"))
    for number, told in enumerate(([], ["save=model", "report=true"])):
        place = [f"run_dir=sweep-{number}", "jobs=jobs", "opt.lambda21=1e-3,1e-2"]
        monkeypatch.setattr("sys.argv", ["ctr.train", "-m", *arguments(here, *SMALL, *place, *told)])
        train.main()
        for job_number in range(2):  # the second sweep does again what was finished without a model
            assert Path(f"sweep-{number}/{job_number}/result.json").exists()
            assert Path(f"sweep-{number}/{job_number}/model").exists() == bool(told)
            assert Path(f"sweep-{number}/{job_number}/report.html").exists() == bool(told)
    assert len([*Path("jobs").glob("*/report.html")]) == 2
    assert len([ctr.load(folder) for folder in Path("jobs").iterdir() if folder.is_dir()]) == 2


def test_a_study_leaves_models_only_if_it_is_told_to(tmp_path: Path) -> None:
    overrides = dict(text.split("=", 1) for text in arguments(tmp_path, "tracking=none"))
    cache = Cache(tmp_path / "jobs")
    plain, told = (Planner(cache, more, {}).plan(overrides) for more in ({}, {"save": "model"}))
    assert (plain.saves, told.saves) == (False, True)
    assert plain.key == told.key
    assert "save" not in plain.command
    folder = cache.folder(plain.key)
    run_family([Run(plain.settings, folder, plain.key)], lambda rows: None)
    assert cache.done(plain.key, model=False)
    assert not cache.done(plain.key, model=True)  # it is run again for a study that asks
    run_family([Run(told.settings, folder, told.key, save_model)], lambda rows: None)
    assert cache.done(plain.key, model=True)
    assert ctr.load(folder).manifest.run["auc"] == json.loads((folder / "result.json").read_text())["auc"]
