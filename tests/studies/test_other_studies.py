"""Tables 3, 4 and 8, figures 2 and 3: job lists, cells and sentences, from answers that can be worked out by hand."""

import math

import pytest
from scipy import stats

from ctr.errors import ArgumentError, CtrError
from ctr.studies import table3
from ctr.studies.study import Job
from tests.studies.oracle import Oracle, features, run


def number(job: Job, key: str) -> float:
    return float(str(job.get(key, 0)))


# ---- table 3


def table3_answer(job: Job) -> dict[str, object]:
    """Group Adam is best at lambda1 = 1e-3, lambda21 = 1e-3; plain ones keep everything."""
    seed = number(job, "seed")
    if job["opt"] in ("adam", "adagrad"):
        return {**features(1), "auc": 0.75 + 0.0003 * seed}
    off = abs(number(job, "opt.lambda1") - 1e-3) + abs(number(job, "opt.lambda21") - 1e-3)
    best = 0.754 if job["opt"] == "group_adam" else 0.745
    return {**features(0.05 + 0.001 * seed), "auc": best - off + 0.0002 * seed * seed}


GRID = {"lambda1": [0.0, 1e-3], "lambda21": [1e-3, 1e-2], "lambda2": [0.0]}


def test_table_3_cells() -> None:
    oracle = Oracle(table3_answer)
    findings = run("table3", oracle, **GRID)
    plain, _, papers = oracle.batches
    assert [len(batch) for batch in oracle.batches] == [2 * 3, 2 * 4 * 3, 2 * 3]
    assert all("opt.lambda1" not in job for job in plain)
    assert {tuple(job[f"opt.{name}"] for name in ("lambda1", "lambda21", "lambda2")) for job in papers} == {
        (4e-4, 5e-4, 1e-5),  # table 6
        (0.0, 4e-3, 1e-5),  # table 7
    }
    table = findings.table.set_index(["family", "regularisers"])
    cell = table.loc[("adam", table3.BEST)]
    group, adam = [0.754, 0.7542, 0.7548], [0.75, 0.7503, 0.7506]
    assert (cell.lambda1, cell.lambda21) == (1e-3, 1e-3)
    assert cell.difference == pytest.approx(sum(group) / 3 - sum(adam) / 3)
    low, high = stats.ttest_rel(group, adam).confidence_interval(0.95)
    assert (cell.difference_low, cell.difference_high) == pytest.approx((low, high))
    reach = stats.t.ppf(0.975, 2) * math.sqrt(1e-6 / 3)
    assert (cell.rate_difference, cell.rate_difference_high) == pytest.approx((-0.949, reach - 0.949))
    assert cell.ties == 0
    assert cell.paper_group_auc == 0.8019
    assert (
        "Group Adam with the best of the grid (λ1 = 1e-3, λ21 = 1e-3, λ2 = 0): Group Adam is higher by .0040"
        in findings.text
    )
    assert "the sign disagrees with the paper's −.0002 (its p = 0.422)" in findings.text
    assert "Group Adagrad with the best of the grid (λ1 = 1e-3, λ21 = 1e-3, λ2 = 0): Adagrad is higher" in findings.text


def test_table_3_by_validation_asks_for_the_grid_on_held_out_rows_and_for_the_choice_whole() -> None:
    oracle = Oracle(table3_answer)
    run("table3", oracle, select="validation", **GRID)
    plain, grid, final = oracle.batches
    assert all(job["holdout"] == 0.1 for job in grid)
    assert not any("holdout" in job for job in (*plain, *final))
    assert len(final) == 2 * 2 * 3


def test_table_3_counts_the_choices_of_one_optimizer() -> None:
    text = run("table3", Oracle(table3_answer), **GRID).text
    assert "The best of the grid was, among 4 choices, chosen by AUC on the test part" in text


def test_table_3_leaves_the_plain_optimizer_out_of_the_grid() -> None:
    oracle = Oracle(table3_answer)
    run("table3", oracle, lambda1=[0.0], lambda21=[0.0, 1e-3], lambda2=[0.0])
    assert len(oracle.batches[1]) == 2 * 1 * 3


def test_table_3_with_every_group_run_failed() -> None:
    def failing(job: Job) -> dict[str, object] | str:
        return "no memory" if str(job["opt"]).startswith("group") else table3_answer(job)

    findings = run("table3", Oracle(failing), **GRID)
    assert "Group Adam with the best of the grid (no run finished): nothing to compare." in findings.text
    assert findings.table.seeds_group.tolist() == [0, 0, 0, 0]


# ---- table 4


