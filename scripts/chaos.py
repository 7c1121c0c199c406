"""Disturbs the commands at random, runs them again and compares every figure with that of an undisturbed run.

    python scripts/chaos.py                                  # 1,000 rounds
    python scripts/chaos.py --rounds 200 --seed 7 --only kill9,disk
    python scripts/chaos.py --seed 7 --round 43              # once more, with the rounds that filled its folder before

A round runs one command on a small generated log, in a folder that up to five rounds share, and disturbs it: a signal
at a random moment, a disk or a file size that ends, or damage to what is on the disk. Then the same command runs
undisturbed. Its figures must be those of a run that nothing ever disturbed, to the last bit. It may refuse to run,
with one line that names a file and says what to do: that is done, and the figures must be right then.

Linux only. As root the folder is a tmpfs of a limited size; otherwise no disk is full (``disk`` is left out).
"""

from __future__ import annotations

import os

# Before the libraries: this process forks, so that it must have no threads.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "GIT_OPTIONAL_LOCKS": "0"}


# isort: split

import argparse
import importlib
import random
import re
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chaos_commands import COMMANDS, Command, damage, difference, figures, half_written, prepared_folder
from chaos_process import DISK, Ended, Process, adopt_orphans, disk, forked, fresh, resize, used, workers_of
from hydra.core.plugins import Plugins
from mlflow.tracking import MlflowClient
from tqdm import tqdm

from ctr.cli import INTERRUPTED, TERMINATED
from ctr.config import learning_rates
from ctr.config.compose import compose, resolve
from ctr.datasets.source import open_data
from ctr.files import TMP_PREFIX
from ctr.jobs.sweep import RECORD
from ctr.training.folder import CONFIG, RESULT

