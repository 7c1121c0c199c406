"""Rivals: what each method is given, how N is met, cells and views from answers that can be worked out by hand."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from ctr.datasets.prepared import Prepared
from ctr.datasets.rare import gather
from ctr.errors import ArgumentError
from ctr.studies import lambda_search, rivals
from ctr.studies.cut_off import smallest
from ctr.studies.rivals_methods import NAMES
from ctr.studies.runs import Runs
from ctr.studies.study import Job, check, own_options
from tests.reproducing import SAMPLE, reproduced
from tests.studies.oracle import Oracle, features, run
from tests.training.conftest import data as data  # 600 rows to train on

LAMBDAS = ("opt.lambda1", "opt.lambda21")
RATES = [0.1, 0.01]  # 100 and 10 of 1,000 features


def kept(job: Job) -> float:
    """Share of the 1,000 features that a run keeps: what it is told, or .1 / (1,000 lambda) and 20 % more by seed."""
    if "opt.budget" in job or "prune.feature_rate" in job:
        asked = float(str(job.get("opt.budget", job.get("prune.feature_rate"))))
        return asked if asked < 1 else asked / 1000
    if "dataset.num_buckets" in job:
        return int(str(job["dataset.num_buckets"])) / 1000
    if "dataset.min_count" in job:
        return {7: 0.095, 70: 0.008}[int(str(job["dataset.min_count"]))]
    total = sum(float(str(job.get(key, 0))) for key in LAMBDAS)
    return min(1e-4 / total * (1 + 0.2 * int(str(job["seed"]))), 1) if total else 1.0


def answer(job: Job) -> dict[str, object]:
    """AUC falls by .01 for each factor of ten in features, and rises by .002 with averaging; pruned runs are .001
    better; hashed models have half the bytes of a feature."""
    found = features(kept(job))
    count = int(str(found["features_nonzero"]))
    auc = 0.75 + 0.01 * math.log10(max(count, 1) / 1000) + 0.0001 * int(str(job["seed"])) ** 2
    auc += (0.002 if job.get("average") else 0) + (0.001 if "prune" in job else 0)
    size = (50 if "dataset.num_buckets" in job else 100) * count
    figures = {"logloss": 0.4 + 0.01 * int(str(job["seed"])), "calibration": 0.9, "train_seconds": 2.5}
    return {**found, **figures, "auc": auc, "model_bytes": size if job.get("save") == "model" else math.nan}


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut-offs without data: 7 leaves 95 features, 70 leaves 8."""
    monkeypatch.setattr(rivals, "settings_of", lambda of: SimpleNamespace(model=SimpleNamespace(embedding_dim=8)))
    monkeypatch.setattr(rivals, "cut_offs", lambda of, most: [{100: 7, 10: 70}.get(number) for number in most])


def asked(*methods: str, **changed: object) -> dict[str, object]:
    return {"rates": RATES, "methods": [*methods], "average": [0.0], "finetune": [0.0], **changed}


@pytest.mark.usefixtures("cuts")
def test_what_each_method_is_given() -> None:
    oracle = Oracle(answer)
    table = run("rivals", oracle, **asked(*NAMES, rates=[0.1], seeds=[0])).table.set_index("method")
    given = {name: str(text).replace("opt.lambda2=0.0", "").split() for name, text in table["given"].items()}
    assert given["Group Adam, budget"] == ["opt.budget=0.1"]
    assert given["Group Adam, soft"] == ["opt.lambda1=0.0", "opt.lambda21=0.001", "opt.threshold=soft"]
    assert given["Group Adam, hard, ramped"][2:] == ["opt.threshold=hard", "opt.lambda_schedule=cubic"]
    assert given["Group Adam, l1 alone"] == ["opt.lambda1=0.001", "opt.lambda21=0.0"]
    assert given["FTRL: Group Adagrad, l1 alone"] == ["opt.lambda1=0.001", "opt.lambda21=0.0"]
    for score in ("norm", "effect", "count"):
        assert given[f"Adam, pruned by {score}"] == [
            *("prune=magnitude", "prune.feature_rate=0.1", "prune.finetune=0.0", f"prune.score={score}")
        ]
    assert given["count cut-off, unseen as zero"] == ["dataset.min_count=7", "dataset.unseen=zero"]
    assert given["count cut-off, unseen as rare"] == ["dataset.min_count=7", "dataset.unseen=row"]
    assert given["hashing"] == ["dataset.encoding=hash", "dataset.num_buckets=100"]
    assert given["smaller dimension"] == ["model.embedding_dim=1"]  # 0.8
    assert given["AdaEmbed-style"] == ["opt.features=100"]
    assert given["CAFE-style importance"] == ["opt.features=100", "opt.importance=share"]
    rare = given["Group Adam, budget, rare as one"]
    assert rare == ["opt.budget=100", "dataset.min_count=5", "dataset.unseen=row"]
    opts = {job["opt"] for job in oracle.jobs if job.get("opt.lambda21") == 0 and job.get("opt.lambda1")}
    assert opts == {"group_adam", "group_adagrad"}


