"""The training step in compiled code: rows, net, loss, gradients and both updates in one call."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from ctr.datasets.stream import Batch
from ctr.errors import CtrError
from ctr.models import FeatureEmbedding
from ctr.native import library as native
from ctr.optim.core import GroupOptimizer
from ctr.optim.fused import ADAGRAD, ADAM, rule_options
from ctr.training.compiled.forward import Forward, flatten
from ctr.training.compiled.rows import side_by_side
from ctr.training.compiled.support import unsupported, unsupported_options
from ctr.training.optimizers import check_saved


class NativeStep:
    """Trains a model in place, as its torch twin would within the rounding of float32.

    The embedding's rows move into one table with their optimizer state, [w | u | m | v] side by side, and the net's
    parameters into one flat array; ``model`` and the optimizers go on seeing them as views. The memory of the
    embedding's weight is given up: another tensor that shared it must not be used any more. Hyperparameters
    are read from the optimizers at every step, so that schedules act.

    Every thread runs the whole net on its share of the batch. Results are the same to the last bit for the same number
    of threads.

    Args:
        model, row_optimizer, net_optimizer: for which :func:`unsupported` is None.
        threads: how many work together.

    Raises:
        CtrError: :func:`unsupported` says why it cannot.
        ValueError: ``threads`` is below 1 or above 1,024.
    """

    def __init__(
        self,
        model: nn.Module,
        row_optimizer: GroupOptimizer,
        net_optimizer: Optimizer,
        threads: int = 2,
    ) -> None:
        reason = unsupported(model, row_optimizer, net_optimizer)
        if reason is not None:
            raise CtrError(f"the compiled step cannot train this: {reason}")
        self.model, self.row_optimizer, self.net_optimizer = model, row_optimizer, net_optimizer
        self.steps = 0
        assert row_optimizer.rule is not None
        self._rule = row_optimizer.rule
        self._move_rows()
        self._move_net()
        self._options, self._loss = native.NetOptions(), ctypes.c_double()
        self._forward = Forward(model, self._table_struct, self._params_struct, self._offsets, threads)
        self._buckets: Tensor | None = None  # those of the rows' histogram

    def __reduce__(self) -> Any:
        raise TypeError("a NativeStep cannot be copied or pickled: its state_dict() can")

    def _move_rows(self) -> None:
        embedding = self.model.get_submodule("embedding")
        assert isinstance(embedding, FeatureEmbedding)
        self._embedding, self._weight = embedding, embedding.weight
        self._table, self._row_state = side_by_side(embedding, self.row_optimizer)
        rows, dim = embedding.weight.shape
        stride = self._table.shape[1]
        self._table_struct = native.Table(self._table.data_ptr(), rows, dim, stride, embedding.seen.data_ptr())

    def _link_rows(self) -> None:
        """Takes over the row optimizer's state, and makes it views of the table."""
        state = self.row_optimizer.state[self._weight]
        for name, view in self._row_state.items():
            if name in state:
                view.copy_(state[name])
            elif self.steps:  # a state from before the first step; what is 0 already is not written
                view.zero_()
            state[name] = view
        self.steps = state.setdefault("step", 0)
        state.setdefault("lr", 0.0)

    def _move_net(self) -> None:
        # Values, first moments, second moments.
        self._net, self._offsets = flatten(self.net_optimizer.param_groups[0]["params"], arrays=3)
        self._link_net()
        self._params_struct = native.Params(*(flat.data_ptr() for flat in self._net), self._net.shape[1])

    def _link_net(self) -> None:
        """Takes over the net optimizer's state, and makes it views of the flat arrays."""
        adam = isinstance(self.net_optimizer, Adam)
        for p in self.net_optimizer.param_groups[0]["params"]:
            start = self._offsets[id(p)]
            state = self.net_optimizer.state[p]
            names = {"exp_avg": 1, "exp_avg_sq": 2} if adam else {"sum": 2}
            for name, place in names.items():
                view = self._net[place, start : start + p.numel()].view_as(p)
                view.copy_(state[name]) if name in state else view.zero_()
                state[name] = view
            state["step"] = torch.tensor(float(self.steps))

    def train(self, batch: Batch, upcoming: Batch | None = None) -> tuple[Tensor, float]:
        """Learns from a batch; returns its logits and loss (see `ctr.training.step.Step`) before the update.

        If the loss is not finite nothing is updated.

        Raises:
            CtrError: an id is out of range, the batch's parts differ in length or its columns from those of the batch
                before, the learning rate is 0, or D could be; nothing is updated.
        """
        forward = self._forward
        with forward.lock:
            if not self.model.training:  # 20 us to say it again to every module
                self.model.train()
            logits = forward.fill(batch)
            if not len(logits):
                return logits, math.nan
            rows, net = self.row_optimizer.param_groups[0], self.net_optimizer.param_groups[0]
            if (reason := unsupported_options(rows, net)) is not None:
                raise CtrError(f"the compiled step cannot go on: {reason}")
            self._set_rows(self.steps + 1)
            self._set_net(self.steps + 1)
            bad = forward.library.ctr_step_train(
                forward.handle, forward.batch, self._table_struct, self._rows, self._options, self._params_struct,
                self._loss,
            )  # fmt: skip
            forward.check(bad, batch.ids)
            if math.isfinite(self._loss.value):
                self.steps += 1
                self.row_optimizer.state[self._weight].update(step=self.steps, lr=float(rows["lr"]))
            return logits, self._loss.value

    def predict(self, batch: Batch) -> Tensor:
        """Logits in evaluation mode; errors are those of `Forward.predict`."""
        return self._forward.predict(batch)

    def _set_rows(self, t: int) -> None:
        group = self.row_optimizer.param_groups[0]
        lr = float(group["lr"])
        dim = self._weight.shape[1]
        switches, numbers = rule_options(self._rule, group, t, lr, dim, torch.float32, counted=self._set_histogram())
        self._rows = native.RowOptions(*switches, *numbers)

    def _set_histogram(self) -> bool:
        """Whether the step counts the rows' norms."""
        histogram, table = self.row_optimizer.histogram, self._table_struct
        if histogram is None or self._weight not in histogram.buckets:
            table.bucket = table.counts = None
            return False
        buckets = histogram.buckets[self._weight]
        if buckets is not self._buckets:
            moved = native.allocate(-(-len(buckets) // 4)).view(np.uint8)[: len(buckets)]  # huge pages: half the time
            self._buckets = histogram.buckets[self._weight] = torch.from_numpy(moved).copy_(buckets)
        table.bucket, table.counts = self._buckets.data_ptr(), histogram.counts.data_ptr()
        return True

    def _set_net(self, t: int) -> None:
        group = self.net_optimizer.param_groups[0]
        o, lr = self._options, float(group["lr"])
        o.eps = group["eps"]
        if isinstance(self.net_optimizer, Adam):
            beta1, beta2 = group["betas"]
            o.rule = ADAM
            o.beta1, o.one_minus_beta1, o.beta2, o.one_minus_beta2 = beta1, 1 - beta1, beta2, 1 - beta2
            o.rate, o.inverse_root = lr / (1 - beta1**t), 1 / math.sqrt(1 - beta2**t)
        else:
            o.rule, o.rate = ADAGRAD, lr

    def apply_threshold_(self) -> int:
        """As :meth:`ctr.optim.GroupOptimizer.apply_threshold_`: every touched row meets the present lambdas."""
        return self.row_optimizer.apply_threshold_()

    @property
    def tables(self) -> list[Tensor]:
        """The rows, [w | u | m | v] or [w | u | v] side by side."""
        return [self._table]

    def state_dict(self) -> dict[str, Any]:
        """All but the model's own ``state_dict``, in the form of `TorchStep`. Shares memory with the step."""
        for state in self.net_optimizer.state.values():
            state["step"].fill_(self.steps)
        return {"row_optimizer": self.row_optimizer.state_dict(), "net_optimizer": self.net_optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave, or that of `TorchStep`, by copying.

        Raises:
            ValueError: it is not one of these optimizers and sizes; nothing has changed.
        """
        check_saved(state, self.net_optimizer)
        steps = {int(one["step"]) for part in state.values() for one in part["state"].values()}
        if len(steps) > 1:
            raise ValueError(
                f"this state is of rows and a net that have made different numbers of steps: {sorted(steps)}"
            )
        self.row_optimizer.load_state_dict(state["row_optimizer"])
        self._link_rows()
        self.net_optimizer.load_state_dict(state["net_optimizer"])
        self._link_net()
