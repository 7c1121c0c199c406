"""Saved models of random content, and their exported files; made once."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ctr
from ctr import parts
from ctr.artifact import format, onnx
from ctr.artifact.saved import SavedModel
from ctr.artifact.scorer import RowType, Scorer, scorer_of
from tests.scripts import script

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CSV = {"label": "click", "categorical": ["site", "device", "hour"], "dense": ["price"], "transform_default": "none"}
SIZES = {"criteo": list(range(26)), "avazu": [7] * 22, "csv": [1, 40, 5]}
# Dataset and its options; model, its options, and the package that it is in.
MADE: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], str | None]] = {
    "dcn": ("criteo", {}, "dcn", {"hidden": [8]}, None),
    "mlp": ("avazu", {}, "mlp", {"hidden": [8]}, None),
    "opnn": ("csv", CSV, "opnn", {"hidden": [8, 4]}, None),
    "deepfm": ("csv", CSV, "deepfm", {"hidden": [8]}, None),
    "lr": ("criteo", {}, "lr", {}, None),
    "nfm": ("csv", CSV, "nfm", {"hidden": [8]}, "ctr_shop.nfm"),
}


@dataclass(frozen=True)
class Exported:
    """A saved model and the file that was made of it."""

    model: SavedModel
    scorer: Scorer
    path: Path

    @property
    def session(self) -> Any:
        return onnx.session(self.path)


class Exports:
    """Makes each model and each file once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, SavedModel] = {}
        self._files: dict[tuple[str, RowType], Exported] = {}

    def model(self, name: str) -> SavedModel:
        if name not in self._models:
            dataset, options, model, of_model, module = MADE[name]
            made_contents = script("serving_bench").made_contents
            contents = made_contents(
                parts.dataset(dataset)(**options),
                SIZES[dataset],
                model,
                1 if model == "lr" else 4,
                options=of_model,
                module=module,
            )
            format.write(self._folder / name, contents)
            self._models[name] = ctr.load(self._folder / name, allow_module=True)
        return self._models[name]

    def file(self, name: str, rows: RowType = "float32") -> Exported:
        if (name, rows) not in self._files:
            model = self.model(name)
            scorer, path = (
                scorer_of(model, rows),
                self._folder / f"{name}.{rows}.onnx",
            )
            onnx.write(path, onnx.to_onnx(model, scorer))
            self._files[name, rows] = Exported(model, scorer, path)
        return self._files[name, rows]


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    for library in onnx.LIBRARIES:
        pytest.importorskip(library)
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    return Exports(tmp_path_factory.mktemp("exports"))