def test_cells() -> None:
    findings = run("rivals", Oracle(answer), **asked("budget", "soft", "norm", "hash", average=[0.0, 0.3]))
    table = findings.table.set_index(["method", "rate", "average"])
    assert len(table) == 2 * (1 + 4 * 2)
    budget = [0.74 + 0.0001 * seed**2 for seed in range(3)]
    cell = table.loc[("Adam, pruned by norm", 0.1, 0.0)]
    pruned = [auc + 0.001 for auc in budget]
    assert cell.auc_mean == pytest.approx(sum(pruned) / 3)
    assert [cell[f"auc_seed{seed}"] for seed in range(3)] == pytest.approx(pruned)
    assert (cell.target, cell.features_mean, cell.features_std, cell.bytes_mean) == (100, 100, 0, 10_000)
    assert (cell.logloss_mean, cell.calibration_mean) == (pytest.approx(0.41), pytest.approx(0.9))
    assert (cell.logloss_seed2, cell.seconds_mean) == (pytest.approx(0.42), 2.5)
    assert cell.difference == pytest.approx(0.001)
    assert (cell.difference_low, cell.difference_high) == pytest.approx((0.001, 0.001)), "the seeds do not differ"
    assert math.isnan(cell.p), "three seeds"
    # Of budget's size hashed models have twice the features: between 10 and 100, that are linear in log10.
    hashed = table.loc[("hashing", 0.01, 0.0)]
    assert hashed.auc_at_size == pytest.approx(sum(budget) / 3 - 0.01 + 0.01 * math.log10(2))
    assert hashed.difference_at_size == pytest.approx(0.01 * math.log10(2))
    assert math.isnan(table.loc[("hashing", 0.1, 0.0)].auc_at_size), "10,000 bytes lie beyond its 5,000"
    assert table.loc[("Adam, pruned by norm", 0.1, 0.0)].auc_at_size == pytest.approx(cell.auc_mean)
    whole = table.loc[("Adam, all features", 1.0, 0.3)]
    assert (whole.auc_mean, whole.features_mean) == (pytest.approx(0.752 + 0.0005 / 3), 1000)
    own = table.loc[("Group Adam, budget", 0.1, 0.0)]
    assert math.isnan(own.difference)
    assert own.auc_at_size == own.auc_mean
    assert [column.name for column in findings.columns] == list(findings.table.columns)


def test_a_lambda_is_searched_for_each_seed_until_n_features_are_left() -> None:
    oracle = Oracle(answer)
    table = run("rivals", oracle, **asked("budget", "soft")).table.set_index(["method", "rate"])
    for rate in RATES:
        cell = table.loc[("Group Adam, soft", rate)]
        for seed in range(3):
            assert abs(cell[f"features_seed{seed}"] - 1000 * rate) <= 0.02 * 1000 * rate
    # 1e-4 / lambda x (1, 1.2, 1.4) = .1: from 1e-3 to 1.4e-3.
    assert "opt.lambda21=0.001..0.0014" in table.loc[("Group Adam, soft", 0.1)]["given"]
    searches = [job for job in oracle.jobs if job["opt"] == "group_adam" and "save" not in job]
    assert {job["opt.lambda21"] for job in oracle.batches[1]} == {1e-4, 1e-3, 1e-2}
    assert not any("average" in job for job in searches), "averaging does not change the rows"


