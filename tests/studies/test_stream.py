"""AUC against rows seen: lengths, matching, what is compared with what."""

from collections.abc import Sequence

import pandas as pd
import pytest
from scipy import stats

from ctr.errors import ArgumentError, TooFewRows
from ctr.studies.study import Job
from tests.studies.oracle import Oracle, features, run

HARD, RAMPED, NORM = "Group Adam, hard", "Group Adam, hard, ramped", "Adam, pruned by norm"


def answer(job: Job) -> dict[str, object]:
    """The soft rule is .004 below at 100 steps and .002 above at 1000; the hard one keeps ten times the features.

    AUC falls by .01 for each factor of ten in features; fine-tuning costs its share / 100.
    """
    steps, seed = int(str(job["train_rows"])) // 512, int(str(job["seed"]))
    base = 0.70 + (0.03 if steps == 1000 else 0.0) + 0.001 * seed
    if job["opt"] == "group_adam":
        kept = {1e-3: 100, 1e-2: 10}[float(str(job["opt.lambda21"]))]
        if job["opt.threshold"] == "soft":
            auc = base + (0.002 if steps == 1000 else -0.004) + (0.0005 if seed == 2 else 0)
        else:
            kept *= 10
            auc = base + (0.01 if kept == 1000 else 0.0)
        return {**features(kept / 1000), "auc": auc, "auc_retrained": auc + 0.003}
    kept = round(float(str(job["prune.feature_rate"])) * 1000)
    auc = base - float(str(job["prune.finetune"])) / 100
    return {**features(kept / 1000), "auc": auc, "auc_retrained": base + 0.001 if job.get("retrain") else None}


def asked(**changed: object) -> dict[str, object]:
    return {"lambda21": [1e-3, 1e-2], "finetune": [0.0, 0.1, 0.3], "scores": ["norm"], **changed}


def test_cells() -> None:
    oracle = Oracle(answer)
    findings = run("stream", oracle, **asked())
    table = findings.table.set_index(["method", "steps", "lambda21"])
    assert len(table) == 2 * 2 * 5

    soft, adam = [0.696, 0.697, 0.6985], [0.700, 0.701, 0.702]
    cell = table.loc[(NORM, 100, 1e-3)]
    assert cell.minus_soft == pytest.approx(sum(adam) / 3 - sum(soft) / 3)
    low, high = stats.ttest_rel(adam, soft).confidence_interval(0.95)
    assert (cell.minus_soft_low, cell.minus_soft_high) == pytest.approx((low, high))
    assert cell.rows == 51_200
    assert cell.features_apart == 0
    assert cell.finetune == 0
    # Retrained .701, .702, .703 against the soft rule's .699, .700, .7015.
    assert cell.retrained_minus_soft_retrained == pytest.approx((0.002 + 0.002 + 0.0015) / 3)
    assert table.loc[(f"{NORM}, fine-tuned", 1000, 1e-2)].finetune == 0.1, "the better of .1 and .3"
    assert table.loc[("Group Adam, soft", 100, 1e-2)].retrained_minus_auc == pytest.approx(0.003)


def test_the_hard_rule_is_read_at_the_soft_rules_rate() -> None:
    """It keeps 1000 and 100 features where the soft one keeps 100 and 10: at 100 features its AUC is that of 100."""
    table = run("stream", Oracle(answer), **asked()).table.set_index(["method", "steps", "lambda21"])
    for method in (HARD, RAMPED):
        cell = table.loc[(method, 100, 1e-3)]
        assert cell.auc_mean == pytest.approx(0.711)
        assert cell.auc_at_soft_rate == pytest.approx(0.701)
        assert cell.minus_soft == pytest.approx(0.701 - (0.696 + 0.697 + 0.6985) / 3)
        beyond = table.loc[(method, 100, 1e-2)]
        assert beyond[["auc_at_soft_rate", "minus_soft"]].isna().all(), "10 features lie beyond what it keeps"


def test_jobs() -> None:
    oracle = Oracle(answer)
    run("stream", oracle, **asked())
    group, pruned = oracle.batches
    assert len(group) == 3 * 2 * 2 * 3
    assert len(pruned) == 3 * 2 * 2 * 3
    assert {job["train_rows"] for job in oracle.jobs} == {51_200, 512_000}
    assert all(job["retrain"] is True for job in group)
    assert all(("retrain" in job) == (job["prune.finetune"] == 0) for job in pruned)
    assert {(job["opt.threshold"], job.get("opt.lambda_schedule")) for job in group} == {
        ("soft", None),
        ("hard", None),
        ("hard", "cubic"),
    }


def test_the_learning_rate_is_chosen_at_each_length() -> None:
    def by_length(job: Job) -> dict[str, object]:
        if "prune" in job or job["opt"] == "group_adam":
            return answer(job)
        best = 1e-2 if job["train_rows"] == 51_200 else 1e-3
        return {**features(1), "auc": 0.7 + (0.01 if job["opt.lr"] == best else 0)}

    oracle = Oracle(by_length)
    findings = run("stream", oracle, **asked(lr="auto"))
    assert len(oracle.batches[0]) == 2 * 5 * 3
    assert {(job["train_rows"], job["opt.lr"]) for batch in oracle.batches[1:] for job in batch} == {
        (51_200, 1e-2),
        (512_000, 1e-3),
    }
    assert "| 100 | 51,200 | 1e-2 |" in findings.text


def test_validation_chooses_the_schedule_on_held_out_rows() -> None:
    oracle = Oracle(answer)
    run("stream", oracle, **asked(select="validation"))
    _, pruned, final = oracle.batches
    assert all(("holdout" in job) == (job["prune.finetune"] > 0) for job in pruned)
    assert len(final) == 2 * 2 * 3
    assert all("holdout" not in job and job["prune.finetune"] == 0.1 for job in final)


def test_words_say_where_the_ordering_turns() -> None:
    text = run("stream", Oracle(answer), **asked()).text
    assert "between 100 and 1,000 steps the mean of the soft rule gets ahead" in text
    assert "Shrinkage (soft rule, retrained on the same features): +.0030 [+.0030, +.0030] at 100 steps, +.0030" in text
    assert "All 24 pruned runs keep exactly the soft rule's number of features." in text
    assert f"{HARD}: nothing to compare with the soft rule." in text


def test_a_figure_for_each_lambda() -> None:
    figures = run("stream", Oracle(answer), **asked()).figures
    assert list(figures) == ["stream-1e-3", "stream-1e-2"]
    first = figures["stream-1e-3"].axes[0]
    assert len(first.containers) == 5


def test_too_short_a_log_is_a_gap() -> None:
    def short(job: Job) -> dict[str, object] | str:
        return "train_rows=512,000; there are 100,000" if job["train_rows"] == 512_000 else answer(job)

    findings = run("stream", Oracle(short), **asked())
    assert findings.table[findings.table.steps == 1000].auc_mean.isna().all()
    assert "train_rows=512,000; there are 100,000" in findings.text


def test_streams_longer_than_the_log_are_refused_by_their_option() -> None:
    def ask(jobs: Sequence[Job]) -> pd.DataFrame:
        raise TooFewRows(asked=1000 * 512, there=100_000)

    with pytest.raises(ArgumentError) as error:
        run("stream", ask, **asked())
    assert str(error.value) == (
        "steps=[100, 1000]: 1,000 batches of 512 rows are 512,000 rows, but there are 100,000 to train on; "
        "expected at most 195"  # 100,000 / 512 = 195.3
    )
