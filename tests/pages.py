"""What documentation pages show: their code blocks."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced code blocks of one language, those without one by default."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [block.strip("\n") for named, block in found if named == language]


def masked(line: str) -> str:
    """A line of output with its numbers and runs of blanks made equal."""
    return re.sub(r"[0-9][0-9.,]*(e[+-][0-9]+)?", "#", " ".join(line.split()))


def missing(shown: str, printed: str) -> list[str]:
    """The lines of a page that were not printed, numbers aside; ``...`` stands for others."""
    there = {masked(line) for line in printed.splitlines()}
    return [line for line in shown.splitlines() if line.strip() != "..." and masked(line) not in there]