@pytest.mark.parametrize(
    ("found", "count", "wanted"),
    [
        ({}, 10, None),
        ({1e-3: 99}, 100, None),
        ({1e-3: 1000, 1e-1: 10}, 100, 1e-2),
        ({1e-3: 1000, 1e-2: 10}, 100, 3.16e-3),
        ({1e-3: 1000, 1e-2: 0}, 100, 2.01e-3),  # log(1000 / 100) / log(1000 / .5) of the way
        ({1e-3: 50, 1e-2: 10}, 100, 2.5e-4),
        ({1e-3: 5000, 1e-2: 1000}, 100, 4e-2),
        ({1e-3: 1000, 2e-3: 60, 3e-3: 300, 4e-3: 20}, 100, 1.76e-3),  # not monotone: the first step down
    ],
)
def test_the_lambda_to_try_next(found: dict[float, float], count: int, wanted: float | None) -> None:
    assert lambda_search.following(found, count) == (wanted if wanted is None else pytest.approx(wanted, rel=1e-3))


def test_a_search_that_never_arrives_ends_with_the_nearest() -> None:
    """Nothing between 150 and 40 features."""
    oracle = Oracle(lambda job: features(0.15 if float(str(job["opt.lambda21"])) < 2e-3 else 0.04))
    found = lambda_search.search(Runs(oracle), lambda line, value: {"seed": line, "opt.lambda21": value}, [0], [100])
    assert len(oracle.batches) <= 1 + lambda_search.ROUNDS
    assert oracle.answer({"opt.lambda21": found[0, 100]})["features_nonzero"] == 150  # type: ignore[index]


def test_averaged_and_plain_runs_share_their_lambda_and_every_final_run_leaves_a_model() -> None:
    oracle = Oracle(answer)
    findings = run("rivals", oracle, **asked("soft", "norm", average=[0.0, 0.3], finetune=[0.0, 0.3]))
    final = oracle.batches[-1]
    assert all(job["save"] == "model" for job in final)
    assert len(final) == 2 * 3 * (2 + 2 * 2)
    by_share = [
        [job["opt.lambda21"] for job in final if job["average"] == share and "opt.lambda21" in job]
        for share in (0.0, 0.3)
    ]
    assert by_share[0] == by_share[1]
    assert {"Adam, pruned by norm", "Adam, pruned by norm, fine-tuned on 30%"} < {*findings.table["method"]}


@pytest.mark.usefixtures("cuts")
def test_words_and_figures() -> None:
    findings = run("rivals", Oracle(answer), **asked("budget", "norm", "cut", "hash", average=[0.0, 0.3]))
    text = findings.text
    assert "| Method | 10 % (100) | 1 % (10) |" in text
    assert "| Adam, pruned by norm | **.7412** | **.7312** |" in text
    assert "| count cut-off, unseen as zero | .7399 \\* | .7292 \\* |" in text
    assert "| Method | 10 kB | 1 kB |" in text
    said = "10 % of the features: the highest mean is .7412 of Adam, pruned by norm; against Group Adam, budget: Adam, "
    assert f"{said}pruned by norm is higher by .0010" in text
    assert "Averaging the net over the last 30% changes the mean AUC by +.0020 (+.0020 to +.0020 over 9 cells)" in text
    assert "count cut-off, unseen as zero: not N features in 4 of 4 cells, 0.8 to 0.95 times as many." in text
    assert list(findings.figures) == ["rivals-features", "rivals-bytes"]
    axes = findings.figures["rivals-bytes"].axes
    assert len(axes) == 2 * 3
    assert [len(one.containers) for one in axes] == [1, 2, 3] * 2  # budget alone, with norm, with cut and hash
    assert axes[0].get_xscale() == "log"
    assert list(axes[1].containers[1].lines[0].get_xdata()) == pytest.approx([1000, 10_000])


@pytest.mark.usefixtures("cuts")
def test_a_cut_off_that_cannot_leave_so_few_is_a_gap() -> None:
    findings = run("rivals", Oracle(answer), **asked("budget", "cut", rates=[0.1, 0.002]))
    table = findings.table.set_index(["method", "rate"])
    assert table.loc[("count cut-off, unseen as zero", 0.002)].seeds == 0
    said = "no dataset.min_count leaves at most 2, with a row for each field's rare values"
    assert table.loc[("count cut-off, unseen as zero", 0.002)].gap == said
    assert f"gap: count cut-off, unseen as zero, 0.2 % of the features: {said}." in findings.text


def test_without_a_finished_run_of_all_features_nothing_is_asked_for() -> None:
    oracle = Oracle(lambda job: "no memory")
    findings = run("rivals", oracle, **asked("budget", "soft"))
    assert [len(batch) for batch in oracle.batches] == [3]
    assert findings.table["gap"].tolist() == ["no memory"]


