"""The one place that hashes what made a result: values, and code without its comments, docstrings and layout."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
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
    stamp = path.stat()
    return _bare_of(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(256)  # many runs of one process ask for the same
def _bare_of(path: Path, changed: int, size: int) -> str:
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


def git_sha() -> str | None:
    """The commit of the checkout that holds this code, "-dirty" if changed; None for an installed package, or where git
    cannot tell."""
    # Without locks git writes nothing: a full disk would leave its lock in the checkout.
    here = ["git", "--no-optional-locks", "-C", str(PACKAGE)]
    own = [*here, "ls-files", "--error-unmatch", Path(__file__).name]
    try:
        # An installed package may be inside somebody else's checkout, which says nothing about it.
        if subprocess.run(own, capture_output=True, check=False).returncode != 0:
            return None
        status = [*here, "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
        said = subprocess.run(status, capture_output=True, text=True, check=True).stdout.splitlines()
        (commit,) = [line.removeprefix("# branch.oid ") for line in said if line.startswith("# branch.oid ")]
        return commit if all(line.startswith("#") for line in said) else f"{commit}-dirty"
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
