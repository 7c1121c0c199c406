"""A study of invented figures in an MLflow database, to look at: not one of them was measured."""

import hashlib
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from ctr.report import folder as files
from ctr.report import mlflow as report
from ctr.report.findings import Findings
from ctr.report.subject import Subject

LAMBDAS = [1e-4, 5e-4, 1e-3, 5e-3, 1e-2]
SEEDS = [0, 1, 2]
RATES = [0.5, 0.06, 0.018, 0.0042, 0.0025]
SUBJECT = Subject("table2", "criteo", (), 1234, "raw", "d0" * 8)


def database(ready: Path, folder: Path) -> str:
    """A copy of an empty database, with an experiment ``ctr``; its URI."""
    shutil.copy(ready, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("ctr", artifact_location=(folder / "mlartifacts").as_uri())
    return uri


def rows(seeds: Sequence[int] = SEEDS) -> pd.DataFrame:
    """One row per job as a study gets them: two optimizers, five rates, some seeds; two jobs failed."""
    random = np.random.default_rng(0)
    found = []
    for opt in ("group_adam", "adam"):
        for lambda21, rate in zip(LAMBDAS, RATES, strict=True):
            for seed in seeds:
                auc = 0.752 - 0.012 * math.log10(1 / rate) ** 1.5 / 4 * (1.6 if opt == "adam" else 1)
                rate_here = rate * math.exp(random.normal(0, 0.15))
                job = {"dataset": "criteo", "opt": opt, "opt.lambda21": lambda21, "seed": seed}
                figures = {"auc": auc + random.normal(0, 0.001), "feature_rate": rate_here, "logloss": 0.45}
                figures |= {"source": "generated", "machine": "Invented, 2 cores"}
                name = hashlib.sha256(repr(job).encode()).hexdigest()[:12]
                found.append({**job, **figures, "error": None, **hashes(name)})
    failed = {"dataset": "criteo", "opt": "adam", "opt.lambda21": 1.0, "error": "no memory"}
    return pd.DataFrame([*found, {**failed, "seed": 0}, {**failed, "seed": 1}])


def hashes(config: str) -> dict[str, str]:
    return {"config_hash": config, "data_hash": SUBJECT.data_hash, "code_hash": "c0"}


def track(uri: str, jobs: pd.DataFrame) -> None:
    """The runs that `ctr.train` would have left in MLflow."""
    client = MlflowClient(uri)
    (experiment,) = client.search_experiments(filter_string="name = 'ctr'")
    for job in jobs[jobs["error"].isna()].to_dict("records"):
        run_id = client.create_run(experiment.experiment_id, run_name=f"{job['opt']} seed {job['seed']}").info.run_id
        params = {"opt.name": job["opt"], "opt.lr": 1e-3, "seed": job["seed"]}
        if job["opt"] == "group_adam":
            params |= {"opt.lambda21": job["opt.lambda21"], "prune.name": "none"}
        else:
            params |= {"prune.name": "magnitude", "prune.score": "norm", "prune.finetune": 0.1 * job["seed"]}
        metrics = {name: job[name] for name in ("auc", "feature_rate", "logloss")}
        metrics["log10_feature_rate"] = math.log10(job["feature_rate"])
        tags = {name: job[name] for name in ("dataset", "opt", "seed", "config_hash", "data_hash", "code_hash")}
        client.log_batch(
            run_id,
            metrics=[Metric(name, value, 0, 500) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
            tags=[RunTag(name, str(value)) for name, value in tags.items()],
        )
        client.set_terminated(run_id)


def findings(jobs: pd.DataFrame) -> Findings:
    done = jobs[jobs["error"].isna()]
    method = done["opt"].map({"group_adam": "Group Adam", "adam": "Adam, pruned"})
    points = done.assign(method=method, lambda21=done["opt.lambda21"])
    printed = pd.DataFrame(
        {"method": "paper: Group Adam", "lambda21": LAMBDAS, "seed": None, "auc": 0.8, "feature_rate": RATES}
    )
    columns = ["method", "lambda21", "seed", "auc", "feature_rate"]
    table = points.groupby(["method", "lambda21"], as_index=False).agg(auc=("auc", "mean"), std=("auc", "std"))
    lines = [f"| {row.method} | {row.lambda21:g} | {row.auc:.4f} | .8022 |" for row in table.itertuples()]
    head = "Invented figures, *not* measured.\n\n| method | lambda21 | AUC | paper |\n|---|---|---:|---:|\n"
    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    axes.semilogx(points["feature_rate"], points["auc"], "o")
    every = pd.concat([points[columns].astype(object), printed.astype(object)])
    return Findings(table, head + "\n".join(lines) + "\n", {"fig1": figure}, jobs, every.infer_objects())


def publish(found: Findings, folder: Path, uri: str, subject: Subject = SUBJECT) -> report.Links:
    """As a study does: its files first."""
    files.write_findings(found, folder, subject.title)
    return report.publish(found, folder, uri, "ctr", subject)
