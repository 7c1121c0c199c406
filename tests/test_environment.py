"""What a command sets before torch is loaded."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

import ctr.environment


@pytest.mark.parametrize(
    ("command", "arguments", "rank", "given", "expected"),
    [
        ("ctr.train", ["dataset=criteo"], None, None, None),
        ("ctr.train", ["-m", "opt.lambda21=1e-3,1e-4"], None, None, "passive"),
        ("ctr.train", [], "0", None, "passive"),
        ("ctr.train", ["--multirun"], None, "active", "active"),
        ("ctr.reproduce", [], None, None, "passive"),
        (None, [], None, None, "passive"),
    ],
)
def test_the_threads_of_a_single_run_spin_and_those_of_several_sleep(
    command: str | None,
    arguments: list[str],
    rank: str | None,
    given: str | None,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    main = ModuleType("__main__")
    main.__spec__ = None if command is None else ModuleSpec(command, None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name, value in (("RANK", rank), ("OMP_WAIT_POLICY", given)):
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    importlib.reload(ctr.environment)
    assert os.environ.get("OMP_WAIT_POLICY") == expected
