"""Runs of several workers: the same bits for any number of them, those of one process within rounding."""

import json
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import nn

from ctr.config import workers
from ctr.config.compose import resolve
from ctr.datasets.stream import Batch
from ctr.errors import ArgumentError, CtrError, DataError
from ctr.files import read_sealed
from ctr.models import MLP, FeatureEmbedding
from ctr.training import distributed, processes
from ctr.training.asking import Cut
from ctr.training.checkpoint import complete, read, whole
from ctr.training.compiled_net import CompiledNet
from ctr.training.distributed import Group, WorkerLost
from ctr.training.optimizers import make_optimizers
from ctr.training.settings import Settings
from ctr.training.sharded import ShardedStep, _Slice
from ctr.training.sharded_table import ShardedEmbedding
from tests.datasets.criteo_text import lines, write
from tests.training.runs import configuration, equal, magnitude
from tests.training.test_compiled_net import DIM, FEATURES, WIDTH, Net, batches
from tests.training.workers import alone_in, expect_near, expect_same, group, lonely, run, runs, together

EVERY = "checkpoint.every_steps=2"
# 342 rows in 11 batches of 32, of which 12 slices have two rows or three
RUNS = {
    "dcn": ["opt.lambda21=1e-3", "opt.lambda_schedule=cubic", "retrain=true", EVERY],
    "mlp": [
        *("model=mlp", "opt=adam", *magnitude(0.2, 0.4), "average=0.5", "progressive=true", "opt.lr=1e-3", EVERY),
        *("admit=3", "dataset.unseen=row"),
    ],
    "opnn": ["model=opnn", "model.hidden=[40,8]", "opt=group_adagrad", "opt.lr=1e-2", "opt.budget=0.3", EVERY],
    "adahessian": ["model=mlp", "opt=group_adahessian", "opt.lr=1e-2", "opt.lambda21=1e-4", "opt.eps=0.1", "slices=5"],
    "adaembed": [
        *("opt=group_adaembed", "opt.importance=share", "opt.features=60", "opt.every=3", "opt.lr=1e-3", EVERY),
    ],
    "count": ["opt=adam", "opt.lr=1e-3", *magnitude(0.2, 0.3, "count"), "slices=5", "epochs=2"],
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log."""
    folder = tmp_path_factory.mktemp("log")
    write(folder / "train.txt", lines(400))
    return folder


@pytest.fixture(scope="module")
def pair(log: Path) -> list[dict[str, Any]]:
    """One of the runs, of two workers."""
    return together(log, 2, runs, log, log / "pair", {"dcn": RUNS["dcn"]})


@pytest.fixture(scope="module")
def two(log: Path, pair: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All runs, of two workers."""
    others = together(log, 2, runs, log, log / "two", {name: RUNS[name] for name in RUNS if name != "dcn"})
    return [{**one, **more} for one, more in zip(pair, others, strict=True)]


def test_two_workers_train_what_one_process_does(log: Path, pair: list[Any]) -> None:
    expect_near(pair[0]["dcn"], run(None, log, log / "alone", *RUNS["dcn"], "backend=torch"))


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_run_of_two_workers_is_that_of_one_process(name: str, log: Path, two: list[Any]) -> None:
    expect_near(two[0][name], run(None, log, log / f"alone-{name}", *RUNS[name], "backend=torch"))


def test_each_worker_holds_its_share_of_the_rows(pair: list[Any]) -> None:
    rows = pair[0]["dcn"]["result"]["table_rows"]
    assert [its["dcn"]["shard"] for its in pair] == [-(-rows // 2), rows // 2]
    assert len(pair[0]["dcn"]["weight"]) == rows
    assert len(pair[1]["dcn"]["weight"]) == 0  # only the first one saves


def test_workers_end_with_the_same_net(pair: list[Any]) -> None:
    for part in ("net", "state", "steps"):
        assert equal(pair[0]["dcn"][part], pair[1]["dcn"][part])


def test_only_the_first_worker_writes(log: Path, pair: list[Any]) -> None:
    folder = log / "pair" / "dcn"
    assert json.loads((folder / "result.json").read_text())["auc"] == pair[0]["dcn"]["result"]["auc"]
    assert sorted(path.name for path in folder.iterdir()) == [".hydra", ".lock", "result.json"]
    assert "2 workers of 1 thread" in pair[0]["dcn"]["result"]["machine"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 4])
def test_any_number_of_workers_gives_the_same_bits(size: int, log: Path, two: list[Any], tmp_path: Path) -> None:
    found = together(tmp_path, size, runs, log, tmp_path, RUNS)
    for name in RUNS:
        expect_same(found[0][name], two[0][name])


# Any number of workers gives the same bits, but one process others: gradients of slices in bfloat16, and compiled code.
ONLY_BITS = {
    "bfloat16": ["model=opnn", "model.hidden=[40,8]", "precision=bfloat16", "opt.lambda21=1e-3"],
    "compiled": ["model=mlp", "model.hidden=[8]", "slices=4", "opt.lambda21=1e-3", "compile=true"],
}


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bits_in_bfloat16_and_compiled(
    log: Path, two: list[Any], tmp_path: Path
) -> None:
    of_two, of_three = (together(tmp_path, size, runs, log, tmp_path / str(size), ONLY_BITS) for size in (2, 3))
    for name in ONLY_BITS:
        expect_same(of_three[0][name], of_two[0][name])
    expect_near(of_two[0]["compiled"], run(None, log, tmp_path / "alone", *ONLY_BITS["compiled"], "compile=false"))
    assert of_two[0]["bfloat16"]["result"]["logloss"] == pytest.approx(two[0]["opnn"]["result"]["logloss"], rel=0.05)


@pytest.mark.usefixtures("eager_pass")
def test_slices_are_passes_of_a_compiled_net(log: Path, pair: list[dict[str, Any]], tmp_path: Path) -> None:
    found = run(alone_in(tmp_path), log, tmp_path / "dcn", *RUNS["dcn"], "compile=true")
    dist.destroy_process_group()
    expect_near(found, pair[0]["dcn"])


@pytest.mark.usefixtures("eager_pass")
def test_the_bits_of_a_compiled_slice_do_not_depend_on_which_others_its_worker_has() -> None:
    """Matrix products round by where their memory begins: rows of 23 x 6 numbers begin anywhere within a line."""
    torch.manual_seed(0)
    model = MLP(50, 23, 0, hidden=(8,), embedding=ShardedEmbedding(lonely(), 50, 6))
    step = ShardedStep(model, *make_optimizers(model, "group_adam", {"lr": 0.01}), 6, compiled=False)
    batch = Batch(torch.randint(0, 50, (512, 23), dtype=torch.int32), None, torch.rand(512).round())
    net, rows = CompiledNet(model, step._net, batch, 1, Cut.of(512, 6, group(0, 1)).sizes), torch.randn(512, 23, 6)

    def slices(size: int, rank: int) -> list[Any]:
        cut, parts = Cut.of(512, 6, group(rank, size)), []
        for start, stop in cut.mine:
            looked_up = rows[start:stop].flatten(0, 1).clone().requires_grad_()
            parts.append(_Slice(slice(start, stop), torch.empty(0), looked_up, looked_up.view(-1, 23, 6)))
        return step._in_compiled_code(net, batch, cut, parts)

    whole = slices(1, 0)
    for size in (2, 3):
        split = [found for rank in range(size) for found in slices(size, rank)]
        for ours, theirs in zip(split, whole, strict=True):
            assert all(torch.equal(a, b) for a, b in zip([*ours[:3], *ours[3]], [*theirs[:3], *theirs[3]], strict=True))


STOPPED = {name: overrides for name, overrides in RUNS.items() if EVERY in overrides}


@pytest.fixture(scope="module")
def stopped(log: Path) -> Path:
    """The folder of runs of two workers that were stopped at step 9, in the fine-tuning of the pruned one."""
    together(log, 2, runs, log, log / "stopped", STOPPED, stop=9 * 32)
    return log / "stopped"


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_another_number_of_workers_goes_on_from_a_checkpoint(
    size: int, log: Path, two: list[Any], stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    for name in STOPPED:
        (newest, *_) = complete(tmp_path / name / "checkpoints")
        assert read(newest)["steps"] == 8
        assert len([*newest.glob("rows-*.safetensors")]) == 2
    found = together(tmp_path, size, runs, log, tmp_path, STOPPED, resume=True)
    for name in STOPPED:
        expect_same(found[0][name], two[0][name])
        assert not (tmp_path / name / "checkpoints").exists()


@pytest.mark.slow
def test_a_damaged_shard_is_passed_over(log: Path, two: list[Any], stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "dcn", tmp_path / "dcn")
    newest, before = complete(tmp_path / "dcn" / "checkpoints")
    shard = newest / "rows-1.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match="rows-1"):
        whole(newest, read(newest))
    assert whole(before, read(before)).steps == 6
    found = together(tmp_path, 2, runs, log, tmp_path, {"dcn": RUNS["dcn"]}, resume=True)
    expect_same(found[0]["dcn"], two[0]["dcn"])


def test_a_checkpoint_of_workers_is_not_taken_up_by_one_process(log: Path, tmp_path: Path) -> None:
    run(alone_in(tmp_path), log, tmp_path / "run", *RUNS["dcn"], stop=5 * 32)
    dist.destroy_process_group()
    assert read_sealed(complete(tmp_path / "run" / "checkpoints")[0] / "manifest.json")["steps"] == 4
    with pytest.raises(CtrError, match="slices was 12, is None"):
        run(None, log, tmp_path / "run", *RUNS["dcn"], "backend=torch", resume=True)


def test_a_worker_goes_on_within_the_retraining(log: Path, pair: list[Any], tmp_path: Path) -> None:
    alone, in_retraining = alone_in(tmp_path), 400 + 5 * 32
    run(alone, log, tmp_path / "run", *RUNS["dcn"], stop=in_retraining)
    (newest, *_) = complete(tmp_path / "run" / "checkpoints" / "retrain")
    assert (read(newest)["steps"], read(newest)["phase"]) == (4, "retrain")
    found = run(alone, log, tmp_path / "run", *RUNS["dcn"], resume=True)
    dist.destroy_process_group()
    expect_same(found, without_norms(pair[0]["dcn"]))


@pytest.mark.slow
def test_other_workers_go_on_within_the_retraining(log: Path, pair: list[Any], tmp_path: Path) -> None:
    together(tmp_path, 2, run, log, tmp_path / "run", *RUNS["dcn"], stop=400 + 5 * 32)
    assert [*(tmp_path / "run" / "checkpoints" / "retrain").glob("*/rows-1.safetensors")]
    found = together(tmp_path, 3, run, log, tmp_path / "run", *RUNS["dcn"], resume=True)
    expect_same(found[0], without_norms(pair[0]["dcn"]))


def without_norms(found: dict[str, Any]) -> dict[str, Any]:
    """Those of the rows before training are not known where a run goes on behind it."""
    return {name: value for name, value in found.items() if name != "norms"}


def test_the_diagonal_of_the_hessian_is_that_of_one_process(log: Path, tmp_path: Path) -> None:
    """The same signs, summed over slices."""
    found = run(alone_in(tmp_path), log, tmp_path / "slices", *RUNS["adahessian"])
    dist.destroy_process_group()
    expect_near(found, run(None, log, tmp_path / "alone", *RUNS["adahessian"], "backend=torch"))


@pytest.mark.slow
def test_fields_of_several_values_are_pooled_slice_by_slice(tmp_path: Path) -> None:
    draw = random.Random(1)
    raw = tmp_path / "log.csv"
    rows = [
        [
            draw.randrange(2),
            f"u{draw.randrange(9)}",
            "|".join(f"t{draw.randrange(20)}" for _ in range(draw.randrange(5))),
        ]
        for _ in range(200)
    ]
    raw.write_text("\n".join(["click,user,tags", *(",".join(map(str, row)) for row in rows)]))
    line = ["dataset=csv", f"dataset.raw={raw}", f"dataset.prepared={tmp_path}/prepared", "dataset.multi=['tags:|']"]
    line += ["model=mlp", "opt.lambda21=1e-3", "batch_size=32", "tracking=none"]
    alone = run(None, None, tmp_path / "one", *line, "backend=torch")
    two, three = (together(tmp_path, size, run, None, tmp_path / str(size), *line)[0] for size in (2, 3))
    expect_near(two, alone)
    expect_same(two, three)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shards_start_with_the_values_of_a_whole_table(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctr.training.sharded_table.CHUNK", 5)
    whole = FeatureEmbedding(23, 4, generator=torch.Generator().manual_seed(1))
    for rank in range(size):
        shard = ShardedEmbedding(group(rank, size), 23, 4, generator=torch.Generator().manual_seed(1))
        ids = torch.arange(rank, 23, size)
        assert torch.equal(shard.weight, whole.weight[ids])
        assert torch.equal(shard.own(torch.arange(23)), ids)
        mine, places = shard.owned(torch.arange(23))
        assert mine is not None
        assert torch.equal(torch.arange(23)[mine], ids)
        assert torch.equal(places, torch.arange(len(ids)))


@pytest.mark.parametrize(("rows", "slices", "size"), [(4096, 12, 4), (5, 12, 3), (1000, 12, 5), (7, 1, 1)])
def test_every_row_is_in_one_slice_and_every_slice_with_one_worker(rows: int, slices: int, size: int) -> None:
    cuts = [Cut.of(rows, slices, group(rank, size)) for rank in range(size)]
    spans = [span for cut in cuts for span in cut.mine]
    assert len(spans) == slices
    assert [row for start, stop in spans for row in range(start, stop)] == list(range(rows))
    assert {stop - start for start, stop in spans} <= {rows // slices, -(-rows // slices)}
    for cut in cuts:
        assert cut.counts == [len(its.mine) for its in cuts]
        assert cut.rows == [sum(stop - start for start, stop in its.mine) for its in cuts]


REFUSED = {
    "slices=1": "slices=1 for 2 workers",
    "backend=native": "backend=native trains in one process",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_workers_cannot_do_is_refused_by_its_name(override: str, log: Path) -> None:
    config = configuration(log, "threads=1", override)
    with pytest.raises(ArgumentError, match=REFUSED[override]):
        _for_workers(config, 2)


def test_each_worker_has_a_gpu_of_its_own(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(resolve(configuration(log, "backend=torch")), device="cuda")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with pytest.raises(ArgumentError, match=r"2 workers on a machine with 1 GPU\(s\)"):
        workers.for_workers(settings, 12, group(1, 2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert workers.for_workers(settings, 12, group(1, 2)).device == "cuda:1"


def _for_workers(config: DictConfig, size: int) -> Settings:
    return workers.for_workers(workers.resolved(config), config.slices, group(0, size))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Dropout(0.5), " draws random numbers in from_rows"),
        (nn.BatchNorm1d(WIDTH), " changes a buffer in from_rows"),
        (nn.BatchNorm1d(WIDTH, track_running_stats=False), ": logits of a row depend on other rows"),
    ],
    ids=["draws", "buffers", "statistics"],
)
def test_a_net_whose_slices_are_not_apart_is_refused(layer: nn.Module, why: str) -> None:
    model = Net(nn.Sequential(layer, nn.Linear(WIDTH, 1)), ShardedEmbedding(lonely(), FEATURES, DIM))
    step = ShardedStep(model, *make_optimizers(model, "group_adam", {"lr": 0.01}), 3, compiled=False)
    with pytest.raises(CtrError, match=f"Net{why}"):
        step.train(batches(2)[0])


def test_a_sweep_is_refused() -> None:
    with pytest.raises(ArgumentError, match="a sweep"):
        workers.command_line(group(0, 2), ["-m", "seed=1,2"])


def test_workers_other_than_the_first_leave_no_configuration() -> None:
    assert workers.command_line(group(0, 2), ["seed=1", "run_dir=runs/x"]) == ["seed=1", "run_dir=runs/x"]
    second = workers.command_line(group(1, 2), ["seed=1", "run_dir=runs/x"])
    assert second[:2] == ["seed=1", "run_dir=runs/x"]
    assert "hydra.output_subdir=null" in second


def test_slices_change_no_hash_of_a_run_in_one_process(log: Path) -> None:
    one, other = (resolve(configuration(log, "backend=torch", f"slices={count}")) for count in (12, 7))
    assert one.config_hash == other.config_hash
    of_one, of_three = (workers.for_workers(one, 12, group(0, size)).config_hash for size in (1, 3))
    assert of_one == of_three != one.config_hash


def test_what_all_workers_have_to_say_is_said_once() -> None:
    store = dist.HashStore()
    one, two = (Group(rank, 2, store) for rank in (0, 1))
    assert two.says("the loss is NaN")
    assert not one.says("the loss is NaN")
    assert two.says("the loss is NaN")  # when the job was started again
    assert one.says("the disk is full")


def test_workers_with_other_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "collect", lambda self, value: ["a", "a", "b"])
    with pytest.raises(CtrError, match=r"^rank 2 has other rows than rank 0: b; rank 0 has a$"):
        group(0, 3).expect_equal("rows", "a")


def test_workers_do_not_take_the_names_of_those_before_them_for_an_answer() -> None:
    store = dist.HashStore()
    store.set("hello/1", "of a worker that was killed")
    found: dict[int, tuple[str, int]] = {}

    def meet(rank: int) -> None:
        found[rank] = distributed._meet(store, rank, 3)

    for start in (1, 2):
        threads = [threading.Thread(target=meet, args=(rank,)) for rank in (0, 2, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found[0] == found[1] == found[2]
        assert found[0][1] == start


def test_a_worker_that_has_ended_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ended", lambda mark: mark == "boot/1/22/5")
    monkeypatch.setattr(distributed.signal, "signal", lambda *_: None)
    lost = group(0, 3, marks=["boot/1/21/4", "boot/1/23/6", "boot/1/22/5"])
    with pytest.raises(WorkerLost, match=r"^rank 2 has ended \(of 3\)"), lost._watched():
        raise RuntimeError("Connection closed by peer")
    assert isinstance(lost.explained(KeyboardInterrupt()), WorkerLost)
    error = ValueError()
    assert lost.explained(error) is error


def test_workers_of_other_machines_are_named_where_those_of_this_one_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "NAMING", 0.0)
    monkeypatch.setattr(distributed.signal, "signal", lambda *_: None)
    mine = processes.mark()
    assert mine is not None
    lost = group(0, 2, marks=[mine, "elsewhere/1/22/5"])
    with (
        pytest.raises(WorkerLost, match=r"^rank 1 on other machines cannot be reached: Conn"),
        lost._watched(),
    ):
        raise RuntimeError("Connection closed by peer")
