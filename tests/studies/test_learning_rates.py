"""Learning rates by the paper's rule, and table 5."""

import io
import math
import re

import pytest

from ctr.errors import DIVERGED, CtrError
from ctr.studies import learning_rates, table3
from ctr.studies.runs import Runs
from ctr.studies.study import Ask, Job, Options
from tests.studies.oracle import STUDIES, Oracle, features, options, run

# Adam does best at 1e-2 on average; at 1e-3 with seed 0 alone.
ADAM = {
    1e-5: [0.6, 0.6, 0.6],
    1e-4: [0.7, 0.7, 0.7],
    1e-3: [0.76, 0.72, 0.71],
    1e-2: [0.74, 0.75, 0.73],
    1e-1: [0.5] * 3,
}


def choose(ask: Ask, asked: Options, opt: str) -> learning_rates.Rate:
    return learning_rates.choose_one(Runs(ask), asked, opt)


def answer(job: Job) -> dict[str, object] | str:
    auc = ADAM[float(str(job["opt.lr"]))][int(str(job["seed"]))]
    return {**features(1), "auc": auc - (0.01 if job["opt"] == "adagrad" else 0)}


def test_the_best_mean_is_taken() -> None:
    oracle = Oracle(answer)
    assert choose(oracle, options(lr="auto"), "group_adam") == learning_rates.Rate(
        1e-2, (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), ties=(1e-3,)
    )
    assert len(oracle.jobs) == 15
    assert {job["opt"] for job in oracle.jobs} == {"adam"}, "unregularised"


def test_a_rate_that_fails_with_a_seed_is_not_chosen() -> None:
    def failing(job: Job) -> dict[str, object] | str:
        return "diverged" if job["opt.lr"] == 1e-2 and job["seed"] == 2 else answer(job)

    assert choose(Oracle(failing), options(lr="auto"), "adam").value == 1e-3


def test_what_has_no_finished_run_has_no_rate() -> None:
    def failing(job: Job) -> dict[str, object] | str:
        return "no memory" if job["opt"] == "adam" else answer(job)

    chosen = learning_rates.choose(Runs(Oracle(failing)), options(lr="auto"), ["adam", "adagrad"])
    assert math.isnan(chosen["adam", None].value)
    assert chosen["adagrad", None].value == 1e-2
    assert math.isnan(choose(Oracle(failing), options(lr="auto"), "group_adam").value)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.slow
def test_every_study_shows_gaps_and_says_why_where_no_rate_was_found(name: str) -> None:
    oracle = Oracle(lambda job: "no memory")
    findings = run(name, oracle, lr="auto", lambda1=[1e-3])
    assert {job["opt"] for job in oracle.jobs} <= {"adam", "adagrad"}, "nothing can be run without a rate"
    assert len(findings.runs) == len(oracle.jobs)
    assert findings.table.filter(like="auc_mean").isna().all(axis=None)
    assert findings.points.empty
    said = "none could be chosen, no run of the search finished" if name != "table5" else "no run finished, nothing was"
    assert re.search(rf"^\* .*adam.*: {said}", findings.text, re.MULTILINE)
    assert f"failed: {len(oracle.jobs)} runs: no memory; the first: python -m ctr.train" in findings.text
    assert "No run finished." in findings.text
    assert "nan" not in findings.text
    for figure in findings.figures.values():
        figure.savefig(io.BytesIO(), format="png")


def test_without_one_optimizers_rate_the_other_is_compared() -> None:
    def failing(job: Job) -> dict[str, object] | str:
        if job["opt"] in ("adam", "adagrad"):
            return answer(job) if job["opt"] == "adagrad" else "no memory"
        return {**features(0.1), "auc": 0.75}

    table = run("table3", Oracle(failing), lr="auto", lambda1=[1e-3]).table.set_index(["family", "regularisers"])
    assert table.loc[("adam", table3.BEST)][["lr", "plain_auc_mean", "group_auc_mean", "lambda21"]].isna().all()
    assert table.loc[("adam", table3.BEST)].gap == "no learning rate could be chosen"
    cell = table.loc[("adagrad", table3.BEST)]
    assert cell.lr == 1e-2
    assert cell.difference == pytest.approx(0.75 - 0.73)


