"""Running the commands as a user does, and composing their configuration as they do."""

import copy
import functools
import gc
import json
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ctr.conf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctr import train
from ctr.artifact import pyfunc
from ctr.artifact.save import save_model
from ctr.config import help, schema
from ctr.config.compose import compose, resolve
from ctr.config.data import data_settings
from ctr.datasets.prepared import Prepared
from ctr.datasets.source import open_data
from ctr.jobs.local import PRELOAD
from ctr.jobs.plan import CHOSEN
from ctr.report import run_page
from ctr.training.experiment import run_family
from ctr.training.run import Run

CONFIGS = Path(ctr.conf.__file__).parent
LIBRARIES = [*PRELOAD, "pytest", "ctr.train", "ctr.prepare", "ctr.reproduce"]
Done = subprocess.CompletedProcess[str]


class Forked:
    """A function in a process of its own, forked from one that has loaded the libraries: that takes seconds.

    Args:
        folder: to work in.
        function: of a module, to be found again by name.
        arguments: to be pickled.
    """

    def __init__(self, folder: Path, function: Callable[..., object], *arguments: object) -> None:
        self._place = tempfile.TemporaryDirectory()
        self._streams = [Path(self._place.name, name) for name in ("stdout", "stderr")]
        context = multiprocessing.get_context("forkserver")
        where = (folder, dict(os.environ), self._streams)
        self.process = context.Process(target=_work, args=(*where, function, arguments))
        self.process.start()

    def end(self, seconds: float = 300) -> Done:
        """Waits for the end: exit code and output."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"a forked process does not end within {seconds} s")
        with self._place:
            return Done([], self.process.exitcode, *(path.read_text() for path in self._streams))


def _work(
    folder: Path,
    environment: Mapping[str, str],
    streams: Sequence[Path],
    function: Callable[..., object],
    arguments: Sequence[object],
) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    gc.freeze()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where workers came from the same process, it is ignored
    function(*arguments)


def command(folder: Path, module: str, *overrides: str) -> Done:
    """``python -m <module> <overrides>`` in a folder, `Forked`; `new_process` is for tests of the loading itself, and
    of processes that the command starts."""
    return Forked(folder, execute, module, overrides).end()


def without_page(module: str, overrides: Sequence[str]) -> list[str]:
    """Overrides of a command, by which a run draws no page unless the test asks for one: that takes a second."""
    asked = module not in ("ctr.train", "train") or any(word.startswith("report=") for word in overrides)
    return [*overrides] if asked or "--help" in overrides else [*overrides, "report=false"]


def execute(module: str, overrides: Sequence[str]) -> None:
    sys.argv[1:] = without_page(module, overrides)
    sys.modules.pop(module, None)  # to be executed as `__main__`
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def refuses(folder: Path, module: str, overrides: Sequence[str], code: int, text: str) -> str:
    """Asserts that a `command` ends with an exit code and one line on standard error; returns that line."""
    done = command(folder, module, *overrides)
    assert done.returncode == code, (overrides, done.stderr)
    assert done.stderr.startswith("error: ")
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def speaking(code: str, *arguments: object) -> tuple[subprocess.Popen[str], str]:
    """Python that runs some code with arguments, and the first line that it prints; its standard input stays open."""
    line = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def new_process(folder: Path, module: str, *overrides: str) -> Done:
    """``python -m <module> <overrides>`` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", module, *without_page(module, overrides)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def composed(name: str, *overrides: str) -> DictConfig:
    """The configuration that the command ``ctr.<name>`` would run with."""
    return copy.deepcopy(_composed(name, tuple(without_page(name, overrides))))


@functools.cache
def _composed(name: str, overrides: tuple[str, ...]) -> DictConfig:
    config = _with_values(name, overrides) or compose(name, overrides)
    # The types of a study's options are its own (`ctr.studies.request`).
    return config if name == "reproduce" else schema.typed(config, help.COMMANDS[name])


def _with_values(name: str, overrides: Sequence[str]) -> DictConfig | None:
    """What `compose` gives, but faster: the groups are chosen once for all tests, values are set as Hydra
    does it. None for what it refuses, so that Hydra says why, and for a sweep."""
    chosen = [override for override in overrides if override.partition("=")[0].lstrip("+~") in CHOSEN]
    values = [override for override in overrides if override not in chosen]
    if any(not value[0].isalpha() or value.startswith("hydra.") for value in values):
        return None
    try:
        config = copy.deepcopy(_with_groups(name, tuple(chosen)))
        OmegaConf.clear_cache(config)  # of ${now:...}
        for parsed in OverridesParser.create().parse_overrides(values):
            if parsed.is_sweep_override():
                return None
            OmegaConf.update(config, parsed.key_or_group, parsed.value(), merge=True)
    except (HydraException, OmegaConfBaseException):
        return None
    return config


@functools.cache
def _with_groups(name: str, chosen: tuple[str, ...]) -> DictConfig:
    """A file that chooses no others takes the place of another of its group: Hydra needs a tenth of a second for it."""
    parts = {override: _part(override) for override in chosen} if name == "train" else {}
    if not any(parts.values()):
        return compose(name, chosen)
    config = copy.deepcopy(_with_groups(name, tuple(override for override, part in parts.items() if part is None)))
    for override, part in parts.items():
        if part is not None:
            config[override.partition("=")[0]] = part
    return config


@functools.cache
def _part(override: str) -> DictConfig | None:
    path = CONFIGS / f"{override.replace('=', '/')}.yaml"
    if not path.is_file() or re.search("^defaults:|@package", path.read_text(), re.MULTILINE):
        return None
    part = OmegaConf.load(path)
    assert isinstance(part, DictConfig)
    return part


def job(config: DictConfig, folder: Path) -> None:
    """A run within this process, as ``ctr.train`` does it."""
    train.run(config, folder)


def jobs(
    configs: Sequence[DictConfig],
    folders: Sequence[Path],
    on_rows: Callable[[int], None] = lambda rows: None,
    keys: Sequence[str | None] | None = None,
) -> list[BaseException | None]:
    """A family of runs within this process, as a worker does it; the error that ended each, or None."""
    planned = keys or [None] * len(configs)
    places = zip(configs, folders, planned, strict=True)
    functions = (save_model, pyfunc.write)
    runs = [Run(resolve(config), folder, key, *functions, draw=run_page.write) for config, folder, key in places]
    run_family(runs, on_rows)
    return [run.error for run in runs]


def prepared(config: DictConfig) -> Prepared:
    """The data that a command would open."""
    return open_data(data_settings(schema.plain_dict(config.dataset)))


def result(folder: Path) -> dict[str, Any]:
    """The one ``result.json`` below a folder."""
    (path,) = folder.rglob("result.json")
    return json.loads(path.read_text())
