"""A net's passes over the shares of a batch, each on a thread of its own.

A pass is a function of tensors that Inductor has compiled. As a library of AOTInductor it is called by compiled
threads, without Python and its lock; else by Python's. A library is kept on the disk under a hash of its graph, torch's
version and settings, the compiler and the processor.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_int64, c_size_t, c_void_p, cast
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock
from torch import Tensor, fx

from ctr.files import atomic_path
from ctr.native.library import Input, Pass, Torch, available
from ctr.native.threads import each, sharing

CACHE = "TORCHINDUCTOR_CACHE_DIR"
# An operator that is not in torch's C interface: a library that calls it needs torch's own loader.
_FOREIGN = b"aoti_torch_proxy_executor_call_function"
# Of Inductor: random numbers are torch's own, as in the eager pass; it compiles in this process.
OPTIONS: dict[str, Any] = {"fallback_random": True, "compile_threads": 1}
# What a compilation writes into the last is not to be in the hash of the next one.
_LIBRARY = {**OPTIONS, "cpp.threads": 1, "aot_inductor.metadata": {}}


class Passes(Protocol):
    """Of a batch that is cut into shares. A pass gets its share of each input and the net's state. It gives logits and
    the gradients by the vectors, of its own rows, and others, which are summed."""

    def of_batch(
        self, inputs: Sequence[Tensor], state: Sequence[Tensor], own: Sequence[Tensor], sums: list[Tensor], threads: int
    ) -> None:
        """Makes all passes.

        Args:
            inputs, state: all rows of each input; parameters and buffers.
            own: where the outputs of all rows go, contiguous.
            sums: where the sums of the others go, in the order of the shares; float32, contiguous.
            threads: that compute; each of torch's products is made by one.
        """
        ...

    def of_shares(
        self,
        which: range,
        inputs: Sequence[Sequence[Tensor]],
        state: Sequence[Tensor],
        outputs: Sequence[Sequence[Tensor]],
        threads: int,
    ) -> None:
        """Makes some passes, of which each has its own inputs and outputs."""
        ...


class PassesInPython:
    """Passes in functions of Python.

    Args:
        functions: of each share, which give tensors.
        cut: its rows.
    """

    def __init__(self, functions: Sequence[Callable[..., Sequence[Tensor]]], cut: Sequence[int]) -> None:
        self._functions, self._cut = functions, list(cut)

    def of_batch(
        self, inputs: Sequence[Tensor], state: Sequence[Tensor], own: Sequence[Tensor], sums: list[Tensor], threads: int
    ) -> None:
        parts, places = (list(zip(*(t.split(self._cut) for t in whole), strict=True)) for whole in (inputs, own))
        rest = self._make(range(len(self._cut)), parts, state, places, threads)
        with one_thread():
            torch._foreach_copy_(sums, rest[0])
            for others in rest[1:]:
                torch._foreach_add_(sums, others)

    def of_shares(
        self,
        which: range,
        inputs: Sequence[Sequence[Tensor]],
        state: Sequence[Tensor],
        outputs: Sequence[Sequence[Tensor]],
        threads: int,
    ) -> None:
        self._make(which, inputs, state, outputs, threads)

    def _make(
        self,
        which: range,
        inputs: Sequence[Sequence[Tensor]],
        state: Sequence[Tensor],
        places: Sequence[Sequence[Tensor]],
        threads: int,
    ) -> list[list[Tensor]]:
        """Makes some passes; returns those of their outputs for which there is no place."""
        rest: list[list[Tensor]] = [[]] * len(which)
        constants = [t.detach() for t in contiguous(state)]

        def compute(share: int) -> None:
            torch.set_num_threads(1)  # of this thread
            found = self._functions[which[share]](*contiguous(inputs[share]), *constants)
            for place, output in zip(places[share], found, strict=False):  # by the thread that has it in its cache
                place.copy_(output)
            rest[share] = list(found[len(places[share]) :])

        with one_thread():
            each(len(which), threads, compute)
        return rest


class PassesInLibraries:
    """Passes in libraries of AOTInductor.

    Args:
        libraries: of each share.
        inputs: what its pass is given, like those that will come.
        state: its parameters and buffers, like those that will come.
        outputs: what it gives; those to be summed are float32.
    """

    def __init__(
        self,
        libraries: Sequence[Path],
        inputs: Sequence[Sequence[Tensor]],
        state: Sequence[Tensor],
        outputs: Sequence[Sequence[Tensor]],
    ) -> None:
        self._passes = (Pass * len(libraries))()
        self._of_share = [_kinds(share) for share in inputs]
        self._whole = [(kinds[0][0], sum(size for _, size in kinds)) for kinds in zip(*self._of_share, strict=True)]
        self._kept: list[object] = []  # what the structures point to
        self._firsts = [0, *accumulate(len(share[0]) for share in inputs)][:-1]  # row of each share
        for made, path, share, found in zip(self._passes, libraries, inputs, outputs, strict=True):
            library, model = _opened(path), c_void_p()
            if library.AOTInductorModelContainerCreateWithDevice(byref(model), c_size_t(1), b"cpu", None):
                raise RuntimeError(f"torch cannot use {path}")
            weakref.finalize(self, library.AOTInductorModelContainerDelete, model).atexit = False
            given = [*share, *state]
            counts = [c_size_t(), c_size_t()]
            library.AOTInductorModelContainerGetNumInputs(model, byref(counts[0]))
            library.AOTInductorModelContainerGetNumOutputs(model, byref(counts[1]))
            if [count.value for count in counts] != [len(given), len(found)]:
                raise RuntimeError(f"{path} is of another pass")
            shapes = (Input * len(given))(*map(_input, given))
            sizes = (c_int64 * len(found))(*(t.numel() * t.element_size() for t in found))
            made.model, made.run = model.value, cast(library.AOTInductorModelContainerRun, c_void_p)
            made.inputs, made.bytes, made.num_inputs, made.num_outputs = shapes, sizes, len(given), len(found)
            self._kept += [shapes, sizes]

    def of_batch(
        self, inputs: Sequence[Tensor], state: Sequence[Tensor], own: Sequence[Tensor], sums: list[Tensor], threads: int
    ) -> None:
        given, constants = contiguous(inputs), contiguous(state)  # which are kept until the passes are made
        if (kinds := _kinds(given)) != self._whole:
            raise ValueError(f"expected inputs of these types and sizes: {self._whole}, got {kinds}")
        self._make(
            range(len(self._firsts)), self._of_rows(given), [t.data_ptr() for t in constants], self._of_rows(own),
            [t.data_ptr() for t in sums], threads,
        )  # fmt: skip

    def of_shares(
        self,
        which: range,
        inputs: Sequence[Sequence[Tensor]],
        state: Sequence[Tensor],
        outputs: Sequence[Sequence[Tensor]],
        threads: int,
    ) -> None:
        given, constants = [contiguous(share) for share in inputs], contiguous(state)
        if (kinds := [_kinds(share) for share in given]) != (expected := [self._of_share[share] for share in which]):
            raise ValueError(f"expected inputs of these types and sizes: {expected}, got {kinds}")
        of_inputs, of_outputs = ([[t.data_ptr() for t in share] for share in shares] for shares in (given, outputs))
        self._make(which, of_inputs, [t.data_ptr() for t in constants], of_outputs, [], threads)

    def _of_rows(self, tensors: Sequence[Tensor]) -> list[list[int]]:
        """Where the first row of each share is."""
        rows = [(t.data_ptr(), t.stride(0) * t.element_size()) for t in tensors]
        return [[begin + first * size for begin, size in rows] for first in self._firsts]

    def _make(
        self,
        which: range,
        inputs: list[list[int]],
        state: list[int],
        outputs: list[list[int]],
        sums: list[int],
        threads: int,
    ) -> None:
        """Makes some passes with what is at these addresses."""
        given = [address for share in inputs for address in (*share, *state)]
        found = [address for share in outputs for address in share]
        arrays = [(c_void_p * len(those))(*those) for those in (given, found, sums)]
        first = byref(self._passes, which.start * ctypes.sizeof(Pass))
        call, interface, before = sharing().ctr_passes, _torch(), torch.get_num_threads()
        torch.set_num_threads(1)
        try:  # not `one_thread`, which takes 0.05 ms
            failed = call(first, len(which), *arrays, len(outputs[0]), byref(interface), threads)
        finally:
            torch.set_num_threads(before)
        if failed:
            raise RuntimeError("the compiled pass failed; torch's message is above")


def library(graph: fx.GraphModule) -> Path | None:
    """The library of a graph, made if it is not there; None where there can be none.

    Args:
        graph: a function of contiguous tensors, as ``make_fx`` traces it with fake ones, whose outputs are contiguous.
    """
    if not available():
        return None
    folder = Path(os.environ[CACHE], "passes").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    inputs = [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")]
    path = folder / f"{_key(graph, inputs)}.so"
    with FileLock(path.with_suffix(".lock")):  # others wait for it, and do not compile it too
        if not path.exists():
            _make(graph, inputs, path)
        try:
            _opened(path)
        except OSError:  # damaged, or linked to other libraries
            path.unlink()
            _make(graph, inputs, path)
            _opened(path)
    return None if _FOREIGN in path.read_bytes() else path


def _make(graph: fx.GraphModule, inputs: Sequence[Tensor], path: Path) -> None:
    from torch import _inductor as inductor

    own = path.with_suffix(".tmp")
    shutil.rmtree(own, ignore_errors=True)  # of a process that was killed
    own.mkdir()
    try:
        with atomic_path(path) as new:
            options = {**_LIBRARY, "aot_inductor.output_path": str(own / "pass.so")}
            like = tuple(torch.zeros(t.shape, dtype=t.dtype) for t in inputs)
            Path(str(inductor.aot_compile(copy.deepcopy(graph), like, options=options))).replace(new)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _key(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> str:
    from torch._inductor import codecache, config, cpp_builder, cpu_vec_isa

    with config.patch(_LIBRARY):
        of_graph, _ = codecache.compiled_fx_graph_hash(graph, inputs, {"aot_mode": True}, [])
    compiler = cpp_builder.get_compiler_version_info(cpp_builder.get_cpp_compiler())
    parts = (of_graph, compiler, cpu_vec_isa.pick_vec_isa(), _processor())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _processor() -> list[str]:
    """What it can do: the code is for this very one."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return sorted({line for line in lines if line.startswith(("flags", "Features", "CPU part"))})