def test_table_4() -> None:
    oracle = Oracle(
        lambda job: {
            **features(0.4 / number(job, "model.embedding_dim")),
            "auc": {4: 0.74, 8: 0.76, 16: 0.75, 32: 0.73}[int(number(job, "model.embedding_dim"))]
            + 0.001 * number(job, "seed"),
        }
    )
    findings = run("table4", oracle)
    assert len(oracle.jobs) == 4 * 3
    assert all(job["opt.lambda1"] == 4e-4 and job["opt.lambda21"] == 5e-4 for job in oracle.jobs)
    assert findings.table.rate_mean.tolist() == pytest.approx([0.1, 0.05, 0.025, 0.012])
    assert findings.table.paper_rate.tolist() == [0.074, 0.030, 0.012, 0.008]
    assert findings.table.auc_minus_paper.tolist() == pytest.approx([-0.0598, -0.0409, -0.0510, -0.0701])
    assert "falls from one dimension to the next in 3 of 3 steps: this agrees with the paper" in findings.text
    assert "The best AUC is at dimension 8 (the paper's on Criteo: 16), +.0100 [+.0100, +.0100] ahead" in findings.text
    assert "| 8 | 0.050 (**.7610±.0010**) | 0.030 (.8019) | −.0409 |" in findings.text


def test_table_4_says_where_the_rate_does_not_fall() -> None:
    oracle = Oracle(lambda job: {**features(0.1), "auc": 0.7})
    assert "in 0 of 3 steps: this disagrees with the paper" in run("table4", oracle).text


def test_table_4_wants_regularisers_from_the_paper() -> None:
    with pytest.raises(CtrError, match="no regularisers for linear"):
        run("table4", Oracle(lambda job: "never asked"), model="linear")


# ---- table 8


def table8_answer(job: Job) -> dict[str, object]:
    seed = number(job, "seed")
    if job["opt"] == "group_adam":
        return {**features(0.02 + 0.001 * seed), "auc": 0.75}
    best = 0.2 if job["prune.score"] == "norm" else 0.0
    auc = 0.74 - 0.1 * abs(number(job, "prune.finetune") - best) + 0.001 * seed
    return {**features(number(job, "prune.feature_rate")), "auc": auc}


def test_table_8() -> None:
    oracle = Oracle(table8_answer)
    findings = run("table8", oracle, lambda21=[1e-3])
    assert [len(batch) for batch in oracle.batches] == [3, 2 * 4 * 3]
    table = findings.table.set_index(["score", "finetune"])
    assert len(table) == 8
    assert table.loc[("norm", 0.1)].auc_mean == pytest.approx(0.731)
    assert table.loc[("norm", 0.3)].paper_auc == 0.7883
    assert table.loc[("norm", 0.3)].minus_paper == pytest.approx(0.731 - 0.7883)
    assert table[table.best].index.tolist() == [("norm", 0.2), ("effect", 0.0)]
    line = "λ21 = 1e-3, by norm: 20% is best (0% in the paper); +.0200 [+.0200, +.0200] over no fine-tuning."
    assert line in findings.text
    assert "| 20% | 1e-3 | 0.021 | **.7410±.0010** | +.0200 | [+.0200, +.0200] | – | .7969 | −.0559 |" in findings.text


def test_table_8_by_validation_takes_the_best_on_held_out_rows_and_shows_whole_runs() -> None:
    def contrary(job: Job) -> dict[str, object]:
        """Held-out rows favour 30 %, the test part 20 %."""
        found = table8_answer(job)
        return {**found, "auc": 0.7 + number(job, "prune.finetune")} if "holdout" in job else found

    oracle = Oracle(contrary)
    findings = run("table8", oracle, lambda21=[1e-3], scores=["norm"], select="validation")
    assert [len(batch) for batch in oracle.batches] == [3, 4 * 3, 4 * 3]
    assert [{job.get("holdout") for job in batch} for batch in oracle.batches] == [{None}, {None}, {0.1}]
    table = findings.table.set_index("finetune")
    assert table[table.best].index.tolist() == [0.3]
    assert table.auc_mean.to_dict() == pytest.approx({0.3: 0.731, 0.2: 0.741, 0.1: 0.731, 0.0: 0.721})
    assert "by norm: 30% is best on the held-out rows (0% in the paper); +.0100 [+.0100, +.0100] over" in findings.text
    assert "| 30% | 1e-3 | 0.021 | **.7310±.0010** |" in findings.text
    assert "The best schedules were chosen on the last tenth of the training rows" in findings.text
    assert len(findings.points) == 4 * 3


def test_table_8_says_that_its_best_are_the_best_by_test_auc() -> None:
    text = run("table8", Oracle(table8_answer), lambda21=[1e-3]).text
    assert "The best schedules were chosen by AUC on the test part, as the paper does" in text


def test_table_8_with_nothing_left_to_prune_to() -> None:
    findings = run("table8", Oracle(lambda job: {**features(0), "auc": 0.7}), lambda21=[1e-3], scores=["norm"])
    assert "λ21 = 1e-3, by norm: no schedule finished." in findings.text
    assert "nothing to prune to with seed 0" in findings.text


# ---- figure 2


