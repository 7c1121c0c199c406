"""Passes over shares: those of compiled threads are those of Python's. A function plays AOTInductor's library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_int, c_size_t, c_void_p
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ctr.training import passes
from ctr.training.passes import PassesInLibraries, PassesInPython
from tests.native.built import needs_kernels

pytestmark = needs_kernels

CUT = [7, 9, 8]
_RUN = ctypes.CFUNCTYPE(c_int, c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_void_p), c_size_t, c_void_p, c_void_p)
_NEW, _OF = ctypes.pythonapi.PyCapsule_New, ctypes.pythonapi.PyCapsule_GetPointer
_NEW.restype, _NEW.argtypes = ctypes.py_object, [c_void_p] * 3
_OF.restype, _OF.argtypes = c_void_p, [ctypes.py_object, c_void_p]


class Library:
    """What is used of a library of AOTInductor, around a function of tensors."""

    def __init__(self, function: Callable[..., list[Tensor]]) -> None:
        self.function, self.deleted, self.inputs = function, 0, 4
        self.AOTInductorModelContainerRun = _RUN(self.run)

    def AOTInductorModelContainerCreateWithDevice(self, model: Any, *_: object) -> int:
        model._obj.value = 1
        return 0

    def AOTInductorModelContainerGetNumInputs(self, model: c_void_p, number: Any) -> None:
        number._obj.value = self.inputs

    def AOTInductorModelContainerGetNumOutputs(self, model: c_void_p, number: Any) -> None:
        number._obj.value = 5

    def AOTInductorModelContainerDelete(self, model: c_void_p) -> None:
        self.deleted += 1

    def run(self, model: int, inputs: Any, given: int, outputs: Any, made: int, *_: object) -> int:
        tensors = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(
            [_NEW(inputs[k], None, None) for k in range(given)]
        )
        try:
            found = self.function(*tensors)
        except ValueError:
            return 1
        handles: dict[int, int] = {}  # one of each tensor, as Inductor gives them
        for k, output in enumerate(found):
            if id(output) not in handles:
                handles[id(output)] = _OF(torch._C._aoti.unsafe_alloc_void_ptr_from_tensor(output), None)
            outputs[k] = handles[id(output)]
        return 0


def net(rows: Tensor, label: Tensor, weight: Tensor, other: Tensor) -> list[Tensor]:
    """Logits, something of each row, and sums over the rows."""
    logits = torch.tanh(rows) @ weight.t()
    return [logits, rows * label.unsqueeze(1), (logits * other).sum(), label @ rows, logits.t() @ rows]


@pytest.fixture(params=[4, 8_192], ids=["little", "much"])
def given(request: pytest.FixtureRequest) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows, width = torch.randn(sum(CUT), request.param, generator=generator), request.param
    weight = torch.randn(width, 5, generator=generator).t()  # not in one piece
    return [rows, torch.rand(sum(CUT), generator=generator)], [weight, torch.randn((), generator=generator)]


@pytest.fixture
def made(given: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[PassesInLibraries, Library]:
    inputs, state = given
    library = Library(net)
    monkeypatch.setattr(passes, "_opened", lambda path: library)
    shares = list(zip(*(t.split(CUT) for t in inputs), strict=True))
    paths = [Path("pass.so")] * len(CUT)
    return PassesInLibraries(paths, shares, state, [net(*share, *state) for share in shares]), library


def room(state: list[Tensor], rows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    width = rows.shape[1]
    own = [torch.full((len(rows), 5), torch.nan), torch.full_like(rows, torch.nan)]
    return own, [torch.full((), torch.nan), torch.full((width,), torch.nan), torch.full((5, width), torch.nan)]


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_a_batch_of_compiled_threads_is_that_of_python_s(given: Any, made: Any, threads: int) -> None:
    inputs, state = given[0], [t.contiguous() for t in given[1]]  # a product's bits depend on it
    before = torch.get_num_threads()
    found = []
    for each in (made[0], PassesInPython([net] * len(CUT), CUT)):
        own, sums = room(state, inputs[0])
        each.of_batch(inputs, state, own, sums, threads)
        found.append([*own, *sums])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.get_num_threads() == before
    own, sums = net(*inputs, *state)[:2], net(*inputs, *state)[2:]
    torch.testing.assert_close(found[0], [*own, *sums], rtol=1e-4, atol=1e-3)


def test_some_shares_have_memory_of_their_own(given: Any, made: Any) -> None:
    inputs, state = given
    shares = list(zip(*(t.split(CUT) for t in inputs), strict=True))[1:]
    expected = [net(*share, *(t.contiguous() for t in state)) for share in shares]
    outputs = [[torch.full_like(t, torch.nan) for t in share] for share in expected]
    made[0].of_shares(range(1, 3), shares, state, outputs, 2)
    for ours, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_pass_that_fails_is_an_error_and_the_next_one_goes_on(given: Any, made: Any) -> None:
    inputs, state = given
    both, library = made
    own, sums = room(state, inputs[0])

    def failing(rows: Tensor, *others: Tensor) -> list[Tensor]:
        if len(rows) == CUT[1]:
            raise ValueError
        return net(rows, *others)

    library.function = failing
    with pytest.raises(RuntimeError, match="the compiled pass failed"):
        both.of_batch(inputs, state, own, sums, 2)
    library.function = net
    both.of_batch(inputs, state, own, sums, 2)
    assert torch.equal(own[1], inputs[0] * inputs[1].unsqueeze(1))


def test_inputs_of_another_kind_are_refused(given: Any, made: Any) -> None:
    inputs, state = given
    own, sums = room(state, inputs[0])
    for wrong in ([inputs[0]], [inputs[0].double(), inputs[1]], [inputs[0][1:], inputs[1]]):
        with pytest.raises(ValueError, match=r"expected inputs of these types and sizes: .*float32.*, got"):
            made[0].of_batch(wrong, state, own, sums, 2)
    shares = list(zip(*(t.split(CUT) for t in inputs), strict=True))
    with pytest.raises(ValueError, match="expected inputs of these types and sizes"):
        made[0].of_shares(range(2), shares[1:], state, [], 2)


def test_an_output_may_come_twice(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parameters that are added have one gradient, and Inductor gives one handle for both."""
    inputs, state = given

    def twice(*tensors: Tensor) -> list[Tensor]:
        *others, of_both, _ = net(*tensors)
        return [*others, of_both, of_both]

    library = Library(twice)
    monkeypatch.setattr(passes, "_opened", lambda path: library)
    shares = list(zip(*(t.split(CUT) for t in inputs), strict=True))
    both = PassesInLibraries([Path("pass.so")] * 3, shares, state, [twice(*share, *state) for share in shares])
    own, sums = room(state, inputs[0])
    sums[2] = torch.full_like(sums[1], torch.nan)
    for _ in range(20):
        both.of_batch(inputs, state, own, sums, 2)
    torch.testing.assert_close(sums[1:], [inputs[1] @ inputs[0]] * 2)


def test_torch_s_threads_are_as_before_whatever_happens(given: Any, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, state = given
    own, sums = room(state, inputs[0])

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(passes, "sharing", lambda: SimpleNamespace(ctr_passes=interrupted))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyboardInterrupt):
            made[0].of_batch(inputs, state, own, sums, 2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_library_of_another_pass_is_refused(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, state = given
    library = Library(net)
    library.inputs = 7
    monkeypatch.setattr(passes, "_opened", lambda path: library)
    shares = list(zip(*(t.split(CUT) for t in inputs), strict=True))
    with pytest.raises(RuntimeError, match=r"pass\.so is of another pass"):
        PassesInLibraries([Path("pass.so")] * 3, shares, state, [net(*share, *state) for share in shares])


def test_models_are_given_back(given: Any, made: Any) -> None:
    inputs, state = given
    library = made[1]
    shares = list(zip(*(t.split(CUT) for t in inputs), strict=True))
    another = PassesInLibraries([Path("pass.so")] * 3, shares, state, [net(*share, *state) for share in shares])
    before = library.deleted
    del another
    assert library.deleted == before + 3
