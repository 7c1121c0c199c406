"""What a run was made on, in words."""

import os
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from ctr.training import machine as module
from ctr.training.machine import machine


def test_processor_vector_unit_cores_threads_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some   CPU @ 3GHz\nmodel name\t: other\n")
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr(module, "build", lambda: "GCC 1 -O3, 8 floats")
    vector_unit = torch.backends.cpu.get_cpu_capability()
    versions = f"torch {torch.__version__}, numpy {np.__version__}; kernels: GCC 1 -O3, 8 floats"
    assert machine(4, "cpu") == f"Some CPU @ 3GHz, {vector_unit}, 1 core; 4 threads; {versions}"


def test_a_system_that_does_not_tell_its_processor_has_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(module, "build", lambda: None)
    assert machine(1, "cpu").startswith(f"{platform.machine()}, ")
    assert "kernels" not in machine(1, "cpu")