def fig2_answer(job: Job) -> dict[str, object]:
    """Rates of all norms on one line in log-log; s~ of theorem 1 is .002 below s, that of Eq. 10 .001 above."""
    value = number(job, "opt.lambda21")
    lambda21 = {"s": value, "s_tilde": value / math.sqrt(10), "s_tilde_eq10": value**2}[str(job["opt.norm"])]
    rate = round(1e-4 / lambda21, 12)
    offset = {"s": 0.0, "s_tilde": -0.002, "s_tilde_eq10": 0.001}[str(job["opt.norm"])] + 0.0001 * number(job, "seed")
    return {
        "features_present": 10**6,
        "features_nonzero": 1,
        "feature_rate": rate,
        "auc": 0.75 + 0.01 * math.log10(rate) + offset,
    }


def test_figure_2_compares_at_equal_rates() -> None:
    oracle = Oracle(fig2_answer)
    findings = run("fig2", oracle, lambda21=[1e-4, 1e-3, 1e-2])
    assert [len(batch) for batch in oracle.batches] == [3 * 3 * 3]
    table = findings.table.set_index("norm")
    # At lr = 1e-3 the lambdas of s~ are 10 sqrt(.1) of those of s: the same rates. AUC is linear in log10 of the rate,
    # so that reading between points is exact.
    assert table.loc["s_tilde"].lambda21.tolist() == pytest.approx([math.sqrt(10) * x for x in (1e-4, 1e-3, 1e-2)])
    assert table.loc["s_tilde"].s_minus_this_at_its_rate.dropna().tolist() == pytest.approx([0.002] * 3, abs=1e-9)
    assert table.loc["s_tilde_eq10"].lambda21.tolist() == pytest.approx([0.01, 0.1 * math.sqrt(0.1), 0.1])
    assert table.loc["s_tilde_eq10"].s_minus_this_at_its_rate.dropna().tolist() == pytest.approx([-0.001] * 3, abs=1e-9)
    assert "exponent -1/2 (theorem 1): s is higher at 3 of 3 comparable points" in findings.text
    assert "This agrees with the paper" in findings.text
    assert "s is higher at 0 of 3 comparable points" in findings.text
    assert "This disagrees with the paper" in findings.text


def test_figure_2_does_not_compare_beyond_the_measured_rates() -> None:
    def sparser(job: Job) -> dict[str, object]:
        found = fig2_answer(job)
        return {**found, "feature_rate": found["feature_rate"] * (1 if job["opt.norm"] == "s" else 1e-4)}  # type: ignore[operator]

    findings = run("fig2", Oracle(sparser), lambda21=[1e-4, 1e-3])
    assert findings.table.s_minus_this_at_its_rate.isna().all()
    assert findings.text.count("nothing to compare") == 2


# ---- figure 3


def test_figure_3() -> None:
    def answer(job: Job) -> dict[str, object]:
        terms = number(job, "opt.lambda21") * 20 + number(job, "opt.lambda1")
        return {**features(min(1, 1e-3 / terms) - 0.002 * number(job, "seed")), "auc": 0.75}

    oracle = Oracle(answer)
    findings = run("fig3", oracle, lambda1=[0.0, 1e-3], lambda21=[1e-3, 5e-3])
    assert len(oracle.jobs) == 2 * 2 * 3
    assert all((job["opt.lambda1"] == 0) != (job["opt.lambda21"] == 0) for job in oracle.jobs)
    table = findings.table.set_index("value")
    assert table.index.tolist() == [1e-3, 5e-3]
    assert table.loc[5e-3].lambda1_rate_mean == pytest.approx(0.198)
    assert table.loc[5e-3].lambda21_rate_mean == pytest.approx(0.008)
    assert "λ21 leaves fewer features than λ1 of the same value at 2 of 2 values (" in findings.text
    assert "of them with an interval that does not hold 0). This agrees" in findings.text
    axes = findings.figures["fig3"].axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_figure_3_wants_a_value() -> None:
    with pytest.raises(CtrError, match="no value above 0"):
        run("fig3", Oracle(lambda job: "never asked"), lambda1=[0.0], lambda21=[])


@pytest.mark.parametrize(
    ("name", "common", "changed"),
    [
        ("table8", {"holdout": 0.3}, {"select": "validation"}),
        ("stream", {"train_rows": 1000}, {}),
        ("stream", {"opt.threshold": "hard"}, {}),
        ("fig2", {"opt.norm": "s"}, {}),
        ("table4", {"model.embedding_dim": 32}, {}),
    ],
)
def test_keys_that_one_study_sets_are_refused(name: str, common: dict[str, object], changed: dict[str, object]) -> None:
    (key,) = common
    oracle = Oracle(lambda job: {**features(0.5), "auc": 0.7})
    with pytest.raises(ArgumentError, match=rf"^{key}=.*: this study sets it itself"):
        run(name, oracle, common=common, **changed)


def test_table_8_by_validation_without_held_out_runs_says_what_is_missing() -> None:
    oracle = Oracle(lambda job: "no memory" if "holdout" in job and "prune" in job else table8_answer(job))
    text = run("table8", oracle, lambda21=[1e-3], scores=["norm"], select="validation").text
    assert "by norm: no run on the held-out rows finished: nothing was chosen." in text
    assert "the one chosen on the held-out rows is bold" in text
