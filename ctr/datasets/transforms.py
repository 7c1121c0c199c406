"""Numeric columns of one's own log -> inputs of the model: fitted on training rows alone, kept in the manifest.

A missing number becomes the mean, and where training rows miss some, a second input says so (1 where missing).
Without a transform a column is taken as it is, missing as 0.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa

Kind = Literal["none", "standard", "log", "log_standard", "quantile", "bucket"]

SPEC = re.compile(r"auto|none|standard|log|log_standard|quantile|bucket:(?:[2-9]|[1-9][0-9]{1,3})")
SPECS = "auto, none, standard, log, log_standard, quantile or bucket:K (2 to 9999)"
KNOTS = 257  # of a quantile transform
FIT_ROWS, FIT_VALUES = 1_000_000, 1 << 25  # at most this many rows, and values of all columns, are fitted on
# By what `auto` tells: a tail longer than the other, values far beyond the middle half.
SKEWED, FAR = 3, 20
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Transform:
    """How one numeric column becomes inputs of the model.

    Attributes:
        name: of the column.
        kind: ``none`` x; ``standard`` (x - mean) / scale; ``log`` sign(x) ln(1 + |x|); ``log_standard`` both;
            ``quantile`` the share of training values below, from -1 to 1; ``bucket`` a categorical field of intervals.
        why: what ``auto`` saw; empty where the user chose.
        indicator: there is a second input, 1 where the number is missing.
        mean, scale: mean and standard deviation of the training values (after the logarithm).
        knots, levels: quantile: values of the column and what they become, linear in between; bucket: the bounds.
    """

    name: str
    kind: Kind
    why: str = ""
    indicator: bool = False
    mean: float = 0.0
    scale: float = 1.0
    knots: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()

    @property
    def outputs(self) -> list[str]:
        """Names of the inputs that `apply` returns; a bucket is no number."""
        inputs = [] if self.kind == "bucket" else [self.name]
        return [*inputs, f"{self.name} is missing"] if self.indicator else inputs

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Inputs float32 [n, len(outputs)] of numbers float32 [n], NaN where missing."""
        if self.kind == "bucket":
            return np.empty((len(values), 0), np.float32)
        missing = np.isnan(values)
        numbers = np.where(missing, 0.0, values.astype(np.float64))
        if self.kind == "quantile":
            numbers, at_missing = np.interp(numbers, self.knots, self.levels), 0.0
        else:
            if self.kind in ("log", "log_standard"):
                numbers = signed_log(numbers)
            at_missing = self.mean if self.kind == "log" else 0.0
            if self.kind in ("standard", "log_standard"):
                numbers = (numbers - self.mean) / self.scale
        columns = (
            [np.where(missing, at_missing, numbers), missing]
            if self.indicator
            else [np.where(missing, at_missing, numbers)]
        )
        return np.stack(columns, axis=1).astype(np.float32)

    def undo(self, inputs: np.ndarray) -> np.ndarray:
        """Numbers float32 [n] that become these inputs, float32 [n, len(outputs)]; of a bucket see `within`."""
        numbers = inputs[:, 0].astype(np.float64)
        if self.kind == "quantile":
            numbers = np.interp(numbers, self.levels, self.knots)
        elif self.kind in ("standard", "log_standard"):
            numbers = numbers * self.scale + self.mean
        if self.kind in ("log", "log_standard"):
            numbers = np.sign(numbers) * np.expm1(np.minimum(np.abs(numbers), np.log(LARGEST)))
        numbers = np.clip(numbers, -LARGEST, LARGEST).astype(np.float32)
        return np.where(inputs[:, 1] > 0, np.float32(np.nan), numbers) if self.indicator else numbers

    @property
    def intervals(self) -> list[str]:
        """The names of a bucket's intervals: below the first bound, ..., from the last on."""
        bounds = [np.format_float_positional(np.float32(knot), trim="-") for knot in self.knots]
        between = [f"{low} to below {high}" for low, high in itertools.pairwise(bounds)]
        return [f"below {bounds[0]}", *between, f"{bounds[-1]} or more"] if bounds else ["any"]

    def buckets(self, values: np.ndarray) -> pa.Array:
        """The interval of each number, float32 [n], as text; null where missing."""
        missing = np.isnan(values)
        places = np.searchsorted(self.knots, np.where(missing, 0, values), side="right")
        return pa.DictionaryArray.from_arrays(pa.array(places, mask=missing), self.intervals).dictionary_decode()

    def within(self, intervals: Sequence[str | None]) -> np.ndarray:
        """A number, float32 [n], of each interval; NaN for None."""
        below = np.nextafter(np.float32(self.knots[0] if self.knots else 0), np.float32(-np.inf))
        numbers = dict(zip(self.intervals, [below, *self.knots], strict=True))
        return np.array([np.nan if name is None else numbers[name] for name in intervals], np.float32)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Transform:
        """The transform whose fields (``dataclasses.asdict``) were kept as JSON."""
        lists = {name: tuple(values[name]) for name in ("knots", "levels")}
        return Transform(**{**values, **lists})


def apply(transforms: Sequence[Transform], dense: np.ndarray) -> tuple[list[pa.Array], np.ndarray]:
    """Fields and inputs of the numbers of some rows.

    Args:
        transforms: one for each column.
        dense: float32 [n, K], NaN where missing.

    Returns:
        A text array [n] for each bucket, in the order of the columns, and float32 [n, inputs].
    """
    columns = list(zip(transforms, dense.T, strict=True))
    fields = [transform.buckets(values) for transform, values in columns if transform.kind == "bucket"]
    return fields, np.concatenate([transform.apply(values) for transform, values in columns], axis=1)


