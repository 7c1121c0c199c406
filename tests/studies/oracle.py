"""A stand-in for training: answers jobs from a small formula, as the runner would answer from results."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from ctr.metrics import BLOCKS
from ctr.report.findings import Findings
from ctr.studies.study import Ask, Job, Options, find, own_options

PRESENT = 1000
EXACT = {name: [0.0] * BLOCKS for name in ("auc_blocks", "auc_retrained_blocks")}  # test rows without number
Answer = Callable[[Job], Mapping[str, object] | str]


ALL: dict[str, object] = {
    "dataset": "criteo",
    "model": "dcn",
    "seeds": [0, 1, 2],
    "select": "test",
    "lr": 1e-3,
    "lrs": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    "common": {"dataset.raw": "log"},
    "commit": None,
}
OWN: dict[str, object] = {
    "lambda21": [1e-4, 1e-3, 1e-2],
    "lambda1": [0.0],
    "lambda2": [0.0],
    "finetune": [0.0, 0.1, 0.2, 0.3],
    "dims": [4, 8, 16, 32],
    "scores": ["norm", "effect"],
    "steps": [100, 1000],
    "rates": [0.1, 0.01],
    "methods": ["budget", "soft", "norm", "hash"],
    "average": [0.0, 0.3],
}
STUDIES = ("table2", "table3", "table4", "table5", "table8", "fig1", "fig2", "fig3", "stream", "rivals")


def options(**changed: object) -> Options:
    assert changed.keys() <= ALL.keys()
    return Options(**{**ALL, **changed})  # type: ignore[arg-type]


def run(name: str, ask: Ask, **changed: object) -> Findings:
    """A study on the options above, of which it is given those that it declares, and on changed ones."""
    study = find(name)
    own = {key: OWN[key] for key in own_options(study)}
    assert changed.keys() <= ALL.keys() | OWN.keys()
    own |= {key: value for key, value in changed.items() if key in own}
    return study(ask, options(**{key: value for key, value in changed.items() if key in ALL}), **own)


class Oracle:
    """An `Ask` that remembers what it was asked; an answer that is a text is the error of a failed run."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.batches: list[list[Job]] = []

    @property
    def jobs(self) -> list[Job]:
        return [job for batch in self.batches for job in batch]

    def __call__(self, jobs: Sequence[Job]) -> pd.DataFrame:
        self.batches.append(list(jobs))
        return pd.DataFrame.from_records([self._row(job) for job in jobs])

    def _row(self, job: Job) -> dict[str, object]:
        answer = self.answer(job)
        command = "python -m ctr.train " + " ".join(f"{key}={value}" for key, value in job.items())
        row = {**job, "command": command, "folder": "somewhere"}
        if isinstance(answer, str):
            return {**row, "error": answer}
        return {**row, "error": None, "rows_train": 100_000, "source": "raw", "auc_retrained": None, **EXACT, **answer}


def features(answer_rate: float) -> dict[str, object]:
    """The part of a result that says how many of the 1000 features are left."""
    kept = round(answer_rate * PRESENT)
    return {"features_present": PRESENT, "features_nonzero": kept, "feature_rate": kept / PRESENT}
