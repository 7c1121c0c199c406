"""`scripts/predict_workers.py`: the bytes that it counts are those that workers send."""

from pathlib import Path

import numpy as np
import pytest

from ctr.config import workers
from ctr.datasets.source import open_data
from ctr.training.build import start
from ctr.training.distributed import Group
from tests.datasets.criteo_text import lines, write
from tests.scripts import script
from tests.training.runs import configuration
from tests.training.workers import together


def step(group: Group, log: Path, slices: int) -> dict[str, object]:
    """The bytes that this worker sends in its first step; the ids of the batch; parameters of the net."""
    config = configuration(log, "threads=1", f"slices={slices}")
    settings = workers.for_workers(workers.resolved(config), slices, group)
    training = start(settings, open_data(settings.data), group)
    before, batch = group.sent, next(iter(training.stream))
    training.stream.upcoming = None  # asking for its rows belongs to the next step
    training.step(batch)
    net = sum(p.numel() for name, p in training.model.named_parameters() if not name.startswith("embedding."))
    return {"sent": group.sent - before, "ids": batch.ids.numpy(), "net": net, "dim": settings.model.embedding_dim}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "slices"), [(2, 12), (3, 4)])
def test_the_bytes_of_a_step_are_counted_to_the_last(size: int, slices: int, tmp_path: Path) -> None:
    write(tmp_path / "train.txt", lines(100))
    told = together(tmp_path, size, step, tmp_path, slices)
    sent = script("predict_workers").sent
    assert sum(one["sent"] for one in told) == sent(told[0]["ids"], size, slices, told[0]["dim"], told[0]["net"])


def test_a_cost_model_finds_the_constants_that_made_its_data() -> None:
    columns = [[1, 6, 2048], [1, 12, 4096], [1, 2, 2048], [1, 6, 256]]
    seconds = [2e-3 + 1e-3 * slices + 5e-6 * rows for _, slices, rows in columns]
    np.testing.assert_allclose(script("predict_workers").fitted(columns, seconds), [2e-3, 1e-3, 5e-6], rtol=1e-6)
