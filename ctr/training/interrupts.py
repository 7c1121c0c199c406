"""Ctrl-C and SIGTERM, kept back until the run is between two steps, where its state is whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which the two signals are noted (`pending`) and act when `act` is called, or when it ends.

    A second Ctrl-C acts at once. Signals that the process ignores, or leaves to the system, are not touched; nor is
    anything in another thread than the main one, where no signal arrives.

    Args:
        active: False: signals act as ever.
    """

    def __init__(self, active: bool = True) -> None:
        self._active = active
        self.pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if self._active and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if callable(handler := signal.getsignal(number)):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        if error is None:
            self.act()

    def act(self) -> None:
        """Does what the noted signal would have done; nothing without one."""
        if (number := self.pending) is not None:
            self.pending = None
            self._before[number](number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.pending is not None:
            self._give_back()
            self._before[number](number, frame)
        elif self.pending is None:
            self.pending = number

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)
