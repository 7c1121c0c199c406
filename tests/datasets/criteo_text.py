"""Criteo-format text for tests, and what it means, computed line by line."""

import random
from math import log
from pathlib import Path


def lines(rows: int, seed: int = 0) -> list[str]:
    """Made-up lines with blanks, negative integers, values that repeat and values that do not."""
    draw = random.Random(seed)
    made = []
    for _ in range(rows):
        integers = [draw.choice(["", "-1", "0", "3", "17", "204881"]) for _ in range(13)]
        values = [draw.randrange(40) * 0x01234567 if draw.random() < 0.95 else draw.getrandbits(32) for _ in range(26)]
        categories = [draw.choice(["", f"{value % 2**32:08x}"]) for value in values]
        made.append("\t".join([str(draw.randrange(2)), *integers, *categories]))
    return made


def write(path: Path, made: list[str]) -> Path:
    path.write_text("".join(line + "\n" for line in made))
    return path


def arguments(folder: Path, *overrides: str, rows: int = 400) -> list[str]:
    """Overrides of a command that reads such lines from a folder, where they are written if nothing is there yet."""
    raw = folder / "train.txt"
    if not raw.exists():
        write(raw, lines(rows))
    return ["dataset=criteo", f"dataset.raw={raw}", f"dataset.prepared={folder / 'prepared'}", *overrides]


def expected(made: list[str]) -> tuple[list[list[int]], list[list[float]], list[int], list[tuple[int, str | None]]]:
    """ids, dense, labels and vocabulary, by a dictionary in order of first appearance."""
    known: dict[tuple[int, str], int] = {}
    ids, dense, labels = [], [], []
    for line in made:
        columns = line.split("\t")
        labels.append(int(columns[0]))
        dense.append([log(max(int(x or 0), 0) + 1) for x in columns[1:14]])
        ids.append([known.setdefault((field, value), len(known)) for field, value in enumerate(columns[14:])])
    return ids, dense, labels, [(field, value or None) for field, value in known]
