"""The benchmark's contestants, and how it takes the time on a GPU."""

import sys
from typing import Any

import pytest
import torch

from tests.scripts import script

bench = script("bench")
SMALL = bench.Case("dcn", [5, 7, 9], 4, 2, 1e-3)


def test_contestants_train_on_another_device(elsewhere: str) -> None:
    # SparseAdam makes its tensors in a way that a stand-in cannot follow.
    for make in (bench.plain_loop, bench.in_torch, *([bench.eager] if elsewhere == "cuda" else [])):
        step = make(SMALL, device=elsewhere)
        for batch in bench.make_batches(SMALL, 2, 8):
            step(batch)


def test_the_time_is_taken_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    steps = {"one": lambda batch: None}
    bench.turns(steps, bench.make_batches(SMALL, 2, 8), rounds=1, per_turn=1, device="cuda")
    assert asked == ["cuda"] * 3  # twice in a round, once in that to warm up
    bench.turns(steps, bench.make_batches(SMALL, 2, 8), rounds=1, per_turn=1)
    assert len(asked) == 3


def test_without_fbgemm_the_others_are_measured(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "fbgemm_gpu", None)  # as if it were not installed
    monkeypatch.setattr(bench, "TURN_ROWS", 8)
    found = bench.elsewhere("criteo", SMALL, 8, 1, 1, "cpu", True)
    assert [row["backend"] for row in found] == ["eager", "plain loop", "torch"]
    assert capsys.readouterr().err.startswith("fbgemm is left out of criteo: ModuleNotFoundError")
