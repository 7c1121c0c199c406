"""Workers of one run that leave a model to go on with, and go on with one: `checkpoint.final=true` and `init=`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist

from ctr.artifact.init import find
from ctr.optim import GroupAdam
from ctr.training.checkpoint import read
from ctr.training.continuing import take_over_
from ctr.training.history import History
from ctr.training.known import Known
from ctr.training.sharded_table import ShardedEmbedding
from ctr.training.trainer import TrainingRun
from tests.datasets.criteo_text import lines, write
from tests.training.runs import equal
from tests.training.workers import alone_in, expect_near, expect_same, group, run, together

KEPT = ["checkpoint.final=true", "dataset.test_fraction=0", "opt.lambda21=1e-3", "opt.lr=0.01", "progressive=true"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a log of whole batches, of the one after it, and of both as one."""
    root, made = tmp_path_factory.mktemp("logs"), {"today": lines(192), "tomorrow": lines(100, seed=1)}
    for name, its in {**made, "both": made["today"] + made["tomorrow"]}.items():
        (root / name).mkdir()
        write(root / name / "train.txt", its)
    return {name: root / name for name in (*made, "both")}


def test_a_worker_goes_on_with_the_model_that_it_has_left(logs: dict[str, Path], tmp_path: Path) -> None:
    alone = alone_in(tmp_path)
    both = run(alone, logs["both"], tmp_path / "both", *KEPT)
    run(alone, logs["today"], tmp_path / "today", *KEPT)
    found = run(alone, logs["tomorrow"], tmp_path / "tomorrow", *KEPT, f"init={tmp_path / 'today'}")
    dist.destroy_process_group()
    expect_same_model(found, both)
    assert (found["result"]["logs"], both["result"]["logs"]) == (2, 1)
    parts = [read(tmp_path / name / "checkpoints" / "final")["parts"] for name in ("tomorrow", "both")]
    assert [*parts[0]] == ["rows-0.safetensors"]
    assert parts[0] == parts[1]  # of the same rows


def test_the_rows_of_all_workers_tell_a_known_model_from_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = {"description": {}, "options": {}, "transforms": [], "opt": "group_adam"}
    found = []
    for parts in ({"rows-0": [{"xxh3": "1"}]}, {"rows-0": [{"xxh3": "2"}]}):
        manifest = {"blocks": [{"xxh3": "0"}], "known": known, "parts": parts}
        monkeypatch.setattr("ctr.training.checkpoint.read", lambda path, manifest=manifest: manifest)
        (tmp_path / "checkpoints" / "final").mkdir(parents=True, exist_ok=True)
        found.append(find(tmp_path).identity)
    assert len({*found}) == 2


@pytest.mark.slow
def test_other_workers_go_on_with_a_model_as_one_run_over_both_logs(logs: dict[str, Path], tmp_path: Path) -> None:
    """Two leave it, three go on with it, and one process goes on with what they leave."""
    for size, log, more in (2, "today", []), (3, "tomorrow", [f"init={tmp_path / 'today'}"]):
        (found, *_) = together(tmp_path, size, run, logs[log], tmp_path / log, *KEPT, *more)
    (both, *_) = together(tmp_path, 2, run, logs["both"], tmp_path / "both", *KEPT)
    expect_same_model(found, both)
    ends = [
        run(None, logs["today"], tmp_path / f"after-{log}", *KEPT, "backend=torch", f"init={tmp_path / log}")
        for log in ("tomorrow", "both")
    ]
    expect_same_model(*ends)


@pytest.mark.slow
def test_workers_go_on_with_a_model_of_one_process(logs: dict[str, Path], tmp_path: Path) -> None:
    """Within a budget too, whose histograms begin with the known rows."""
    budget = [*KEPT, "opt.lambda21=0", "opt.budget=0.5"]
    run(None, logs["today"], tmp_path / "today", *budget, "backend=torch")
    line = [*budget, f"init={tmp_path / 'today'}"]
    expected = run(None, logs["tomorrow"], tmp_path / "alone", *line, "backend=torch")
    two, three = (together(tmp_path, size, run, logs["tomorrow"], tmp_path / str(size), *line)[0] for size in (2, 3))
    expect_same(two, three)
    expect_near(two, expected)


def expect_same_model(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in expected.keys() - {"shard", "result", "lambda21", "norms"}:
        assert equal(found[name], expected[name]), name
    assert (
        found["norms"]["after"] == expected["norms"]["after"]
    )  # before is the known model in one, new rows in the other


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_worker_takes_over_its_rows_of_a_known_model(size: int) -> None:
    """The known rows come in any order; those after them keep their initial values."""
    order, seen = torch.randperm(7, generator=torch.Generator().manual_seed(2)), torch.arange(7) % 3 > 0
    rows = {name: torch.randn(7, 4) for name in ("weight", "u", "m", "v")}
    moments = {"row_optimizer": {"state": {0: {"step": 5, "seen": seen.unsqueeze(1)}}}, "net_optimizer": {"state": {}}}

    def pieces() -> Any:
        for ids in order.split(3):
            yield ids, {name: values[ids] for name, values in rows.items()}

    known = Known(None, History.none(), seen, pieces, {}, moments)
    for rank in range(size):
        embedding = ShardedEmbedding(group(rank, size), 11, 4, generator=torch.Generator().manual_seed(1))
        initial, mine = embedding.weight.detach().clone(), torch.arange(rank, 11, size)
        optimizer = GroupAdam(embedding.parameters())
        model = SimpleNamespace(embedding=embedding, state_dict=dict)
        learner = _Learner(optimizer)
        take_over_(cast(TrainingRun, SimpleNamespace(model=model, learner=learner, schedule=None)), known)
        old = mine[mine < 7]
        assert torch.equal(embedding.weight, torch.cat([rows["weight"][old], initial[len(old) :]]))
        state = learner.loaded["row_optimizer"]["state"][0]
        for name in ("u", "m", "v"):
            assert torch.equal(state[name][: len(old)], rows[name][old])
        for flags in (embedding.seen, state["seen"].squeeze(1)):
            assert torch.equal(flags, torch.cat([seen[old], torch.zeros(len(mine) - len(old), dtype=torch.bool)]))
        assert state["step"] == 5


class _Learner:
    """Rows without a net; keeps what is loaded."""

    def __init__(self, optimizer: GroupAdam) -> None:
        self.row_optimizer, self.loaded = optimizer, {}

    def state_dict(self) -> dict[str, Any]:
        return {"row_optimizer": {"param_groups": []}, "net_optimizer": {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state
