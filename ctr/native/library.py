"""Finds and loads the compiled library; the C structures, field by field as in ``src/``."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
from collections.abc import Iterable
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctr.native.sources import SOURCES, digest

if TYPE_CHECKING:  # torch takes seconds to load, and the commands that do not train need none
    from torch import Tensor

log = logging.getLogger("ctr")


def _structure(name: str, **fields: Any) -> type[Any]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


Layer = _structure(
    "Layer",
    **dict.fromkeys(
        ("kind", "in_", "in_width", "out", "out_width", "weight", "bias", "extra", "scratch", "bits", "add"), c_int32
    ),
)
Table = _structure(
    "Table",
    **dict(data=c_void_p, rows=c_int64, dim=c_int32, stride=c_int32),
    **dict.fromkeys(("seen", "bucket", "counts"), c_void_p),
)


def _rule_options(name: str, number: Any) -> type[Any]:
    return _structure(
        name,
        **dict.fromkeys(("rule", "norm", "hard", "penalised", "flat", "still"), c_int32),
        **dict.fromkeys(("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "correction1", "nesterov"), number),
        **dict.fromkeys(
            ("initial", "root_scale", "power", "lambda1", "limit", "two_lambda2", "scale", "shift"), number
        ),
    )


RowOptions, RowOptions64 = _rule_options("RowOptions", c_float), _rule_options("RowOptions64", c_double)
Parts = _structure(
    "Parts",
    **dict(data=c_void_p * 5, stride=c_int64 * 5, rows=c_int64, dim=c_int32, marks=c_int32),
    **dict.fromkeys(("seen", "bucket", "counts"), c_void_p),
)
Gradient = _structure(
    "Gradient",
    **dict.fromkeys(("ids", "values", "hessian"), c_void_p),
    **dict(count=c_int64, distinct=c_int32, lazy=c_int32),
)
NetOptions = _structure(
    "NetOptions",
    rule=c_int32,
    **dict.fromkeys(("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "rate", "inverse_root", "eps"), c_float),
)
Batch = _structure(
    "Batch",
    **dict.fromkeys(("ids", "dense", "label", "weight", "bits", "logit"), c_void_p),
    rows=c_int32,
    words=c_int32,
)
Params = _structure("Params", value=c_void_p, m=c_void_p, v=c_void_p, count=c_int32)
Torch = _structure("Torch", **dict.fromkeys(("tensor", "data", "drop", "use_threads"), c_void_p))
Input = _structure("Input", sizes=POINTER(c_int64), strides=POINTER(c_int64), dims=c_int32, type=c_int32)
Pass = _structure(
    "Pass",
    **dict(model=c_void_p, run=c_void_p, inputs=POINTER(Input), bytes=POINTER(c_int64)),
    **dict.fromkeys(("num_inputs", "num_outputs"), c_int32),
)

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ctr_build": (c_char_p, []),
    "ctr_fits_processor": (c_int, []),
    "ctr_lanes": (c_int, []),
    "ctr_allocate": (c_void_p, [c_size_t]),
    "ctr_release": (None, [c_void_p, c_size_t]),
    "ctr_forget": (None, [c_void_p, c_size_t]),
    "ctr_step_new": (c_void_p, [POINTER(Layer), *[c_int] * 7]),
    "ctr_step_free": (None, [c_void_p]),
    "ctr_step_train": (
        c_int64,
        [c_void_p, POINTER(Batch), POINTER(Table), POINTER(RowOptions), POINTER(NetOptions), POINTER(Params),
         POINTER(c_double)],
    ),
    "ctr_product": (None, [c_int, c_int, c_int, c_void_p, c_int, c_void_p, c_int, c_void_p]),
    "ctr_step_predict": (c_int64, [c_void_p, POINTER(Batch), POINTER(Table), POINTER(Params), c_int]),
    "ctr_update_f32": (c_int64, [POINTER(Parts), POINTER(Gradient), POINTER(RowOptions), c_int]),
    "ctr_update_f64": (c_int64, [POINTER(Parts), POINTER(Gradient), POINTER(RowOptions64), c_int]),
    "ctr_gather": (c_int64, [c_void_p, *[c_int64] * 3, c_void_p, c_int64, c_void_p, c_int]),
    "ctr_each": (None, [c_void_p, c_int, c_int]),
    "ctr_passes": (c_int, [c_void_p, c_int, *[POINTER(c_void_p)] * 3, c_int, POINTER(Torch), c_int]),
    "ctr_share_threads": (None, [c_void_p] * 3),
    "ctr_index_new": (c_void_p, [c_int]),
    "ctr_index_free": (None, [c_void_p]),
    "ctr_index_ids": (c_int64, [c_void_p, c_void_p, c_int64, c_void_p, c_void_p]),
    "ctr_count": (None, [c_void_p, c_int64, c_void_p, c_void_p]),
    "ctr_mark": (None, [c_void_p, c_int64, c_void_p]),
    "ctr_index_find": (None, [c_void_p, c_void_p, c_int64, c_void_p]),
}  # fmt: skip


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None, said once in the log, where there is none, or one of other sources than lie here: the
    code that a run is kept under (`ctr.jobs.cache`) is that of the sources. CTR_NATIVE_LIBRARY names another build."""
    named = os.environ.get("CTR_NATIVE_LIBRARY")
    paths = _by_width(Path(__file__).parent.glob("_kernels*.so"))
    found = _find([Path(named).expanduser().absolute()] if named else paths)
    if isinstance(found, str):
        cure = "pip install -e . builds them anew" if not named else f"CTR_NATIVE_LIBRARY={named} names them"
        log.warning("the compiled kernels %s; using torch, several times slower (%s)", found, cure)
        return None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def _by_width(paths: Iterable[Path]) -> list[Path]:
    """The library for this very machine first, then those for every processor of a level, the highest level first."""
    return sorted(paths, key=lambda path: (path.name.startswith("_kernels."), path.name), reverse=True)