SIGNALS = {"kill9": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
DISTURBANCES = (*SIGNALS, "disk", "fsize", "damage")
SHARE_OF_FRESH, SHARE_OF_TRACKED, SHARE_OF_NEW_DATABASES, SHARE_OF_RESUMED = 0.05, 0.4, 0.25, 0.5
ROUNDS_PER_FOLDER = 5
DAMAGED = {  # by how often each is chosen
    "rows.arrow": 4, "vocabulary.arrow": 1, "manifest.json": 2, "learning_rates.json": 1, "mlflow.db": 2, RESULT: 2,
    "config.yaml": 1, "*.lock": 1, RECORD: 1, "settings.json": 1,
}  # fmt: skip
IMPORTED_LATE = (  # by the commands, as they go on
    "mlflow.store.tracking.sqlalchemy_store", "torch._dynamo", "torch.onnx", "plotly.graph_objects",
    "ctr.studies.request", "ctr.studies.table2", "ctr.report.mlflow",
)  # fmt: skip


@dataclass
class Undisturbed:
    """What a command finds when nothing disturbs it, how long it takes and by how much the disk fills."""

    figures: Any
    seconds: float
    bytes: int


@dataclass
class Round:
    """One round and how it went."""

    number: int
    command: Command
    disturbance: str
    what: str = ""
    interrupted: bool = False
    refused: bool = False
    problems: list[str] = field(default_factory=list)
    outputs: list[Ended] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        return "WRONG" if self.problems else "refused" if self.refused else "repaired"


class Campaign:
    """Rounds that share a disk, undisturbed runs and a database to copy.

    Args:
        seed: of all choices. Moments are measured, so that a signal does not hit the same instruction twice.
        only: the disturbances to choose from.
        root: an empty folder.
        kept: where the folders of the rounds that went wrong are copied to.
    """

    def __init__(self, seed: int, only: tuple[str, ...], root: Path, kept: Path) -> None:
        self.seed, self.only, self.root, self.kept = seed, only, root, kept
        self.work = root / "work"
        self._undisturbed: dict[tuple[str, bool], Undisturbed] = {}
        self._database = root / "ready" / "mlflow.db"
        self._kills = 0  # in the present folder
        self._hurt: set[Path] = set()  # what was damaged in it
        self._seconds_to_create = 0.0

    def chain(self, first: int) -> None:
        """Begins a new folder."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        self._kills, self._hurt = 0, set()

    def round(self, number: int) -> Round:
        """Plays a round; its folder must be as the rounds before left it."""
        if number % ROUNDS_PER_FOLDER == 0:
            self.chain(number)
        chance = random.Random(f"{self.seed} {number}")
        kind = chance.choices(["prepare", "train", "sweep", "study"], [2, 4, 2, 1])[0]
        command = chance.choice([command for command in COMMANDS if command.kind == kind])
        play = Round(number, command, chance.choice(self.only))
        tracked = command.kind != "prepare" and chance.random() < SHARE_OF_TRACKED
        is_fresh = chance.random() < SHARE_OF_FRESH
        create = chance.random() < SHARE_OF_NEW_DATABASES
        expected = self.undisturbed(command, tracked)
        seconds = expected.seconds
        if tracked and not (self.work / "mlflow.db").exists():
            if create:
                seconds += self._seconds_to_create
            else:
                shutil.copy(self._ready_database(), self.work / "mlflow.db")
        run = partial(self._run, command, tracked)
        if play.disturbance == "damage":
            self._damage(play, run, chance)
        else:
            self._disturb(play, expected, seconds, tracked, is_fresh, chance)
        before = self._temporary()
        if play.interrupted and command.kind == "train" and chance.random() < SHARE_OF_RESUMED:
            self._resume(play, tracked)
        self._settle(play, run, expected)
        if len(self._temporary()) > 3 * self._kills or len(self._temporary()) > len(before):
            play.problems.append(f"temporary files were left: {self._temporary()}")
        if play.problems:
            self._keep(play)
        return play

    def undisturbed(self, command: Command, tracked: bool) -> Undisturbed:
        if (command.name, tracked) not in self._undisturbed:
            work = self.root / "undisturbed"
            work.mkdir()
            if tracked:
                shutil.copy(self._ready_database(), work / "mlflow.db")
            before = used(self.root)
            self._prerequisites(command, work)
            ended = Process(partial(forked, command.module, command.line(tracked)), work).finish()
            if ended.code or ended.problems:
                raise RuntimeError(f"{command.name} fails undisturbed: {ended.code} {ended.problems} {ended.err}")
            found = Undisturbed(figures(command, work), ended.seconds, used(self.root) - before)
            self._undisturbed[command.name, tracked] = found
            shutil.rmtree(work)
        return self._undisturbed[command.name, tracked]

    def _ready_database(self) -> Path:
        if not self._database.exists():
            self._database.parent.mkdir()
            ended = Process(partial(_create, self._database), self.root).finish()
            if ended.code:
                raise RuntimeError(f"no database: {ended.err}")
            self._seconds_to_create = ended.seconds
        return self._database

    def _prerequisites(self, command: Command, work: Path) -> None:
        """A learning rate for ``opt.lr=auto``."""
        if command.variant == "auto" and not [*prepared_folder(work, command).glob(f"*/{learning_rates.RATES}")]:
            Process(partial(_record_rate, command), work).finish()

    def _resume(self, play: Round, tracked: bool) -> None:
        """Goes on with a run that was interrupted, if it had begun; its figures are those of an undisturbed one."""
        folder = self.work / "runs" / play.command.variant
        if (folder / RESULT).exists() or not (folder / CONFIG).exists():
            return
        line = play.command.resumption(tracked)
        ended = Process(partial(forked, play.command.module, line), self.work).finish()
        play.what += ", resumed"
        cut = (f"{CONFIG}: not the configuration of a run", f"{CONFIG}: it lacks ")
        if ended.code == 1 and any(said in ended.err for said in cut):  # killed while Hydra wrote it
            return
        self._judge(play, ended, {0, 1} if self._hurt else {0})
        if ended.code == 0:
            self._compare(play, self.undisturbed(play.command, tracked), "the resumed run")

    def _run(self, command: Command, tracked: bool) -> Ended:
        return Process(partial(forked, command.module, command.line(tracked)), self.work).finish()

    def _disturb(
        self, play: Round, expected: Undisturbed, seconds: float, tracked: bool, is_fresh: bool, chance: random.Random
    ) -> None:
        """Runs the command under a signal or a limit."""
        command, name = play.command, play.disturbance
        self._prerequisites(command, self.work)
        before = self._temporary()
        limit = None
        if name == "disk":
            free = int(expected.bytes * chance.random() ** chance.choice([1, 4]))
            play.what = f"with {free:,} bytes left"
            resize(self.root, used(self.root) + free)
        elif name == "fsize":
            limit = int(2 ** chance.uniform(0, 20))
            play.what = f"with files of up to {limit:,} bytes"
        process = Process(
            partial(fresh if is_fresh else forked, command.module, command.line(tracked)), self.work, limit=limit
        )
        if name in SIGNALS:
            part = chance.choice([(0.0, 1.0), (0.0, 1.0), (0.0, 0.3), (0.8, 1.05)])
            moment = chance.uniform(*part) * seconds + (chance.uniform(0, 3) if is_fresh else 0)  # it loads first
            play.what = f"after {moment:.2f} s"
            killed = name == "kill9" and chance.random() < 0.4
            if not process.ended(moment):
                workers = workers_of(process.pid) if killed and play.command.kind == "study" else []
                play.what += " of a worker" if workers else ""
                target = chance.choice(workers) if workers else process.pid
                with suppress(ProcessLookupError):  # a worker that has just ended
                    # A terminal sends Ctrl-C to all processes of its group.
                    (os.killpg if name == "int" else os.kill)(target, SIGNALS[name])
        ended = process.finish()
        if name == "disk":
            resize(self.root, DISK)
        if name in SIGNALS:
            allowed = {0, {"kill9": -9, "term": TERMINATED, "int": INTERRUPTED}[name]}
            allowed |= {-SIGNALS[name]} if is_fresh else set()  # before Python listens to it
            # The study names the run that it lost; a file that an earlier round damaged may be refused first.
            allowed |= {1} if play.what.endswith("worker") or self._hurt else set()
        else:
            allowed = {0, 1}
        play.what += (", fresh process" if is_fresh else "") + (", tracked" if tracked else "")
        play.interrupted = ended.code != 0
        self._kills += name == "kill9"
        self._judge(play, ended, allowed)
        if ended.code == 0:
            self._compare(play, expected, "the disturbed run")
        play.problems += [f"half-written: {path}" for path in half_written(self.work, self._hurt)]
        left = [path for path in self._temporary() if path not in before]
        if left and name != "kill9":
            play.problems.append(f"left {left}")

    def _damage(self, play: Round, run: Callable[[], Ended], chance: random.Random) -> None:
        """Damages a file that earlier rounds left, or a first run of the command."""
        self._prerequisites(play.command, self.work)
        if not prepared_folder(self.work, play.command).exists() or chance.random() < 0.3:
            run()
        names = [name for name in DAMAGED if any(self.work.rglob(name))]
        (name,) = chance.choices(names, [DAMAGED[name] for name in names])
        path = chance.choice(sorted(self.work.rglob(name)))
        play.what = f"{damage(path, chance)} ({path.relative_to(self.work)})"
        self._hurt.add(path)

    def _settle(self, play: Round, run: Callable[[], Ended], expected: Undisturbed) -> None:
        """Runs the command undisturbed, and does what its errors ask for, until it is done."""
        self._prerequisites(play.command, self.work)
        for _ in range(5):
            ended = run()
            self._judge(play, ended, {0, 1, 2})
            if ended.code == 0:
                self._compare(play, expected, "the run after it")
                return
            if not self._hurt:
                play.problems.append(f"the run after it failed: {_last_line(ended.err)}")
                return
            cure = self._cure(_last_line(ended.err), play.command)
            if cure is None:
                play.problems.append(f"refused without saying what to do: {_last_line(ended.err)}")
                return
            play.refused = True
            play.what += f"; {cure}"
            self._prerequisites(play.command, self.work)
        play.problems.append("refused five times")

    def _cure(self, error: str, command: Command) -> str | None:
        """Does what an error asks for: to delete or move what it names, or to prepare the rows anew. Says what was
        done."""
        if (path := named(error, self.work)) and re.search(r"\b(delete|remove|move)\b", error):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return f"deleted {path.relative_to(self.work)}"
        if path and "ctr.prepare" in error:
            line = tuple(part for part in command.arguments if part.startswith("dataset"))
            Process(partial(forked, "ctr.prepare", line), self.work).finish()
            return "prepared anew"
        if f"{learning_rates.AUTO}: no learning rate" in error:  # the next run begins with `_prerequisites`
            return "chose a learning rate"
        return None

    def _judge(self, play: Round, ended: Ended, allowed: set[int]) -> None:
        """Holds the exit code and what was said against what is documented."""
        play.outputs.append(ended)
        play.problems += ended.problems
        if ended.code not in allowed:
            play.problems.append(f"exit code {ended.code}: {_last_line(ended.err)}")
        said = [line for line in ended.err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
        if ended.code > 0 and (len(said) != 1 or _last_line(ended.err) != said[0]):
            play.problems.append(f"not one line of error, but {ended.err[-500:]!r}")

    def _compare(self, play: Round, expected: Undisturbed, which: str) -> None:
        try:
            found = figures(play.command, self.work)
        except (OSError, ValueError, KeyError) as error:
            play.problems.append(f"{which} ended with 0 and without its result: {type(error).__name__}: {error}")
            return
        if found != expected.figures:
            play.problems.append(f"{which} has other figures: {difference(found, expected.figures)}")

    def _temporary(self) -> list[str]:
        return sorted(str(path.relative_to(self.work)) for path in self.work.rglob(f"{TMP_PREFIX}*"))

    def _keep(self, play: Round) -> None:
        folder = self.kept / f"seed-{self.seed}-round-{play.number}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.work, folder / "work")
        for number, ended in enumerate(play.outputs):
            (folder / f"run-{number}.txt").write_text(f"exit code {ended.code}\n{ended.out}\n{ended.err}")
        (folder / "problems.txt").write_text("\n".join([describe(play), *play.problems]) + "\n")


def _create(database: Path) -> None:
    MlflowClient(f"sqlite:///{database}").search_experiments()


def _record_rate(command: Command) -> None:
    """As study=table5 does once it has chosen one."""
    settings = resolve(compose("train", [*command.arguments, "opt.lr=0.01", "tracking=none"]))
    learning_rates.record(open_data(settings.data).folder, settings.values, 0.01)


def named(error: str, work: Path) -> Path | None:
    """The first path below the working folder that an error names."""
    for token in re.findall(r"[^\s;,'\"()]*[/.=][^\s;,'\"()]*", error):  # "runs" is a word too
        path = (work / token.rpartition("=")[2].removeprefix("sqlite:///").rstrip(".:")).resolve()
        if path.exists() and work.resolve() in path.parents:
            return path
    return None


def _last_line(text: str) -> str:
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "(nothing on stderr)"


def describe(play: Round) -> str:
    return f"round {play.number}: {play.disturbance} {play.what}, {play.command.name}"


def table(rounds: list[Round]) -> str:
    """Disturbance by command: how the rounds went."""
    head = ["disturbance", "command", "rounds", "ended by itself", "interrupted", "repaired", "refused", "WRONG"]
    lines = []
    groups = {(play.disturbance, play.command.kind): [] for play in rounds}
    for play in rounds:
        groups[play.disturbance, play.command.kind].append(play)
    order = {kind: place for place, kind in enumerate(("prepare", "train", "sweep", "study"))}
    keys = sorted(groups, key=lambda key: (DISTURBANCES.index(key[0]), order[key[1]]))
    for key, plays in [*((key, groups[key]) for key in keys), (("all", ""), rounds)]:
        outcomes = Counter(play.outcome for play in plays)
        interrupted = sum(play.interrupted for play in plays)
        ended = sum(not play.interrupted and play.disturbance != "damage" for play in plays)
        counts = [len(plays), ended, interrupted, *(outcomes[name] for name in ("repaired", "refused", "WRONG"))]
        lines.append([*key, *map(str, counts)])
    rule = ["---", "---", *["--:"] * 6]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(DISTURBANCES), help="of %(default)s")
    parser.add_argument("--round", type=int, help="this one alone, after those that used its folder before")
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"), help="for what went wrong: %(default)s")
    given = parser.parse_args(arguments)
    only = tuple(given.only.split(","))
    if unknown := set(only) - {*DISTURBANCES}:
        parser.error(f"--only {','.join(sorted(unknown))}; expected some of {','.join(DISTURBANCES)}")
    numbers = range(given.rounds)
    if given.round is not None:
        numbers = range(given.round - given.round % ROUNDS_PER_FOLDER, given.round + 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tqdm.monitor_interval = 0  # no thread
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    Plugins.instance()  # Hydra looks for them once
    adopt_orphans()
    rounds: list[Round] = []
    wrong = 0
    with disk() as (root, limited), tqdm(numbers, unit="round", dynamic_ncols=True) as progress:
        if not limited and "disk" in only:
            only = tuple(name for name in only if name != "disk") or parser.error("--only disk needs root")
            progress.write("no full disks: a file system of a limited size needs root")
        campaign = Campaign(given.seed, only, root, given.folder.absolute())
        with suppress(KeyboardInterrupt):  # the table of what was done until then
            for number in progress:
                play = campaign.round(number)
                rounds.append(play)
                wrong += bool(play.problems)
                progress.set_postfix_str(f"{wrong} wrong", refresh=False)
                if play.problems or given.round is not None:
                    progress.write("\n  ".join([f"seed {given.seed} {describe(play)}: {play.outcome}", *play.problems]))
    print(table(rounds))
    used_seconds = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"\n{len(rounds)} rounds, seed {given.seed}: {wrong} wrong; {used_seconds:,.0f} s of processor time")
    if wrong:
        print(f"the folders of the rounds that went wrong: {given.folder}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
