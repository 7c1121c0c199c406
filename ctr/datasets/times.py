"""The time of each row of one's own log: from text to microseconds since 1970, and to the day.

A time with an offset (Z, +02:00) is converted to UTC. One without is taken as it is. Epoch times are UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctr.datasets.columns import ColumnType
from ctr.datasets.dates import to_dates

AUTO = "auto"
NAT = np.datetime64("NaT", "us")
EARLIEST, LATEST = (np.datetime64(f"{year}-01-01", "s").astype(int) for year in (1990, 2100))  # of epoch times


def _iso(texts: pa.Array) -> np.ndarray:
    try:
        return _cast(texts)
    except ValueError:
        texts = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")  # nanoseconds
        texts = pc.replace_substring_regex(texts, " UTC$", "Z")
    try:
        return _cast(texts)
    except ValueError:
        begins = pc.match_substring_regex(texts, "^[0-9]{4}-[0-9]{2}-[0-9]{2}")
        pairs = zip(texts.to_pylist(), begins.to_pylist(), strict=True)
        return np.array([_cast_one(text) if begin else NAT for text, begin in pairs], "M8[us]")


def _cast(texts: pa.Array) -> np.ndarray:
    for zone in (None, "UTC"):
        try:
            return pc.cast(texts, pa.timestamp("us", zone)).to_numpy(zero_copy_only=False).astype("M8[us]")
        except pa.ArrowInvalid:
            continue
    raise ValueError("time")


def _cast_one(text: str) -> np.datetime64:
    try:
        return _cast(pa.array([text]))[0]
    except ValueError:
        return NAT


def _epoch(digits: str, unit: int) -> Callable[[pa.Array], np.ndarray]:
    """Numbers with ``digits`` digits, of which ``unit`` are a second; decimals are allowed."""

    def convert(texts: pa.Array) -> np.ndarray:
        fits = pc.match_substring_regex(texts, rf"^[0-9]{{{digits}}}(\.[0-9]{{1,9}})?$")
        numbers = pc.cast(pc.if_else(fits, texts, "0"), pa.float64()).to_numpy()
        fits = (numbers >= EARLIEST * unit) & (numbers < LATEST * unit)
        return np.where(fits, np.round(numbers * (1_000_000 // unit)).astype("M8[us]"), NAT)

    return convert


def _digits(texts: pa.Array) -> np.ndarray:
    fits = pc.match_substring_regex(texts, "^[0-9]{8}$")
    return pc.cast(pc.if_else(fits, texts, "0"), pa.int64()).to_numpy()


def _day(texts: pa.Array) -> np.ndarray:
    days = _digits(texts)
    days = np.where((days >= 1970_00_00) & (days < 2100_00_00), days, 0)
    return to_dates(days).astype("M8[us]")


def _hour(texts: pa.Array) -> np.ndarray:
    numbers = _digits(texts)
    days, hours = np.divmod(numbers, 100)
    dates = np.where(hours < 24, to_dates(20_000_000 + days), np.datetime64("NaT"))
    return dates.astype("M8[us]") + hours.astype("m8[h]")


def _pattern(pattern: str) -> Callable[[pa.Array], np.ndarray]:
    def one(text: str) -> np.datetime64:
        try:
            time = datetime.strptime(text, pattern)  # an offset is converted below
        except ValueError:
            return NAT
        return np.datetime64(time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None), "us")

    def convert(texts: pa.Array) -> np.ndarray:
        encoded = texts.dictionary_encode()  # times repeat
        known = np.array([one(text) for text in encoded.dictionary.to_pylist()], "M8[us]")
        return known[encoded.indices.to_numpy()]

    return convert


FORMATS: dict[str, tuple[str, Callable[[pa.Array], np.ndarray]]] = {
    "iso": ("an ISO date or time such as 2024-05-01 or 2024-05-01T08:30:00Z", _iso),
    "epoch": ("seconds since 1970, between 1990 and 2100", _epoch("9,10", 1)),
    "epoch_ms": ("milliseconds since 1970, between 1990 and 2100", _epoch("12,13", 1000)),
    "yyyymmdd": ("a day YYYYMMDD", _day),
    "yymmddhh": ("an hour YYMMDDHH", _hour),
}


def time_type(format_: str) -> ColumnType:
    """The type of a column of times: text -> int64, microseconds since 1970. A blank is not valid.

    Args:
        format_: one of `FORMATS`, or a pattern of ``strptime`` such as ``%d.%m.%Y %H:%M``.
    """
    expected, convert = FORMATS.get(format_) or (f"a time like {format_}", _pattern(format_))

    def micros(values: pa.Array) -> np.ndarray:
        return convert(pc.cast(values.fill_null(b""), pa.string()))

    def parse(values: pa.Array) -> pa.Array:
        times = micros(values)
        if np.isnat(times).any():
            raise ValueError("time")
        return pa.array(times.astype(np.int64))

    def invalid(values: pa.Array) -> np.ndarray:
        is_text = np.array([value is None or _is_utf8(value) for value in values.to_pylist()], bool)
        wrong = ~is_text
        wrong[is_text] = np.isnat(micros(values.filter(pa.array(is_text))))
        return wrong

    return ColumnType(expected, parse, invalid)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def fitting(values: pa.Array) -> list[str]:
    """The names of the `FORMATS` that all of some texts [n] have; blanks (null) are not looked at."""
    values = values.drop_null()
    if not len(values) or not values[0].as_py()[0].isdecimal():
        return []
    first = [name for name, (_, convert) in FORMATS.items() if not np.isnat(convert(values[:1])).any()]
    return [name for name in first if not np.isnat(FORMATS[name][1](values)).any()]


def days_of_times(times: np.ndarray) -> np.ndarray:
    """The day of each time, int64 [n] microseconds since 1970 -> int32 [n] YYYYMMDD."""
    days = times // 86_400_000_000
    starts = np.flatnonzero(np.diff(days, prepend=days[0] - 1)) if len(days) else np.zeros(0, np.int64)
    dates = days[starts].astype("M8[D]")
    months = dates.astype("M8[M]")
    year, month = np.divmod(months.astype(np.int64), 12)
    day_of_month = (dates - months).astype(np.int64) + 1
    numbers = (year + 1970) * 10_000 + (month + 1) * 100 + day_of_month
    return np.repeat(numbers, np.diff(starts, append=len(days))).astype(np.int32)
