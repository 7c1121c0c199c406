"""The core that all grouped optimizers share: u, the proximal step, and which rows a step touches.

The framework is Algorithm 1 of "Adaptive Optimizers with Sparse Group Lasso for Neural Networks in CTR
Prediction" (Yue et al., arXiv:2107.14432). An optimizer of the family only says what its first moment m and
its root sqrt(V) are; the rest is common to all::

    D  = sqrt(V) / lr
    z  = u + m - D x                                                  u: 0 before the row's first touch
    s  = -sign(z) max(|z| - lambda1, 0)
    x <- max(1 - sqrt(d) lambda21 / ||s||, 0) s / (D + 2 lambda2)
    u <- z + D x

The paper carries z itself from step to step; ``u = z + D x`` is all of it that the next step needs, whatever its D
is. It is minus a subgradient of the penalty at x, so that with all lambdas 0 it is 0 and the step is ``x - m / D``, the
plain optimizer (docs/optimizers.md).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable loads all of dynamo at once
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

import ctr.optim.fused as compiled  # by its own name: the package imports this module
from ctr.optim.histogram import StrengthHistogram
from ctr.optim.shrinkage import any_in_group, clip, denominator, may_vanish, proximal_step, scores, seen_shape
from ctr.optim.validate import (
    check_gradient,
    check_keys,
    check_loaded_keys,
    check_options,
    check_parameter,
    check_state,
)

_unfit = _disable_dynamo(compiled.unfit)  # as torch.optim's own checks: nothing of it belongs in a graph

CHUNK = 1 << 16  # rows of a table looked at together: no copy of the whole table, and pieces that caches hold


class GroupOptimizer(Optimizer):
    """What the grouped optimizers have in common; use one of the six classes, not this one.

    A subclass names its own state in ``buffers`` and gives :meth:`moments` and :meth:`root`. Where compiled code has
    them too, ``rule`` says under which number (``ctr.optim.fused``).

    State of a parameter:

    * ``step``: t, an int, counted on every step in which the parameter has a gradient;
    * ``lr``: the last learning rate above 0, a float, 0.0 before the first: with it D follows from the moments;
    * ``u`` and the tensors of ``buffers``: of the parameter's shape and dtype, made at its first gradient and (on a
      CPU) without touching their memory;
    * ``seen``: bool, one per group and broadcastable to the parameter ([N, 1] for the rows of a table): whether a step
      has touched the group. A touch with lr = 0 does not count, as the group still holds its initial values.

    Options of a param group beyond the subclass's own:

    * ``lambda1``, ``lambda21``, ``lambda2``: strength of l1, of l21 (group lasso) and of l2. The first two are
      held against z and have its unit, that of a gradient; lambda2 adds to D, a gradient per weight. They are meant
      for a mean loss: of a sum over the batch each would have to be larger by the batch size.
    * ``norm``: which norm decides that a group dies, see :func:`~ctr.optim.shrinkage.group_norm`.
    * ``threshold``: ``"soft"`` or ``"hard"``, see :func:`shrink`.
    * ``group_dim``: k makes every slice at one index of dimension k a group (0: the rows of an embedding
      table; 1: the columns of ``nn.Linear.weight``, the outgoing weights of a unit); ``"all"`` makes the whole
      tensor one group (a bias); None switches lambda21 off.
    * ``lazy``: with ``group_dim=0`` and two or more dimensions a row whose dense gradient is all zero counts as
      not in the batch and is left alone, as it is with a sparse gradient. False steps every row.
    * ``maximize``: ascend instead of descend.
    * ``check_finite``: RuntimeError, before anything has moved, if a gradient holds NaN or infinity.

    ``fused`` is of the whole optimizer and not in its state. None takes compiled code for the parameters that it serves
    (float32 or float64 on a CPU, group_dim 0 or None, at most 512 numbers in a row), False never takes it, and True
    raises where it does not serve: ValueError, or RuntimeError in ``step``. The result is the same within rounding, and
    does not depend on the number of threads.

    Gradients are clipped to ``finfo.max ** 0.375`` (3e14 in float32), so that no square overflows. With lr = 0
    the moments go on; the weights and u stay.
    """

    buffers: tuple[str, ...] = ()
    rule: int | None = None
    histogram: StrengthHistogram | None = None  # kept by the steps where there is one; a copy of the optimizer has none

    def __init__(self, params: ParamsT, defaults: dict[str, Any], fused: bool | None = None) -> None:
        if not (fused is None or isinstance(fused, bool)):
            raise ValueError(f"{type(self).__name__}: fused must be True, False or None, got {fused!r}")
        self.fused = fused
        super().__init__(params, defaults)

    def moments(self, grad: Tensor, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        """m of the touched rows at step t (Algorithm 1, line 4).

        Args:
            grad: gradient of the touched rows, [rows, ...] or of the whole parameter's shape.
            rows: the same rows of u and of each tensor in ``buffers``; the latter to be updated in place.
            t: the global step, 1 at the first.
            group: the param group.
        """
        raise NotImplementedError

    def root(self, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        """sqrt(V), a new tensor, of the same rows as their moments have it at step t (Algorithm 1, line 4)."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group with its own options; ValueError if one is unknown, out of range or does not fit."""
        who = type(self).__name__
        if isinstance(param_group, dict):  # torch refuses anything else
            check_keys(param_group, self.defaults, who)
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            check_options(group, who)
            for i, p in enumerate(group["params"]):
                name = self._name(len(self.param_groups) - 1, i)
                check_parameter(p, group["group_dim"], name, who)
                if self.fused and (reason := compiled.unfit(self, p, group)) is not None:
                    raise ValueError(f"{who}: fused=True cannot serve {name}: {reason}")
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; ValueError, and nothing has changed, if the state does not fit this kind or its parameters."""
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "fused": self.fused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "defaults" not in state:  # from load_state_dict, which hands over what it is about to set; else a copy
            self._check_loaded(state["param_groups"], state["state"])
        super().__setstate__(state)

    def _check_loaded(self, groups: list[dict[str, Any]], states: dict[Tensor, dict[str, Any]]) -> None:
        who = type(self).__name__
        for index, group in enumerate(groups):
            check_loaded_keys(group, self.defaults, who)
            for i, p in enumerate(group["params"]):
                name = self._name(index, i)
                check_parameter(p, group["group_dim"], name, who)
                if states.get(p):
                    check_state(states[p], p, ("u", *self.buffers), seen_shape(p, group["group_dim"]), name, who)
                    states[p]["seen"] = states[p]["seen"].bool()  # torch has made it a float, as the parameter is

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step on every parameter that has a gradient; returns the closure's loss if one is given.

        Raises:
            RuntimeError: a gradient of a wrong layout; or, before anything has moved, one with NaN or infinity under
                ``check_finite``, or one that ``fused=True`` cannot serve.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = []
        for index, group in enumerate(self.param_groups):
            for i, p in enumerate(group["params"]):
                if p.grad is not None:
                    name = self._name(index, i)
                    self._check_gradient(p, group, name)
                    reason = "fused=False" if self.fused is False else _unfit(self, p, group)
                    if self.fused and reason is not None:
                        raise RuntimeError(f"{type(self).__name__}: fused=True cannot serve {name}: {reason}")
                    work.append((p, group, reason is None))
        for p, group, is_compiled in work:
            self._begin(p, group)
            if is_compiled:
                compiled.step(self, p, group)
            else:
                self._step_in_torch(p, group)
            self._forget(p)
        return loss

    @torch.no_grad()
    def step_rows(self, p: Tensor, rows: Tensor, grads: Tensor) -> None:
        """One step on some rows of a parameter in compiled code: what :meth:`step` does if they are its gradient.

        For loops in which 0.1 ms counts: there is no sparse tensor to make, and hooks are not called.

        Args:
            p: of this optimizer; compiled code has to serve it.
            rows: int64 [n]; the gradients of one that comes several times are summed.
            grads: [n, ...], the rows of the loss's gradient by p.

        Raises:
            RuntimeError: compiled code does not serve p, or is not to (``fused=False``); rows or gradients are of
                another kind; the gradients hold NaN or infinity under ``check_finite``. Nothing has changed. Or p does
                not have a row: the step counts, but no row has changed.
            ValueError: p is not of this optimizer.
        """
        group, who = self.group_of(p), f"{type(self).__name__}: step_rows"
        unfit = _unfit if torch.compiler.is_compiling() else compiled.unfit
        reason = "fused=False" if self.fused is False else unfit(self, p, group)
        if reason is not None:
            raise RuntimeError(f"{who} cannot serve the tensor of shape {tuple(p.shape)}: {reason}")
        shape = (len(rows), *p.shape[1:])
        fit = rows.dtype == torch.int64 and rows.dim() == 1 and rows.is_cpu
        if not (fit and grads.dtype == p.dtype and grads.shape == shape and grads.is_cpu):
            got = " and ".join(f"{t.dtype} {list(t.shape)} on {t.device}" for t in (rows, grads))
            raise RuntimeError(f"{who}: expected int64 [n] and {p.dtype} {['n', *p.shape[1:]]} on the CPU, got {got}")
        if group["check_finite"] and not bool(grads.isfinite().all()):
            raise RuntimeError(f"{who}: the gradients hold NaN or infinity")
        self._begin(p, group)
        compiled.step_rows(self, p, group, rows, grads, distinct=False)
        self._forget(p)

    def _begin(self, p: Tensor, group: dict[str, Any]) -> None:
        """Counts a step of p."""
        state = self.ensure_state(p)
        state["step"] += 1
        if (lr := float(group["lr"])) > 0:
            state["lr"] = lr

    def parameter_names(self) -> list[str]:
        """How the errors call the parameters, in their order: by name where names were given, else by place."""
        return [self._name(k, i) for k, group in enumerate(self.param_groups) for i in range(len(group["params"]))]

    @torch.no_grad()
    def apply_threshold_(self) -> int:
        """Tests every touched group with the present lambdas, as a step without a gradient; returns how many died.

        A row that was last touched while a schedule's lambda21 was smaller has not yet met the final one. Its D is
        that of :meth:`stored_rows`. Rows that no step has touched stay as they are.
        """
        died = 0
        for group in self.param_groups:
            group_dim = group["group_dim"]
            for p in group["params"]:
                for x, u, seen, D in self.stored_rows(p):
                    if not seen.any():
                        continue  # nor is their memory touched
                    new, left = proximal_step(x, u, D(None), group, flat=True)
                    new = torch.where(seen, new, x)
                    died += int((any_in_group(x != 0, group_dim) & ~any_in_group(new != 0, group_dim)).sum())
                    x.copy_(new)
                    u.copy_(torch.where(seen, left, u))
        return died

    @torch.no_grad()
    def keep_(self, p: Tensor, keep: Tensor, lambda21: float) -> None:
        """Sets all touched groups of p to exactly zero but for some, which keep their weights.

        A group that is to stay but is zero gets the weights that a test with this lambda21 gives it. The u of a group
        that dies is its z, as after :meth:`apply_threshold_`.

        Args:
            p: a parameter.
            keep: bool [groups].
            lambda21: below the norm over sqrt(d) of all groups that stay.
        """
        group, first = {**self.group_of(p), "lambda21": lambda21}, 0
        for x, u, seen, D in self.stored_rows(p):
            stays = keep[first : first + seen.numel()].view_as(seen)
            first += seen.numel()
            if not seen.any():
                continue  # nor is their memory touched
            # A group that lives and stays is left alone; so is one that is zero and dies, whose z is its u.
            changes = seen & (any_in_group(x != 0, group["group_dim"]) != stays)
            rows = changes.flatten().nonzero().squeeze(1) if group["group_dim"] == 0 else None
            was, pull, root = _read(x, rows), _read(u, rows), D(rows)
            new, left = proximal_step(was, pull, root, group, flat=True)
            stay, change = _read(stays, rows), _read(changes, rows)
            new = torch.where(stay, new, 0.0)
            left = torch.where(stay, left, torch.addcmul(pull, root, was, value=-1))
            _write(x, rows, torch.where(change, new, was))
            _write(u, rows, torch.where(change, left, pull))

    def norms_of(self, p: Tensor) -> Iterator[Tensor]:
        """The norm of every group of p with z = u - D x, 0 where untouched, piece by piece, [groups of the piece].

        D is that of :meth:`stored_rows`.
        """
        group = self.group_of(p)
        for x, u, seen, D in self.stored_rows(p):
            if not seen.any():
                yield x.new_zeros(seen.numel())
                continue
            if group["norm"] == "s" and group["group_dim"] == 0:  # of most rows x is 0 and z is u: D is for the others
                rows = any_in_group(x != 0, 0).flatten().nonzero().squeeze(1)
                z, root = u.clone(), None
                z.index_copy_(0, rows, torch.addcmul(_read(u, rows), D(rows), _read(x, rows), value=-1))
            else:
                root = D(None)
                z = torch.addcmul(u, root, x, value=-1)
            yield scores(z, root, group).masked_fill_(~seen, 0).flatten()

    def stored_rows(self, p: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Callable[[Tensor | None], Tensor]]]:
        """p piece by piece, whole groups at a time: views of the weights, of their u and of ``seen``, and their D.

        D is asked for by the indices of rows in the piece, or None for all. It has the present moments and step, and
        the last learning rate above 0: it is finite, also where a schedule has ended at 0. Before the first such step
        it is sqrt(V). Nothing comes of a parameter without state.
        """
        state, group = self.state.get(p), self.group_of(p)
        if not state or p.numel() == 0:
            return
        names = ("u", *self.buffers)
        tables = [torch.atleast_1d(t) for t in (p.detach(), state["seen"], *(state[name] for name in names))]
        by = CHUNK if group["group_dim"] in (0, None) else len(tables[0])
        for x, seen, *rest in zip(*(t.split(by) for t in tables), strict=True):
            own = dict(zip(names, rest, strict=True))
            yield x, own["u"], seen, partial(self._stored_denominator, state, group, own)

    def _stored_denominator(
        self, state: dict[str, Any], group: dict[str, Any], own: dict[str, Tensor], rows: Tensor | None
    ) -> Tensor:
        picked = {name: _read(table, rows) for name, table in own.items()}
        return denominator(self.root(picked, max(state["step"], 1), group), state["lr"] or 1.0)

    def group_of(self, p: Tensor) -> dict[str, Any]:
        """The param group that holds p; ValueError if none does."""
        for group in self.param_groups:
            if any(p is q for q in group["params"]):
                return group
        raise ValueError(f"the tensor of shape {tuple(p.shape)} is not a parameter of this {type(self).__name__}")

    def _name(self, index: int, i: int) -> str:
        names = self.param_groups[index].get("param_names")
        return f"parameter {names[i]!r}" if names else f"parameter {i} of group {index}"

    def _check_gradient(self, p: Tensor, group: dict[str, Any], name: str) -> None:
        assert p.grad is not None
        check_gradient(p.grad, group, name, type(self).__name__)

    def _touched(self, p: Tensor, group: dict[str, Any]) -> tuple[Tensor | None, Tensor]:
        """Indices of the rows that this step touches (None: all of them) and their gradient."""
        grad = p.grad
        assert grad is not None
        rows: Tensor | None = None
        if grad.is_sparse:
            grad = grad.coalesce()  # itself, if the caller has coalesced it
            rows, grad = grad.indices()[0], grad.values()
        elif group["lazy"] and group["group_dim"] == 0 and p.dim() >= 2:
            rows = (grad != 0).flatten(1).any(1).nonzero().squeeze(1)
            rows, grad = (None, grad) if len(rows) == len(p) else (rows, grad.index_select(0, rows))
        grad = clip(grad)
        return rows, grad.neg_() if group["maximize"] else grad

    def ensure_state(self, p: Tensor) -> dict[str, Any]:
        """The state of p, made with zeros if there is none yet."""
        state: dict[str, Any] = self.state[p]
        if not state:
            state["step"], state["lr"] = 0, 0.0
            for name in ("u", *self.buffers):
                state[name] = untouched_zeros(p)
            state["seen"] = torch.zeros(seen_shape(p, self.group_of(p)["group_dim"]), dtype=torch.bool, device=p.device)
        return state

    def state_to_continue(self, p: Tensor, known: dict[str, Any]) -> dict[str, Any]:
        """What the first rows of p go on with, of the state ``known`` of all rows of another table.

        Further rows of p have the state of :meth:`ensure_state`, unless this changes it.
        """
        return known

    def _read_rows(self, p: Tensor, state: dict[str, Any], rows: Tensor | None) -> dict[str, Tensor]:
        return {name: _read(state[name], rows) for name in ("u", *self.buffers)}

    def hessian_rows(self, p: Tensor, rows: Tensor | None) -> Tensor | None:
        """The Hessian's diagonal of the rows (None: of all) for an optimizer that has one."""
        return None

    def _forget(self, p: Tensor) -> None:
        """Drops what served one step alone."""

    def _step_in_torch(self, p: Tensor, group: dict[str, Any]) -> None:
        rows, grad = self._touched(p, group)
        if grad.numel() == 0:
            return
        state = self.state[p]
        t, lr = state["step"], float(group["lr"])
        mine = self._read_rows(p, state, rows)
        m = self.moments(grad, mine, t, group)
        if lr > 0:  # with lr = 0 D would be infinite: u and x stay, and the next step takes up from them
            D = denominator(self.root(mine, t, group), lr)
            x, pull = _read(p, rows), mine["u"] + m
            watch = None if self.histogram is None else partial(self.histogram.move, p, rows)
            x, mine["u"] = proximal_step(x, pull, D, group, may_vanish(group, lr, p.dtype), watch)
            _write(p, rows, x)
            seen = state["seen"]
            seen.fill_(True) if rows is None else seen.index_fill_(0, rows, True)
        for name in ("u", *self.buffers):
            _write(state[name], rows, mine[name])


def untouched_zeros(p: Tensor) -> Tensor:
    """Zeros like p, whose pages a CPU's system hands out at first write: a big table costs what it uses."""
    if p.device.type != "cpu" or not p.is_contiguous():
        return torch.zeros_like(p, requires_grad=False)
    return torch.from_numpy(np.zeros(p.shape, dtype=np.float32 if p.dtype == torch.float32 else np.float64))


def _read(table: Tensor, rows: Tensor | None) -> Tensor:
    return table if rows is None else table.index_select(0, rows)


def _write(table: Tensor, rows: Tensor | None, values: Tensor) -> None:
    if rows is not None:
        table.index_copy_(0, rows, values)
    elif values is not table:
        table.copy_(values)
