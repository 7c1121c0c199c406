"""The launchers by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ctr.jobs.launcher import Launcher
from ctr.jobs.local import LocalLauncher
from ctr.jobs.ray import RayLauncher
from ctr.jobs.slurm import SlurmLauncher

Name = Literal["local", "slurm", "ray"]


def launcher(name: Name, root: Path, parameters: Mapping[str, Any]) -> Launcher:
    """Returns the launcher of ``launcher=<name>``.

    Args:
        name: where the jobs run.
        root: folder of the cache.
        parameters: of submitit's executor or of Ray's tasks; not read for ``local``.

    Raises:
        ArgumentError: a parameter that is unknown there, or a wrong value.
        CtrError: the library is not installed, or the cluster cannot be reached.
    """
    if name == "local":
        return LocalLauncher(root)
    return (SlurmLauncher if name == "slurm" else RayLauncher)(root, parameters)
