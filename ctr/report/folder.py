"""The folder of a study's result: checks before it is replaced, and its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ctr.config.command_line import override
from ctr.errors import ArgumentError, DataError
from ctr.files import atomic_folder, atomic_path, atomic_write_text
from ctr.report import markdown, page
from ctr.report.findings import Findings

COMMANDS, SETTINGS = "commands.txt", "settings.json"


def expect_own(folder: Path, others: Mapping[str, str]) -> None:
    """Refuses a folder that may hold something else than an earlier result: it is replaced as a whole.

    Args:
        others: paths that must not be in it, by what to call them.

    Raises:
        ArgumentError: it is a file, has other files, or contains one of the others.
    """
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"folder={folder} is a file; expected a folder, or a path that does not exist")
    for name, path in others.items():
        if Path(path).resolve().is_relative_to(folder.resolve()):
            raise ArgumentError(f"folder={folder} holds {name}, and is replaced as a whole; expected another folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / COMMANDS).exists():
        raise ArgumentError(f"folder={folder} holds files that are not a study's; expected a new or an empty folder")


def warn_of_replacing(folder: Path, settings: Mapping[str, object]) -> None:
    """Prints how an earlier result differs that will be replaced, while there is time to stop.

    Raises:
        DataError: the settings of the earlier result are damaged.
    """
    if not (path := folder / SETTINGS).exists():
        return
    try:
        earlier = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        earlier = None
    if not isinstance(earlier, dict):
        raise DataError(path, None, "damaged; expected a JSON object. Delete the file and start again")
    differs = [key for key in {**earlier, **settings} if earlier.get(key) != settings.get(key)]
    if differs:
        was = " ".join(override(key, earlier.get(key)) for key in differs)
        print(f"  {os.path.relpath(folder)} holds a result with {was}: it will be replaced; folder=PATH keeps it")


def write(
    findings: Findings,
    folder: Path,
    title: str,
    command: str,
    commands: Iterable[str],
    settings: Mapping[str, object],
) -> None:
    """Replaces the folder by the findings, the command of every run and the settings; ``command`` is the study's."""
    with atomic_folder(folder) as tmp:
        atomic_write_text(tmp / COMMANDS, "".join(f"{line}\n" for line in commands))
        atomic_write_text(tmp / SETTINGS, json.dumps(settings, indent=2) + "\n")
        write_findings(findings, tmp, title, command)


def write_findings(findings: Findings, folder: Path, title: str, command: str = "") -> None:
    """Writes ``result.csv``, ``columns.md``, ``result.md``, ``runs.csv``, ``page.html``, figures as PNG and SVG.

    Raises:
        CtrError: the extra ``report`` is not installed; nothing is written then.
    """
    page.require()
    atomic_write_text(folder / "result.csv", findings.table.to_csv(index=False))
    if findings.columns:
        meanings = [f"`{column.name}`: {column.meaning}" for column in findings.columns]
        atomic_write_text(folder / "columns.md", f"# Columns of result.csv\n\n{markdown.bullets(meanings)}\n")
    atomic_write_text(folder / "result.md", findings.text)
    atomic_write_text(folder / "runs.csv", findings.runs.to_csv(index=False))
    for name, figure in findings.figures.items():
        with atomic_path(folder / f"{name}.png") as tmp:
            figure.savefig(tmp, format="png", dpi=200)
        with atomic_path(folder / f"{name}.svg") as tmp:
            figure.savefig(tmp, format="svg", metadata={"Date": None})
    page.write(findings, folder / "page.html", title, command)
