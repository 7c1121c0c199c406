"""Group AdaHessian: AdaHessian with the sparse group lasso (Yue et al., arXiv:2107.14432, Algorithm 1, Table 1).

AdaHessian is Adam with the diagonal of the Hessian in place of the gradient in the second moment (Yao et al.,
arXiv:2006.00719). The diagonal is Hutchinson's estimate v * (H v) with random signs v.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim.optimizer import ParamsT

from ctr.optim.core import GroupOptimizer
from ctr.optim.fused import ADAHESSIAN
from ctr.optim.shrinkage import clip
from ctr.optim.validate import GroupDim, Norm, Threshold


class GroupAdaHessian(GroupOptimizer):
    r"""AdaHessian whose step also carries l1, l21 and l2 and so sets whole groups to exact zero.

    The step t, per touched row, with the lines of the paper's Algorithm 1; h is the Hessian's diagonal::

        m_hat <- beta1 m_hat + (1 - beta1) g,   m = m_hat / (1 - beta1^t)   line 4, Table 1
        v     <- beta2 v + (1 - beta2) h^2
        D      = (sqrt(v / (1 - beta2^t))^hessian_power + eps) / lr
        z      = u + m - D x                                                lines 5, 6
        s      = -sign(z) max(|z| - lambda1, 0)                             line 8
        x     <- max(1 - sqrt(d) lambda21 / ||s||, 0) s / (D + 2 lambda2)   line 10
        u     <- z + D x

    With all lambdas 0 it is the published AdaHessian without its averaging over blocks or convolution kernels.

    Each step needs gradients and Hessian diagonals. :meth:`backward` makes both::

        opt.backward(loss, generator=generator)      # in place of loss.backward()
        opt.step()

    A training loop that differentiates other tensors than the parameters (the gathered rows of a batch) calls
    :func:`hutchinson_diagonal` itself, sets ``p.grad`` and hands each diagonal to :meth:`set_hessian`.

    ``nn.Embedding`` (also ``sparse=True``) can be differentiated twice, ``nn.EmbeddingBag`` cannot.

    Shapes: any; an embedding table is (rows, d) with ``group_dim=0``. Dense and sparse COO gradients.

    Args:
        params: tensors, named tensors or param groups, float32 or float64.
        lr: learning rate, alpha in the paper.
        betas: decay of the first moment and of the squared diagonal.
        eps: added to the root of the second moment.
        hessian_power: k in the table above, 1 for the full diagonal, 0 for none.
        lambda1, lambda21, lambda2, norm, threshold, group_dim, lazy, maximize, check_finite, fused: see
            :class:`~ctr.optim.core.GroupOptimizer`.

    Raises:
        ValueError: an option out of range, or a parameter that it does not fit (named in the message).
        RuntimeError: in ``step``, a parameter with a gradient but without a fitting Hessian diagonal, a gradient
            of a wrong layout, or NaN with ``check_finite=True``.
    """

    buffers = ("m", "v")
    rule = ADAHESSIAN

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        hessian_power: float = 1.0,
        lambda1: float = 0.0,
        lambda21: float = 0.0,
        lambda2: float = 0.0,
        *,
        norm: Norm = "s",
        threshold: Threshold = "soft",
        group_dim: GroupDim = 0,
        lazy: bool = True,
        maximize: bool = False,
        check_finite: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "hessian_power": hessian_power,
            "lambda1": lambda1, "lambda21": lambda21, "lambda2": lambda2, "norm": norm, "threshold": threshold,
            "group_dim": group_dim, "lazy": lazy, "maximize": maximize, "check_finite": check_finite,
        }  # fmt: skip
        super().__init__(params, defaults, fused)
        self._hessian: dict[Tensor, Tensor] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._hessian = {}

    def backward(self, loss: Tensor, *, samples: int = 1, generator: Generator | None = None) -> None:
        """Sets ``p.grad`` and the Hessian diagonal of every parameter of this optimizer that the loss depends on.

        Those of the others, frozen ones too, are dropped: nothing adds up over several calls, and no ``zero_grad`` is
        needed. It replaces ``loss.backward()`` and keeps no graph alive (``backward(create_graph=True)`` would).
        """
        everyone = [p for group in self.param_groups for p in group["params"]]
        params = [p for p in everyone if p.requires_grad]
        found = torch.autograd.grad(loss, params, create_graph=True, allow_unused=True)
        used = [(p, g) for p, g in zip(params, found, strict=True) if g is not None]
        diagonals = hutchinson_diagonal(
            [g for _, g in used], [p for p, _ in used], samples=samples, generator=generator
        )
        for p in everyone:
            p.grad = None
        self._hessian.clear()
        for (p, g), diagonal in zip(used, diagonals, strict=True):
            p.grad = g.detach()
            self.set_hessian(p, diagonal)

    def set_hessian(self, p: Tensor, diagonal: Tensor) -> None:
        """Hands over the Hessian diagonal of p for the next step, which uses it up.

        Args:
            p: one of this optimizer's parameters.
            diagonal: dense of p's shape, or sparse COO with the same rows as p's sparse gradient.
        """
        self._hessian[p] = diagonal.detach()

    def moments(self, grad: Tensor, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        rows["v"].mul_(beta2).addcmul_(rows["hessian"], rows["hessian"], value=1 - beta2)
        return rows["m"].lerp_(grad, 1 - beta1) / (1 - beta1**t)

    def root(self, rows: dict[str, Tensor], t: int, group: dict[str, Any]) -> Tensor:
        root = rows["v"].sqrt().div_(math.sqrt(1 - group["betas"][1] ** t))
        if group["hessian_power"] != 1:
            root.pow_(group["hessian_power"])
        return root.add_(group["eps"])

    def _check_gradient(self, p: Tensor, group: dict[str, Any], name: str) -> None:
        super()._check_gradient(p, group, name)
        who, h = type(self).__name__, self._hessian.get(p)
        if h is None:
            raise RuntimeError(
                f"{who}: {name} has a gradient but no Hessian diagonal; call backward(loss) of this optimizer "
                "in place of loss.backward(), or set_hessian"
            )
        if h.shape != p.shape:
            raise RuntimeError(f"{who}: the Hessian diagonal of {name} is {tuple(h.shape)}, not {tuple(p.shape)}")
        assert p.grad is not None
        if h.is_sparse:
            h = self._hessian[p] = h.coalesce()
            if p.grad.is_sparse:
                p.grad = p.grad.coalesce()
                if not torch.equal(h.indices(), p.grad.indices()):
                    raise RuntimeError(f"{who}: gradient and Hessian diagonal of {name} differ in their rows")
        if group["check_finite"] and not bool((h.values() if h.is_sparse else h).isfinite().all()):
            raise RuntimeError(f"{who}: the Hessian diagonal of {name} holds NaN or infinity")

    def hessian_rows(self, p: Tensor, rows: Tensor | None) -> Tensor:
        h = self._hessian[p]
        if h.is_sparse and p.grad is not None and p.grad.is_sparse:
            return h.values()
        h = h.to_dense() if h.is_sparse else h
        return h if rows is None else h.index_select(0, rows)

    def step_rows(self, p: Tensor, rows: Tensor, grads: Tensor) -> None:
        """Refused: a step needs the Hessian's diagonal too."""
        raise RuntimeError("GroupAdaHessian: step_rows has no Hessian; use set_hessian and step")

    def _read_rows(self, p: Tensor, state: dict[str, Any], rows: Tensor | None) -> dict[str, Tensor]:
        return {**super()._read_rows(p, state, rows), "hessian": clip(self.hessian_rows(p, rows))}

    def _forget(self, p: Tensor) -> None:
        del self._hessian[p]

    @staticmethod
    def plain(
        params: ParamsT,
        lr: float = 0.15,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-4,
        hessian_power: float = 1.0,
    ) -> "GroupAdaHessian":
        """The same with all lambdas 0, for the net; torch has none of its own."""
        return GroupAdaHessian(params, lr, betas, eps, hessian_power, group_dim=None)


