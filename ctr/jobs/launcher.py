"""What runs families of jobs somewhere: `Launcher`, and the answers it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ctr.jobs.plan import Job
from ctr.jobs.worker import Outcome


@dataclass(frozen=True)
class Died:
    """A worker that ended without an outcome, and why."""

    cause: str


Answer = int | Outcome | Died


class Launcher(Protocol):
    """Runs families of jobs."""

    def start(self, jobs: Sequence[Job], *, wait: bool) -> Any:
        """Starts a family; returns its name in the answers. ``wait``: see `ctr.jobs.worker.attempt`."""

    def answers(self) -> list[tuple[Any, Answer]]:
        """Waits for answers. An `Outcome` or `Died` is the last one of its family."""

    def close(self) -> None:
        """Ends everything that still runs."""