def test_a_given_rate_and_the_papers_need_no_search() -> None:
    oracle = Oracle(answer)
    assert choose(oracle, options(lr="paper", model="mlp"), "group_adam") == learning_rates.Rate(1e-4)
    assert choose(oracle, options(lr="paper", model="mlp"), "adagrad") == learning_rates.Rate(1e-2)
    assert choose(oracle, options(lr=0.3), "adam") == learning_rates.Rate(0.3)
    assert oracle.jobs == []
    with pytest.raises(CtrError, match="lr=paper: the paper has no learning rate for sgd with mlp"):
        choose(oracle, options(lr="paper", model="mlp"), "sgd")


def test_validation_chooses_on_held_out_rows() -> None:
    oracle = Oracle(answer)
    choose(oracle, options(lr="auto", select="validation"), "adam")
    assert {job["holdout"] for job in oracle.jobs} == {0.1}


def test_table_5() -> None:
    oracle = Oracle(answer)
    findings = run("table5", oracle, lr="paper")
    assert [len(batch) for batch in oracle.batches] == [2 * 5 * 3]
    chosen = findings.table[findings.table.chosen]
    assert chosen.opt.tolist() == ["adam", "adagrad"]
    assert chosen.lr.tolist() == [1e-2, 1e-2]
    assert chosen.paper_lr.tolist() == [1e-3, 1e-2]
    assert (
        "| Adam/Group Adam | .6000±.0000 | .7000±.0000 | .7300±.0265 = | **.7400±.0100** | .5000±.0000 | 1e-3 |"
        in findings.text
    )
    assert (
        "by test AUC, the paper's rule, a tie with 1e-3); not the paper's 1e-3. The next best, 1e-3, is .0100 [−.0"
        in findings.text
    )
    assert "by test AUC, the paper's rule, a tie with 1e-3); the same as the paper's 1e-2." in findings.text


def diverging(job: Job) -> dict[str, object] | str:
    """Adam diverges at 1e-1 with every seed, at 1e-2 with the last; Adagrad's process dies there."""
    lr, seed = float(str(job["opt.lr"])), job["seed"]
    if job["opt"] == "adam" and (lr == 1e-1 or (lr == 1e-2 and seed == 2)):
        return f"{DIVERGED}: the loss is nan at step {seed}"
    return "no memory" if lr == 1e-1 else answer(job)


def test_a_rate_that_diverges_is_an_answer_and_a_crash_a_failure() -> None:
    findings = run("table5", Oracle(diverging))
    assert (
        "| Adam/Group Adam | .6000±.0000 | .7000±.0000 = | **.7300±.0265** | .7450±.0071 (1 diverged) | diverged |"
        in findings.text
    )
    assert (
        "| AdaGrad/Group AdaGrad | .5900±.0000 | .6900±.0000 | .7200±.0265 = | **.7300±.0100** | – | 1e-2 |"
        in findings.text
    )
    adam = findings.table[findings.table.opt == "adam"].set_index("lr")
    assert adam.diverged.tolist() == [0, 0, 0, 1, 3]
    assert adam.seeds.tolist() == [3, 3, 3, 2, 0]
    assert not adam.gap.any()
    assert findings.table.gap.tolist()[-1] == "no memory"
    (failed,) = (line for line in findings.text.splitlines() if line.startswith("* failed"))
    assert failed.startswith("* failed: 3 runs: no memory; the first: python -m ctr.train")
    assert failed.endswith("opt=adagrad opt.lr=0.1 seed=0")
    assert findings.runs.outcome.value_counts().to_dict() == {"finished": 23, "diverged": 4, "failed": 3}


def test_where_every_rate_diverges_the_search_has_failed() -> None:
    findings = run("table5", Oracle(lambda job: "diverged: the loss is inf" if job["opt"] == "adam" else answer(job)))
    assert "adam: no run finished, nothing was chosen." in findings.text
    assert "failed: 15 runs: diverged: the loss is inf" in findings.text
    assert set(findings.runs[findings.runs.opt == "adam"].outcome) == {"failed"}


