"""A log divided between workers: whole files, and parts of large files of text.

A part of a file begins and ends where the reader's blocks do (`ctr.datasets.lines`): the blocks of all parts are those
of the whole file. Its line numbers become those of the file when the parts before it have been read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctr.datasets import lines
from ctr.datasets.parquet import is_parquet
from ctr.datasets.schema import BadRows, Reading
from ctr.errors import DataError


@dataclass(frozen=True)
class Span:
    """What one worker reads at a time.

    Attributes:
        paths: consecutive files of a log.
        start, stop: bytes of a single one; 0 and None: all is read.
        whole: all files of the log.
    """

    paths: tuple[Path, ...]
    start: int = 0
    stop: int | None = None
    whole: bool = False

    @property
    def is_part(self) -> bool:
        return (self.start, self.stop) != (0, None)

    def __str__(self) -> str:
        files = str(self.paths[0]) if len(self.paths) == 1 else f"{self.paths[0]} to {self.paths[-1]}"
        return f"{files} from byte {self.start:,} on" if self.is_part else files


def spans(groups: Sequence[Sequence[Path]], size: int) -> list[Span]:
    """Divides a log, in order.

    Args:
        groups: its files, see `ctr.datasets.schema.Dataset`.
        size: bytes on disk that a span should have.
    """
    found: list[Span] = []
    together: list[Path] = []  # small files
    for group in groups:
        bytes_ = sum(path.stat().st_size for path in group)
        cuts = _cuts(group[0], bytes_, size) if len(group) == 1 else []
        if together and (cuts or sum(path.stat().st_size for path in together) + bytes_ > size):
            found.append(Span(tuple(together)))
            together = []
        if cuts:
            found += [Span(tuple(group), start, stop) for start, stop in zip([0, *cuts], [*cuts, None], strict=True)]
        else:
            together += group
    if together:
        found.append(Span(tuple(together)))
    return found


def _cuts(path: Path, bytes_: int, size: int) -> list[int]:
    """Where a file is cut; nowhere if it is small, or can only be read as a whole."""
    if bytes_ < 2 * max(size, lines.BLOCK_BYTES) or lines.is_compressed(path) or is_parquet(path):
        return []
    blocks = -(-bytes_ // lines.BLOCK_BYTES)
    parts = min(bytes_ // size, blocks)
    return [blocks * part // parts * lines.BLOCK_BYTES for part in range(1, parts)]


class SpanReading(Reading):
    """How far the reading of a span is.

    Args:
        span: what is read.
        bad_rows: see `Reading`.
        before: where what comes before it has been read: see `Before`.

    Attributes:
        lines: line ends read so far.
        first_bad: the first bad row that was left out.
    """

    def __init__(self, span: Span, bad_rows: BadRows, before: Before | None = None) -> None:
        super().__init__(span.paths, bad_rows)
        self.start, self.stop = span.start, span.stop
        self.lines = 0
        self.first_bad: DataError | None = None
        self._whole = span.whole
        if before is not None:
            self.latest, self.first_skipped = before.latest, before.first_skipped
        if span.start:
            self.first_line = FIRST_LINE if before is None else before.lines + 1

    def _note(self, content: bytes) -> None:
        if self._whole:
            super()._note(content)
        elif self.start or self.stop is not None:
            self.lines += content.count(b"\n")

    def skip(self, rows: int, first: DataError) -> None:
        super().skip(rows, first)
        self.first_bad = self.first_bad or first

    def read(self, rows: int) -> Read:
        """Returns what was read, for a span that had ``rows`` rows."""
        return Read(
            rows=rows,
            rows_skipped=self.rows_skipped,
            first_bad=self.first_bad,
            lines=self.lines,
            earliest=self.earliest,
            latest=self.latest,
            sha256=self.sha256 if self._whole else None,
        )


FIRST_LINE = 2  # of a part that does not know its place: it is not the file's first


@dataclass
class Before:
    """What the reading of a span depends on of those before it, summed up one span after the other.

    Attributes:
        rows_skipped, first_skipped, latest: see `Reading`.
        lines, rows: of the file that the last span is a part of; 0 behind a span that ends a file.
    """

    rows_skipped: int = 0
    first_skipped: str | None = None
    latest: tuple[int, Path] | None = None
    lines: int = 0
    rows: int = 0

    def add(self, span: Span, read: Read) -> None:
        """Adds what a span was."""
        if read.first_bad is not None and self.first_skipped is None:
            bad = read.first_bad
            if bad.line is not None and span.start:
                bad = DataError(bad.path, bad.line - FIRST_LINE + self.lines + 1, bad.problem)
            self.first_skipped = str(bad)
        self.rows_skipped += read.rows_skipped
        self.latest = read.latest or self.latest
        self.lines += read.lines
        self.rows += read.rows

    def end_file(self) -> None:
        self.lines = self.rows = 0


@dataclass(frozen=True)
class Read:
    """What a span was; see `Reading` and `SpanReading`."""

    rows: int
    rows_skipped: int
    first_bad: DataError | None
    lines: int
    earliest: int | None
    latest: tuple[int, Path] | None
    sha256: str | None