def _input(given: Tensor) -> Any:
    like = given.contiguous()
    sizes, strides = ((c_int64 * (like.dim() + 1))(*of) for of in (like.shape, like.stride()))
    return Input(sizes, strides, like.dim(), getattr(_linked(), f"aoti_torch_dtype_{str(like.dtype)[6:]}")())


def _kinds(tensors: Sequence[Tensor]) -> list[tuple[torch.dtype, int]]:
    return [(t.dtype, t.numel()) for t in tensors]


def contiguous(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t if t.is_contiguous() else t.contiguous() for t in tensors]


@functools.cache
def _opened(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


@functools.cache
def _linked() -> ctypes.CDLL:
    """Torch's own libraries."""
    return ctypes.CDLL(torch._C.__file__)


@functools.cache
def _torch() -> Any:
    names = ("aoti_torch_create_tensor_from_blob", "aoti_torch_get_data_ptr", "aoti_torch_delete_tensor_object")
    found = [cast(getattr(_linked(), name), c_void_p) for name in names]
    threads = getattr(_linked(), "omp_set_num_threads", None)
    return Torch(*found, None if threads is None else cast(threads, c_void_p))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch from starting threads of its own within the block: all are at work on shares."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def own_cache() -> Iterator[None]:
    """Has compiled code kept in a folder of ctr's, unless the user names one.

    Torch names its own in the environment as soon as Inductor is imported: torchinductor_<user> among temporary files.
    """
    before = os.environ.get(CACHE)
    if before is None or Path(before).match(f"{tempfile.gettempdir()}/torchinductor_*"):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ctr/inductor")
        os.environ[CACHE] = str(folder.expanduser())
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CACHE, None)
        else:
            os.environ[CACHE] = before
