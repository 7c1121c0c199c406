"""The life of an embedding row, for docs/how-it-works.md: trains a small click model with Group Adam once for each
lambda21 and notes, at every touch of a few rows, their score ||s|| / sqrt(d) and their norm ||x||.

    python scripts/row_life.py        writes docs/_static/row-life-data.js and docs/images/row-life.png
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ctr.cli import run_command
from ctr.files import atomic_write_text
from ctr.optim import GroupAdam, zero_rows
from ctr.optim.shrinkage import scores

ROOT = Path(__file__).parents[1]
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
STEPS, BATCH, DIM, LR = 600, 64, 4, 0.02
BIAS = -1.0  # of the stream, and where the net's begins
CHANGE = 300  # the step from which on the last of the chosen rows matters


@dataclass(frozen=True)
class Chosen:
    """A row that the page shows: in which share of the impressions its value is, and what that adds to the logit."""

    name: str
    share: float
    effect: float
    since: int = 0  # step from which on it has the effect


CHOSEN = (
    Chosen("frequent and useful", 0.3, 1.5),
    Chosen("rare and useful", 0.005, 3.0),
    Chosen("frequent noise", 0.3, 0.0),
    Chosen("rare noise", 0.005, 0.0),
    Chosen("useful only later", 0.04, 2.5, CHANGE),
)


@dataclass(frozen=True)
class Problem:
    """A stream of impressions with 60 values, of which each has several.

    Attributes:
        table, out: float64 [60, 4] and [4], initial weights.
        present: bool [steps, batch, 60].
        clicks: float64 [steps, batch].
    """

    table: np.ndarray
    out: np.ndarray
    present: np.ndarray
    clicks: np.ndarray


def problem(seed: int = 1) -> Problem:
    """Draws the stream; the values behind the chosen ones are noise, but for every eighth."""
    rng = np.random.default_rng(seed)
    others = 60 - len(CHOSEN)
    share = np.concatenate([[row.share for row in CHOSEN], 0.3 / np.arange(1, others + 1)])
    effect = np.concatenate([[row.effect for row in CHOSEN], np.where(np.arange(others) % 8 == 7, 1.5, 0.0)])
    since = np.concatenate([[row.since for row in CHOSEN], np.zeros(others)])
    present = rng.random((STEPS, BATCH, len(share))) < share
    effects = effect * (np.arange(STEPS)[:, None] >= since)
    logits = BIAS + np.einsum("tbn,tn->tb", present, effects)
    clicks = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    return Problem(rng.uniform(-0.01, 0.01, (len(share), DIM)), rng.normal(0, 0.5, DIM), present, clicks)


def life(stream: Problem, lambda21: float) -> dict[str, Any]:
    """One training run: for each chosen row its scores and norms after each of its touches, and what the run kept."""
    table = nn.EmbeddingBag(*stream.table.shape, mode="sum", sparse=True, dtype=torch.float64)
    out = nn.Linear(DIM, 1, dtype=torch.float64)
    with torch.no_grad():
        table.weight.copy_(torch.from_numpy(stream.table))
        out.weight.copy_(torch.from_numpy(stream.out))
        out.bias.fill_(BIAS)
    torch.set_num_threads(1)
    opt = GroupAdam(table.parameters(), lr=LR, lambda21=lambda21)
    net = torch.optim.Adam(out.parameters(), lr=LR)
    rows: list[dict[str, list[float]]] = [{"score": [], "norm": []} for _ in CHOSEN]
    losses = []
    for present, clicks in zip(stream.present, stream.clicks, strict=True):
        ids = torch.from_numpy(present.nonzero()[1])
        starts = torch.from_numpy(np.concatenate([[0], np.cumsum(present.sum(1))[:-1]]))
        logits = out(table(ids, starts)).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(clicks))
        for each in (opt, net):
            each.zero_grad()
        loss.backward()
        for each in (opt, net):
            each.step()
        losses.append(loss.item())
        ((x, u, _, stored),) = opt.stored_rows(table.weight)
        D = stored(None)
        score = scores(u - D * x, D, opt.param_groups[0]).flatten() / math.sqrt(DIM)
        for i in np.flatnonzero(present[:, : len(CHOSEN)].any(0)):
            rows[i]["score"].append(float(f"{score[i]:.4g}"))
            rows[i]["norm"].append(float(f"{torch.linalg.vector_norm(x[i]):.4g}"))
    return {
        "lambda21": lambda21,
        "rows": rows,
        "alive": int((~zero_rows(table.weight)).sum()),
        "loss": round(float(np.mean(losses[STEPS // 2 :])), 4),
    }


def lives() -> dict[str, Any]:
    """What the page shows: the rows with the steps (from 1) at which batches hold them, and a run per lambda21."""
    stream = problem()
    touched = stream.present.any(1)
    rows = [
        {"name": row.name, "share": row.share, "steps": (np.flatnonzero(touched[:, i]) + 1).tolist()}
        for i, row in enumerate(CHOSEN)
    ]
    runs = [life(stream, lambda21) for lambda21 in LAMBDAS]
    return {"steps": STEPS, "change": CHANGE, "features": len(stream.table), "rows": rows, "runs": runs}


def still(found: dict[str, Any], path: Path, lambda21: float = 0.2) -> None:
    """A picture of all rows' scores and norms at one lambda21, for readers without JavaScript."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    (run,) = (run for run in found["runs"] if run["lambda21"] == lambda21)
    figure, axes = pyplot.subplots(2, len(CHOSEN), figsize=(14, 5), sharex=True, layout="constrained")
    for place, (row, values) in enumerate(zip(found["rows"], run["rows"], strict=True)):
        score, norm = axes[:, place]
        score.step(row["steps"], values["score"], where="post")
        score.axhline(lambda21, color="tab:red", linestyle="--")
        norm.step(row["steps"], values["norm"], where="post")
        dead = np.array(values["norm"]) == 0
        for axis in (score, norm):
            axis.fill_between(
                row["steps"],
                0,
                1,
                where=dead,
                step="post",
                alpha=0.2,
                color="gray",
                transform=axis.get_xaxis_transform(),
            )
            axis.set_ylim(bottom=0)
        score.set_title(row["name"])
        norm.set_xlabel("step")
    axes[0, 0].set_ylabel("score, threshold (dashed)")
    axes[1, 0].set_ylabel("||x||")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of _static and images (docs)")
    out = parser.parse_args().out
    found = lives()
    text = json.dumps(found, separators=(",", ":"))
    # A script and not JSON: a page that is opened from a disk may not fetch files.
    atomic_write_text(out / "_static" / "row-life-data.js", f"// by scripts/row_life.py\nconst ROW_LIFE = {text};\n")
    still(found, out / "images" / "row-life.png")


if __name__ == "__main__":
    run_command(main)
