"""The net's pass compiled by Inductor: logits, loss and gradients of a batch of one size, each thread on its share.

``from_rows`` with the loss and its gradients is traced once (``make_fx``) into a function of tensors alone, which
Inductor turns into C++. Compiled code is kept on the disk by graph and versions, in Inductor's folder.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import Optimizer

from ctr.datasets.stream import Batch, RowStream
from ctr.errors import CtrError
from ctr.models.embedding import Bags
from ctr.optim import GroupAdaHessian
from ctr.training.asking import Cut
from ctr.training.distributed import Group
from ctr.training.passes import OPTIONS, Passes, PassesInLibraries, PassesInPython, contiguous, library, own_cache
from ctr.training.precision import FULL, Precision, logits_of

log = logging.getLogger("ctr")

Compile = Literal["auto"] | bool
# ``auto`` compiles from this number of steps on, which win back the time that compiling takes. Steps, not measured
# seconds: a resumed run has to decide as it did at first.
MIN_STEPS = 20_000
# Of several workers, which make a pass for each slice: it pays sooner. An estimate: it wins 5 to 10 ms a step.
MIN_STEPS_OF_SLICES = 4_000
# Of what is compiled against eager, relative, in L2: logits, gradients. A ReLU may be rounded to the other side of 0,
# which changes no logit, but the gradients of one row.
TOLERANCES: dict[Precision, tuple[float, float]] = {"float32": (1e-4, 1e-2), "bfloat16": (2e-2, 1e-1)}


class NotCompiled(CtrError):
    """Why a net cannot be compiled, in one line."""


class CompiledNet:
    """Logits, loss and gradients of a batch, by compiled code.

    Where the logits of a row depend on that row alone, the batch is cut into equal shares, one for each thread, and
    their gradients are summed in their order: results depend on the number of shares, not on that of threads. The whole
    batch goes in one piece if the net has batch statistics, has buffers that training changes, or draws random numbers
    in ``from_rows``. Which it is, and that the compiled pass gives what the eager one gives, is tried at the start on
    random rows and weights.

    Args:
        model: has ``from_rows``. If it has ``draw(rows)`` too, that is called for each batch as a whole, and its result
            given to ``from_rows`` as a third argument, unless it is None.
        parameters: the net's, whose gradients are wanted.
        batch: one of the size, the columns and the weights of all that will come.
        threads: that compute.
        shares: the most that there may be, None: one for each thread; fewer where they would not be equal. Or the rows
            of each, which together are the batch: then it is cut so, or not compiled.
        precision: of the net's products.

    Attributes:
        rows: B, of a batch.
        cut: the rows of each share.

    Raises:
        NotCompiled: it cannot be traced or compiled, or does not give what the eager pass gives.
    """

    def __init__(
        self,
        model: Any,
        parameters: Sequence[nn.Parameter],
        batch: Batch,
        threads: int,
        shares: int | Sequence[int] | None = None,
        precision: Precision = FULL,
    ) -> None:
        if (device := model.embedding.weight.device).type != "cpu":
            raise NotCompiled(f"it is on {device}; nets are compiled for the CPU alone")
        self.model, self.rows, self.threads, self._parameters = model, len(batch), threads, list(parameters)
        self._draw: Callable[[int], Tensor | None] | None = getattr(model, "draw", None)
        self._net = _FromRows(model)
        named = [*self._net.named_parameters(), *self._net.named_buffers()]
        wanted = {id(p) for p in parameters}
        self._others = [t for name, t in named if id(t) not in wanted and not name.startswith("model.embedding.")]
        names = {id(t): name for name, t in named}
        self._state = [*self._parameters, *self._others]
        self._names = [names[id(t)] for t in self._state]
        self._changed = list(range(len(self._others)))  # which of the others a pass returns
        model.train()
        with _random_state_kept():
            try:
                self._make(batch, shares or threads, precision)
            except NotCompiled:
                raise
            except Exception as error:  # whatever a compiler, or a model of another package, may raise
                raise NotCompiled(_one_line(error)) from error

    def __call__(
        self, vectors: Tensor, dense: Tensor | None, label: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, float, Tensor, list[Tensor]]:
        """The pass over a batch of the size that it was made for.

        Args:
            vectors: [B, F, d], the embedding rows as the net reads them.
            dense, label, weight: of the batch.

        Returns:
            Logits [B], the loss, and its gradients by ``vectors`` and by each of the parameters. The next call may
            overwrite the gradients.
        """
        bits = None if self._draw is None else self._draw(self.rows)
        given = [part for part in (vectors, label, dense, weight, bits) if part is not None]
        logits, of_vectors, loss, *rest = self._run(given, self._state)
        for place, value in zip(self._changed, rest[len(self._parameters) :], strict=True):
            self._others[place].copy_(value)
        return logits, loss.item(), of_vectors, rest[: len(self._parameters)]

    def of_shares(
        self,
        which: range,
        vectors: Sequence[Tensor],
        dense: Tensor | None,
        label: Tensor,
        weight: Tensor | None,
        bits: Tensor | None,
    ) -> list[tuple[Tensor, Tensor, Tensor, list[Tensor]]]:
        """The pass over some shares of a batch, for a net that changes no buffers.

        Args:
            which: those shares.
            vectors: of each of these shares, [b, F, d].
            dense, label, weight: of all their rows, see :meth:`__call__`.
            bits: what the model's ``draw`` has given for their rows.

        Returns:
            Of each its logits [b], its part of the batch's loss, and the gradients of that by ``vectors`` and by each
            of the parameters.
        """
        # Each share in memory of its own: where that begins elsewhere within a cache line, products have other bits.
        given = [part for part in (label, dense, weight, bits) if part is not None]
        rest = list(_split(given, [self.cut[share] for share in which]))
        inputs = [[own, *(part.clone() for part in others)] for own, others in zip(vectors, rest, strict=True)]
        if self.shares == 1:
            found = [self._run(inputs[0], self._state)]
        else:
            found = [
                [self._logits.new_empty(len(own)), torch.empty_like(own), *map(torch.empty_like, self._sums)]
                for own in vectors
            ]
            self._passes.of_shares(which, inputs, self._state, found, self.threads)
        return [(logits, loss, of_vectors, grads) for logits, of_vectors, loss, *grads in found]

    @property
    def shares(self) -> int:
        return len(self.cut)

    def __str__(self) -> str:
        cut = "in one piece" if self.shares == 1 else f"in {self.shares} shares"
        in_python = self.shares > 1 and isinstance(self._passes, PassesInPython)
        return f"compiled for batches of {self.rows:,} rows {cut}{' in Python' if in_python else ''}"

    def _run(self, inputs: Sequence[Tensor], state: Sequence[Tensor]) -> list[Tensor]:
        """`_pass` of the whole batch in compiled code. The next one overwrites the gradients."""
        if self.shares == 1:
            return list(self._whole(*contiguous(inputs), *(t.detach() for t in contiguous(state))))
        logits = self._logits.new_empty(self.rows)
        self._passes.of_batch(inputs, state, (logits, self._of_vectors), self._sums, self.threads)
        return [logits, self._of_vectors, *self._sums]

    def _pass(self, *tensors: Tensor) -> list[Tensor]:
        """Logits, gradients by vectors, loss, gradients by parameters, and the others that it changed, in eager torch.

        Args:
            tensors: the inputs that there are (see `_has`), of some rows of the batch; parameters and others.
        """
        given: Any = iter(tensors)
        vectors, label, dense, weight, bits = [next(given) if has else None for has in self._has]
        assert label is not None
        state, count = list(given), len(self._parameters)
        with torch.enable_grad():
            wanted = [t.detach().requires_grad_() for t in (vectors, *state[:count])]
            values = dict(zip(self._names, [*wanted[1:], *(t.clone() for t in state[count:])], strict=True))
            logits = functional_call(self._net, values, (wanted[0], dense, *([] if bits is None else [bits])))
            loss = F.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum") / self.rows
            of_vectors, *grads = torch.autograd.grad(loss, wanted)
        others = [values[name] for name in self._names[count:]]
        found = (logits, of_vectors, loss, *grads, *(others[place] for place in self._changed))
        return [t.detach().contiguous() for t in found]

    def _make(self, batch: Batch, wanted: int | Sequence[int], precision: Precision) -> None:
        """Finds out which shares there may be, compiles, and compares with the eager pass."""
        tried = [self._random(batch, seed) for seed in range(2)]
        draws = torch.get_rng_state()
        expected = self._expected(tried, draws)
        count, (inputs, state) = len(self._parameters), tried[0]
        after = expected[0][3 + count :]
        self._changed = [place for place, new in enumerate(after) if not torch.equal(new, state[count + place])]
        expected = [[*found[: 3 + count], *(found[3 + count + place] for place in self._changed)] for found in expected]
        if isinstance(wanted, int):
            most = next(shares for shares in range(min(wanted, self.rows), 0, -1) if self.rows % shares == 0)
            self.cut = [self.rows // most] * most
        else:
            self.cut = list(wanted)
            if 0 in self.cut:
                raise NotCompiled(f"batches of {self.rows} rows are fewer than slices={self.shares}")
        apart = not self._changed and torch.equal(draws, torch.get_rng_state())
        if apart and self.shares > 1:
            logits = torch.cat([self._pass(*share, *state)[0] for share in _split(inputs, self.cut)])
            apart = close(logits, expected[0][0], TOLERANCES[FULL][0])
        if not apart:
            if not isinstance(wanted, int):
                raise NotCompiled("logits of a row depend on other rows, or on what is drawn or kept in from_rows")
            self.cut = [self.rows]
        if precision != FULL:  # which is from here on: its rounding would hide how little shares may differ by
            self._net.precision = precision
            expected = self._expected(tried, draws)
        self._prepare(inputs, state)
        for (inputs, state), right in zip(tried, expected, strict=True):
            torch.set_rng_state(draws)
            for place, (ours, theirs) in enumerate(zip(self._run(inputs, state), right, strict=True)):
                if not close(ours, theirs, TOLERANCES[precision][place not in (0, 2)]):
                    raise NotCompiled("its compiled pass does not give what its eager pass gives")

    def _prepare(self, inputs: Sequence[Tensor], state: Sequence[Tensor]) -> None:
        """Compiles the passes over inputs like these, and makes room for what they give."""
        self._of_vectors = torch.empty_like(inputs[0])
        parts = [contiguous(share) for share in _split(inputs, self.cut)]
        of_size = {len(share[0]): [*share, *contiguous(state)] for share in parts}
        found = {size: self._pass(*given) for size, given in of_size.items()}
        self._logits, _, *self._sums = found[self.cut[0]][: 3 + len(self._parameters)]
        # Compiled threads copy logits as they are, and sum numbers of float32.
        plain = self._logits.dtype == inputs[0].dtype and all(t.dtype == torch.float32 for t in self._sums)
        code = self._compile(of_size, self.shares > 1 and plain)
        libraries = [path for size in self.cut if isinstance(path := code[size], Path)]
        functions = [its for size in self.cut if not isinstance(its := code[size], Path)]
        self._passes: Passes
        if libraries:
            self._passes = PassesInLibraries(libraries, parts, state, [found[size] for size in self.cut])
        else:
            self._whole, self._passes = functions[0], PassesInPython(functions, self.cut)

    def _expected(self, tried: Sequence[tuple[list[Tensor], list[Tensor]]], draws: Tensor) -> list[list[Tensor]]:
        """`_pass` over each whole batch, from the same state of the random generator."""
        found = []
        for inputs, state in tried:
            torch.set_rng_state(draws)
            found.append(self._pass(*inputs, *state))
        return found

    def _random(self, batch: Batch, seed: int) -> tuple[list[Tensor], list[Tensor]]:
        """Inputs and state to try it with: random rows, and weights near the net's own, none of them 0."""
        generator = torch.Generator().manual_seed(seed)
        weight, rows = self.model.embedding.weight, len(batch)
        fields = batch.ids.num_fields if isinstance(batch.ids, Bags) else batch.ids.shape[1]
        vectors = torch.randn(rows, fields, weight.shape[1], generator=generator, dtype=weight.dtype)
        bits = None if self._draw is None else self._draw(rows)
        wanted = [p + 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in self._parameters]
        state = [t.detach().clone() for t in (*wanted, *self._others)]
        inputs = [vectors, batch.label, batch.dense, batch.weight, bits]
        self._has = [part is not None for part in inputs]
        return [part for part in inputs if part is not None], state

    def _compile(
        self, of_size: dict[int, list[Tensor]], as_libraries: bool
    ) -> Mapping[int, Path] | Mapping[int, Callable[..., Any]]:
        """The passes over these, by their number of rows, by Inductor: libraries if they are to be and all can be."""
        from torch import _inductor as inductor

        graphs = {size: self._traced(given) for size, given in of_size.items()}
        with own_cache(), warnings.catch_warnings(action="ignore"):  # of torch about itself
            if as_libraries and (found := self._libraries(graphs)):
                return found
            # Its C++ wrapper lets other threads run meanwhile.
            options = {**OPTIONS, "cpp_wrapper": True, "cpp.threads": 1 if self.shares > 1 else self.threads}
            return {size: inductor.compile(graph, list[Any](of_size[size]), options) for size, graph in graphs.items()}

    def _traced(self, tensors: list[Tensor]) -> fx.GraphModule:
        from torch.fx.experimental.proxy_tensor import make_fx

        graph = make_fx(self._pass, tracing_mode="fake", _allow_non_fake_inputs=True)(*tensors)
        own = {t.untyped_storage().data_ptr() for t in (*self.model.parameters(), *self.model.buffers())}
        for node in graph.graph.find_nodes(op="get_attr"):
            if getattr(graph, node.target).untyped_storage().data_ptr() in own:
                raise NotCompiled("from_rows reads the embedding's table, not the rows that it is given alone")
        return graph

    def _libraries(self, graphs: dict[int, fx.GraphModule]) -> dict[int, Path] | None:
        try:
            found = {size: library(graph) for size, graph in graphs.items()}
        except Exception as error:  # whatever a compiler may raise
            log.info("threads of Python make the net's passes: %s", _one_line(error))
            return None
        made = {size: path for size, path in found.items() if path is not None}
        return made if len(made) == len(found) else None


