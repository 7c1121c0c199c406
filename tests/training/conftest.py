"""What the tests of training share."""

import pytest

from ctr.datasets import criteo
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, prepare
from tests.datasets.criteo_text import lines, write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """600 rows to train on and 100 to test on."""
    folder = tmp_path_factory.mktemp("data")
    raw = write(folder / "train.txt", lines(700))
    return prepare(criteo.make(), raw, folder / "out", split=SplitRule(test_fraction=1 / 7))
