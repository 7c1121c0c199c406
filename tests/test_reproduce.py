"""The command: options from keys, exit codes, failures; once with real runs from text to tables."""

import json
import math
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from ctr.config.help import comments
from ctr.config.search import folders
from ctr.errors import ArgumentError, CtrError
from ctr.report.findings import Findings
from ctr.reproduce import reproduce
from ctr.studies import learning_rates, request, table5
from ctr.studies.request import lr_of, seeds_of
from ctr.studies.rivals_methods import NAMES
from ctr.studies.runs import Runs
from ctr.studies.study import Ask, Counts, Job, Options, find, own_options
from tests.commands import command, composed, new_process, refuses
from tests.reproducing import SAMPLE, no_study, reproduced
from tests.studies.oracle import STUDIES

pytestmark = pytest.mark.usefixtures("here")


def resolved(*overrides: str) -> tuple[Options, dict[str, Any]]:
    return request.resolve(composed("reproduce", *overrides), [override.partition("=")[0] for override in overrides])


def test_defaults_are_the_papers() -> None:
    got, own = resolved("study=table2")
    assert (got.dataset, got.model, got.seeds) == ("criteo", "dcn", [0, 1, 2, 3, 4])
    grid = [1e-4, 5e-4, 1e-3, 5e-3, 1e-2]
    assert own == {"lambda21": grid, "finetune": [0.0, 0.1, 0.2, 0.3], "scores": ["norm"]}
    assert resolved("study=table3")[1] == {"lambda1": [0.0, *grid], "lambda21": grid, "lambda2": [1e-5]}
    assert resolved("study=table4")[1] == {"dims": [4, 8, 16, 32]}
    assert resolved("study=table5")[1] == {}
    assert resolved("study=fig1")[1] == resolved("study=table8")[1] == own
    assert resolved("study=fig2")[1] == {"lambda21": grid}
    assert resolved("study=fig3")[1] == {"lambda1": grid, "lambda21": grid}
    assert resolved("study=stream")[1] == {**own, "scores": ["norm", "effect"], "steps": [230, 1000, 4000, 16000]}
    assert resolved("study=rivals")[1] == {
        "rates": [0.2, 0.05, 0.02, 0.005, 0.002], "methods": [*NAMES], "finetune": [0.0, 0.3], "average": [0.0, 0.3],
    }  # fmt: skip
    assert got.lrs == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert (got.select, got.lr, got.common) == ("test", "auto", {})
    assert resolved("study=table2", "dataset=avazu")[0].model == "mlp"
    assert resolved("study=table2", "dataset=ipinyou")[0].model == "opnn"


def test_choices_for_a_log_of_ones_own_are_made_on_held_out_rows() -> None:
    own = ("study=table5", "dataset=csv", "dataset.label=click", "dataset.raw=log.csv")
    assert resolved(*own)[0].select == "validation"
    assert resolved(*own, "select=test")[0].select == "test"
    assert request.settings_of(composed("reproduce", *own))["select"] == "validation"
    assert request.settings_of(composed("reproduce", "study=table5"))["select"] == "test"


def test_keys_reach_the_study() -> None:
    got, own = resolved(
        "study=fig1", "dataset=criteo", "dataset.raw=/x y", "dataset.encoding=hash", "model=mlp", "model.hidden=[8,4]",
        "seeds=[4,7]", "lambda21=[1e-3,1e-2]", "select=validation", "lr=0.01",
        "+train.batch_size=64", "+train.opt.eps=1e-7", "scores=[effect]",
    )  # fmt: skip
    assert (got.model, got.seeds, got.select, got.lr) == ("mlp", [4, 7], "validation", 0.01)
    assert (own["lambda21"], own["scores"]) == ([1e-3, 1e-2], ["effect"])
    assert got.common == {
        "dataset.raw": "/x y", "dataset.encoding": "hash", "model.hidden": [8, 4], "batch_size": 64, "opt.eps": 1e-7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("seed=3", "seeds="),
        ("opt=adam", "study="),
        ("opt.lr=0.1", "lr="),
        ("opt.lambda1=0.1", "lambda1="),
        ("opt.lambda21=0.1", "lambda21="),
        ("opt.lambda2=0.1", "lambda2="),
        ("prune=magnitude", "finetune="),
        ("prune.score=effect", "scores="),
        ("dataset=avazu", "dataset="),
        ("dataset.raw=/x", "dataset.raw="),
        ("model=mlp", "model="),
        ("model.hidden=[4]", "model.hidden="),
        ("run_dir=/x", "folder="),
        ("jobs=/x", "jobs="),
        ("force=true", "jobs="),
    ],
)
def test_keys_that_the_study_sets_are_refused(override: str, instead: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ArgumentError, match=rf"^\+train\.{key}: .*; give .*{instead}"):
        resolved("study=table2", f"+train.{override}")


