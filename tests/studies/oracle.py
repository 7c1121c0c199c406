"""A stand-in for training: answers jobs from a small formula, as the runner would answer from results."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from ctr.studies.study import Job, Options

PRESENT = 1000
Answer = Callable[[Job], Mapping[str, object] | str]


def options(**changed: object) -> Options:
    base: dict[str, object] = {
        "dataset": "criteo",
        "model": "dcn",
        "seeds": [0, 1, 2],
        "lambda21": [1e-4, 1e-3, 1e-2],
        "lambda1": [0.0],
        "lambda2": [0.0],
        "finetune": [0.0, 0.1, 0.2, 0.3],
        "lrs": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
        "dims": [4, 8, 16, 32],
        "scores": ["norm", "effect"],
        "select": "test",
        "lr": 1e-3,
        "steps": [100, 1000],
        "common": {"dataset.raw": "log"},
    }
    assert changed.keys() <= base.keys()
    return Options(**{**base, **changed})  # type: ignore[arg-type]


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
        return {**row, "error": None, "rows_train": 100_000, "source": "raw", "auc_retrained": None, **answer}


def features(answer_rate: float) -> dict[str, object]:
    """The part of a result that says how many of the 1000 features are left."""
    kept = round(answer_rate * PRESENT)
    return {"features_present": PRESENT, "features_nonzero": kept, "feature_rate": kept / PRESENT}
