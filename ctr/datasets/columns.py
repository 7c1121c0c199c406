"""Strict parsers for the columns of a text file."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class ColumnType:
    """A strict parser for one column.

    Attributes:
        expected: what a valid value looks like, for messages.
        parse: Arrow binary array -> typed array of the same length, null where blank. Raises ``ValueError`` (Arrow's
            errors are some) if any value is not valid, and only then.
        invalid: Arrow binary array -> bool [n], which values are not valid; may be slow.
        lists: both take lists of binary texts too, and ``parse`` gives lists (`ctr.datasets.multi`).
    """

    expected: str
    parse: Callable[[pa.Array], pa.Array]
    invalid: Callable[[pa.Array], np.ndarray]
    lists: bool = False


def unlike(pattern: str, blank: bool) -> Callable[[pa.Array], np.ndarray]:
    """The ``invalid`` of a column whose values match a regular expression; ``blank``: or are missing."""

    def invalid(values: pa.Array) -> np.ndarray:
        matches = pc.match_substring_regex(values, f"^(?:{pattern})$")
        return ~matches.fill_null(blank).to_numpy(zero_copy_only=False)

    return invalid


def required(type_: ColumnType) -> ColumnType:
    """The same type without blanks."""

    def parse(values: pa.Array) -> pa.Array:
        if values.null_count:
            raise ValueError("blank")
        return type_.parse(values)

    def invalid(values: pa.Array) -> np.ndarray:
        return type_.invalid(values) | values.is_null().to_numpy(zero_copy_only=False)

    return ColumnType(type_.expected.removesuffix(" or nothing"), parse, invalid)


def not_negative(type_: ColumnType) -> ColumnType:
    """The same type of numbers without those below 0."""

    def parse(values: pa.Array) -> pa.Array:
        numbers = type_.parse(values)
        if pc.any(pc.less(numbers, 0)).as_py():
            raise ValueError("below 0")
        return numbers

    def invalid(values: pa.Array) -> np.ndarray:
        wrong = type_.invalid(values)
        sound = type_.parse(values.filter(pa.array(~wrong)))
        wrong[~wrong] = pc.less(sound, 0).fill_null(False).to_numpy(zero_copy_only=False)
        return wrong

    return ColumnType(f"{type_.expected}, at least 0", parse, invalid)


def also(type_: ColumnType, expected: str, words: Mapping[str, str | None]) -> ColumnType:
    """The same type, which also takes some words: each for another value, or None for a blank."""
    spelled = pa.array([word.encode() for word in words])
    meant = pa.array([value and value.encode() for value in words.values()], pa.binary())

    def translated(values: pa.Array) -> pa.Array:
        number = pc.index_in(values, value_set=spelled)
        return pc.if_else(number.is_valid(), meant.take(number), values)

    def parse(values: pa.Array) -> pa.Array:
        try:
            return type_.parse(values)
        except ValueError:
            return type_.parse(translated(values))

    return ColumnType(expected, parse, lambda values: type_.invalid(translated(values)))


def characters(values: pa.Array) -> np.ndarray:
    """The characters of all values, one after the other, as uint8."""
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    return np.frombuffer(values.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]


def _lengths(values: pa.Array) -> np.ndarray:
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    return np.diff(offsets)


def _bitmap(values: pa.Array) -> pa.Buffer | None:
    return None if values.null_count == 0 else pc.is_valid(values).buffers()[1]


def _parse_label(values: pa.Array) -> pa.Array:
    digits = characters(values)
    if values.null_count or np.any(_lengths(values) != 1) or np.any((digits != 48) & (digits != 49)):
        raise ValueError("label")
    return pa.array(digits - np.uint8(48))


_INTEGER_BYTES = np.zeros(256, bool)
_INTEGER_BYTES[list(b"-0123456789")] = True
_FLOAT_BYTES = _INTEGER_BYTES.copy()
_FLOAT_BYTES[list(b"+.eE")] = True


def _parse_integer(values: pa.Array) -> pa.Array:
    # Arrow's own parser also takes hexadecimal numbers and surrounding blanks.
    if not _INTEGER_BYTES[characters(values)].all():
        raise ValueError("integer")
    numbers = pc.cast(values.view(pa.string()), pa.int64())
    filled = numbers.fill_null(0).to_numpy()
    if len(filled) and (filled.max() >= 10**16 or filled.min() <= -(10**16)):
        raise ValueError("integer")
    return numbers


def _parse_float(values: pa.Array) -> pa.Array:
    if not _FLOAT_BYTES[characters(values)].all():  # neither nan nor inf
        raise ValueError("number")
    numbers = pc.cast(values.view(pa.string()), pa.float32())
    if not np.isfinite(numbers.fill_null(0).to_numpy()).all():
        raise ValueError("number")
    return numbers


def _invalid_float(values: pa.Array) -> np.ndarray:
    def invalid(value: bytes) -> bool:
        try:
            _parse_float(pa.array([value], pa.binary()))
        except ValueError:
            return True
        return False

    return np.array([value is not None and invalid(value) for value in values.to_pylist()], bool)


def _parse_hex32(values: pa.Array) -> pa.Array:
    # unhexlify, not a number parser: "1e501234" must not become a float, nor "00000001" lose its zeros.
    lengths = _lengths(values)
    present = np.flatnonzero(lengths)
    if np.any(lengths[present] != 8):
        raise ValueError("hex32")
    numbers = np.zeros(len(values), np.uint32)
    numbers[present] = np.frombuffer(binascii.unhexlify(characters(values).tobytes()), ">u4")
    return pa.Array.from_buffers(pa.uint32(), len(values), [_bitmap(values), pa.py_buffer(numbers)])


def _parse_text(values: pa.Array) -> pa.Array:
    if not characters(values).all():
        raise ValueError("a NUL")
    return pc.cast(values, pa.string())  # raises where it is not UTF-8


def _invalid_text(values: pa.Array) -> np.ndarray:
    def invalid(value: bytes) -> bool:
        try:
            return "\0" in value.decode()
        except UnicodeDecodeError:
            return True

    return np.array([value is not None and invalid(value) for value in values.to_pylist()], bool)


LABEL = ColumnType("0 or 1", _parse_label, unlike("[01]", False))
INTEGER = ColumnType("an integer of up to 16 digits or nothing", _parse_integer, unlike("-?0*[0-9]{1,16}", True))
FLOAT = ColumnType("a finite number or nothing", _parse_float, _invalid_float)
HEX32 = ColumnType("8 hexadecimal digits or nothing", _parse_hex32, unlike("[0-9a-fA-F]{8}", True))
TEXT = ColumnType("text in UTF-8 without NUL characters", _parse_text, _invalid_text)
