"""Kills workers of a run under torchrun at random; the run must recover by itself, with the same results.

    python scripts/chaos_workers.py                                # 20 rounds
    python scripts/chaos_workers.py --rounds 5 --seed 7 --ranks 3

A round trains on a small generated log by ``torchrun --max-restarts 3``, with a checkpoint every third step. At a
random moment of training one worker, chosen at random, gets SIGKILL. torchrun starts all workers again. The run must
end with 0, with the figures and the model of a run that nothing disturbed, to the last bit, and leave no process
behind. What a round that went wrong has said is kept.

Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from chaos_commands import KEPT, TRAIN, Command, difference, figures
from chaos_process import Ended, Process, adopt_orphans, fresh, worker_of
from tqdm import tqdm

from ctr.training.checkpoint import complete
from ctr.training.folder import CHECKPOINTS, LOG, MODEL

RUN = Command("train", "workers", "ctr.train", (*TRAIN, "opt.lambda21=1e-2", KEPT, "epochs=3", "threads=1"))
HEAD, RULE = ["round", "killed", "went on from", "result"], ["--:", "---", "---", "---"]
MAX_SECONDS = 900.0  # of a run that starts twice, on a busy machine


@dataclass
class Round:
    """One round: which worker was to be killed, after how many checkpoints, and the step after which the run went on
    (None: it began again)."""

    number: int
    rank: int
    checkpoints: int
    killed: bool = False
    resumed: int | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        return "WRONG" if self.problems else "recovered" if self.killed else "ended before"

    def row(self) -> list[str]:
        step = "the first row" if self.resumed is None else f"step {self.resumed}"
        return [str(self.number), f"rank {self.rank}", step if self.killed else "", self.outcome]


class Campaign:
    """Rounds on the same prepared rows.

    Args:
        seed: of all choices. A moment is a checkpoint and a time after it, so that a round repeats about the same one.
        ranks: workers of a run.
        work: an empty folder.
        kept: where the output of the rounds that went wrong goes.
    """

    def __init__(self, seed: int, ranks: int, work: Path, kept: Path) -> None:
        self.seed, self.ranks, self.work, self.kept = seed, ranks, work, kept
        process = self._start()
        self.checkpoints, _ = self._wait(process)
        ended = process.finish(MAX_SECONDS)
        if ended.code or ended.problems:
            raise RuntimeError(f"the run fails undisturbed: {ended.code} {ended.problems} {ended.err}")
        self.expected = self._found()

    @property
    def folder(self) -> Path:
        return self.work / "runs" / RUN.variant

    def round(self, number: int) -> Round:
        chance = random.Random(f"{self.seed} {number}")
        play = Round(number, chance.randrange(self.ranks), chance.randrange(self.checkpoints))
        shutil.rmtree(self.folder)
        process = self._start()
        try:
            _, seconds = self._wait(process, play.checkpoints)
            if not process.ended(chance.random() * seconds):
                os.kill(worker_of(process.pid, play.rank), signal.SIGKILL)
                play.killed = True
            ended = process.finish(MAX_SECONDS)
        except KeyboardInterrupt:
            os.kill(process.pid, signal.SIGTERM)  # torchrun ends its workers
            raise
        if went_on := re.search(r"goes on after step ([\d,]+)", ended.err):
            play.resumed = int(went_on[1].replace(",", ""))
        play.problems = problems(ended, play.rank if play.killed else None)
        if not ended.code and (found := self._found()) != self.expected:
            play.problems.append(f"other results: {difference(found, self.expected)}")
        if play.problems:
            self.kept.mkdir(parents=True, exist_ok=True)
            text = "\n".join([*play.problems, f"exit code {ended.code}", ended.out, ended.err])
            (self.kept / f"workers-seed-{self.seed}-round-{number}.txt").write_text(text)
        return play

    def _start(self) -> Process:
        how = ("--nproc-per-node", str(self.ranks), "--max-restarts", "3")
        line = (*how, "-m", RUN.module, *RUN.line(tracked=False), f"run_dir={self.folder}")
        return Process(partial(fresh, "torch.distributed.run", line), self.work)

    def _wait(self, process: Process, count: int | None = None) -> tuple[int, float]:
        """Waits until ``count`` checkpoints are written (0: until the run has begun; None: until it has ended).

        Returns their number, and the seconds that one took.
        """
        began, newest = 0.0, 0
        while not process.ended(0.02):
            if not began and (self.folder / LOG).exists():
                began = time.monotonic()
            newest = max([newest, *(int(path.name) for path in complete(self.folder / CHECKPOINTS)[:1])])
            if began and count is not None and newest >= count:
                break
        return newest, (time.monotonic() - began) / max(newest, 1)

    def _found(self) -> dict[str, Any]:
        """The figures, and the hashes of the model's weights and vocabulary."""
        files = sorted(path for path in (self.folder / MODEL).iterdir() if path.suffix in {".arrow", ".safetensors"})
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        return {**figures(RUN, self.work), **hashes}


def problems(ended: Ended, killed: int | None) -> list[str]:
    """What a run has done that it must not, but for its results.

    Args:
        ended: how it ended.
        killed: the rank of the worker that was killed, if one was.
    """
    found = [*ended.problems]
    if ended.code:
        found.append(f"exit code {ended.code}")
    named = set(re.findall(r"error: rank (\d+) has ended", ended.err))  # a killed worker's bar may stand before it
    if named != ({str(killed)} if killed is not None else set()):
        found.append(f"ranks named as ended: {sorted(named)}")
    return found


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2, help="workers of a run: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("runs/chaos"), help="for what went wrong: %(default)s")
    given = parser.parse_args(arguments)
    tqdm.monitor_interval = 0  # no thread: this process forks
    adopt_orphans()
    rounds: list[Round] = []
    print(line(HEAD), line(RULE), sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name, suppress(KeyboardInterrupt):
        campaign = Campaign(given.seed, given.ranks, Path(name), given.folder.absolute())
        for number in tqdm(range(given.rounds), unit="round", dynamic_ncols=True):
            rounds.append(campaign.round(number))
            tqdm.write(line(rounds[-1].row()))
            sys.stdout.flush()
    killed, wrong = sum(play.killed for play in rounds), sum(bool(play.problems) for play in rounds)
    recovered = sum(play.outcome == "recovered" for play in rounds)
    print(f"\n{len(rounds)} rounds, seed {given.seed}: {killed} workers killed, {recovered} recovered, {wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
