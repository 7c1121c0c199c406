"""What the tests of training share."""

from pathlib import Path

import pytest

from ctr.datasets import criteo
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, prepare
from ctr.training import checkpointing
from ctr.training.compiled_net import CompiledNet
from tests.datasets.criteo_text import lines, write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """600 rows to train on and 100 to test on."""
    folder = tmp_path_factory.mktemp("data")
    raw = write(folder / "train.txt", lines(700))
    return prepare(criteo.make(), raw, folder / "out", split=SplitRule(test_fraction=1 / 7))


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each checkpoint is whole when the run goes on, so that tests know which there are."""
    monkeypatch.setattr(checkpointing, "goes_on", lambda run: False)


@pytest.fixture
def eager_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be compiled is eager torch, which takes no seconds."""
    monkeypatch.setattr(CompiledNet, "_compile", lambda net, of_size, _: dict.fromkeys(of_size, net._pass))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a log, and of undisturbed runs."""
    return tmp_path_factory.mktemp("log")