class _FromRows(nn.Module):
    """A model as a function of its rows, for ``functional_call``."""

    precision: Precision = FULL

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Tensor:
        return logits_of(self.model, self.precision, *inputs)


def _split(inputs: Sequence[Tensor], sizes: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
    """The parts of each share."""
    return zip(*(part.split(list(sizes)) for part in inputs), strict=True)


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Whether they are equal but for rounding, in L2."""
    if ours.shape != theirs.shape:
        return False
    distance, size = (ours.double() - theirs.double()).norm().item(), theirs.double().norm().item()
    return distance <= tolerance * size + 1e-7


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextmanager
def _random_state_kept() -> Iterator[None]:
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def make(
    asked: Compile,
    model: Any,
    optimizers: Sequence[Optimizer],
    stream: RowStream,
    threads: int,
    precision: Precision = FULL,
    slices: int | None = None,
    group: Group | None = None,
) -> CompiledNet | None:
    """The compiled net of a run, or None where its net is to be eager.

    Args:
        asked: ``compile=``; with ``"auto"`` it is compiled if there are `MIN_STEPS`, and if it can be.
        model: of the run, at its initial weights.
        optimizers: of rows and net.
        stream: all rows that it will train on.
        threads: of the run.
        precision: of the net's products.
        slices, group: of a run of several workers, which all compile the passes over slices, or none does.

    Raises:
        CtrError: ``compile=true`` and the net cannot be compiled; the message says why.
    """
    least = MIN_STEPS if group is None else MIN_STEPS_OF_SLICES
    if not asked or (asked == "auto" and stream.num_batches < least):
        return None
    began = time.perf_counter()
    net, reason = None, None
    try:
        if any(isinstance(optimizer, GroupAdaHessian) for optimizer in optimizers):
            raise NotCompiled("AdaHessian takes second derivatives, which are not compiled")
        batch = next(iter(RowStream(stream.rows, stream.ranges, stream.batch_size)))
        parameters = [p for its in optimizers[1].param_groups for p in its["params"]]
        cut = None if group is None or slices is None else Cut.of(len(batch), slices, group).sizes
        net = CompiledNet(model, parameters, batch, threads, cut, precision)
    except NotCompiled as error:
        reason = str(error)
    if group is not None:  # all or none: the bits differ
        reason = next((its for its in group.collect(reason) if its is not None), None)
        if reason is None and len(ways := set(group.collect(str(net)))) > 1:
            reason = f"workers would compute it in several ways: {', '.join(sorted(ways))}"
    if reason is not None:
        if asked == "auto":
            log.info("compile=auto: the net is not compiled: %s", reason)
            return None
        raise CtrError(f"compile=true cannot serve this run: {reason}; use compile=auto")
    log.info("the net is %s, in %.0f s", net, time.perf_counter() - began)
    return net
