"""Configurations of commands that work on a saved model: a YAML file and the command line, without Hydra's groups.

Hydra would take ``model=PATH`` for a choice of the group ``configs/model``. Overrides are written and read as Hydra's,
and mistakes are explained as there.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ctr.config import schema, search
from ctr.errors import ArgumentError

VERBOSE = "hydra.verbose=true"


def compose(command: str, overrides: Sequence[str], declared: type) -> dict[str, Any]:
    """The values of ``python -m ctr.<command>``, checked.

    Args:
        command: its YAML is ``configs/<command>.yaml``.
        overrides: ``key=value``.
        declared: the dataclass with the types of its keys.

    Raises:
        HydraException, OmegaConfBaseException, ArgumentError: a key or value that cannot work.
    """
    config = read(command)
    del config.hydra
    OmegaConf.set_struct(config, True)
    if flags := [override for override in overrides if override.startswith("-")]:
        raise ArgumentError(f"{flags[0]}: no such option; expected key=value, or --help")
    for override in OverridesParser.create().parse_overrides([text for text in overrides if text != VERBOSE]):
        if override.is_sweep_override():
            raise ArgumentError(
                f"{override.input_line}: several values; expected one (text with a comma: key=\"'a,b'\")"
            )
        if override.is_add() or override.is_delete():
            raise ArgumentError(f"{override.input_line}: expected key=value")
        OmegaConf.update(config, override.key_or_group, override.value())
    return schema.plain_dict(schema.typed(config, declared))


def read(command: str) -> DictConfig:
    """A command's YAML."""
    text = resources.files(search.OWN).joinpath(f"{command}.yaml").read_text(encoding="utf-8")
    return cast(DictConfig, OmegaConf.create(text))


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Runs a command's main function on the command line; with ``hydra.verbose=true`` an error shows its traceback."""
    try:
        main(sys.argv[1:])
    except Exception as error:
        if VERBOSE in sys.argv:
            traceback.print_exception(error)
        raise
