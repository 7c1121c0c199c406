"""Sentences about the runs of a study as a whole."""

import pytest

from ctr.report.statistics import compare
from ctr.studies import sentences
from ctr.studies.runs import Runs
from ctr.studies.study import Job
from tests.studies.oracle import STUDIES, Oracle, features, options, run


def jobs(*seeds: int) -> dict[int, Job]:
    return {seed: {"opt": "adam", "seed": seed} for seed in seeds}


def test_failures_are_grouped_by_what_they_say() -> None:
    errors = {1: "no memory", 2: "no disk", 4: "no memory", 5: "no memory"}
    runs = Runs(Oracle(lambda job: errors.get(int(str(job["seed"])), {**features(1), "auc": 0.7})))
    runs(jobs(0, 1, 2))
    assert sentences.failures(runs) == [
        "failed: python -m ctr.train opt=adam seed=1: no memory",
        "failed: python -m ctr.train opt=adam seed=2: no disk",
    ]
    runs(jobs(1, 3, 4, 5))
    assert sentences.failures(runs) == [
        "failed: 3 runs: no memory; the first: python -m ctr.train opt=adam seed=1",
        "failed: python -m ctr.train opt=adam seed=2: no disk",
    ]


OLD, NEW = "a" * 40, "b" * 40


@pytest.mark.parametrize(
    ("shas", "said"),
    [
        ([NEW, NEW], None),
        ([None, NEW], "with the same training code: 1 at an unknown state, 1 at bbbbbbbbbb; this page at"),
        ([OLD, NEW, OLD], "with the same training code: 2 at aaaaaaaaaa, 1 at bbbbbbbbbb; this page at bbb"),
        ([NEW, f"{NEW}-dirty"], "1 at bbbbbbbbbb, 1 at bbbbbbbbbb-dirty; this page at bbbbbbbbbb."),
        ([OLD, OLD], "with the same training code: 2 at aaaaaaaaaa; this page at bbbbbbbbbb."),
    ],
)
def test_runs_of_different_code_are_said(shas: list[str | None], said: str | None) -> None:
    runs = Runs(Oracle(lambda job: {**features(1), "auc": 0.7, "git_sha": shas[int(str(job["seed"]))]}))
    runs(jobs(*range(len(shas))))
    lines = sentences.notes(options(commit=NEW), runs)
    assert len(lines) == (0 if said is None else 1)
    assert said is None or said in lines[0]


def test_failed_runs_were_made_by_no_code() -> None:
    runs = Runs(Oracle(lambda job: "no memory" if job["seed"] == 0 else {"auc": 0.7, "git_sha": NEW}))
    runs(jobs(0, 1))
    assert len(sentences.notes(options(commit=NEW), runs)) == 1


def test_an_installed_package_knows_no_code() -> None:
    runs = Runs(Oracle(lambda job: {"auc": 0.7, "git_sha": None}))
    runs(jobs(0, 1))
    assert sentences.notes(options(commit=None), runs) == []


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_says_it_and_what_its_columns_mean(name: str) -> None:
    oracle = Oracle(lambda job: {**features(0.5), "auc": 0.7, "git_sha": OLD})
    found = run(name, oracle, lambda1=[1e-3], commit=NEW)
    said = f"* The runs were made at other commits, with the same training code: {len(oracle.jobs)} at aaaaaaaaaa;"
    assert said in found.text
    assert [column.name for column in found.columns] == list(found.table.columns)
    assert all(column.meaning for column in found.columns)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ([0.70, 0.71], [0.70, 0.71], "A and B are equal"),
        ([0.70003, 0.71], [0.70, 0.71], "A is higher, not significantly, by less than .0001 (p = "),
        ([0.70, 0.71], [0.70003, 0.71], "B is higher, not significantly, by less than .0001 (p = "),
        ([0.800, 0.801], [0.700, 0.701], "A wins by .1000 (p = 5.00e-5)"),
    ],
)
def test_a_difference_that_rounds_to_nothing_is_said_to_be_small(a: list[float], b: list[float], said: str) -> None:
    test = compare(a, b)
    assert sentences.winner("A", "B", test.difference, test.student).startswith(said)


@pytest.mark.parametrize(
    ("ours", "papers", "said"),
    [
        (0.00006, 0.0004, "the sign agrees with the paper's +.0004"),
        (-0.00006, 0.0004, "the sign disagrees with the paper's +.0004"),
        (-0.00003, 0.0004, "a tie to four digits, where the paper has +.0004"),
        (0.0, -0.0004, "a tie to four digits, where the paper has −.0004"),
        (0.01, 0.0, "the paper has a tie"),
    ],
)
def test_a_tie_has_no_sign_to_agree(ours: float, papers: float, said: str) -> None:
    assert sentences.sign_agrees(ours, papers) == said
