"""A step of the grouped optimizers in compiled code: the rows of a tensor and of its state, in place.

It is what :mod:`ctr.optim.core` does in torch, row by row in one pass over the memory (``native/src/optimizer.cpp``).
``torch.compile`` and tensors that are not plain ones see it as a custom operator, ``torch.ops.ctr.update_rows``.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ctr.native import library as native
from ctr.native.threads import sharing
from ctr.optim.histogram import StrengthHistogram
from ctr.optim.shrinkage import may_vanish

# Mirrored by native/src/update.h, as is MAX_DIM.
ADAM, ADAGRAD, SGD, MOMENTUM, AMSGRAD, ADAHESSIAN = range(6)
MAX_DIM = 512
MAX_ROWS = 2**31 - 1  # ids are int32
_NORMS = {"s": 0, "s_tilde": 1, "s_tilde_eq10": 2}
# Where the buffers of each rule are among a row's weights, u, first, second and largest second moment.
_PLACES = {ADAM: (2, 3), ADAGRAD: (3,), SGD: (), MOMENTUM: (2,), AMSGRAD: (2, 3, 4), ADAHESSIAN: (2, 3)}


class Grouped(Protocol):
    """What is needed of a `ctr.optim.core.GroupOptimizer`."""

    buffers: tuple[str, ...]
    rule: int | None
    histogram: StrengthHistogram | None

    @property
    def state(self) -> Any: ...
    def hessian_rows(self, p: Tensor, rows: Tensor | None) -> Tensor | None: ...


def unfit(optimizer: Grouped, p: Tensor, group: dict[str, Any]) -> str | None:
    """Why compiled code cannot step this parameter; None if it can."""
    if type(optimizer).__dict__.get("rule") is None:  # one inherited may not be that of the moments
        return f"it does not know the rule of {type(optimizer).__name__}"
    if not p.is_cpu or p.dtype not in (torch.float32, torch.float64):
        return f"it is {p.dtype} on {p.device}; it must be float32 or float64 on the CPU"
    if group["group_dim"] not in (0, None):
        return f"group_dim is {group['group_dim']!r}; it must be 0 or None"
    rows, dim = _size(p)
    if dim > MAX_DIM or rows > MAX_ROWS:
        return f"it has {rows:,} rows of {dim:,} numbers; there may be {MAX_ROWS:,} of {MAX_DIM}"
    state = optimizer.state.get(p) or {}
    if not all(_in_rows(t) for t in (p, *(state[name] for name in ("u", *optimizer.buffers) if name in state))):
        return "its rows, or those of its state, are not each in one piece of memory"
    return None if native.available() else "the compiled kernels are not available"


def _size(p: Tensor) -> tuple[int, int]:
    """Rows, and numbers in each; a single number is a row."""
    rows, *others = p.shape or (1,)
    return rows, math.prod(others)


def _in_rows(t: Tensor) -> bool:
    return t.is_contiguous() or (t.dim() == 2 and t.stride(1) == 1 and t.stride(0) >= t.shape[1])


def step(optimizer: Grouped, p: Tensor, group: dict[str, Any]) -> None:
    """Makes step ``state["step"]`` of a parameter for which :func:`unfit` is None, with its gradient.

    Raises:
        RuntimeError: the gradient has a row that the parameter has not; nothing has changed.
    """
    grad = p.grad
    assert grad is not None
    if grad.is_sparse:
        if optimizer.rule == ADAHESSIAN:
            grad = grad.coalesce()
        step_rows(optimizer, p, group, grad._indices()[0], grad._values(), distinct=grad.is_coalesced())
    else:
        lazy = group["lazy"] and group["group_dim"] == 0 and p.dim() >= 2
        step_rows(optimizer, p, group, None, grad, distinct=True, lazy=lazy)


def step_rows(
    optimizer: Grouped,
    p: Tensor,
    group: dict[str, Any],
    rows: Tensor | None,
    values: Tensor,
    *,
    distinct: bool,
    lazy: bool = False,
) -> None:
    """:func:`step` with a gradient of some rows.

    Args:
        optimizer, p, group: a parameter for which :func:`unfit` is None.
        rows: int64 [n]; None: all.
        values: their gradients, [n, ...].
        distinct: no row comes twice; else the gradients of a row are summed.
        lazy: rows whose gradients are all 0 are passed over.
    """
    state, rule = optimizer.state[p], optimizer.rule
    assert rule is not None
    if values.numel() == 0:
        return
    hessian = optimizer.hessian_rows(p, rows)
    if group["maximize"]:
        values = values.neg()
    lr, histogram = float(group["lr"]), optimizer.histogram
    counted: tuple[Tensor, Tensor] | None = None
    if histogram is not None and p in histogram.buckets and group["group_dim"] is not None and lr > 0:
        counted = histogram.buckets[p], histogram.counts
    of_row = rule_options(rule, group, state["step"], lr, _size(p)[1], p.dtype, counted=counted is not None)
    # Past torch's dispatcher, 0.1 ms for this many arguments, unless somebody has to see the operator.
    plain = type(p) in (Tensor, nn.Parameter) and type(values) is Tensor
    seen_by = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
    update: Any = _update_rows if plain and not seen_by else torch.ops.ctr.update_rows
    update(
        p, state["u"], [state[name] for name in optimizer.buffers], state["seen"], *(counted or (None, None)),
        rows, values, hessian, distinct, lazy, *of_row,
    )  # fmt: skip


def rule_options(
    rule: int, group: dict[str, Any], t: int, lr: float, dim: int, dtype: torch.dtype, *, counted: bool
) -> tuple[list[int], list[float]]:
    """What a step does to a row, in the order of ``RuleOptions`` in ``native/src/update.h``.

    Args:
        rule: of the optimizer.
        group: the param group.
        t: the global step, 1 at the first.
        lr: its learning rate; with 0 the moments alone go on.
        dim: d, the numbers in a row.
        dtype: of the weights.
        counted: whether a histogram counts the rows by their norms.
    """
    most = torch.finfo(dtype).max
    lambda1, lambda2 = float(group["lambda1"]), float(group["lambda2"])
    lambda21 = 0.0 if group["group_dim"] is None else float(group["lambda21"])
    beta1 = beta2 = nesterov = 0.0
    correction1 = correction2 = root_scale = 1.0
    eps, power = float(group.get("eps", 0.0)), float(group.get("hessian_power", 1.0))
    if rule == MOMENTUM:
        beta1 = float(group["momentum"])
        nesterov = beta1 if group["nesterov"] else 0.0
    elif "betas" in group:
        beta1, beta2 = map(float, group["betas"])
        correction1, correction2 = 1 - beta1**t, math.sqrt(1 - beta2**t)
        if group.get("eps_hat"):
            eps /= correction2
        if power != 1:
            root_scale, correction2 = 1 / correction2, 1.0
    still = not lr > 0
    switches = [
        rule,
        _NORMS[group["norm"]],
        group["threshold"] == "hard",
        bool(counted or lambda1 or lambda21 or lambda2),
        not still and may_vanish(group, lr, dtype),
        still,
    ]
    # The differences are taken in double precision: 1 - beta2 in float32 is 5e-5 off.
    numbers = [beta1, 1 - beta1, beta2, 1 - beta2, correction1, nesterov]
    numbers += [float(group.get("initial_accumulator_value", 0.0)), root_scale, power]
    numbers += [lambda1, math.sqrt(dim) * lambda21, 2 * lambda2]
    numbers += [0.0, 0.0] if still else [min(1 / (correction2 * lr), most), min(eps / lr, most)]
    return [int(switch) for switch in switches], numbers


_LIBRARY = torch.library.Library("ctr", "DEF")
_LIBRARY.define(
    "update_rows(Tensor(a!) weight, Tensor(b!) u, Tensor(c!)[] buffers, Tensor(d!) seen, Tensor(e!)? buckets, "
    "Tensor(f!)? counts, Tensor? rows, Tensor values, Tensor? hessian, bool distinct, bool lazy, int[] switches, "
    "float[] numbers) -> ()"
)


def _update_rows(
    weight: Tensor,
    u: Tensor,
    buffers: list[Tensor],
    seen: Tensor,
    buckets: Tensor | None,
    counts: Tensor | None,
    rows: Tensor | None,
    values: Tensor,
    hessian: Tensor | None,
    distinct: bool,
    lazy: bool,
    switches: list[int],
    numbers: list[float],
) -> None:
    """The operator on the CPU.

    Args:
        weight, u, buffers: [N, ...], stepped in place, as is ``seen``: bool [N, 1 ...] or of the weight's shape.
        buckets, counts: of a `StrengthHistogram`, or None.
        rows: int64 [n] of the gradient; None: all N.
        values, hessian: [n, ...].
        distinct: no row comes twice.
        lazy: rows whose values are all 0 are passed over.
        switches, numbers: of :func:`rule_options`.
    """
    count, dim = _size(weight)
    held = [part.contiguous() for part in (values, hessian) if part is not None]  # with rows: until the update is done
    if rows is not None and rows.dtype != torch.int64:
        raise RuntimeError(f"update_rows: rows are {rows.dtype}, not int64")
    rows = None if rows is None else rows.contiguous()
    given = len(rows) if rows is not None else count
    if any(part.dtype != weight.dtype or part.numel() != given * dim for part in held):
        shapes = ", ".join(f"{part.dtype} {tuple(part.shape)}" for part in held)
        raise RuntimeError(f"update_rows: a gradient of {shapes} for {given} rows of {dim} {weight.dtype}")
    parts = native.Parts(rows=count, dim=dim, marks=seen.numel() // max(count, 1), seen=seen.data_ptr())
    for place, part in zip((0, 1, *_PLACES[switches[0]]), (weight, u, *buffers), strict=True):
        parts.data[place], parts.stride[place] = part.data_ptr(), part.stride(0) if part.dim() else 1
    if buckets is not None and counts is not None:
        parts.bucket, parts.counts = buckets.data_ptr(), counts.data_ptr()
    gradient = native.Gradient(None if rows is None else rows.data_ptr(), *(part.data_ptr() for part in held))
    gradient.count, gradient.distinct, gradient.lazy = given, distinct, lazy
    double, library = weight.dtype == torch.float64, sharing()
    options = (native.RowOptions64 if double else native.RowOptions)(*switches, *numbers)
    update = library.ctr_update_f64 if double else library.ctr_update_f32
    bad = update(ctypes.byref(parts), ctypes.byref(gradient), ctypes.byref(options), torch.get_num_threads())
    if bad >= 0:
        assert rows is not None
        raise RuntimeError(f"update_rows: row {int(rows[bad])} of the gradient is not within the {count:,} rows")
    torch.autograd.graph.increment_version([weight, u, *buffers, seen])


_LIBRARY.impl("update_rows", _update_rows, "CPU")
torch.library.register_fake("ctr::update_rows", lambda *arguments: None, lib=_LIBRARY)