def test_the_chosen_rate_has_failed_with_a_seed_that_diverges() -> None:
    def unlucky(job: Job) -> dict[str, object] | str:
        return "diverged: the loss is inf" if job["seed"] == 2 else answer(job)

    runs = run("table5", Oracle(unlucky)).runs
    unlucky_ones = runs[(runs.opt == "adam") & (runs.seed == 2)].set_index("opt.lr").outcome
    assert unlucky_ones.to_dict() == {
        lr: "failed" if lr == 1e-2 else "diverged" for lr in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    }


def test_what_diverges_outside_a_search_has_failed() -> None:
    def group(job: Job) -> dict[str, object] | str:
        return "diverged: the loss is inf" if job["opt"] == "group_adam" else answer(job)

    findings = run("table2", Oracle(group), lr="auto")
    assert set(findings.runs[findings.runs.opt == "group_adam"].outcome) == {"failed"}
    assert "failed: 9 runs: diverged: the loss is inf" in findings.text


def peaked(peak: float) -> Oracle:
    """AUC falls by .01 for each power of ten between a rate and the peak."""
    return Oracle(lambda job: {**features(1), "auc": 0.8 - 0.01 * abs(math.log10(float(str(job["opt.lr"])) / peak))})


@pytest.mark.parametrize(
    ("peak", "further"),
    [
        (1e-3, []),
        (1e-2, [1e-1]),  # the end of the grid, now with a neighbour
        (1.0, [1e-1, 1.0, 10.0]),
        (100.0, [1e-1, 1.0, 10.0]),  # at most three
        (1e-6, [1e-5, 1e-6, 1e-7]),
    ],
)
def test_the_grid_grows_until_the_best_is_inside(peak: float, further: list[float]) -> None:
    oracle = peaked(peak)
    chosen = choose(oracle, options(lr="auto", lrs=[1e-4, 1e-3, 1e-2]), "adam")
    assert [[job["opt.lr"] for job in batch] for batch in oracle.batches[1:]] == [[lr] * 3 for lr in further]
    assert chosen.tried == tuple(sorted([1e-4, 1e-3, 1e-2, *further]))
    assert chosen.value == max(chosen.tried, key=lambda lr: -abs(math.log10(lr / peak)))


def test_one_rate_is_no_grid() -> None:
    oracle = peaked(1.0)
    assert choose(oracle, options(lr="auto", lrs=[1e-3]), "adam") == learning_rates.Rate(1e-3, (1e-3,))
    assert len(oracle.batches) == 1


def test_each_grid_grows_by_itself_and_all_at_once() -> None:
    """Adam's best is at 1e-1, Adagrad's inside."""

    def by_opt(job: Job) -> dict[str, object] | str:
        return peaked(1e-1 if job["opt"] == "adam" else 1e-3).answer(job)

    oracle = Oracle(by_opt)
    findings = run("table5", oracle, lrs=[1e-4, 1e-3, 1e-2], seeds=[0])
    assert [(job["opt"], job["opt.lr"]) for batch in oracle.batches[1:] for job in batch] == [
        ("adam", 1e-1),
        ("adam", 1),
    ]
    assert findings.table.lr.tolist() == [1e-4, 1e-3, 1e-2, 1e-1, 1, 1e-4, 1e-3, 1e-2]
    assert findings.table[findings.table.chosen].lr.tolist() == [1e-1, 1e-3]
    assert "| AdaGrad/Group AdaGrad | .7900 | **.8000** | .7900 | – | – | 1e-2 |" in findings.text


@pytest.mark.parametrize(("peak", "which"), [(1e-9, "smallest"), (1e9, "largest")])
def test_the_end_of_the_grid_is_said(peak: float, which: str) -> None:
    for text in (
        run("table5", peaked(peak), lrs=[1e-3, 1e-2]).text,
        run("table3", peaked(peak), lrs=[1e-3, 1e-2], lr="auto", lambda1=[1e-3]).text,
    ):
        assert f"it is the {which} tried, a better one may be beyond it" in text
    assert "tried, a better one" not in run("table5", peaked(1e-3)).text


def test_table_5_with_nothing_finished() -> None:
    findings = run("table5", Oracle(lambda job: "no such file"))
    assert "adam: no run finished, nothing was chosen." in findings.text
    assert not findings.table.chosen.any()
    assert set(findings.table.gap) == {"no such file"}
