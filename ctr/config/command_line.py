"""Writing command lines: overrides as Hydra and a shell read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import cast


def command_line(module: str, overrides: Mapping[str, object]) -> str:
    """What to type into a shell: ``python -m ctr.train dataset=criteo opt.lr=0.001``."""
    return typed(module, [override(key, value) for key, value in overrides.items()])


def typed(module: str, overrides: Sequence[str], program: str = "python") -> str:
    """The same of overrides as Hydra reads them."""
    return " ".join([program, "-m", module, *map(_quoted, overrides)])


def _quoted(word: str) -> str:
    """For a shell; in double quotes where the word has single ones, which is easier to read than shlex's way."""
    plain = "'" in word and not re.search(r'["$`\\!]', word)
    return f'"{word}"' if plain else shlex.quote(word)


def override(key: str, value: object) -> str:
    """A key and its value as Hydra reads them on the command line."""
    return f"{key}={_text(value)}"


def _text(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        # Anything that Hydra could take for something else than this text is quoted.
        if re.fullmatch(r"[A-Za-z_/][\w/.:-]*", value) and value.lower() not in ("null", "true", "false", "nan", "inf"):
            return value
        # A backslash is one only where a quote follows.
        return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + "\\" * len(found[2]) + found[2], value) + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    return "[" + ",".join(_text(item) for item in cast("list[object]", value)) + "]"
