"""MLflow's local database: made whole or not at all; and what is wrong with one, in plain words."""

from __future__ import annotations

import os
from glob import escape
from pathlib import Path

from ctr.errors import CtrError, system_message
from ctr.files import TMP_PREFIX, atomic_path

SQLITE = "sqlite:///"
HEAD = b"SQLite format 3\0"  # every database begins with this

# What SQLite, Alembic and MLflow say of a database, and what it means; the first that is found counts.
MEANING = {
    "not a database": "is not an SQLite database; {another}",
    "malformed": "is damaged; {another}",
    "already exists": "is half-made, or of another version of MLflow; {another}",
    "no such table": "is no whole MLflow database, or was deleted while it was in use; {another}",
    "out-of-date database schema": "is of another version of MLflow; make a copy of it, then: {upgrade}",
    "Can't locate revision": "is of a newer version of MLflow; update MLflow, or {another}",
    "readonly database": "is read-only, or was deleted or moved while it was in use; {writable}",
    "unable to open database file": "cannot be opened; {writable}",
    "disk is full": "cannot grow: no space left on its disk; free some space there, or choose another tracking.uri",
    "disk I/O error": "cannot be written: its disk is full or at fault, or a limit on the size of files is reached "
    "(ulimit -f)",
    "database is locked": "is locked by another process for too long; end that one, or choose another tracking.uri",
}
ANOTHER = "move it away (the next tracked run makes a new one), or choose another tracking.uri"
WRITABLE = "expected one that can be written to, in a folder that can: else choose another tracking.uri"


def path_of(uri: str) -> Path | None:
    """The file of a ``sqlite:///`` database; None for another store."""
    return Path(uri.removeprefix(SQLITE).partition("?")[0]).absolute() if uri.startswith(SQLITE) else None


def make(path: Path, artifacts: str) -> None:
    """Makes a database with MLflow's tables unless there is one, under another name that is changed when it is whole:
    making it takes seconds. To be done by one process at a time.

    Args:
        path: of the database.
        artifacts: URI of the folder for the files of its first experiment.
    """
    if path.exists() and path.stat().st_size:
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _clear(path)
    try:
        with atomic_path(path) as tmp:
            store = SqlAlchemyStore(f"{SQLITE}{tmp}", artifacts)
            store.engine.dispose()  # else its connection stays, under a name that is gone
    finally:
        _clear(path)


def _clear(path: Path) -> None:
    """Removes what a killed creation left, and the journals of a database that was deleted: SQLite would apply them to
    the new one."""
    names = [f"{path.name}-{suffix}" for suffix in ("journal", "wal", "shm")]
    for left in [*path.parent.glob(f"{TMP_PREFIX}*-{escape(path.name)}*"), *(path.with_name(name) for name in names)]:
        left.unlink(missing_ok=True)


def expect_usable(path: Path) -> None:
    """Refuses a database that is there and that MLflow could not use, without a try that would last or leave traces.

    Raises:
        CtrError: it is not a database, or it or its folder is read-only.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise CtrError(f"{path} is not a file; choose another tracking.uri")
    with path.open("rb") as file:
        head = file.read(len(HEAD))
    if head not in (b"", HEAD):
        raise CtrError(f"{path} is not an SQLite database; {ANOTHER}")
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise CtrError(f"{path} is read-only; {WRITABLE}")


def meaning(said: str, uri: str) -> str | None:
    """What is wrong with a local database, with what to do; None for words that are not known here."""
    path = path_of(uri)
    if path is None:
        return None
    upgrade = f"python -m mlflow db upgrade {SQLITE}{path}"
    fits = (meant for words, meant in MEANING.items() if words in said)
    return next((f"{path} {meant.format(another=ANOTHER, upgrade=upgrade, writable=WRITABLE)}" for meant in fits), None)


def explain(error: Exception, uri: str) -> str:
    """One line for what MLflow raised about a store."""
    text = str(getattr(error, "message", error))
    if known := meaning(text, uri):
        return known
    if isinstance(error, OSError) and error.errno:
        return system_message(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
