"""``--help`` of the commands: the choices, and every key as it is typed, its value, and what its YAML says of it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from importlib.resources.abc import Traversable
from typing import Any, cast

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from ctr.config import plain, schema, search
from ctr.config.command_line import override

COMMANDS = {"train": schema.TrainConfig, "prepare": schema.PrepareConfig, "reproduce": schema.ReproduceConfig}
PLAIN = ("predict", "features", "export")  # composed without Hydra (`ctr.config.plain`)
WIDTH, COLUMN = 120, 42  # of a line; where what a key means begins
_KEY = re.compile(r"( *)(\w+):.*?(?: +# (.*))?")


def text(command: str, overrides: Sequence[str]) -> str:
    """What ``python -m ctr.<command> --help`` shows; with overrides, the keys and values that these lead to.

    Raises:
        HydraException, OmegaConfBaseException: an override that cannot work.
    """
    if command in PLAIN:
        return _plain_text(command)
    search.register()
    with initialize_config_module("ctr.conf", version_base="1.3"):
        config = compose(command, list(overrides), return_hydra_config=True)
        if overrides:  # reading the options of models and optimizers takes seconds
            own = [str(key) for key in config if key != "hydra"]
            shared = {field.name for field in fields(COMMANDS[command])}
            # A study checks its own options; reading its signature would take as long.
            of_study = {key: Any for key in own if command == "reproduce" and key not in shared}
            schema.typed(OmegaConf.masked_copy(config, own), COMMANDS[command], of_study)
        about, choices = config.hydra.help, cast("dict[str, str | None]", dict(config.hydra.runtime.choices))
        within = search.folders(config.hydra.searchpath)
        given = f", with {' '.join(overrides)}" if overrides else " and their defaults; other choices have other keys"
        lines = [about.header, "Choices:", "", *_groups(choices, within), "", f"Keys{given}:", ""]
        return "\n".join([*lines, *_keys(command, config, choices, within), "", about.footer.rstrip()])


def _plain_text(command: str) -> str:
    """The same of a command without groups."""
    config = plain.read(command)
    about, meant = config.hydra.help, comments(command, search.folders())
    lines = [about.header, "Keys and their defaults:", ""]
    for key in schema.dotted(config):
        value = "???" if OmegaConf.is_missing(config, key) else None
        lines += _beside(f"  {key}=???" if value else f"  {_assigned(config, key)}", meant[key])
    return "\n".join([*lines, "", about.footer.rstrip()])


def _groups(choices: Mapping[str, str | None], within: Sequence[Traversable]) -> Iterator[str]:
    """``opt=`` and what there is of it."""
    for group in sorted(choices):
        if "/" not in group and (names := search.choices(group, within)):
            yield from textwrap.wrap(f"  {group}={', '.join(names)}", WIDTH, subsequent_indent="      ")


def _keys(
    command: str, config: DictConfig, choices: Mapping[str, str | None], within: Sequence[Traversable]
) -> Iterator[str]:
    """Each key that can be set, and what it means."""
    meant = comments(command, within)
    for group, choice in choices.items():
        if choice is not None and group == "study":  # its keys are the command's
            meant |= comments(f"{group}/{choice}", within)
        if choice is not None and group in config:
            meant |= {f"{group}.{key}": said for key, said in comments(f"{group}/{choice}", within).items()}
    for key, value in schema.dotted(config).items():
        chosen = key in choices or key.rpartition(".")[2] in ("name", schema.MODULE)  # by the group
        if not chosen:
            assigned = f"{key}=???" if value == "???" else _assigned(config, key)
            yield from _beside(f"  {assigned}", meant.get(key, ""))


def _assigned(config: DictConfig, key: str) -> str:
    """``opt.lr=0.001``, also where it is taken from another key."""
    value = OmegaConf.select(config, key)
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, enum_to_str=True)
    return override(key, value.name if isinstance(value, Enum) else value)


def _beside(left: str, right: str) -> Iterator[str]:
    """Two columns; a long left one has a line of its own."""
    lines = textwrap.wrap(right, WIDTH - COLUMN) or [""]
    if len(left) >= COLUMN and right:
        yield left
        left = ""
    for line in lines:
        yield f"{left:<{COLUMN}}{line}".rstrip()
        left = ""


def comments(name: str, within: Sequence[Traversable]) -> dict[str, str]:
    """The comments beside the keys of a YAML file, by dotted key, lines that go on joined."""
    found: dict[str, str] = {}
    key = group = ""
    for line in search.read(name, within).splitlines():
        if match := _KEY.fullmatch(line):
            indent, last, said = match.groups()
            group = group if indent else last
            key = f"{group}.{last}" if indent else last
            found[key] = said or ""
        elif key and line.lstrip().startswith("# "):
            found[key] += " " + line.strip().removeprefix("# ")
    return found
