"""The page on adding a dataset: its code runs, and the configurations of all datasets fit together."""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from omegaconf import MISSING

from ctr.cli import make_dataset, open_data
from ctr.config import SCHEMAS, DatasetConfig
from ctr.datasets import DATASETS
from ctr.datasets.prepared import read_vocabulary
from ctr.errors import ArgumentError, CtrError, DataError
from tests.commands import composed

PAGE = (Path(__file__).parents[2] / "docs" / "adding-a-dataset.md").read_text()
LOG = """2024-05-01|1|4711|red shoes for men|19.90
2024-05-01|0|12|a hat|
2024-05-02|0|4711|red shoes|1e1
"""


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, schema = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (yaml,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "shop.py").write_text(module)
    spec = importlib.util.spec_from_file_location("ctr.datasets.shop", tmp_path / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    shop = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ctr.datasets.shop", shop)
    spec.loader.exec_module(shop)
    monkeypatch.setitem(DATASETS, "shop", shop.make)
    names = {
        "SCHEMAS": SCHEMAS,
        "dataclass": dataclass,
        "DatasetConfig": DatasetConfig,
        "MISSING": MISSING,
    }
    monkeypatch.setitem(SCHEMAS["dataset"], "shop", DatasetConfig)  # so that it is taken out again afterwards
    exec(schema, {**names, "__name__": __name__})
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "shop.yaml").write_text(yaml)
    (tmp_path / "log.txt").write_text(LOG)
    config = composed(
        "train",
        *("dataset=shop", f"hydra.searchpath=[file://{tmp_path / 'conf'}]"),
        *(f"dataset.raw={tmp_path / 'log.txt'}", f"dataset.prepared={tmp_path / 'prepared'}"),
    )
    assert config.model.name == "mlp"
    data = open_data(config.dataset)
    ids, dense, label = data.rows[0:3]
    assert ids.tolist() == [[0, 1], [2, 3], [0, 1]]
    np.testing.assert_allclose(dense[:, 0], np.log1p([19.9, 0, 10]), rtol=1e-6)
    assert label.tolist() == [1, 0, 0]
    assert read_vocabulary(data)["value"].to_pylist() == ["4711", "red shoes", "12", "a hat"]
    assert (data.split.train, data.split.test) == ([(0, 2)], [(2, 3)])
    (tmp_path / "log.txt").write_text(LOG.replace("2024-05-02", "2 May"))
    with pytest.raises(DataError, match="line 3: column day is '2 May'; expected a day like 2024-05-01"):
        open_data(config.dataset)
    config.dataset.words = 0
    with pytest.raises(ArgumentError, match=r"dataset\.words=0; expected at least 1"):
        open_data(config.dataset)
    config.dataset.words, config.dataset.raw = 2, "nothing"
    with pytest.raises(ArgumentError, match="no raw log at nothing") as missing:
        open_data(config.dataset)
    assert "dataset.source" not in str(missing.value)  # it has no generator


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
