"""Datasets chosen on the command line: their options, their model, what is said where the log is missing."""

from pathlib import Path

import pytest

from ctr.config.data import data_settings
from ctr.config.schema import plain_dict
from ctr.errors import ArgumentError, CtrError
from tests.commands import composed, prepared


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


def options(*overrides: str) -> dict[str, object]:
    """What the reader of a dataset is given."""
    return data_settings(plain_dict(composed("prepare", *overrides).dataset)).format.options


def test_options_reach_the_reader(tmp_path: Path) -> None:
    assert options("dataset=avazu", "dataset.source=sample") == {"hour": "of_day"}
    assert options("dataset=avazu", "dataset.source=sample", "dataset.hour=raw") == {"hour": "raw"}
    (tmp_path / "x").touch()
    mine = ("dataset=csv", f"dataset.raw={tmp_path / 'x'}", "dataset.label=y")
    given = options(*mine, "dataset.categorical=[a,b]", "dataset.delimiter=';'")
    assert given.items() >= {"label": "y", "categorical": ["a", "b"], "dense": [], "delimiter": ";"}.items()
    assert options(*mine, "dataset.categorical=[a]", r"dataset.delimiter='\t'")["delimiter"] == "\t"
    with pytest.raises(ArgumentError, match=r"dataset.categorical is empty"):
        options(*mine, "dataset.categorical=[]")


@pytest.mark.usefixtures("here")
def test_messages_name_the_source_and_warn_of_copies() -> None:
    """Where nothing is named; a name that is wrong is all that the message tells."""
    for name, word in {"criteo": "Criteo_x1 and Criteo_x4", "avazu": "Avazu_x1 and Avazu_x4"}.items():
        with pytest.raises(CtrError, match=f"no raw log at .*{word} copies are split at random"):
            prepared(composed("prepare", f"dataset={name}"))
        with pytest.raises(ArgumentError, match=r"^dataset\.raw=nothing: no such file or folder$"):
            prepared(composed("prepare", f"dataset={name}", "dataset.raw=nothing"))
    mine = composed("prepare", "dataset=csv", "dataset.raw=x", "dataset.label=y", "dataset.categorical=[a]")
    mine.dataset.source = "sample"
    with pytest.raises(ArgumentError, match="there are no generated rows for dataset=csv"):
        prepared(mine)


def test_generated_rows(tmp_path: Path) -> None:
    for name in ("avazu", "ipinyou"):
        config = composed(
            "prepare",
            *(f"dataset={name}", "model=mlp", "dataset.source=sample", "dataset.sample_rows=200"),
            f"dataset.prepared={tmp_path / name / 'prepared'}",
        )
        data = prepared(config)
        assert data.manifest.recipe.source == "generated"
        assert data.manifest.rows == 200
        assert data.split.rows_test == {"avazu": 20, "ipinyou": 60}[name]
        assert prepared(config).reused
