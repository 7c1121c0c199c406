"""A ready-made view of a study's runs in MLflow: charts, grouping and filter, opened by a link.

MLflow's interface keeps such a view ("Save as new view") as a tag of the experiment. Its content is not
documented: this module writes what the interface of MLflow 3.17 saves and loads, a name and times around a compressed
state. A test looks at the charts in a browser. Other versions get no such view, and a warning.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ctr.report.subject import SHOWN, Subject, tag

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SUPPORTED = ("3.17",)  # major and minor versions of MLflow whose interface is known to open the view
TAG = "mlflow.sharedViewState."
BEFORE_SEEDS = "-"  # in place of a seed: before all digits, so that MLflow loads such a run among the first
OVERVIEW = "all-runs"  # the key of the view of all training runs

log = logging.getLogger("ctr")


def create(client: MlflowClient, experiment_id: str, subject: Subject, rates: bool = True) -> str:
    """Writes the view of a study, in place of an earlier one; returns its `address`.

    With an MLflow other than `SUPPORTED` nothing is written, and a warning says so.

    Args:
        rates: whether the study compares feature rates, and not learning rates alone.
    """
    import mlflow

    if _supported():
        _write(client, experiment_id, subject.key, subject.title, state(subject, rates))
    else:
        log.warning(
            "MLflow %s: the ready-made dashboard is made for %s only; the link shows the study's runs without it",
            mlflow.__version__,
            ", ".join(SUPPORTED),
        )
    return address(experiment_id, subject.key)


def create_overview(client: MlflowClient, experiment_id: str) -> str:
    """Writes the view of all training runs, unless an MLflow other than `SUPPORTED` is installed; returns its place."""
    if _supported():
        _write(client, experiment_id, OVERVIEW, "All training runs", overview())
    return f"{_runs(experiment_id)}&compareRunsMode=CHART" + (f"&viewStateShareKey={OVERVIEW}" if _supported() else "")


def _write(client: MlflowClient, experiment_id: str, key: str, name: str, view: dict[str, Any]) -> None:
    now = int(time.time() * 1000)
    compressed = base64.b64encode(zlib.compress(json.dumps(view).encode())).decode()
    envelope = {"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{compressed}"}
    client.set_experiment_tag(experiment_id, TAG + key, json.dumps(envelope))


def address(experiment_id: str, key: str) -> str:
    """Where a study's view is, relative to the server's root; with an MLflow other than `SUPPORTED`, the study's runs
    in the charts that MLflow chooses."""
    runs = f"{_runs(experiment_id)}&compareRunsMode=CHART"
    if _supported():
        return f"{runs}&viewStateShareKey={quote(key)}"
    return f"{runs}&searchFilter={quote(run_filter(key))}"


def _runs(experiment_id: str) -> str:
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def _supported() -> bool:
    import mlflow

    return ".".join(mlflow.__version__.split(".")[:2]) in SUPPORTED


def run_filter(key: str) -> str:
    """The runs that are points of the study's figures. The interface draws at most the first 100 that it finds."""
    return f"tags.`{tag(key)}` = '{SHOWN}'"


def coordinates(params: Mapping[str, str]) -> dict[str, float]:
    """Metrics to add to a run, as MLflow's parallel coordinates omit a run that lacks one. Plain optimizers have no
    lambda21 and unpruned ones no fine-tuning; both count as 0. MLflow's scatter plots have no log axis."""
    return {
        "lambda21": float(params.get("opt.lambda21", 0)),
        "finetune": float(params.get("prune.finetune", 0)),
        "log10_lr": math.log10(float(params["opt.lr"])),
    }


def state(subject: Subject, rates: bool = True) -> dict[str, Any]:
    """The state of the interface: the runs in groups and colours of their method, sorted by seed, so that the first 100
    include some of every cell. AUC against log10 of the feature rate or of the learning rate, and what led to it."""
    what = "log10_feature_rate" if rates else "log10_lr"
    axes = {key: {"key": key, "type": "METRIC"} for key in (what, "auc")}
    scatter = {"type": "SCATTER", "xaxis": axes[what], "yaxis": axes["auc"]}
    # Like the scatter plot of the runs that kept a feature: 0 has no logarithm. Axes of texts would be cut.
    metrics = ["log10_lr", "lambda21", "finetune", "log10_feature_rate", "auc"] if rates else ["log10_lr", "auc"]
    parallel = {"type": "PARALLEL", "selectedParams": [], "selectedMetrics": metrics, "showAllRuns": True}
    return {
        **_charts({subject.title: [scatter], "From the settings to the AUC": [parallel]}, columns=1),
        "searchFilter": run_filter(subject.key),
        "orderByKey": "params.`seed`",
        "orderByAsc": True,
        **_columns(metrics=["lambda21", "finetune"], params=["opt.lr", "seed"]),
        # The list is folded by method; the charts show the single runs. Legends begin with the list's last runs: those
        # that name the methods, which have no tag to be grouped by.
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "method"}]},
        "groupsExpanded": {"tag.method": True},
        "useGroupedValuesInCharts": False,
    }


def overview() -> dict[str, Any]:
    """The state of the interface for all training runs: their training curves, and in the list what they reached."""
    line = {"type": "LINE", "xAxisKey": "step", "scaleType": "linear", "lineSmoothness": 0, "range": {}}
    curves = [
        {**line, "metricKey": key, "selectedMetricKeys": [key]}
        for key in ("train/auc", "train/loss", "train/rows_per_second")
    ]
    return {
        **_charts({"While training": curves}, columns=2),
        "searchFilter": "tags.`opt` != ''",  # no reports
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        **_columns(metrics=["logloss"], params=["opt.lr", "seed"]),
    }


def _columns(metrics: Sequence[str], params: Sequence[str]) -> dict[str, Any]:
    """Columns of the list of runs, and their widths in pixels: AUC and feature rate beside the name, then these."""
    name = "attributes.`Run Name`"  # always there
    widths = {
        **{f"metrics.`{metric}`": 95 for metric in ("auc", "feature_rate")},
        "attributes.`Dataset`": 190,
        "attributes.`Source`": 80,
        **{f"metrics.`{metric}`": 85 for metric in metrics},
        **{f"params.`{param}`": 70 for param in params},
    }
    return {"selectedColumns": [*widths], "columnOrder": [name, *widths], "columnWidths": {name: 330, **widths}}


def _charts(sections: Mapping[str, list[dict[str, Any]]], columns: int) -> dict[str, Any]:
    """Charts by the name of their section, for all runs, in this order; MLflow's own charts of each metric are folded
    away."""
    shown = {"runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    charts = [{**chart, "metricSectionId": section} for section, inside in sections.items() for chart in inside]
    looks = [
        *({"uuid": name, "name": name, "display": True, "columns": columns, "cardHeight": 400} for name in sections),
        {"uuid": "metrics", "name": "Model metrics", "display": False},  # MLflow adds a chart per metric to this one
    ]
    return {
        "runsHiddenMode": "SHOW_ALL",  # else the first ten
        "compareRunCharts": [{"uuid": f"chart{i}", **chart, **shown} for i, chart in enumerate(charts)],
        "compareRunSections": [{**one, "isReordered": False, "deleted": False, "isGenerated": False} for one in looks],
        "isAccordionReordered": True,  # keep this order
        "hideEmptyCharts": True,
    }
