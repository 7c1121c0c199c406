"""Compiled nets whose passes are libraries of AOTInductor: which are, where they are kept, and what goes before."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ctr.datasets.stream import Batch
from ctr.training import passes
from ctr.training.compiled_net import CompiledNet
from ctr.training.passes import CACHE, PassesInLibraries, PassesInPython
from tests.native.built import needs_kernels
from tests.training.test_compiled_net import (
    DIM,
    FIELDS,
    WITH_ROWS_APART,
    Net,
    batches,
    broken,
    expect_same,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("why", ["no kernels", "it fails"])
def test_without_a_library_threads_of_python_make_the_passes(
    why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if why == "no kernels":
        monkeypatch.setattr(passes, "available", lambda: False)
    else:
        monkeypatch.setattr("ctr.training.compiled_net.library", broken)
    with caplog.at_level(logging.INFO, "ctr"):
        net = expect_same(WITH_ROWS_APART["norm"], 3, threads=2)
    assert isinstance(net._passes, PassesInPython)
    said = [record.message for record in caplog.records if "threads of Python" in record.message]
    assert said == (["threads of Python make the net's passes: RuntimeError: no compiler"] if why == "it fails" else [])


@needs_kernels
def test_a_library_is_compiled_once_whatever_weights_and_rows_it_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    batch = batches(2)[0]
    assert isinstance(batch.dense, Tensor)

    def libraries(seed: int, batch: Batch, shares: int) -> dict[str, int]:
        torch.manual_seed(seed)
        model = WITH_ROWS_APART["norm"]()
        parameters = [p for name, p in model.named_parameters() if name != "embedding.weight"]
        CompiledNet(model, parameters, batch, 1, shares)
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "passes").glob("*.so")}

    first = libraries(0, batch, 3)
    assert len(first) == 1
    assert libraries(1, dataclasses.replace(batch, dense=batch.dense + 1, label=1 - batch.label), 3) == first
    assert len(libraries(0, batch, 2)) == 2
    assert not list((tmp_path / "passes").glob("*.tmp"))


@needs_kernels
def test_a_damaged_library_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    make = WITH_ROWS_APART["norm"]
    monkeypatch.setattr(passes, "_opened", passes._opened.__wrapped__)
    (tmp_path / "passes").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(passes, "_make", lambda graph, inputs, path: path.write_bytes(b"half of it"))
        assert isinstance(expect_same(make, 3)._passes, PassesInPython)  # what is made again is damaged too
    (path,) = (tmp_path / "passes").glob("*.so")
    assert path.read_bytes() == b"half of it"
    assert isinstance(expect_same(make, 3)._passes, PassesInLibraries)
    assert path.stat().st_size > 10_000


class Head(Net):
    """A net with something that not every way of compiling serves."""

    def __init__(self, of: str) -> None:
        super().__init__(nn.Sequential(nn.Linear(FIELDS * DIM + 2, 5), nn.Tanh(), nn.Linear(5, 1)))
        self.of = of
        self.one, self.other = (nn.Parameter(torch.randn(5, 3)) for _ in range(2))
        if of == "a weight by columns":
            self.one = nn.Parameter(torch.randn(3, 5).t())

    def from_rows(self, rows: Tensor, dense: Tensor | None) -> Tensor:
        flat = rows.flatten(1)[:, :5]
        if self.of == "an operator of torch alone":
            columns = flat.unsqueeze(2)
            flat = flat + torch.linalg.householder_product(columns, columns[:, :1, 0])[:, :, 0]
        made = self.one + self.other if self.of == "two with one gradient" else self.one * self.other
        logits = super().from_rows(rows, dense) + (flat @ made).tanh().sum(1)
        return logits.double() if self.of == "logits of float64" else logits


@needs_kernels
@pytest.mark.parametrize(
    ("of", "kind"),
    [
        ("a weight by columns", PassesInLibraries),
        ("two with one gradient", PassesInLibraries),
        ("logits of float64", PassesInPython),
        ("an operator of torch alone", PassesInPython),
    ],
)
def test_nets_that_need_care(of: str, kind: type) -> None:
    assert isinstance(expect_same(lambda: Head(of), 3, threads=2)._passes, kind)


@pytest.mark.parametrize("named", ["by the user", "by torch", "by nobody"])
def test_compiled_code_is_in_ctr_s_folder_or_in_the_one_that_the_user_names(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    names = {"by the user": str(tmp_path / "mine"), "by torch": default_cache_dir()}
    before = names.get(named)
    monkeypatch.setenv(CACHE, before or "")
    if before is None:
        monkeypatch.delenv(CACHE)  # set before, so that what torch writes there is undone
    hidden = len(named)  # a net that this process has not compiled yet
    expect_same(lambda: Net(nn.Sequential(nn.Linear(FIELDS * DIM + 2, hidden), nn.Tanh(), nn.Linear(hidden, 1))), 3)
    places = [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.so")]
    folder = {"mine" if place.startswith("mine/") else place[: len("home/ctr/inductor")] for place in places}
    assert folder == {"mine" if named == "by the user" else "home/ctr/inductor"}
    assert os.environ.get(CACHE) == before