def hutchinson_diagonal(
    grads: Sequence[Tensor],
    tensors: Sequence[Tensor],
    *,
    samples: int = 1,
    generator: Generator | None = None,
) -> list[Tensor]:
    """Hutchinson's estimate of the diagonal of the Hessian: the mean of v * (H v) over random signs v.

    Its expectation is the diagonal. A row-sparse gradient gets signs for its own rows only, which is exact: the
    rows that a loss does not read have no curvature.

    Args:
        grads: first derivatives by ``torch.autograd.grad(loss, tensors, create_graph=True)``; their graph is used up.
        tensors: what they were taken by: parameters, or the gathered rows of a batch.
        samples: how many sign vectors to average over.
        generator: source of the signs; give one for reproducible runs.

    Returns:
        One tensor per gradient, of its shape and without a graph; dense, or sparse COO with the coalesced
        gradient's rows.
    """
    if samples < 1:
        raise ValueError(f"hutchinson_diagonal: samples must be at least 1, got {samples}")
    grads = [g.coalesce() if g.is_sparse else g for g in grads]
    curved = [g for g in grads if g.requires_grad]
    values = [g.values() if g.is_sparse else g for g in grads]
    sums = [torch.zeros_like(value, requires_grad=False) for value in values]
    for sample in range(samples if curved else 0):
        signs = [random_signs(value, generator) for value in values]
        products = hessian_products(values, tensors, signs, retain_graph=sample + 1 < samples)
        with torch.no_grad():
            for total, sign, grad, product in zip(sums, signs, grads, products, strict=True):
                if product is not None:
                    _add_product_(total, sign, grad, product)
    return [
        torch.sparse_coo_tensor(g.indices(), total / samples, g.shape, is_coalesced=True, check_invariants=False)
        if g.is_sparse
        else total / samples
        for g, total in zip(grads, sums, strict=True)
    ]