def _find(paths: list[Path]) -> ctypes.CDLL | str:
    """The first library that is built from the sources that lie here, for a processor like this one (every Python that
    built one left its own, and all serve); or why there is none."""
    why = "are not built"
    for path in paths:
        try:
            found = ctypes.CDLL(str(path))
        except OSError as error:
            why = f"do not load ({error})"
            continue
        if not _is_built_from(SOURCES, found):
            why = f"are built from other sources than those in {SOURCES}"
        elif not found.ctr_fits_processor():
            why = "were built for another processor"
        else:
            return found
    return why


def _is_built_from(folder: Path, found: ctypes.CDLL) -> bool:
    if not hasattr(found, "ctr_sources"):  # built before it was asked for
        return False
    found.ctr_sources.restype = c_char_p
    return bool(found.ctr_sources() == digest(folder).encode())


def available() -> bool:
    """Whether the compiled library is there and runs on this machine."""
    return library() is not None


def build() -> str | None:
    """Compiler, flags and vector width of the library, ``GCC 12.2.0 -O3 -march=native, 8 floats``; None without one."""
    found = library()
    return None if found is None else f"{found.ctr_build().decode()}, {found.ctr_lanes()} floats"


def loaded() -> ctypes.CDLL:
    """The compiled library, known to be there."""
    found = library()
    if found is None:
        raise RuntimeError("the compiled kernels are not available")
    return found


class _Memory:
    """Zeroed memory in huge pages; lives as long as an array on it."""

    _address: int | None = None  # also where Ctrl-C comes before there is one

    def __init__(self, items: int) -> None:
        self._bytes = items * 4
        self._address = loaded().ctr_allocate(self._bytes)
        if not self._address:
            raise MemoryError(f"no {self._bytes / 2**30:.1f} GiB for the embedding table and its optimizer state")
        self.__array_interface__ = {"version": 3, "shape": (items,), "typestr": "<f4", "data": (self._address, False)}

    def __del__(self) -> None:
        if self._address:
            loaded().ctr_release(self._address, self._bytes)


def forget(values: Tensor) -> None:
    """Gives the memory of a contiguous tensor back to the system while it is still referred to; its values are lost."""
    loaded().ctr_forget(values.data_ptr(), values.numel() * values.element_size())


def allocate(items: int) -> np.ndarray:
    """float32 zeros [items] whose pages are huge, and handed out at first touch."""
    return np.asarray(_Memory(items))
