"""Where the commands find YAML files: in this package, in other installed ones, and where ``hydra.searchpath`` says.

An installed package offers its own by an entry point of the group ``ctr.configs``, whose value is the package that
holds them: ``my_package.conf`` with ``model/nfm.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from importlib.metadata import entry_points
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from ctr.errors import ArgumentError

ENTRY_POINTS = "ctr.configs"
OWN = "ctr.conf"


class InstalledConfigs(SearchPathPlugin):
    """Puts the folders of other installed packages on Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package in installed():
            search_path.append(ENTRY_POINTS, f"pkg://{package}")


def register() -> None:
    """Lets Hydra find the YAML files of installed packages; to be called before it composes anything.

    In a YAML ``${with_budget:${.budget},a,b}`` is a where the optimizer has a budget, else b.
    """
    Plugins.instance().register(InstalledConfigs)
    OmegaConf.register_new_resolver("with_budget", lambda budget, a, b: b if budget is None else a, replace=True)


def installed() -> list[str]:
    """Returns the packages that hold YAML files of installed distributions.

    Raises:
        ArgumentError: an entry point names a package that is not there.
    """
    found = sorted({entry.value: entry for entry in entry_points(group=ENTRY_POINTS)}.items())
    for package, entry in found:
        try:
            there = find_spec(package)
        except ModuleNotFoundError:
            there = None
        if there is None:
            raise ArgumentError(f"entry point {entry.name} = {package} of {ENTRY_POINTS}: no such package")
    return [package for package, _ in found]


def folders(searchpath: Iterable[str] = ()) -> list[Traversable]:
    """Returns the folders of YAML files, in the order in which they are searched.

    Args:
        searchpath: the value of ``hydra.searchpath``.
    """
    found: list[Traversable] = []
    for path in (f"pkg://{OWN}", *(f"pkg://{package}" for package in installed()), *searchpath):
        scheme, _, place = path.rpartition("://")
        found.append(resources.files(place) if scheme == "pkg" else Path(place))
    return found


def choices(group: str, within: Sequence[Traversable]) -> list[str]:
    """Returns what can be given in ``<group>=...``; nothing for what is no group."""
    there = [folder / group for folder in within if (folder / group).is_dir()]
    files = [file.name for folder in there for file in folder.iterdir()]
    return sorted({name.removesuffix(".yaml") for name in files if name.endswith(".yaml")})


def read(name: str, within: Sequence[Traversable]) -> str:
    """Returns the text of ``<name>.yaml``: that of the first folder that has it."""
    files = [folder / f"{name}.yaml" for folder in within]
    return next(file.read_text(encoding="utf-8") for file in files if file.is_file())