def test_no_mean_at_equal_bytes_of_some_seeds_only() -> None:
    def larger(job: Job) -> dict[str, object]:
        """With seed 2, pruned models are never as small as budget's."""
        found = answer(job)
        found["model_bytes"] = float(str(found["model_bytes"])) * (50 if "prune" in job and job["seed"] == 2 else 1)
        return found

    table = run("rivals", Oracle(larger), **asked("budget", "norm")).table.set_index(["method", "rate"])
    assert table.loc[("Adam, pruned by norm", 0.1)][["auc_at_size", "difference_at_size"]].isna().all()
    assert table.loc[("Adam, pruned by norm", 0.1)].seeds == 3


def test_a_search_without_a_finished_run_is_a_gap() -> None:
    oracle = Oracle(lambda job: "diverged" if job["opt"] == "group_adam" and "opt.budget" not in job else answer(job))
    table = run("rivals", oracle, **asked("budget", "soft")).table.set_index("method")
    assert (table.loc["Group Adam, soft"].gap == "no run of the search finished").all()


def test_the_dashboards_points_are_shares_of_all_features() -> None:
    hashed = run(
        "rivals", Oracle(lambda job: {**answer(job), "feature_rate": 1.0}), **asked("budget", "hash")
    ).points.set_index("method")
    assert sorted({*hashed.loc["hashing"].feature_rate}) == RATES[::-1]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("rates", [0.1, 1.0], r"rates=\[0.1, 1.0\]; expected shares above 0 and below 1"),
        ("rates", [0.0], "expected shares above 0 and below 1"),
        ("rates", [], "expected at least one value"),
        ("rates", [0.1, 0.1], "duplicate value 0.1"),
        ("methods", ["budget", "lasso"], r"methods=\['budget', 'lasso'\]; expected budget, soft, ramp, l1, ftrl, norm"),
        ("average", [1.0], "expected shares from 0 to below 1"),
        ("finetune", [-0.1], "expected shares from 0 to below 1"),
    ],
)
def test_wrong_options(name: str, values: list[object], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        check({name: own_options(rivals.study)[name]}, {name: values})


def test_a_rate_that_leaves_less_than_two_features_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^rates=\[0.1, 0.001\]: 0.001 of 1,000 features is less than two"):
        run("rivals", Oracle(answer), **asked("budget", rates=[0.1, 0.001]))


def test_a_key_that_a_method_sets_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^average=0.5: this study sets it itself"):
        run("rivals", Oracle(answer), **asked("budget", common={"average": 0.5}))


@pytest.mark.parametrize("most", [2000, 1300, 1000, 600, 100, 53, 27, 26, 25])
def test_the_cut_off_against_gathering(data: Prepared, most: int) -> None:
    """By trying every count."""

    def left(min_count: int) -> int:
        return gather(data, min_count, "zero").split.features_train

    (found,) = smallest(data, [most])
    if found is None:
        assert left(10**6) > most
        return
    assert left(found) <= most
    assert found == 2 or left(found - 1) > most


@pytest.mark.slow
def test_a_study_on_generated_rows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method once: exactly N where that is promised, and the size is that of the files."""
    import pandas as pd

    overrides = [*SAMPLE, "study=rivals", "rates=[0.05]", "seeds=1", "lr=1e-2", "average=[0.3]", "finetune=[0.0]"]
    reproduced(None, *overrides, "tracking=none", "workers=2", "model.hidden=[8]", "+train.batch_size=64")
    folder = here / "runs/studies/rivals-criteo-sample"
    table = pd.read_csv(folder / "result.csv").set_index("method")
    assert table["gap"].isna().all()
    assert len(table) == 1 + len(NAMES)
    present = table.loc["Adam, all features"].features_mean
    exact = table[table["equal"] == "exactly N"]
    assert len(exact) == 4
    assert (exact["features_mean"] == round(0.05 * present)).all()
    cut = table.loc[["count cut-off, unseen as zero", "count cut-off, unseen as rare"]]
    assert (cut["features_mean"] <= round(0.05 * present)).all()
    assert table.loc["hashing"].features_mean <= round(0.05 * present)
    assert table.loc["smaller dimension"].features_mean == present
    runs = pd.read_csv(folder / "runs.csv")
    saved = runs[(runs["save"] == "model") & (runs["opt.budget"] == 0.05)]
    assert len(saved) == 1
    files = sum(path.stat().st_size for path in Path(saved["folder"].iloc[0], "model").iterdir())
    assert table.loc["Group Adam, budget"].bytes_mean == files
    assert (folder / "rivals-bytes.png").exists()
