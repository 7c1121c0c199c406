"""Datasets chosen on the command line: their options, their model, what is said where the log is missing."""

from pathlib import Path

import pytest

from ctr.cli import make_dataset, open_data
from ctr.errors import ArgumentError, CtrError
from tests.commands import composed


@pytest.mark.parametrize("command", ["train", "prepare"])
@pytest.mark.parametrize("dataset", ["criteo", "avazu"])
def test_a_dataset_picks_its_model_and_the_user_another(command: str, dataset: str) -> None:
    own = {"criteo": "dcn", "avazu": "mlp"}[dataset]
    config = composed(command, f"dataset={dataset}")
    # Criteo's model is the default of training; preparing has none.
    assert (config.model and config.model.name) == (None if (command, dataset) == ("prepare", "criteo") else own)
    assert config.dataset.lr.adam == {"criteo": 1e-3, "avazu": 1e-4}[dataset]
    for model in ("dcn", "mlp"):
        assert composed(command, f"model={model}", f"dataset={dataset}").model.name == model
        assert composed(command, f"dataset={dataset}", f"model={model}").model.name == model


def test_options_reach_the_reader() -> None:
    assert make_dataset(composed("prepare", "dataset=avazu").dataset).options == {"hour": "of_day"}
    assert make_dataset(composed("prepare", "dataset=avazu", "dataset.hour=raw").dataset).options == {"hour": "raw"}
    mine = ("dataset=csv", "dataset.raw=x", "dataset.label=y")
    config = composed("prepare", *mine, "dataset.categorical=[a,b]", "dataset.delimiter=';'").dataset
    assert make_dataset(config).options == {"label": "y", "categorical": ["a", "b"], "dense": [], "delimiter": ";"}
    tabs = composed("prepare", *mine, "dataset.categorical=[a]", r"dataset.delimiter='\t'").dataset
    assert make_dataset(tabs).options["delimiter"] == "\t"
    with pytest.raises(ArgumentError, match=r"dataset.categorical is empty"):
        make_dataset(composed("prepare", *mine, "dataset.categorical=[]").dataset)


def test_messages_name_the_source_and_warn_of_copies(tmp_path: Path) -> None:
    for name, word in {"criteo": "Criteo_x1 and Criteo_x4", "avazu": "Avazu_x1 and Avazu_x4"}.items():
        config = composed("prepare", f"dataset={name}", f"dataset.raw={tmp_path / 'nothing'}").dataset
        with pytest.raises(CtrError, match=f"no raw log at .*{word} copies are split at random"):
            open_data(config)
    mine = composed("prepare", "dataset=csv", "dataset.raw=x", "dataset.label=y", "dataset.categorical=[a]")
    mine.dataset.source = "sample"
    with pytest.raises(ArgumentError, match="there are no generated rows for dataset=csv"):
        open_data(mine.dataset)


def test_generated_rows(tmp_path: Path) -> None:
    for name in ("avazu", "ipinyou"):
        config = composed(
            "prepare",
            *(f"dataset={name}", "model=mlp", "dataset.source=sample", "dataset.sample_rows=200"),
            f"dataset.prepared={tmp_path / name / 'prepared'}",
        ).dataset
        data = open_data(config)
        assert data.manifest.recipe.source == "generated"
        assert data.manifest.rows == 200
        assert data.split.rows_test == {"avazu": 20, "ipinyou": 60}[name]
        assert open_data(config).reused
