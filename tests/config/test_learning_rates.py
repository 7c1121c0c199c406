"""opt.lr=auto: the rate that was chosen for these rows and circumstances, or an error that says how to choose one."""

import json
import shlex
from pathlib import Path

import pytest
from omegaconf import DictConfig

from ctr.config import learning_rates
from ctr.config.command_line import override
from ctr.config.compose import resolve
from ctr.config.schema import plain_dict
from ctr.errors import ArgumentError, CtrError
from ctr.studies import request
from tests.commands import composed, job
from tests.datasets.criteo_text import arguments


def config(folder: Path, *overrides: str) -> DictConfig:
    return composed("train", *arguments(folder, "tracking=none", *overrides, rows=100))


@pytest.mark.parametrize(
    ("opt", "expected"),
    [("adam", "adam"), ("group_amsgrad", "adam"), ("group_adagrad", "adagrad"), ("group_adahessian", "adahessian")],
)
def test_a_rate_counts_for_the_family_of_its_optimizer(opt: str, expected: str) -> None:
    assert learning_rates.family(opt) == expected


def test_rates_are_recorded_by_circumstances(tmp_path: Path) -> None:
    def plain(*overrides: str) -> dict[str, object]:
        return plain_dict(config(tmp_path, *overrides))

    folder = tmp_path / "rows"
    learning_rates.record(folder, plain("opt=adam"), 0.01)
    learning_rates.record(folder, plain("opt=adam", "model.embedding_dim=4"), 0.1)
    learning_rates.record(folder, plain("opt=adagrad"), 0.5)
    learning_rates.record(folder, plain("opt=adam"), 0.001)  # in place of the first
    assert learning_rates.recorded(folder, plain("opt=group_adam", "opt.lambda21=1", "seed=3")) == 0.001
    assert learning_rates.recorded(folder, plain("opt=adam", "model.embedding_dim=4")) == 0.1
    assert learning_rates.recorded(folder, plain("opt=adagrad")) == 0.5
    for other in (
        ["opt=adagrad", "train_rows=50"],
        ["opt=adam", "model=mlp"],
        ["opt=adam", "model.hidden=[8]"],
        ["opt=adam", "model.embedding_init=0.1"],
        ["opt=adam", "model.cross_layers=3"],
        ["opt=adam", "dataset.test_fraction=0.5"],
        ["opt=adam", "batch_size=64"],
        ["opt=adam", "holdout=0.1"],
    ):
        with pytest.raises(CtrError, match=r"python -m ctr\.reproduce study=table5 dataset=criteo dataset\.source=raw"):
            learning_rates.recorded(folder, plain(*other))


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=criteo", "dataset.encoding=hash", "dataset.num_buckets=99", "model=opnn", "model.kernel=sum"],
        ["dataset=criteo", "dataset.source=sample", "dataset.sample_rows=500", "dataset.sample_seed=3", "holdout=0.1"],
        ["dataset=criteo", "dataset.test_fraction=0.5", "dataset.bad_rows=skip", "batch_size=64", "train_rows=99"],
        ["dataset=avazu", "dataset.test_days=[20141029,20141030]", "dataset.hour=raw", "model.hidden=[8,4]"],
        ["dataset=ipinyou", "model.dropout=0", "dataset.unseen=init", "opt=group_adagrad"],
        ["dataset=csv", "dataset.raw=a b.csv", "model=mlp", "dataset.label=y", "dataset.categorical=[a,'b c']",
         "dataset.dense=[n]", "dataset.delimiter=';'"],
    ],
)  # fmt: skip
def test_the_command_chooses_for_the_same_rows_and_circumstances(tmp_path: Path, overrides: list[str]) -> None:
    wanted = plain_dict(composed("train", *overrides))
    with pytest.raises(CtrError) as raised:
        learning_rates.recorded(tmp_path / "rows", wanted)
    line = shlex.split(str(raised.value).partition("choose one with ")[2])
    assert line[:3] == ["python", "-m", "ctr.reproduce"]
    assert line[3] == "study=table5"
    asked, _ = request.resolve(composed("reproduce", *line[3:]), [key.partition("=")[0] for key in line[3:]])
    job = {"dataset": asked.dataset, "model": asked.model, **asked.common, "opt": wanted["opt"]["name"]}
    settled = plain_dict(composed("train", *(override(key, value) for key, value in job.items())))
    assert learning_rates.circumstances(settled) == learning_rates.circumstances(wanted)
    assert settled["dataset"] == wanted["dataset"]


def test_no_command_chooses_a_rate_for_other_optimizers(tmp_path: Path) -> None:
    wanted = plain_dict(config(tmp_path, "opt=group_momentum", "opt.lr=auto"))
    with pytest.raises(CtrError, match=r"opt\.lr=auto: rates are chosen for adam, adagrad .* not for momentum; give a"):
        learning_rates.recorded(tmp_path / "rows", wanted)


def test_auto_is_settled_to_the_number(tmp_path: Path) -> None:
    given = config(tmp_path, "opt.lr=auto")
    with pytest.raises(CtrError, match="no learning rate was chosen for these rows yet"):
        job(given, tmp_path / "none")
    (folder,) = (path for path in (tmp_path / "prepared").iterdir() if path.is_dir())
    learning_rates.record(folder, plain_dict(given), 0.02)
    job(given, tmp_path / "auto")
    job(config(tmp_path, "opt.lr=0.02"), tmp_path / "number")
    auto, number = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("auto", "number"))
    assert (auto["auc"], auto["config_hash"]) == (number["auc"], number["config_hash"])
    assert "lr: 0.02" in (tmp_path / "auto" / ".hydra" / "config.yaml").read_text()


def test_other_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"opt\.lr=abc; expected a number or auto"):
        resolve(config(tmp_path, "opt.lr=abc"))
    with pytest.raises(ArgumentError, match="batch_size=0"):  # the rest is checked with auto too
        resolve(config(tmp_path, "opt.lr=auto", "batch_size=0"))


def test_whole_numbers_are_numbers() -> None:
    resolve(composed("train", "dataset.source=sample", "opt.lr=1"))
