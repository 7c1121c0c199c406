"""A saved model as a model of MLflow, which `mlflow.pyfunc.load_model` and `mlflow models serve` use on raw columns.

It is MLflow's "models from code": the saved model's folder and the few lines of `ctr.artifact.served`, no pickle. ctr
itself has to be installed where it is loaded: it is not on the package index, so that no requirement can name it.
"""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import requires, version
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ctr.artifact.saved import SavedModel, load
from ctr.datasets.columns import HEX32

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

SERVED = Path(__file__).with_name("served.py")
EXAMPLE_ROWS = 3


def write(folder: Path, made: Path, model: Model) -> None:
    """Writes MLflow's model of a saved one.

    Args:
        folder: of the saved model.
        made: a new folder.
        model: MLflow's description, to be completed.
    """
    from mlflow import pyfunc

    saved = load(folder, allow_module=True)
    quiet, level = logging.getLogger("mlflow"), logging.getLogger("mlflow").level
    quiet.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what MLflow makes of its own types
            pyfunc.save_model(
                made,
                python_model=str(SERVED),
                artifacts={"model": str(folder)},
                signature=signature(saved),
                input_example=example(saved),
                pip_requirements=requirements(),
                mlflow_model=model,
            )
    finally:
        quiet.setLevel(level)


def signature(saved: SavedModel) -> ModelSignature:
    """The raw log's columns that the model needs -> a probability.

    Hexadecimal values are text: as numbers they have lost their form. All others may be numbers or text.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string if type_ is HEX32 else AnyType(), name, required=type_ is HEX32)
        for name, type_ in saved.inputs.columns.items()
    ]
    return ModelSignature(Schema(inputs), Schema([ColSpec(DataType.float, "probability")]))


def example(saved: SavedModel) -> pd.DataFrame:
    """Some rows as they are in the raw log: the golden ones, with made-up values where those are not raw."""
    fields, golden = saved.dataset.read_fields, saved.manifest.golden
    rows = golden.values or [[value for value, _ in golden.probes or ()]]
    values = dict(zip((field.name for field in fields), zip(*rows[:EXAMPLE_ROWS], strict=True), strict=True))
    raw = {field.name: values[field.name] for field in fields if not field.derived}
    count = len(rows[:EXAMPLE_ROWS])
    made = {name: [saved.inputs.example.get(name, 1)] * count for name in saved.inputs.columns}
    return pd.DataFrame({name: raw.get(name, made[name]) for name in saved.inputs.columns})


def requirements() -> list[str]:
    """What ctr needs, in the versions that are installed here."""
    names = [line.split(";")[0] for line in requires("sparse-ctr") or () if "extra ==" not in line]
    bare = ["".join(c if c.isalnum() or c in "-_." else " " for c in name).split()[0] for name in names]
    return [f"{name}=={version(name).partition('+')[0]}" for name in bare]
