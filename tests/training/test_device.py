"""Runs on another device than the CPU: what they compute is what the CPU computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ctr
from ctr.api.classifier import SparseCTRClassifier
from ctr.models import DCN, MLP, OPNN, FeatureEmbedding
from ctr.training.optimizers import make_optimizers
from ctr.training.sharded import ShardedStep
from ctr.training.sharded_table import ShardedEmbedding
from ctr.training.step import TorchStep
from tests.api.shop import OPTIONS, TRAIN, frame
from tests.datasets.criteo_text import lines
from tests.models.test_pooling import LISTS, bags
from tests.other_device import OTHER
from tests.training.checkpoints import figures, go, stopped
from tests.training.runs import magnitude, run_one
from tests.training.test_compiled_net import batches
from tests.training.workers import lonely

pytestmark = pytest.mark.filterwarnings(
    "ignore:for .* copying from a non-meta parameter"
)  # which it does, all the same
SMALL = ["model.hidden=[8]", "backend=torch", "opt.lr=0.01"]
BUDGET = ["model=dcn", "opt.budget=100", "opt.budget_schedule=linear", "average=0.3", "progressive=true"]
RUNS = {
    "lambdas": ["model=mlp", "opt=group_adagrad", "opt.lambda21=1e-3", "opt.lambda_schedule=cubic"],
    "retraining": ["model=dcn", "opt=adam", *magnitude(0.5, score="count"), "retrain=true"],
    "fine-tuning": ["model=dcn", "opt=adam", *magnitude(0.5, 0.3, score="effect")],
    "budget": [*BUDGET, "save=model", "report=true"],
    "admission": ["model=opnn", "admit=2", "save=model"],
    "rare": ["model=deepfm", "dataset.min_count=2", "dataset.unseen=row", "save=model"],
}


def expect_figures(found: dict[str, Any], expected: dict[str, Any], device: str) -> None:
    """Those of the CPU: nearly its bits where it computes them, else about."""
    for name in ("auc", "logloss", "auc_progressive", "auc_retrained", "features_nonzero"):
        if expected[name] is None:
            assert found[name] is None
        else:
            assert found[name] == pytest.approx(expected[name], rel=1e-6 if device == OTHER else 2e-2)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.slow
def test_a_run_is_that_of_the_cpu(name: str, elsewhere: str, tmp_path: Path) -> None:
    """Saving compares the logits of the run with those of the saved model, on the CPU."""
    there, here = (run_one(tmp_path, *SMALL, *RUNS[name], f"device={device}") for device in (elsewhere, "cpu"))
    expect_figures(there, here, elsewhere)


@pytest.mark.parametrize("first", ["cpu", "elsewhere"])
def test_a_stopped_run_goes_on(first: str, elsewhere: str, tmp_path: Path) -> None:
    """Also one that began on the CPU."""
    keys = [*SMALL, *BUDGET, "checkpoint.every_steps=2"]
    whole = go(tmp_path, tmp_path / "whole", *keys)
    there = [*keys, f"device={elsewhere}"]
    stopped(tmp_path, tmp_path / "run", 6, *(keys if first == "cpu" else there))
    again = go(tmp_path, tmp_path / "run", *there, resume=True)
    expect_figures(figures(again), figures(whole), elsewhere)


def test_a_run_goes_on_with_a_known_model_and_its_state(elsewhere: str, tmp_path: Path) -> None:
    keys = ["model=dcn", *SMALL, "opt.lambda21=1e-3"]
    go(tmp_path, tmp_path / "known", *keys, "checkpoint.final=true")
    found = [
        figures(go(tmp_path, tmp_path / device, *keys, f"init={tmp_path / 'known'}", f"device={device}"))
        for device in (elsewhere, "cpu")
    ]
    expect_figures(found[0], found[1], elsewhere)


def test_its_saved_model_predicts_on_the_cpu(elsewhere: str, tmp_path: Path) -> None:
    run_one(tmp_path, *SMALL, "model=dcn", "save=model", f"device={elsewhere}")
    model = ctr.load(tmp_path / "family-0" / "model", backend="torch")
    model.check_golden()  # the logits that the run computed there
    p = model.predict(lines(20))
    assert p.std() > 0
    assert model.rows.device == torch.device("cpu")


@pytest.mark.slow
def test_the_estimator_trains_there(elsewhere: str) -> None:
    logits = []
    for device in (elsewhere, "cpu"):
        model = SparseCTRClassifier(**OPTIONS, backend="torch", device=device).fit(*frame(0, TRAIN // 2))
        model.partial_fit(*frame(TRAIN // 2, TRAIN))
        logits.append(model.decision_function(frame(TRAIN)[0]))
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-3)


def trained(device: str, opt: str, model: Any = None) -> dict[str, Tensor]:
    """The state of a model after some batches, on the CPU again."""
    torch.manual_seed(0)
    model = model or OPNN(60, 4, 2, hidden=(8,), embedding=FeatureEmbedding(60, 3))
    step = TorchStep(model.to(device), *make_optimizers(model, opt, {"lr": 0.01}))
    for batch in batches(4):
        step.train(batch)
        step.predict(batch)
    step.apply_threshold_()
    return {name: value.cpu() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("opt", ["group_adahessian", "group_adaembed", "momentum"])
def test_a_step_of_other_optimizers(opt: str, elsewhere: str) -> None:
    here, there = trained("cpu", opt), trained(elsewhere, opt)
    for name, value in here.items():
        torch.testing.assert_close(there[name], value, rtol=1e-3, atol=1e-4)


def test_bags_of_ids(elsewhere: str) -> None:
    found = []
    for device in ("cpu", elsewhere):
        torch.manual_seed(0)
        model = MLP(6, 2, hidden=(4,), embedding=FeatureEmbedding(6, 3, pool="mean", init_scale=1)).to(device)
        found.append(model(bags(LISTS).to(device), None).cpu())
    torch.testing.assert_close(found[1], found[0])


def test_a_worker_s_share_of_the_rows(elsewhere: str) -> None:
    found = []
    for device in ("cpu", elsewhere):
        torch.manual_seed(0)
        embedding = ShardedEmbedding(lonely(), 60, 3)
        model = DCN(60, 4, 2, hidden=(5,), embedding=embedding).to(device)
        step = ShardedStep(model, *make_optimizers(model, "group_adam", {"lr": 0.01}), 3, compiled=False)
        outs = [part for batch in batches(3) for part in (step.train(batch)[0], step.predict(batch))]
        found.append([*outs, *(value.cpu() for value in model.state_dict().values())])
    for there, here in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
