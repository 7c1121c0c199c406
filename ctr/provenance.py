"""Every hash that says what made a result: of values, of code, of the machine's arithmetic; and the name of a run.

Two runs with the same `run_key` compute the same figures: same configuration, data, code, versions of torch and numpy,
and vector width. Comments, docstrings and the layout of the code do not count.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctr.errors import CtrError

PACKAGE = Path(__file__).parent
# The code that a run's figures depend on. (How rows are prepared is part of the data's hash.)
SOURCES = (
    "metrics.py", "training/*.py", "training/compiled/*.py", "datasets/stream.py", "datasets/rows.py",
    "datasets/split.py", "models/*.py", "optim/*.py", "native/*.py", "native/src/*.cpp", "native/src/*.h",
)  # fmt: skip
# A string or character literal, or a comment, of C++.
_CPP = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|//[^\n]*|/\*.*?\*/""", re.DOTALL)


def digest(values: Any) -> str:
    """16 hexadecimal digits that identify JSON-like values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def code_hash(paths: Iterable[Path], more: Sequence[str] = ()) -> str:
    """Hash of Python and C++ sources without comments and docstrings, in order of their paths; and of more words."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(f"{path.name}\0{_bare(path)}\0".encode())
    for word in more:
        found.update(f"{word}\0".encode())
    return found.hexdigest()[:16]


def module_paths(names: Sequence[str]) -> list[Path]:
    """The source files of some modules."""
    specs = [importlib.util.find_spec(name) for name in names]
    return [Path(spec.origin) for spec in specs if spec is not None and spec.origin is not None]


def _bare(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return " ".join(_CPP.sub(lambda match: match[1] or " ", text).split())
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                del body[0]
    return ast.dump(tree)


def arithmetic() -> tuple[str, ...]:
    """What rounding depends on beside the code: versions of torch and numpy, and the width of the vector unit."""
    return (f"torch {torch.__version__}", f"numpy {np.__version__}", torch.backends.cpu.get_cpu_capability())


def training_code(package: Path = PACKAGE) -> str:
    """The hash of the code that trains and measures, as it is on the disk now, with `arithmetic`."""
    return code_hash((path for pattern in SOURCES for path in package.glob(pattern)), arithmetic())


CODE = training_code()  # Computed at import: files may change later.


def run_key(config_hash: str, data_hash: str) -> str:
    """The name of a run in the cache of finished runs, as this code computes it."""
    return f"{config_hash}-{data_hash}-{CODE}"


def confirm(key: str, config_hash: str, data_hash: str) -> None:
    """Compares what a run computes with the key that it was planned under; called before a result is left there.

    Raises:
        CtrError: they differ, as something changed meanwhile.
    """
    now = run_key(config_hash, data_hash)
    if now != key:
        parts = zip(("configuration", "data", "code"), key.split("-"), now.split("-"), strict=True)
        changed = " and ".join(name for name, planned, is_now in parts if planned != is_now)
        raise CtrError(
            f"the run was planned as {key}, but is {now} (configuration-data-code): "
            f"its {changed} changed meanwhile; start it again"
        )


def expect_unchanged() -> None:
    """CtrError if the sources have changed since this module was imported: the modules that were imported after it may
    be made of either."""
    if training_code() != CODE:
        raise CtrError("the sources of ctr changed while a process loaded them; start the command again")


def git_sha() -> str | None:
    """The commit of the checkout that holds this code, "-dirty" if changed; None for an installed package."""
    here = ["git", "-C", str(PACKAGE)]
    try:
        # An installed package may be inside somebody else's checkout, which says nothing about it.
        tracked = subprocess.run(
            [*here, "ls-files", "--error-unmatch", "provenance.py"], capture_output=True, check=False
        )
        if tracked.returncode != 0:
            return None
        describe = [*here, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError:
        return None
