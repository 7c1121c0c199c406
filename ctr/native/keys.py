"""`ctr.datasets.encode.KeyIndex` in compiled code, and the counting of ids."""

from __future__ import annotations

import numpy as np

from ctr.errors import CtrError
from ctr.native.library import available, loaded


class NativeKeyIndex:
    """A growing exact map from uint64 keys to 0, 1, 2, ... in order of first appearance.

    16 bytes a slot, at most half of the slots in use; half as much again for a moment while it grows.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        self._library = loaded()
        self._index = self._library.ctr_index_new(max((capacity - 1).bit_length(), 4))
        if not self._index:
            raise MemoryError("no memory for the index of features")
        self.count = 0

    def ids(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Looks keys up, adding those not yet present.

        Args:
            keys: uint64 [n].

        Returns:
            int32 [n] ids, and the new keys in the order of their ids (uint64 [m]).
        """
        keys = np.ascontiguousarray(keys, np.uint64)
        ids, new = np.empty(len(keys), np.int32), np.empty(len(keys), np.uint64)
        found = self._library.ctr_index_ids(self._index, keys.ctypes.data, len(keys), ids.ctypes.data, new.ctypes.data)
        if found == -1:
            raise CtrError(f"more than {np.iinfo(np.int32).max:,} distinct features; use dataset.encoding=hash")
        if found == -2:
            raise MemoryError("no memory for the index of features")
        self.count += found
        return ids, new[:found].copy()

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int32 [n] ids of keys (uint64 [n]), -1 for those that are not there; adds none."""
        keys = np.ascontiguousarray(keys, np.uint64)
        ids = np.empty(len(keys), np.int32)
        self._library.ctr_index_find(self._index, keys.ctypes.data, len(keys), ids.ctypes.data)
        return ids

    def __del__(self) -> None:
        if getattr(self, "_index", None):
            self._library.ctr_index_free(self._index)


def count_ids(ids: np.ndarray, places: np.ndarray, totals: np.ndarray) -> None:
    """Counts ids by their place: adds 1 to ``totals[places[id]]`` for each.

    Args:
        ids: int32 [...], all within ``places``.
        places: int32 [N], all within ``totals``.
        totals: int64 [R], changed in place.
    """
    if not available():
        totals += np.bincount(places[ids.ravel()], minlength=len(totals))
        return
    ids = np.ascontiguousarray(ids, np.int32)
    loaded().ctr_count(ids.ctypes.data, ids.size, places.ctypes.data, totals.ctypes.data)


def mark_ids(ids: np.ndarray, marked: np.ndarray) -> None:
    """Sets ``marked[id]`` for each id.

    Args:
        ids: int32 [...], all within ``marked``.
        marked: bool [N], changed in place.
    """
    if not available():
        marked[ids] = True
        return
    ids = np.ascontiguousarray(ids, np.int32)
    loaded().ctr_mark(ids.ctypes.data, ids.size, marked.ctypes.data)
