"""The peak of a run's memory, in a process that held more before."""

import ctypes
import json
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from ctr.training import memory
from tests.commands import composed, jobs
from tests.datasets.criteo_text import arguments

MUCH = 300 << 20


def resettable() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


needs_reset = pytest.mark.skipif(not resettable(), reason="the system does not let a process reset its peak")


def hold_and_release() -> None:
    held = bytearray(MUCH)
    held[::4096] = bytes(len(held[::4096])).replace(b"\0", b"\1")  # every page is touched
    del held


@needs_reset
def test_the_peak_begins_anew_where_it_is_reset() -> None:
    hold_and_release()
    before = memory.peak()
    assert before >= MUCH
    memory.reset_peak()
    assert memory.peak() < before - MUCH // 2
    hold_and_release()
    assert memory.peak() > before - MUCH // 2


@needs_reset
def test_a_run_counts_its_own_memory(tmp_path: Path) -> None:
    config = composed("train", *arguments(tmp_path, "tracking=none", rows=100))
    hold_and_release()
    before = memory.peak()
    assert jobs([config], [tmp_path]) == [None]
    peak = json.loads((tmp_path / "result.json").read_text())["peak_rss_bytes"]
    assert 0 < peak < before - MUCH // 2


def test_where_it_cannot_be_reset_the_peak_is_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path / "nothing")
    memory.reset_peak()
    assert memory.peak() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_memory_is_given_back_each_time_that_some_items_have_been_used(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    library = SimpleNamespace(malloc_trim=lambda pad: done.append("trim"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    for item in memory.tidied(range(5), 2):
        done.append(item)
    assert done == [0, 1, "trim", 2, 3, "trim", 4]
    del library.malloc_trim  # another C library
    assert [*memory.tidied(range(3), 1)] == [0, 1, 2]
