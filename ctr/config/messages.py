"""What Hydra and OmegaConf find wrong with a command line, in one line that names key, value and what was expected.

Their own messages name classes of the code, and advise ``+key=value``, which no schema here allows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from ctr.config import search
from ctr.config.schema import GROUPS, TrainConfig, dotted

CONFIG_ERRORS = (HydraException, OmegaConfBaseException)

# What OmegaConf says of a value that does not fit, and what was expected.
EXPECTED = {
    r"is not a ListConfig": "a list: {key}=[{value}]",
    r"Cannot merge DictConfig with ListConfig": "a list: {key}=[a,b]",
    r"could not be converted to Integer": "a whole number",
    r"could not be converted to Float": "a number",
    r"Union\[int, float, str\]": "a number or a word",
    r"is not a valid bool": "true or false",
    r"to string": "text",
    r"is not Optional": "a value",
    r"expected one of \[(.*)\]": "one of {found}",
}

RENAMED = {"model.unseen": "dataset.unseen"}


def explain(error: BaseException) -> str | None:
    """What is wrong, by key; None for an error that is not known here."""
    text, cause = str(error), error.__cause__
    if isinstance(error, OverrideParseException):
        return f"{error.override}: expected key=value; a list is key=[a,b], text with other signs \"key='a b;c'\""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        return _unknown_choice(error.missing_cfg_file, error.options)
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is needed: give {error.full_key}=..."
    if several := re.search(r"Ambiguous value for argument '(.*)'|Sweep parameters '(.*)' requires", text):
        override = several[1] or several[2]
        key, _, value = override.partition("=")
        a_value = "," in value and key not in (*GROUPS, "study", "tracking", "save")
        listed = f", a list brackets: '{key}=[{value}]'" if a_value else ""
        return f"{override}: several values; a sweep over them needs -m{listed}"
    if there := re.match(r"Could not append to config. An item is already at '(.*)'", text):
        return f"+{there[1]}: the key is there already; give it without the +"
    if unknown := re.match(r"(?:In '.*?': )?Could not override '([^'@]+)", text):
        return _unknown_key(unknown[1], cause)
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and error.full_key:
        return _unknown_key(error.full_key, error)
    if override := re.match("Error merging override (.*)", text):
        return _unfit(override[1], str(cause))
    if isinstance(error, OmegaConfBaseException) and error.full_key and error.value is not None:
        return _unfit(_given(re.sub(r"\[\d+\]$", "", error.full_key), error.value), text)
    return None


def _given(key: str, value: object) -> str:
    """An override as it was typed; from a YAML file: as it is there."""
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return next((text for text in given if text.lstrip("+").partition("=")[0] == key), f"{key}={value}")


def _unknown_choice(place: str, choices: Sequence[str]) -> str:
    """What is not there, such as ``opt/adamw``, and what is."""
    group, _, name = place.rpartition("/")
    install = "; pip install hydra-joblib-launcher" if place == "hydra/launcher/joblib" else ""
    return f"{group}={name}: no such choice; expected one of {', '.join(choices)}{install}"


def _unfit(override: str, problem: str) -> str:
    """A value of the wrong type."""
    key, _, value = override.lstrip("+").partition("=")
    for sign, expected in EXPECTED.items():
        if found := re.search(sign, problem):
            of = found[1] if found.groups() else ""
            text = f"{override}: expected {expected.format(key=key, value=value, found=of)}"
            part = re.search(r"full_key: \S+\[\d+\]", problem)
            return text + f", not {_first_value(problem)}" if part else text
    return f"{override}: {problem.splitlines()[0]}"


def _first_value(problem: str) -> str:
    found = re.search(r"alue ('[^']*')", problem)
    return found[1] if found else "what is there"


def _unknown_key(key: str, error: BaseException | None) -> str:
    """A key that no schema has: whose it is, or which one was perhaps meant."""
    if key in RENAMED:
        return f"{key} is now {RENAMED[key]}"
    parent = getattr(error, "parent_node", None)
    root = cast(DictConfig, OmegaConf.create() if parent is None else parent._get_root())
    keys = _keys(root)
    group, _, name = key.rpartition(".")
    have = _with_key(group, name, root)
    if have and keys.get(f"{group}.name"):
        return f"{key}: {group}={keys[f'{group}.name']} has no such key; it belongs to {group}={', '.join(have)}"
    if "train" in keys and key.startswith("train."):
        return f"{key}: no such key yet, which takes a +: +{key}=..."
    if "train" in keys and (studies := _studies_with(key)):
        of = "" if keys["name"] == "???" else f" of study={keys['name']}"
        return f"{key}: no such key{of}; it belongs to study={', '.join(studies)}"
    near = _nearest(key, list(keys))
    if near:
        return f"{key}: no such key; did you mean {', '.join(near)}? --help lists all keys"
    if "train" in keys and key.partition(".")[0] in [field.name for field in fields(TrainConfig)]:
        return f"{key}: no such key of a study; for all of its runs: +train.{key}=...; --help lists all keys"
    elsewhere = "; studies are for python -m ctr.reproduce" if key == "study" else ""
    return f"{key}: no such key{elsewhere}; --help lists all keys"


def _with_key(group: str, name: str, config: DictConfig) -> list[str]:
    """The choices of a group whose YAML has a key of this name."""
    searchpath = OmegaConf.select(config, "hydra.searchpath")
    if searchpath is None and HydraConfig.initialized():
        searchpath = HydraConfig.get().searchpath
    within = search.folders(searchpath or ())
    there = search.choices(group, within) if group in (*GROUPS, "save", "tracking") else []
    return [choice for choice in there if name in set(OmegaConf.create(search.read(f"{group}/{choice}", within)))]


def _studies_with(key: str) -> list[str]:
    """The studies that have an option of this name."""
    within = search.folders()
    return [
        study
        for study in search.choices("study", within)
        if key in OmegaConf.create(search.read(f"study/{study}", within))
    ]


def _nearest(key: str, keys: list[str]) -> list[str]:
    """Keys whose last name is nearly that of ``key``; of its own group, where there are any."""
    group, _, name = key.rpartition(".")
    names = {known.rpartition(".")[2] for known in keys}
    near = difflib.get_close_matches(name, names, cutoff=0.7)
    found = [known for close in near for known in keys if known.rpartition(".")[2] == close]
    exact = [known for known in found if known.rpartition(".")[2] == name]
    own = [known for known in found if known.rpartition(".")[0] == group]
    return (exact or own or found)[:3]


def _keys(config: DictConfig) -> dict[str, object]:
    """Every key by its dotted name, and the groups."""
    found: dict[str, object] = {}
    for key, value in dotted(config).items():
        group, inner, _ = key.partition(".")
        if inner:
            found.setdefault(group, None)
        found[key] = value
    return found
