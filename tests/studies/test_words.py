"""Sentences about the runs of a study as a whole."""

from ctr.studies import words
from ctr.studies.options import Job
from ctr.studies.runs import Runs
from tests.studies.oracle import Oracle, features


def jobs(*seeds: int) -> dict[int, Job]:
    return {seed: {"opt": "adam", "seed": seed} for seed in seeds}


def test_failures_are_grouped_by_what_they_say() -> None:
    errors = {1: "no memory", 2: "no disk", 4: "no memory", 5: "no memory"}
    runs = Runs(Oracle(lambda job: errors.get(int(str(job["seed"])), {**features(1), "auc": 0.7})))
    runs(jobs(0, 1, 2))
    assert words.failures(runs) == [
        "failed: python -m ctr.train opt=adam seed=1: no memory",
        "failed: python -m ctr.train opt=adam seed=2: no disk",
    ]
    runs(jobs(1, 3, 4, 5))
    assert words.failures(runs) == [
        "failed: 3 runs: no memory; the first: python -m ctr.train opt=adam seed=1",
        "failed: python -m ctr.train opt=adam seed=2: no disk",
    ]