def undo(transforms: Sequence[Transform], fields: Sequence[Sequence[str | None]], inputs: np.ndarray) -> np.ndarray:
    """Numbers float32 [n, K], NaN where missing, that `apply` makes these fields and (but for rounding) inputs of."""
    buckets = iter(fields)
    numbers, place = [], 0
    for transform in transforms:
        width = len(transform.outputs)
        here = inputs[:, place : place + width]
        numbers.append(transform.within(next(buckets)) if transform.kind == "bucket" else transform.undo(here))
        place += width
    return np.stack(numbers, axis=1)


def outputs_of(transforms: Sequence[Transform]) -> list[str]:
    """Names of the inputs that `apply` returns."""
    return [name for transform in transforms for name in transform.outputs]


def parse(specs: Sequence[str]) -> dict[str, str]:
    """``["unit price:log", "age:bucket:10"]`` -> the transform of each column by its name.

    Raises:
        ValueError: not a name and a transform, or a column twice.
    """
    found: dict[str, str] = {}
    for spec in specs:
        match = re.fullmatch(rf"(.+?):({SPEC.pattern})", spec)
        if match is None:
            raise ValueError(f"dataset.transform: {spec}; expected a column, a colon and {SPECS}")
        if match[1] in found:
            raise ValueError(f"dataset.transform: two for the column {match[1]}")
        found[match[1]] = match[2]
    return found


def fit(wanted: Mapping[str, str], chunks: Iterable[np.ndarray], rows: int) -> list[Transform]:
    """Fits the transform of each column.

    Args:
        wanted: transform (`SPEC`) of each column by its name.
        chunks: dense columns of all training rows, float32 [n, K], NaN where missing.
        rows: their number; of more than `FIT_ROWS` a sample is drawn, the same each time.
    """
    share = min(1.0, FIT_ROWS / rows, FIT_VALUES / (rows * max(len(wanted), 1)))
    draw = np.random.default_rng(0)
    sample = np.concatenate([dense if share == 1 else dense[draw.random(len(dense)) < share] for dense in chunks])
    return [_fitted(name, spec, values) for (name, spec), values in zip(wanted.items(), sample.T, strict=True)]


def _fitted(name: str, spec: str, column: np.ndarray) -> Transform:
    """The transform of one column, of its training values float32 [n]."""
    missing = np.isnan(column)
    values = column[~missing].astype(np.float64)
    kind, _, buckets = spec.partition(":")
    why = ""
    if kind == "auto":
        kind, why = _chosen(values)
    made = Transform(name, cast(Kind, kind), why)
    if kind == "none" or (not len(values) and kind != "bucket"):
        return replace(made, kind="none")
    if kind == "bucket":
        if not len(values):
            return made  # one interval, which no training row is in
        count = int(buckets)
        shares = np.arange(1, count) / count
        return replace(made, knots=tuple(np.unique(np.quantile(values, shares, method="inverted_cdf")).tolist()))
    made = replace(made, indicator=bool(missing.any()))
    if kind == "quantile":
        shares = np.linspace(0, 1, KNOTS)
        knots, place = np.unique(np.quantile(values, shares), return_inverse=True)
        levels = 2 * np.bincount(place, shares) / np.bincount(place) - 1
        return replace(made, knots=tuple(knots.tolist()), levels=tuple(levels.tolist()))
    if kind in ("log", "log_standard"):
        values = signed_log(values)
    return replace(made, mean=float(values.mean()), scale=float(values.std()) or 1.0)


def _chosen(values: np.ndarray) -> tuple[Kind, str]:
    """The transform that fits the training values of a column, and why."""
    if not len(values):
        return "none", "missing in all training rows"
    if values.min() == values.max():
        return "standard", f"always {values[0]:.4g}"
    low, least, quarter, middle, three_quarters, most, high = np.quantile(values, (0, 0.01, 0.25, 0.5, 0.75, 0.99, 1))
    if low >= -1 and high <= 1:
        return "none", f"within {low:.4g} and {high:.4g}"
    if 0 <= low < high and (most - middle > SKEWED * (middle - least) or quarter == three_quarters):
        return "log_standard", f"skewed: median {middle:.4g}, up to {high:.4g}"
    if max(high - middle, middle - low) > FAR * (three_quarters - quarter):
        return (
            "quantile",
            f"far values: half within {quarter:.4g} and {three_quarters:.4g}, all {low:.4g} to {high:.4g}",
        )
    return "standard", f"from {low:.4g} to {high:.4g}"


def signed_log(values: np.ndarray) -> np.ndarray:
    """sign(x) ln(1 + |x|), of any shape."""
    return np.sign(values) * np.log1p(np.abs(values))


def table(transforms: Sequence[Transform]) -> str:
    """What becomes of each column, for a reader."""
    lines = [("numeric column", "transform", "why")]
    lines += [
        (
            transform.name,
            f"bucket:{len(transform.knots) + 1}" if transform.kind == "bucket" else transform.kind,
            (transform.why or "as you say") + ("; and an input where missing" if transform.indicator else ""),
        )
        for transform in transforms
    ]
    widths = [max(len(line[cell]) for line in lines) for cell in range(2)]
    return "\n".join(
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[2]])
        for line in lines
    )
