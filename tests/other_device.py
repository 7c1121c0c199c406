"""A GPU for tests on a machine without one: tensors that say they are on another device, and compute on the CPU.

What a GPU refuses is refused: tensors of both devices in one operation, ids of the GPU for a table on the CPU, numpy.
Results are those of the CPU, to the last bit. The device is ``meta``, the only other one on which a build of torch
without CUDA differentiates; what the code does for ``cuda`` by name is not reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

OTHER = "meta"
aten = torch.ops.aten
# What a GPU does with tensors of both devices: copies, and the CPU's ids for a table of its own.
MIXING = {aten.copy_.default, aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}


class There(Tensor):
    """A tensor on the other device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> There:
        strides = () if held.is_sparse else (held.stride(), held.storage_offset())
        new: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, *strides, dtype=held.dtype, layout=held.layout, device=OTHER
        )
        new.held = held
        return new

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"There({self.held})"


def _called(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    onto = kwargs.get("device")
    if there and len(there) < len(tensors):
        # A number on the CPU may go with any tensor.
        own = isinstance(args[0], There) if function in MIXING else False
        alone = [tensor for tensor in tensors if not isinstance(tensor, There) and tensor.dim()]
        if alone and not own and function is not aten.copy_.default:
            raise RuntimeError(f"{function}: expected all tensors to be on the same device, found {OTHER} and cpu")
    arrives = bool(there) if onto is None else torch.device(onto).type == OTHER
    if function is aten.copy_.default:
        arrives = isinstance(args[0], There)
    if onto is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = function(*tree_map(_held, args), **tree_map(_held, kwargs))
    if not arrives:
        return found
    known = {id(tensor.held): tensor for tensor in there}  # of an operation in place

    def told(value: Any) -> Any:
        return known.get(id(value), There(value)) if isinstance(value, Tensor) else value

    return tree_map(told, found)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, There) else value


class _Everywhere(TorchDispatchMode):
    """Of operations without a tensor of the other device, which may make one."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(function, args, kwargs or {})


@contextmanager
def other_device() -> Iterator[str]:
    """Within the block there is another device, of this name."""
    with _Everywhere(), patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: [OTHER, "cpu"]):
        yield OTHER
