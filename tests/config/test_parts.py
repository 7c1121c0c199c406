"""Parts are found by name; their options come from their signatures, and their YAML files agree with these."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import ctr.conf
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from ctr import parts
from ctr.config import schema
from ctr.config.help import comments
from ctr.config.search import folders
from ctr.errors import ArgumentError
from ctr.models import MLP
from ctr.optim import OPTIMIZERS, GroupAdam, GroupOptimizer
from ctr.training.optimizers import make_optimizers
from tests.commands import composed

CONFIGS = Path(ctr.conf.__file__).parent
CHOICES = [(group, path.stem) for group in ("model", "dataset", "opt") for path in (CONFIGS / group).glob("*.yaml")]
# Where a YAML's value is not the class's default; its comment there says why.
DIFFER = {"lambda21", "threshold"}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An empty module that can be imported as ``mine``."""
    made = ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", made)
    return made


def define(module: ModuleType, *classes: type) -> None:
    for cls in classes:
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_yaml_has_the_options_of_the_signature_and_their_defaults(group: str, name: str) -> None:
    values = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())
    values = OmegaConf.to_container(OmegaConf.create(values))  # numbers such as 1e-3
    options = parts.options(group, parts.find(group, name))
    shared = {"model": schema.ModelConfig, "dataset": schema.DatasetConfig, "opt": schema.GroupedConfig}[group]
    shared_keys = {"defaults", *shared.__dataclass_fields__}
    assert set(values) - shared_keys == set(options) - shared_keys
    for key in set(options) - shared_keys:
        default, value = options[key].default, values[key]
        if default is inspect.Parameter.empty:
            assert value == "???"
        elif key in DIFFER:
            assert f"{default} in the class" in comments(f"{group}/{name}", folders())[key]
        else:
            value = float(value) if isinstance(default, float) else value
            assert value == (list(default) if isinstance(default, tuple) else default), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_class_names_its_plain_twin(name: str) -> None:
    """The net of a grouped and of a plain optimizer is trained by the same one, with the same options."""
    cls = OPTIMIZERS[name]
    twin = {
        "group_sgd": torch.optim.SGD,
        "group_momentum": torch.optim.SGD,
        "group_adagrad": torch.optim.Adagrad,
        "group_adam": torch.optim.Adam,
        "group_amsgrad": torch.optim.Adam,
        "group_adahessian": cls,
    }[name]
    model = MLP(10, 2, embedding_dim=4, hidden=[3])
    given = {"lr": 0.25, **({"eps": 1e-3} if "eps" in inspect.signature(cls).parameters else {})}
    for opt, options in ((name, {**given, "lambda21": 0.5}), (name.removeprefix("group_"), given)):
        rows, net = make_optimizers(model, opt, options)
        assert (type(rows), type(net)) == (cls, twin)
        assert rows.param_groups[0]["params"] == [model.embedding.weight]
        assert len(net.param_groups[0]["params"]) == len(list(model.parameters())) - 1
        assert {key: net.param_groups[0][key] for key in given} == given
    assert net.param_groups[0].get("amsgrad", False) == (name == "group_amsgrad")
    assert net.param_groups[0].get("momentum", 0) == (0.9 if name == "group_momentum" else 0)
    assert net.param_groups[0].get("group_dim") is None


def test_an_unknown_optimizer_raises() -> None:
    model = MLP(10, 2)
    for name in ("rmsprop", "group_rmsprop"):
        with pytest.raises(ArgumentError, match=rf"^opt={name}: no module ctr\.optim\.group_rmsprop; a part"):
            make_optimizers(model, name, {"lr": 0.1})


def test_a_class_without_a_twin_raises_by_name(module: ModuleType) -> None:
    class GroupNew(GroupOptimizer):
        def __init__(self, params: Any, lr: float, lambda21: float = 0.0) -> None: ...

    define(module, GroupNew)
    for name in ("new", "group_new"):
        with pytest.raises(ArgumentError, match=r"^mine: GroupNew has no plain twin for the net; expected a static"):
            make_optimizers(MLP(10, 2), name, {"lr": 0.1}, "mine")


def test_a_twin_with_options_of_its_own_raises(module: ModuleType) -> None:
    class GroupNew(GroupOptimizer):
        def __init__(self, params: Any, lr: float) -> None: ...

        @staticmethod
        def plain(params: Any, lr: float, decay: float = 0.0) -> None: ...

    define(module, GroupNew)
    with pytest.raises(ArgumentError, match=r"^mine: GroupNew.plain has the options decay, GroupNew has not"):
        parts.find("opt", "new", "mine")