@pytest.mark.slow
def test_threads_reach_the_workers(tmp_path: Path) -> None:
    seen = []

    def one(ask: Ask, options: Options, **own: object) -> Findings:
        row = ask([{**options.common, "opt": "adam", "seed": 0}])
        config = Path(row["folder"][0], ".hydra", "config.yaml").read_text()
        seen.extend(line for line in config.splitlines() if line.startswith("threads:"))
        command = row["command"][0]
        return Findings(pd.DataFrame({"command": [command]}), command, {}, pd.DataFrame())

    for given, wanted in [((), "1"), (("+train.threads=3",), "3")]:
        reproduced(one, "study=table2", *SAMPLE, "tracking=none", *given)
        assert seen.pop() == f"threads: {wanted}"
        assert f" threads={wanted} " in (tmp_path / "runs/studies/table2-criteo-sample/result.md").read_text()


@pytest.mark.parametrize("name", STUDIES)
def test_the_yaml_of_a_study_has_the_options_of_its_signature_each_with_a_comment(name: str) -> None:
    said = comments(f"study/{name}", folders())
    assert said.keys() == {"name", *own_options(find(name))}
    assert all(said[option] for option in said if option != "name")


def test_a_new_study_is_found_by_its_module_and_asked_with_the_options_that_it_declares(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sweep(ask: Ask, options: Options, *, dims: Counts) -> Findings:
        return Findings(ask([{"model.embedding_dim": dim} for dim in dims]), options.dataset, {}, pd.DataFrame())

    module = ModuleType("ctr.studies.sweep")
    module.study = sweep  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    options, own = resolved("study=table4", "name=sweep", "dims=[2,3]")
    found = find("sweep")(lambda jobs: pd.DataFrame(jobs), options, **own)
    assert found.table["model.embedding_dim"].tolist() == [2, 3]
    with pytest.raises(ArgumentError, match=r"dims=\[0\]; expected whole numbers, at least 1"):
        resolved("study=table4", "name=sweep", "dims=[0]")


@pytest.mark.parametrize("value", ["0", "many", "1.5", "true"])
@pytest.mark.parametrize("key", ["threads", "admit"])
def test_wrong_whole_numbers_are_refused(key: str, value: str) -> None:
    with pytest.raises(
        ArgumentError, match=rf"^\+train\.{key}={value.capitalize() if value == 'true' else value}; exp"
    ):
        reproduced(no_study, "study=table2", f"+train.{key}={value}")


def test_admission_is_for_every_run_of_a_study(tmp_path: Path) -> None:
    """With the row that unseen values read, too."""
    asked: list[dict[str, object]] = []

    def one(ask: Ask, options: Options, **own: object) -> Findings:
        asked.append(dict(options.common))
        return Findings(pd.DataFrame({"x": [1]}), "", {}, pd.DataFrame())

    keys = [*SAMPLE, "tracking=none", "dataset.unseen=row", f"folder={tmp_path / 'folder'}"]
    with pytest.raises(ArgumentError, match=r"^dataset\.unseen=row needs"):
        reproduced(one, "study=table2", *keys)
    reproduced(one, "study=table2", *keys, "+train.admit=3")
    assert [(common["admit"], common["dataset.unseen"]) for common in asked] == [(3, "row")]


@pytest.mark.parametrize("value", [0, -1, True, "x", [], [-1], ["a"], 1.5, None, [True], [4, 7, 4]])
def test_wrong_seeds_are_refused(value: object) -> None:
    with pytest.raises(ArgumentError, match="seeds="):
        seeds_of(value)


@pytest.mark.parametrize("value", [0, -1, "x", None, [1], True, math.inf, math.nan])
def test_a_wrong_lr_is_refused(value: object) -> None:
    with pytest.raises(ArgumentError, match="lr="):
        lr_of(value)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        ([], "study=fig1, fig2, fig3, rivals, stream, table2"),
        (["study=table2", "workers=0"], "workers=0"),
        (["study=table2", "lambda21=[]"], "lambda21"),
        (["study=table2", "lambda21=[1e-3,-1]"], r"lambda21=\[0.001, -1.0\]; expected numbers, at least 0"),
        (["study=table2", "lambda21=[1e-3,1e-3]"], r"lambda21=\[0.001, 0.001\]: duplicate value 0.001"),
        (["study=table2", "scores=[size]"], r"scores=\['size'\]; expected norm, effect"),
        (["study=table2", "lr=inf"], "lr=inf"),
    ],
)
def test_wrong_values_are_named(overrides: list[str], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        reproduce(composed("reproduce", *overrides), overrides)


@pytest.mark.slow
def test_a_study_whose_runs_have_no_auc_fails(tmp_path: Path) -> None:
    """The last row of five has one label only."""
    (tmp_path / "clicks.csv").write_text("clicked,user\n0,a\n1,c\n0,a\n1,c\n0,a\n")
    overrides = ["study=table5", "dataset=csv", "dataset.raw=clicks.csv", "dataset.label=clicked", "model=mlp"]
    overrides += ["dataset.categorical=[user]", "tracking=none", "seeds=1", "lrs=[1e-3]", "workers=1", "select=test"]
    with pytest.raises(CtrError, match=r"no run has an AUC.*one label only"):
        reproduced(table5.study, *overrides)
    assert (tmp_path / "runs" / "studies" / "table5-csv-mlp-test" / "runs.csv").exists()


@pytest.mark.slow
def test_exit_codes(tmp_path: Path) -> None:
    shown = new_process(tmp_path, "ctr.reproduce", "--help")
    assert shown.returncode == 0
    assert "  seeds=5 " in shown.stdout
    for overrides, code, text in [
        (["study=table9"], 2, "table9"),
        (["study=table2", "lamda21=[1]"], 2, "lamda21"),
        (["study=table2", "dataset=criteo"], 2, "no raw log at data/criteo/raw"),
        (["study=table2", *SAMPLE, "+train.nope=1", "tracking=none"], 2, "nope"),
    ]:
        refuses(tmp_path, "ctr.reproduce", overrides, code, text)
    assert not (tmp_path / "runs" / "jobs").exists()


def study(ask: Ask, options: Options, *, lambda21: list[float], **own: object) -> Findings:
    """Two optimizers and a family; a second question builds on the first one's answer."""
    base: dict[str, object] = {"dataset": options.dataset, "model": options.model, **options.common, "seed": 0}
    first = ask([{**base, "opt": "group_adam", "opt.lambda21": value} for value in lambda21])
    more: list[dict[str, Any]] = [{**base, "opt": "adam"}]
    for rate in first["feature_rate"]:
        more.append({**base, "opt": "adam", "prune": "magnitude", "prune.feature_rate": rate, "prune.finetune": 0.1})
    return Findings(first[["opt.lambda21", "auc"]], "# Found\n", {}, pd.concat([first, ask(more)], ignore_index=True))


@pytest.mark.slow
def test_a_study_from_nothing_to_its_folder(tmp_path: Path, ready_database: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(ready_database.read_bytes())
    overrides = ["study=table2", *SAMPLE, "lambda21=[1e-3,1e-2]", "workers=2"]
    reproduced(study, *overrides)
    folder = tmp_path / "runs" / "studies" / "table2-criteo-sample"
    assert {"result.csv", "result.md", "runs.csv", "commands.txt", "page.html"} <= {p.name for p in folder.iterdir()}
    runs = pd.read_csv(folder / "runs.csv")
    assert len(runs) == 5
    assert runs["features_nonzero"][0] == runs["features_nonzero"][3]  # pruned to the same rate
    assert len((folder / "commands.txt").read_text().splitlines()) == 5
    for key in runs["folder"]:
        names = {path.name for path in Path(key).iterdir()}
        assert {"result.json", ".hydra", "train.log"} <= names
        assert OmegaConf.load(Path(key, ".hydra", "config.yaml")).threads == 1
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        tagged = connection.execute("SELECT COUNT(*) FROM tags WHERE key = 'study' AND value = 'table2'").fetchone()
    assert tagged[0] == 6  # the runs and the report
    # The line of a row does by itself what the study did.
    line = (folder / "commands.txt").read_text().splitlines()[0]
    done = command(tmp_path, "ctr.train", *line.split()[3:], "tracking=none", "run_dir=alone")
    assert done.returncode == 0, done.stderr
    alone = json.loads((tmp_path / "alone" / "result.json").read_text())
    assert (alone["auc"], alone["config_hash"]) == (runs["auc"][0], runs["config_hash"][0])


@pytest.mark.slow
def test_failed_runs_are_named_at_the_end(tmp_path: Path) -> None:
    def diverges(ask: Ask, options: Options, **own: object) -> Findings:
        rows = ask([{**options.common, "opt": "sgd", "opt.lr": lr, "batch_size": 50} for lr in (1e30, 1e-3)])
        return Findings(rows[["opt.lr", "auc"]], "", {}, rows)

    overrides = ["study=table2", *SAMPLE, "tracking=none", "workers=1"]
    with pytest.raises(CtrError, match=r"^1 of 2 runs failed: diverged: the loss is .*train\.log"):
        reproduced(diverges, *overrides)
    table = pd.read_csv(tmp_path / "runs" / "studies" / "table2-criteo-sample" / "result.csv")
    assert table["auc"].isna().tolist() == [True, False]


def table5_without_adam(ask: Ask, options: Options, **own: object) -> Findings:
    """As if every run of Adam had failed."""

    def failing(jobs: Sequence[Job]) -> pd.DataFrame:
        rows = ask(jobs)
        rows.loc[rows["opt"] == "adam", ["auc", "error"]] = [math.nan, "no memory"]
        return rows

    return table5.study(failing, options)


@pytest.mark.slow
def test_table_5_records_the_rates_that_it_found_once_it_is_written(tmp_path: Path) -> None:
    overrides = ["study=table5", *SAMPLE, "tracking=none", "workers=1", "seeds=1", "lrs=[0.003]"]
    reproduced(table5_without_adam, *overrides)
    (kept,) = tmp_path.rglob("learning_rates.json")
    assert [(entry["optimizer"], entry["lr"]) for entry in json.loads(kept.read_text())["rates"]] == [
        ("adagrad", 0.003)
    ]
    table = pd.read_csv(tmp_path / "runs" / "studies" / "table5-criteo-sample" / "result.csv")
    assert table[table["chosen"]]["opt"].tolist() == ["adagrad"]

    kept.unlink()
    overrides += ["+train.holdout=0.99", "folder=none-finished"]
    with pytest.raises(CtrError, match=r"^2 of 2 runs failed: holdout=0.99 leaves"):
        reproduce(composed("reproduce", *overrides), overrides)
    assert "adam: no run finished, nothing was chosen." in (tmp_path / "none-finished" / "result.md").read_text()
    assert not kept.exists()


@pytest.mark.slow
def test_a_learning_rate_that_diverges_fails_no_study(tmp_path: Path) -> None:
    def with_sgd(ask: Ask, options: Options, **own: object) -> Findings:
        runs = Runs(ask)
        found = learning_rates.choose_one(runs, options, "sgd")
        return Findings(pd.DataFrame({"lr": [found.value]}), "", {}, runs.frame())

    overrides = ["study=table2", *SAMPLE, "tracking=none", "workers=1", "seeds=1", "lrs=[1e-3,1e-2,1e30]"]
    overrides += ["+train.batch_size=50"]
    reproduced(with_sgd, *overrides)
    runs = pd.read_csv(tmp_path / "runs" / "studies" / "table2-criteo-sample" / "runs.csv").set_index("opt.lr")
    assert runs.loc[1e30].outcome == "diverged"
    assert runs.loc[1e30].error.startswith("diverged: the loss is ")
    assert set(runs.drop(index=1e30).outcome) <= {"finished", "diverged"}


@pytest.mark.slow
def test_failures_are_grouped_by_what_they_say(tmp_path: Path) -> None:
    def fails(ask: Ask, options: Options, **own: object) -> Findings:
        too_small = {**options.common, "opt": "sgd", "holdout": 0.99}
        rows = ask([{**too_small, "seed": seed} for seed in range(3)])
        return Findings(rows[["seed", "auc"]], "", {}, rows)

    overrides = ["study=table2", *SAMPLE, "tracking=none", "workers=1"]
    with pytest.raises(CtrError, match=r"^3 of 3 runs failed: holdout=0.99 .* \(3 runs, the first: \S*train\.log\)$"):
        reproduced(fails, *overrides)


def test_a_study_must_be_named(tmp_path: Path) -> None:
    done = command(tmp_path, "ctr.reproduce", "tracking=none")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: no study given; expected one of study=fig1, fig2, fig3, rivals, stream, table2"
    )
