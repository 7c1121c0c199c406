"""Size, load time and latency of what can be served: ONNX files, the saved model, and the dense model in torch.

    python scripts/serving_bench.py                          # a made-up model of the size of Criteo's full-size result
    python scripts/serving_bench.py --model runs/mine        # a model of your own, without the dense one

The made-up model has the fields of Criteo and as many rows as its full-size run kept (495,503 of 33,762,577, dimension
8; DCN); values and weights are random, which changes nothing for the time. The dense model is the same net with all
rows, from row numbers on: it has no look-up of values, which a server would need beside it. Every contestant has one
thread and gets new rows in every call. They take turns; reported is each one's quietest turn: the one with the lowest
median. On a machine that others use too, --cpu measures the time that the thread runs in place of that on the wall.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import nn

from ctr import parts
from ctr.artifact import agreement, format, onnx
from ctr.artifact.format import Contents, Golden, Manifest, SavedField
from ctr.artifact.saved import SavedModel, load
from ctr.artifact.scorer import RowType, Scaled, scorer_of
from ctr.datasets.criteo import VOCABULARIES
from ctr.datasets.schema import Dataset, Field
from ctr.models import DCN, FeatureEmbedding

BATCHES = (1, 16, 512)
ROWS = 495_503  # that the run on Criteo's full log kept
TURNS, SECONDS = 5, 1.0
FEEDS = 32  # different batches of each size
ROW_TYPES: tuple[RowType, ...] = ("float32", "float16", "int8")


def made_contents(
    dataset: Dataset,
    sizes: Sequence[int],
    model: str,
    dim: int,
    *,
    options: dict[str, Any] | None = None,
    module: str | None = None,
    seed: int = 0,
) -> Contents:
    """A saved model of random content.

    Args:
        dataset: the format that it is of.
        sizes: values of each field, blank being one where there are more.
        model, dim: the net's name, and the length of a row.
        options, module: of the net.
        seed: of all that is random.
    """
    random = np.random.default_rng(seed)
    texts = [_values(f, size, random) for f, size in zip(dataset.fields, sizes, strict=True)]
    count, width = sum(sizes), len(dataset.fields)
    rows = torch.from_numpy(random.normal(0, 0.1, (count, dim)).astype(np.float32))
    generator = torch.Generator().manual_seed(seed)
    embedding = FeatureEmbedding(1, dim, generator=generator)
    kind = parts.model(model, module)
    net = kind(1, width, len(dataset.dense), embedding=embedding, generator=generator, **(options or {})).eval()
    starts = np.cumsum([1, *sizes[:-1]])
    ids = np.where(np.array(sizes) > 0, starts + random.integers(np.maximum(sizes, 1), size=(16, width)), 0)
    raw = torch.from_numpy(random.integers(0, 1000, (16, len(dataset.dense))).astype(float))
    scaling = [(name, dataset.scaling.get(name, "none")) for name in dataset.dense]
    dense = Scaled(scaling)(raw)[1] if scaling else None
    with torch.no_grad():
        logits = net.from_rows(torch.cat([torch.zeros(1, dim), rows])[torch.from_numpy(ids)], dense)
    values = pa.concat_arrays(texts)
    manifest = Manifest(
        dataset=dataset.name,
        dataset_module=None if dataset.modules[0].startswith("ctr.") else dataset.modules[0],
        dataset_options=dataset.options,
        fields=[SavedField(f.name, f.kind, size, size) for f, size in zip(dataset.fields, sizes, strict=True)],
        dense=scaling,
        transforms=[],
        num_buckets=None,
        keys="raw",
        model=model,
        model_module=module,
        model_options=options or {},
        embedding_dim=dim,
        rows=count,
        backend="torch" if module else "native",
        threads=1,
        run={"source": "made up"},
        golden=Golden(
            values=[[values[i - 1].as_py() if i else None for i in row] for row in ids.tolist()],
            rows=None,
            dense=[] if dense is None else dense.tolist(),
            logits=logits.tolist(),
        ),
    )
    columns = {
        "field": np.repeat(np.arange(width, dtype=np.uint8), sizes),
        "value": values,
        "count": np.ones(count, np.int64),
        "effect": np.ones(count, np.float32),
    }
    state = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("embedding.")}
    return Contents(manifest, rows, state, pa.table(columns, schema=format.vocabulary_schema(hashed=False)))


def _values(of: Field, size: int, random: np.random.Generator) -> pa.Array:
    """Different canonical texts; the last is null, blank, where there are several."""
    shown = {"hex32": "{:08x}", "integer": "{}", "text": "wört {}"}[of.kind]
    texts = [shown.format(number) for number in random.choice(1 << 32, size, replace=False).tolist()]
    return pa.array([*texts[:-1], None] if size > 1 else texts, pa.string())


def criteo_sizes(rows: int) -> list[int]:
    """Values of each of Criteo's fields when a number is kept in all, each field the same share."""
    sizes = [max(1, int(size * rows / sum(VOCABULARIES))) for size in VOCABULARIES]
    sizes[int(np.argmax(sizes))] += rows - sum(sizes)
    return sizes


@dataclass
class Contestant:
    """What can be served, and what was measured of it.

    Attributes:
        name: for the table.
        bytes: on the disk.
        load: loads it; how long that takes is ``seconds``.
        calls: by batch size, calls that each predict a batch of their own.
        latencies: by batch size, (median, 99th percentile) in microseconds of each turn.
    """

    name: str
    bytes: int
    seconds: float
    calls: dict[int, list[Callable[[], object]]]
    latencies: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def turn(self, batch: int, clock: Callable[[], float], seconds: float) -> None:
        calls, times = self.calls[batch], []
        end = clock() + seconds
        while (began := clock()) < end:
            calls[len(times) % len(calls)]()
            times.append(clock() - began)
        measured = 1e6 * np.percentile(times, [50, 99])
        self.latencies.setdefault(batch, []).append((float(measured[0]), float(measured[1])))

    def quietest(self, batch: int) -> tuple[float, float]:
        return min(self.latencies[batch])