def test_a_module_holds_one_part(module: ModuleType) -> None:
    class Net(nn.Module):
        def from_rows(self, rows: torch.Tensor, dense: torch.Tensor | None) -> torch.Tensor: ...

    class Other(Net): ...

    module.MLP = MLP  # type: ignore[attr-defined]  # imported from elsewhere: not its own
    expected = r"^mine: expected one nn.Module with a method from_rows\(rows, dense\), found "
    with pytest.raises(ArgumentError, match=f"{expected}none"):
        parts.find("model", "mine", "mine")
    define(module, Net)
    with pytest.raises(ArgumentError, match=r"^mine: Net does not take embedding, generator, num_dense, num_features"):
        parts.find("model", "mine", "mine")
    define(module, Other)
    with pytest.raises(ArgumentError, match=f"{expected}Net, Other"):
        parts.find("model", "mine", "mine")
    with pytest.raises(ArgumentError, match=r"^mine: expected a function make\(\.\.\.\) that returns a Dataset"):
        parts.find("dataset", "mine", "mine")
    with pytest.raises(ArgumentError, match=r"^mine: expected one GroupOptimizer, found none"):
        parts.find("opt", "group_mine", "mine")


def test_a_module_that_lacks_what_it_imports_is_not_taken_for_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        parts.find("model", "x", "needs_more")


def options_of(module: ModuleType, make: Any, **values: object) -> Any:
    """The configuration of a dataset whose ``make`` is this, with these values."""
    module.make = make  # type: ignore[attr-defined]
    config = OmegaConf.create(OmegaConf.to_container(composed("prepare", "dataset=criteo"), resolve=True))
    config.dataset = {**config.dataset, "name": "mine", "_module": "mine", **values}
    return schema.typed(config, schema.PrepareConfig).dataset


def test_types_of_a_signature(module: ModuleType) -> None:
    def make(
        count: int,
        share: float,
        kind: Literal["a", "b"] = "a",
        names: Sequence[str] = ("x",),
        pair: tuple[float, float] = (0.9, 0.99),
        limit: int | None = None,
        flag: bool = False,
    ) -> None: ...

    found = options_of(module, make, count=3, share=1)
    assert (found.count, found.share, type(found.share)) == (3, 1.0, float)
    assert (found.kind, found.names, found.pair, found.limit, found.flag) == ("a", ["x"], [0.9, 0.99], None, False)
    found = options_of(module, make, count=3, share=1, kind="b", names=["y", "z"], limit=4, flag=True)
    assert (found.kind, found.names, found.limit, found.flag) == ("b", ["y", "z"], 4, True)
    for key, value in [
        *(("count", "x"), ("count", 2.5), ("share", "x"), ("kind", "c"), ("names", "x"), ("pair", ["a", "b"])),
        *(("limit", "x"), ("flag", "maybe"), ("nothing", 1)),
    ]:
        with pytest.raises(OmegaConfBaseException) as caught:
            options_of(module, make, **{"count": 3, "share": 1, key: value})
        assert caught.value.full_key.startswith(f"dataset.{key}")


def test_a_type_that_cannot_be_checked_is_named(module: ModuleType) -> None:
    def make(where: Path) -> None: ...

    expected = r"test_parts.*make.*: where has pathlib\.Path; expected int, float, bool, str, Literal of texts"
    with pytest.raises(ArgumentError, match=expected):
        options_of(module, make, where="x")

    def untyped(where=None) -> None: ...  # type: ignore[no-untyped-def]

    with pytest.raises(ArgumentError, match="where has no type; expected int"):
        options_of(module, untyped, where="x")


def test_a_checked_configuration_is_plain() -> None:
    """It goes to other processes, and its interpolations to other keys stay."""
    config = composed("train", "dataset.lr.adam=0.5", "opt.lambda21=1")
    assert (config.opt.lr, config.opt.lambda21, type(config.opt.lambda21)) == (0.5, 1.0, float)
    assert (config.dataset.source, config.opt.norm) == ("raw", "s")
    with pytest.raises(OmegaConfBaseException):
        config.opt.lamda21 = 1.0
    assert parts.optimizer("group_adam") is parts.optimizer("adam") is GroupAdam


def test_the_file_of_a_module() -> None:
    assert parts.source("ctr.models.mlp") == Path(inspect.getfile(MLP))
    for name in ("ctr.models.nothing", "nothing.at.all"):
        with pytest.raises(ArgumentError, match=f"^_module={name}: no file of a module of this name"):
            parts.source(name)
