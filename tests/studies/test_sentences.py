"""Sentences about the runs of a study as a whole."""

import pytest

from ctr.report.statistics import compare
from ctr.studies import columns, sentences
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


def made_at(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("The runs were made")]


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
    lines = made_at(sentences.notes(options(commit=NEW), runs))
    assert len(lines) == (0 if said is None else 1)
    assert said is None or said in lines[0]


def test_failed_runs_were_made_by_no_code() -> None:
    runs = Runs(Oracle(lambda job: "no memory" if job["seed"] == 0 else {"auc": 0.7, "git_sha": NEW}))
    runs(jobs(0, 1))
    assert len([line for line in sentences.notes(options(commit=NEW), runs) if "failed: " in line]) == 1
    assert made_at(sentences.notes(options(commit=NEW), runs)) == []


def test_an_installed_package_knows_no_code() -> None:
    runs = Runs(Oracle(lambda job: {"auc": 0.7, "git_sha": None}))
    runs(jobs(0, 1))
    assert made_at(sentences.notes(options(commit=None), runs)) == []


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_says_it_and_what_its_columns_mean(name: str) -> None:
    oracle = Oracle(lambda job: {**features(0.5), "auc": 0.7, "git_sha": OLD, "machine": "A processor, 2 cores"})
    found = run(name, oracle, lambda1=[1e-3], commit=NEW)
    said = f"* The runs were made at other commits, with the same training code: {len(oracle.jobs)} at aaaaaaaaaa;"
    assert said in found.text
    assert "* Machine: A processor, 2 cores.\n" in found.text
    assert "* No p-value is given: they need at least 5 seeds.\n" in found.text
    assert "auc_blocks" not in found.runs
    assert [column.name for column in found.columns] == list(found.table.columns)
    assert all(column.meaning for column in found.columns)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ([0.70, 0.71], [0.70, 0.71], "A and B are equal"),
        (
            [0.70003, 0.71, 0.72, 0.73, 0.74],
            [0.70, 0.71, 0.72, 0.73, 0.74],
            "A is higher, not significantly, by less than .0001 [+.0000, +.0000] (Holm p = 0.374)",
        ),
        ([0.70, 0.71], [0.7002, 0.71], "B is higher by .0001 [−.0012, +.0014] (no p-value)"),
        (
            [0.80, 0.81, 0.82, 0.83, 0.841],
            [0.70, 0.71, 0.72, 0.73, 0.74],
            "A wins by .1002 [+.0996, +.1008] (Holm p = 9.52e-11)",
        ),
    ],
)
def test_who_wins_by_how_much_and_how_sure(a: list[float], b: list[float], said: str) -> None:
    (row,) = columns.adjust([columns.compared(compare(a, b))], "p")
    assert sentences.winner("A", "B", row) == said


def test_what_wins_alone_need_not_win_among_many() -> None:
    test = compare([0.80, 0.81, 0.82, 0.83, 0.84], [0.799, 0.81, 0.818, 0.829, 0.839])
    assert 0.025 < test.p < 0.05
    (one,) = columns.adjust([columns.compared(test)], "p")
    pair = columns.adjust([columns.compared(test), columns.compared(test)], "p")
    assert sentences.winner("A", "B", one).startswith("A wins by .0010")
    assert sentences.winner("A", "B", pair[0]).startswith("A is higher, not significantly, by .0010")
    assert sentences.sure(pair) == " (0 of them with Holm p < .05)"


def test_with_few_seeds_intervals_say_how_sure_a_sign_is() -> None:
    clear, unclear = compare([0.80, 0.81], [0.79, 0.80]), compare([0.80, 0.82], [0.79, 0.82])
    rows = columns.adjust([columns.compared(clear, "gain"), columns.compared(unclear, "gain")], "p")
    assert [sentences.sure(some, "gain") for some in ([rows[0]], [rows[1]], rows)] == [
        f" ({count} of them with an interval that does not hold 0)" for count in (1, 0, 1)
    ]
    assert sentences.sure([], "gain") == ""
    assert sentences.sure([columns.compared(compare([0.8], [0.7]), "gain")], "gain") == ""  # one seed, no rows


def test_runs_without_a_record_of_their_test_rows_are_said() -> None:
    runs = Runs(
        Oracle(lambda job: {**features(1), "auc": 0.7, "auc_blocks": None if job["seed"] == 1 else [0.0] * 100})
    )
    runs(jobs(0, 1, 2))
    said = "1 runs have no record of their test rows: differences with them have no interval."
    assert said in sentences.notes(options(commit=None), runs)


def test_several_machines_are_counted() -> None:
    runs = Runs(Oracle(lambda job: {**features(1), "auc": 0.7, "machine": "AB"[int(str(job["seed"])) % 2]}))
    runs(jobs(0, 1, 2))
    assert "Machines: 2 runs on A. 1 runs on B." in sentences.notes(options(commit=None), runs)


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
