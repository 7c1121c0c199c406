"""A ready-made view of a study's runs in MLflow: charts, grouping and filter, opened by a link.

MLflow's interface keeps such a view ("Save as new view") as a tag of the experiment. Its content is not
documented: this module writes what the interface of MLflow 3.17 saves and loads, a name and times around a compressed
state. A test looks at the charts in a browser. Other versions get no such view, and a warning.
"""

from __future__ import annotations

import base64
import json
import logging
import time
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ctr.report.subject import SHOWN, Subject, tag

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SUPPORTED = ("3.17",)  # major and minor versions of MLflow whose interface is known to open the view
TAG = "mlflow.sharedViewState."

log = logging.getLogger("ctr")


def create(client: MlflowClient, experiment_id: str, subject: Subject) -> str:
    """Writes the view of a study, in place of an earlier one; returns its `address`.

    With an MLflow other than `SUPPORTED` nothing is written, and a warning says so.
    """
    import mlflow

    if not _supported():
        log.warning(
            "MLflow %s: the ready-made dashboard is made for %s only; the link shows the study's runs without it",
            mlflow.__version__,
            ", ".join(SUPPORTED),
        )
        return address(experiment_id, subject.key)
    now = int(time.time() * 1000)
    compressed = base64.b64encode(zlib.compress(json.dumps(state(subject)).encode())).decode()
    envelope = {"name": subject.title, "createdAt": now, "updatedAt": now, "state": f"deflate;{compressed}"}
    client.set_experiment_tag(experiment_id, TAG + subject.key, json.dumps(envelope))
    return address(experiment_id, subject.key)


def address(experiment_id: str, key: str) -> str:
    """Where a study's view is, relative to the server's root; with an MLflow other than `SUPPORTED`, the study's runs
    in the charts that MLflow chooses."""
    runs = f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"
    if _supported():
        return f"{runs}&viewStateShareKey={quote(key)}"
    return f"{runs}&searchFilter={quote(run_filter(key))}"


def _supported() -> bool:
    import mlflow

    return ".".join(mlflow.__version__.split(".")[:2]) in SUPPORTED


def run_filter(key: str) -> str:
    """The runs that are points of the study's figures. The interface draws at most the first 100 that it finds."""
    return f"tags.`{tag(key)}` = '{SHOWN}'"


def coordinates(params: Mapping[str, str]) -> dict[str, float]:
    """Metrics to add to a run, as MLflow's parallel coordinates omit a run that lacks one. Plain optimizers have
    no lambda21 and unpruned ones no fine-tuning; both count as 0."""
    return {"lambda21": float(params.get("opt.lambda21", 0)), "finetune": float(params.get("prune.finetune", 0))}


def state(subject: Subject) -> dict[str, Any]:
    """The state of the interface: the runs in the colour of their method, sorted by seed, so that the first 100 include
    some of every cell."""
    rate = {"key": "log10_feature_rate", "type": "METRIC"}
    auc = {"key": "auc", "type": "METRIC"}
    charts: list[dict[str, Any]] = [
        {"type": "SCATTER", "xaxis": rate, "yaxis": auc},
        {  # like the scatter of the runs that kept a feature: 0 has no logarithm
            "type": "PARALLEL",
            "selectedParams": ["opt.name", "prune.name"],
            "selectedMetrics": ["lambda21", "log10_feature_rate", "auc"],
            "showAllRuns": True,
        },
        {
            "type": "PARALLEL",
            "selectedParams": ["opt.name", "opt.lr", "seed"],
            "selectedMetrics": ["finetune", "feature_rate", "auc"],
            "showAllRuns": True,
        },
    ]
    shown = {"metricSectionId": "study", "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    sections = [
        {"uuid": "study", "name": subject.title, "display": True, "columns": 2, "cardHeight": 480},
        {"uuid": "metrics", "name": "Model metrics", "display": False},  # MLflow adds a chart per metric to this one
    ]
    return {
        "searchFilter": run_filter(subject.key),
        "orderByKey": "params.`seed`",
        "orderByAsc": True,
        "selectedColumns": [
            *(f"tags.`{name}`" for name in ("method", "seed")),
            "params.`opt.lr`",
            *(f"metrics.`{name}`" for name in ("auc", "feature_rate", "lambda21", "finetune")),
        ],
        "runsHiddenMode": "SHOW_ALL",  # else the first ten
        "compareRunCharts": [{"uuid": f"chart{i}", **chart, **shown} for i, chart in enumerate(charts)],
        "compareRunSections": [
            {**section, "isReordered": False, "deleted": False, "isGenerated": False} for section in sections
        ],
        "isAccordionReordered": True,  # keep this order
        # The list is folded by optimizer, and by how its features are selected; the charts show the single runs.
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "opt.name"}, {"mode": "tag", "groupByData": "method"}],
        },
        "useGroupedValuesInCharts": False,
        "hideEmptyCharts": True,
    }
