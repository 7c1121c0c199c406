"""Checks of what a user hands to an optimizer; each error names the option or the parameter."""

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

Norm: TypeAlias = Literal["s", "s_tilde", "s_tilde_eq10"]
Threshold: TypeAlias = Literal["soft", "hard"]
GroupDim: TypeAlias = int | Literal["all"] | None

_CHOICES = {"norm": ("s", "s_tilde", "s_tilde_eq10"), "threshold": ("soft", "hard")}
_NON_NEGATIVE = ("lr", "eps", "lambda1", "lambda21", "lambda2", "initial_accumulator_value", "hessian_power")
_FLAGS = ("nesterov", "eps_hat", "lazy", "maximize", "check_finite")
_OF_SCHEDULERS = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"}
_FOREIGN = {"params", "param_names", "name", "differentiable"} | _OF_SCHEDULERS  # torch's own, allowed in a param group


def check_keys(group: dict[str, Any], known: dict[str, Any], who: str) -> None:
    """ValueError if a param group holds an option that the optimizer does not know."""
    unknown = group.keys() - known.keys() - _FOREIGN
    if unknown:
        raise ValueError(f"{who}: unknown option {sorted(unknown)}; known are {', '.join(known)}")


def check_loaded_keys(group: dict[str, Any], known: dict[str, Any], who: str) -> None:
    """ValueError if the options of a saved param group are not those of the optimizer."""
    missing = known.keys() - group.keys() - _FOREIGN
    unknown = group.keys() - known.keys() - _FOREIGN
    if missing or unknown:
        has_no = [f"has no {sorted(missing)}"] if missing else []
        has = [f"has the unknown {sorted(unknown)}"] if unknown else []
        raise ValueError(f"{who}: this state is of another optimizer, it {' and '.join(has_no + has)}")


def check_state(state: dict[str, Any], p: Tensor, names: tuple[str, ...], seen: list[int], name: str, who: str) -> None:
    """ValueError if a saved state is not the int ``step``, the float ``lr``, one tensor of the parameter's shape for
    each name, and ``seen`` of that shape."""
    if "D_prev" in state:
        raise ValueError(
            f"{who}: this state is of an older version, for {name} it holds z and D_prev, which can no longer be "
            "taken up: train anew, or start from its weights with a state of its own"
        )
    if state.keys() != {"step", "lr", "seen", *names}:
        raise ValueError(
            f"{who}: this state is of another optimizer, for {name} it holds {', '.join(map(str, state))}; "
            f"expected are step, lr, seen, {', '.join(names)}"
        )
    if not _is_dim(state["step"]):
        raise ValueError(f"{who}: in this state step of {name} is {state['step']!r}, not an int")
    if not _is_number(state["lr"], math.inf):
        raise ValueError(f"{who}: in this state lr of {name} is {state['lr']!r}, not a finite number >= 0")
    for key, shape in [*((key, list(p.shape)) for key in names), ("seen", seen)]:
        value = state[key]
        if not isinstance(value, Tensor) or list(value.shape) != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else f"no tensor but {type(value).__name__}"
            raise ValueError(f"{who}: in this state {key} of {name} is {got}, its shape must be {tuple(shape)}")


def check_options(group: dict[str, Any], who: str) -> None:
    """ValueError if an option of a param group is out of range."""
    for key in _NON_NEGATIVE:
        if key in group and not _is_number(group[key], math.inf):
            raise ValueError(f"{who}: {key} must be a finite number >= 0, got {group[key]!r}")
    if "betas" in group:
        betas = group["betas"]
        if not (isinstance(betas, tuple | list) and len(betas) == 2 and all(_is_number(b, 1) for b in betas)):
            raise ValueError(f"{who}: betas must be two numbers in [0, 1), got {betas!r}")
    if "momentum" in group and not _is_number(group["momentum"], 1):
        raise ValueError(f"{who}: momentum must be in [0, 1), got {group['momentum']!r}")
    for key, choices in _CHOICES.items():
        if group[key] not in choices:
            raise ValueError(f"{who}: {key} must be one of {choices}, got {group[key]!r}")
    for key in _FLAGS:
        if key in group and not isinstance(group[key], bool):
            raise ValueError(f"{who}: {key} must be True or False, got {group[key]!r}")
    group_dim = group["group_dim"]
    if not (_is_dim(group_dim) or group_dim is None or group_dim == "all"):
        raise ValueError(f"{who}: group_dim must be a dimension, 'all' or None, got {group_dim!r}")


def check_parameter(p: Tensor, group_dim: GroupDim, name: str, who: str) -> None:
    """ValueError if the optimizer cannot hold this parameter or its group_dim does not fit."""
    if p.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{who}: {name} is {p.dtype}; weights must be float32 or float64 "
            "(low precision may run the net, never the optimizer's state)"
        )
    dims = max(p.dim(), 1)
    if isinstance(group_dim, int) and not 0 <= group_dim < dims:
        raise ValueError(
            f"{who}: group_dim {group_dim} is out of range for {name} of shape {tuple(p.shape)}; "
            f"it must be 0 to {dims - 1}, 'all' or None"
        )


def check_gradient(grad: Tensor, group: dict[str, Any], name: str, who: str) -> None:
    """RuntimeError if a step cannot take this gradient."""
    if grad.is_sparse:
        if grad.sparse_dim() != 1:
            raise RuntimeError(
                f"{who}: the gradient of {name} has {grad.sparse_dim()} sparse dimensions; 1 is expected, the rows"
            )
        if group["group_dim"] not in (0, None):
            raise RuntimeError(
                f"{who}: the gradient of {name} is sparse by rows, which needs group_dim 0 or None, "
                f"not {group['group_dim']!r}"
            )
    elif grad.layout != torch.strided:
        raise RuntimeError(f"{who}: the gradient of {name} is {grad.layout}; dense or sparse COO is expected")
    if group["check_finite"]:
        values = grad._values() if grad.is_sparse else grad
        if not bool(values.isfinite().all()):
            raise RuntimeError(f"{who}: the gradient of {name} holds NaN or infinity")


def _is_dim(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any, below: float) -> bool:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < below
