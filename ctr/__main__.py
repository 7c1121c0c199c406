"""``ctr <command> ...`` and ``python -m ctr <command> ...``: the same as ``python -m ctr.<command> ...``."""

from __future__ import annotations

import ast
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

COMMANDS = ("train", "prepare", "predict", "features", "export", "reproduce", "dashboard")


def main() -> None:
    """Runs the command that the first argument names; without one it lists them."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
    elif name == "--version":
        from ctr import __version__

        print(f"ctr {__version__}")
    elif name not in COMMANDS:
        print(f"error: {name}: no such command; expected one of {', '.join(_there())}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv[1:] = rest
        runpy.run_module(f"ctr.{name}", run_name="__main__", alter_sys=True)


def _there() -> dict[str, Path]:
    """The commands that are installed, and their files."""
    specs = {name: find_spec(f"ctr.{name}") for name in COMMANDS}
    return {name: Path(spec.origin) for name, spec in specs.items() if spec is not None and spec.origin}


def usage() -> str:
    """What each command does, by the first line of its module: none is imported for that."""
    lines = ["ctr <command> key=value ...", ""]
    for name, path in _there().items():
        said = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        line = said.split("``: ")[-1].partition(": ``")[0]
        lines.append(f"  {name:<11}{line.rstrip('.')}")
    footer = "ctr <command> --help lists the keys of a command. Each is also python -m ctr.<command>."
    return "\n".join([*lines, "", footer])


if __name__ == "__main__":
    main()