def timed(load: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    loaded = load()
    return time.perf_counter() - began, loaded


def onnx_file(folder: Path, model: SavedModel, kind: RowType, rows: dict[int, list[agreement.Rows]]) -> Contestant:
    path = folder / f"{kind}.onnx"
    scorer = scorer_of(model, kind)
    onnx.write(path, onnx.to_onnx(model, scorer))
    seconds, session = timed(lambda: onnx.session(path))
    agreement.check(session, model, scorer)
    calls = {
        batch: [partial(session.run, [onnx.OUTPUT], agreement.feed(model, part)) for part in parts_]
        for batch, parts_ in rows.items()
    }
    return Contestant(f"ONNX, {kind} rows", path.stat().st_size, seconds, calls)


def frame(model: SavedModel, rows: agreement.Rows) -> pd.DataFrame:
    """The rows as a frame of the log's columns."""
    fields = {f.name: texts.to_pandas() for f, texts in zip(model.manifest.fields, rows.texts, strict=True)}
    return pd.DataFrame(fields | {name: rows.numbers[:, i] for i, (name, _) in enumerate(model.manifest.dense)})


def saved_model(model: SavedModel, rows: dict[int, list[agreement.Rows]]) -> Contestant:
    seconds, loaded = timed(lambda: load(model.folder, allow_module=True, threads=1))
    calls = {batch: [partial(loaded.predict, frame(model, part)) for part in parts_] for batch, parts_ in rows.items()}
    size = sum(path.stat().st_size for path in model.folder.iterdir())
    return Contestant(f"saved model, m.predict ({loaded.backend})", size, seconds, calls)


def dense_model(folder: Path, batches: Sequence[int]) -> Contestant:
    """DCN with all rows of Criteo's full log, from row numbers to probabilities."""
    path, count = folder / "dense.pt", sum(VOCABULARIES)
    random = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.save(DCN(count, len(VOCABULARIES), 13).state_dict(), path)
    net = DCN(1, len(VOCABULARIES), 13)
    net.embedding = FeatureEmbedding(1, 8).to("meta")
    seconds, state = timed(lambda: torch.load(path, weights_only=True))
    table = state.pop("embedding.weight")
    net.load_state_dict({name: tensor for name, tensor in state.items() if "embedding" not in name}, strict=False)
    net.eval()

    def predict(ids: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return net.from_rows(nn.functional.embedding(ids, table), dense).sigmoid()

    calls: dict[int, list[Callable[[], object]]] = {}
    for batch in batches:
        ids = [torch.from_numpy(random.integers(count, size=(batch, len(VOCABULARIES)))) for _ in range(FEEDS)]
        dense = torch.zeros(batch, 13)
        calls[batch] = [partial(predict, part, dense) for part in ids]
    return Contestant("dense model, torch, from row numbers", path.stat().st_size, seconds, calls)


def table(contestants: Sequence[Contestant]) -> str:
    """Markdown."""
    head = ["", "size, MB", "load, s", *(f"{batch} row{'s' * (batch > 1)}" for batch in BATCHES)]
    lines = [head, ["---", *(["---:"] * (len(head) - 1))]]
    for one in contestants:
        quietest = [one.quietest(batch) for batch in BATCHES]
        cells = [f"{median:,.0f} ({last:,.0f})" for median, last in quietest]
        lines.append([one.name, f"{one.bytes / 1e6:,.1f}", f"{one.seconds:.2f}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def processor() -> str:
    """What the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a saved model, or the folder of its run")
    parser.add_argument("--rows", type=int, default=ROWS, help="of the made-up model")
    parser.add_argument("--turns", type=int, default=TURNS, help="of each contestant with each batch size")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of a turn")
    parser.add_argument("--cpu", action="store_true", help="measure the time that the thread runs")
    parser.add_argument("--no-dense", action="store_true", help="leave the dense model out: it takes 2.2 GB of memory")
    parser.add_argument("--json", type=Path, help="write all turns there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    with TemporaryDirectory() as place:
        path = given.model
        if path is None:
            path = Path(place, "model")
            format.write(path, made_contents(parts.dataset("criteo")(), criteo_sizes(given.rows), "dcn", 8))
        model = load(path, allow_module=True, threads=1)
        rows = {n: [agreement.generated_rows(model, n, seed) for seed in range(FEEDS)] for n in BATCHES}
        contestants = [onnx_file(Path(place), model, kind, rows) for kind in ROW_TYPES]
        contestants.append(saved_model(model, rows))
        if given.model is None and not given.no_dense:
            contestants.append(dense_model(Path(place), BATCHES))
        clock = time.thread_time if given.cpu else time.perf_counter
        for _ in range(given.turns):
            for batch in BATCHES:
                for one in contestants:
                    one.turn(batch, clock, given.seconds)
    clock_name = "time of the thread" if given.cpu else "time"
    print(f"{processor()}, one thread; {clock_name} in microseconds: median (99th percentile) of the")
    print(f"quietest of {given.turns} turns of {given.seconds:g} s; {model.manifest.rows:,} rows of dimension "
          f"{model.manifest.embedding_dim}\n")  # fmt: skip
    print(table(contestants))
    if given.json:
        given.json.write_text(json.dumps({one.name: one.latencies for one in contestants}, indent=2))


if __name__ == "__main__":
    main()
