"""How many features a run may end with: a number, a share of those present, or what fits into a number of bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from ctr.datasets.prepared import Prepared, read_vocabulary
from ctr.datasets.rare import Gathered
from ctr.errors import ArgumentError

Unit = Literal["features", "share", "bytes"]
EXPECTED = "a share below 1 (0.02), a number of features of at least 2 (500000) or a size (20MB)"
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(k|m|g)b", re.IGNORECASE)
_BYTES = {"k": 10**3, "m": 10**6, "g": 10**9}

# What a saved model needs beside its rows, its net and the text of its values: manifest, schema, golden rows; and for
# each feature field, count, effect, the end of its value (hashed: the bucket), and the alignment of the columns.
FIXED_BYTES, ENTRY_BYTES = 2**18, 24
OTHER_BYTES = 6  # of a value without a row, beside its text


@dataclass(frozen=True)
class Budget:
    """What ``opt.budget`` asks for.

    Attributes:
        amount: in units of ``unit``.
        schedule: how many may live during the run, a shape of `ctr.optim.BudgetSchedule`.
    """

    amount: float
    unit: Unit
    schedule: str = "constant"

    def features(self, data: Prepared, dim: int, net_weights: int) -> int:
        """N, how many features of these data live at the end: at most those that training sees.

        Args:
            data: what is trained on.
            dim: d, of an embedding row.
            net_weights: of the model beside its table.

        Raises:
            ArgumentError: not two features fit into the size.
        """
        present = data.split.features_train
        if self.unit != "bytes":
            asked = round(self.amount * present) if self.unit == "share" else int(self.amount)
            return max(min(asked, present), 2)
        sizes = artifact_bytes(data, dim, net_weights)
        fitting = int(np.searchsorted(sizes, self.amount, side="right")) - 1
        if fitting < 2:
            least = sizes[min(2, len(sizes) - 1)]
            raise ArgumentError(
                f"opt.budget={self.amount / 1e6:g}MB: this model needs {least / 1e6:.2f} MB with two features, "
                f"{4 * net_weights / 1e6:.2f} MB of them for the net"
            )
        return min(fitting, present)


def parse(value: int | float | str, schedule: str = "constant") -> Budget:
    """The budget that a value of ``opt.budget`` asks for.

    Raises:
        ArgumentError: it is none.
    """
    if isinstance(value, str):
        if (size := _SIZE.fullmatch(value.strip())) and float(size[1]) > 0:
            return Budget(float(size[1]) * _BYTES[size[2].lower()], "bytes", schedule)
    elif 0 < value < 1:
        return Budget(value, "share", schedule)
    elif value >= 2 and value == int(value):
        return Budget(int(value), "features", schedule)
    raise ArgumentError(f"opt.budget={value}; expected {EXPECTED}")


def artifact_bytes(data: Prepared, dim: int, net_weights: int) -> np.ndarray:
    """Upper bounds on the size of the saved model in float32: float64 [features + 1], with 0, 1, ... living features.

    Whichever features live: n of them are counted with the n longest values of the vocabulary.
    """
    if data.vocabulary is None:
        lengths = np.zeros(data.manifest.num_features, np.uint16)
    else:
        # 16 bits: sorted by counting
        lengths = np.sort(np.minimum(_lengths(data), 2**16 - 1).astype(np.uint16), kind="stable")[::-1]
    of_each = lengths + np.float64(4 * dim + ENTRY_BYTES)
    return FIXED_BYTES + _other_bytes(data) + 4 * net_weights + np.concatenate([[0.0], np.cumsum(of_each)])


def _other_bytes(data: Prepared) -> int:
    """Of values that a model names although they have no row: the rare ones where unseen ones read as zero, else those
    that may be removed."""
    if not isinstance(data, Gathered):
        return 0
    named = ~data.rare if data.unseen == "row" else data.rare
    return int((_lengths(data.log)[named] + OTHER_BYTES).sum())


def _lengths(data: Prepared) -> np.ndarray:
    """Bytes of each value's text, int32 [N]."""
    return pc.binary_length(read_vocabulary(data)["value"]).fill_null(0).to_numpy()
