"""Finds models, datasets and optimizers by name and reads their options from their signatures.

A part is one module: ``ctr.models.<name>``, ``ctr.datasets.<name>``, ``ctr.optim.group_<name>``, or any other one that
the part's YAML names in its key ``_module``. There is no list of them to keep.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from ctr.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

    from ctr.optim.core import GroupOptimizer

GROUPED = "group_"  # begins the names of the optimizers that regularise; without it: their plain twins
# Arguments that the training code gives itself, by group; all others are options.
GIVEN = {
    "model": {"num_features", "num_fields", "num_dense", "embedding", "generator", "embedding_dim"},
    "opt": {"params", "group_dim", "lazy", "maximize", "check_finite", "fused"},
}


def find(group: str, name: str, module: str | None = None) -> Callable[..., Any]:
    """Returns what makes the part ``<group>=<name>``; its signature gives the options.

    Args:
        group: ``"model"``, ``"dataset"`` or ``"opt"``.
        name: as on the command line.
        module: where the part is; None for this package.

    Raises:
        ArgumentError: there is no such module, or it does not hold the one part that is expected.
    """
    if group == "model":
        return model(name, module)
    if group == "dataset":
        return dataset(name, module)
    grouped = optimizer(name, module)
    return grouped if name.startswith(GROUPED) else plain_twin(grouped)


def model(name: str, module: str | None = None) -> type[nn.Module]:
    """Returns the one class of a module that is an ``nn.Module`` with ``from_rows``."""
    found = _import(f"model={name}", module or f"ctr.models.{name}")
    from torch import nn

    expected = "one nn.Module with a method from_rows(rows, dense)"
    cls = _only(found, expected, lambda cls: issubclass(cls, nn.Module) and hasattr(cls, "from_rows"))
    if missing := GIVEN["model"] - {"embedding_dim"} - inspect.signature(cls).parameters.keys():
        raise ArgumentError(f"{found.__name__}: {cls.__name__} does not take {', '.join(sorted(missing))}")
    return cls


def dataset(name: str, module: str | None = None) -> Callable[..., Any]:
    """Returns the function ``make`` of a module."""
    found = _import(f"dataset={name}", module or f"ctr.datasets.{name}")
    make = getattr(found, "make", None)
    if not callable(make):
        raise ArgumentError(f"{found.__name__}: expected a function make(...) that returns a Dataset")
    return cast("Callable[..., Any]", make)


def optimizer(name: str, module: str | None = None) -> type[GroupOptimizer]:
    """Returns the one `GroupOptimizer` of a module; ``adam`` and ``group_adam`` are in the same one."""
    found = _import(f"opt={name}", module or f"ctr.optim.{GROUPED}{name.removeprefix(GROUPED)}")
    from ctr.optim.core import GroupOptimizer

    return _only(found, "one GroupOptimizer", lambda cls: issubclass(cls, GroupOptimizer))


def plain_twin(grouped: type[GroupOptimizer]) -> Callable[..., Any]:
    """Returns what makes the optimizer of the net, which equals the grouped one with all lambdas 0.

    Raises:
        ArgumentError: the class names none, or one with options that it does not have itself.
    """
    plain = getattr(grouped, "plain", None)
    if not callable(plain):
        raise ArgumentError(
            f"{grouped.__module__}: {grouped.__name__} has no plain twin for the net; "
            "expected a static method plain(params, lr, ...) that returns a torch.optim.Optimizer"
        )
    if unknown := options("opt", plain).keys() - options("opt", grouped).keys():
        raise ArgumentError(
            f"{grouped.__module__}: {grouped.__name__}.plain has the options {', '.join(sorted(unknown))}, "
            f"{grouped.__name__} has not"
        )
    return cast("Callable[..., Any]", plain)


def options(group: str, part: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Returns what can be chosen of a part, by name: annotations as types, and defaults."""
    parameters = inspect.signature(part, eval_str=True).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in GIVEN.get(group, ())}


def source(module: str) -> Path:
    """Returns the file of a module, without importing it: its hash is part of what a run computes.

    Raises:
        ArgumentError: there is no such module, or it has no file.
    """
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ArgumentError(f"_module={module}: no file of a module of this name")
    return Path(spec.origin)


def _import(choice: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there and needs another one
        raise ArgumentError(
            f"{choice}: no module {module}; a part of another package names its module in its YAML: _module: package.x"
        ) from None


def _only(module: ModuleType, expected: str, fits: Callable[[type], bool]) -> Any:
    """Returns the one class that fits, of those that the module itself defines."""
    own = [cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__]
    found = [cls for cls in dict.fromkeys(own) if fits(cls)]
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise ArgumentError(f"{module.__name__}: expected {expected}, found {names}")
    return found[0]