def hessian_products(
    grads: Sequence[Tensor], tensors: Sequence[Tensor], signs: Sequence[Tensor], *, retain_graph: bool = False
) -> Sequence[Tensor | None]:
    """H v of a loss by some tensors, of which a vector v has ``signs``; None of a tensor that has no curvature.

    Args:
        grads: first derivatives, dense, with their graph; the values of those that are sparse.
        tensors: what they were taken by.
        signs: of the gradients' shapes.
        retain_graph: the graph is needed again.
    """
    # One scalar v . g, whose derivative is H v: mixed dense and sparse gradients in a single pass.
    dot = torch.stack([(s * g).sum() for s, g in zip(signs, grads, strict=True) if g.requires_grad]).sum()
    return torch.autograd.grad(dot, list(tensors), retain_graph=retain_graph, allow_unused=True)


def random_signs(like: Tensor, generator: Generator | None = None) -> Tensor:
    """-1 and 1, as many as ``like`` has values, of its kind."""
    device = like.device if generator is None else generator.device
    bits = torch.randint(0, 2, like.shape, generator=generator, device=device)
    return (2 * bits - 1).to(device=like.device, dtype=like.dtype)


def _add_product_(total: Tensor, sign: Tensor, grad: Tensor, product: Tensor) -> None:
    """Adds v * (H v), of which the gradient's rows are wanted."""
    if not grad.is_sparse:
        total.addcmul_(sign, product.to_dense() if product.is_sparse else product)
    elif product.is_sparse:
        product = product.coalesce()
        at = torch.searchsorted(grad.indices()[0], product.indices()[0])
        total.index_add_(0, at, sign.index_select(0, at).mul_(product.values()))
    else:
        total.addcmul_(sign, product.index_select(0, grad.indices()[0]))
