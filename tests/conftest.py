"""What the tests share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist keeps all cores busy; read when torch is loaded

# isort: split

import ctr.environment  # noqa: F401  # before torch

# isort: split

import multiprocessing
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests.commands import LIBRARIES

multiprocessing.set_forkserver_preload(LIBRARIES)  # before any test forks

# A busy machine is no failure.
settings.register_profile("ctr", deadline=None)
settings.load_profile("ctr")

# A shell's background jobs begin with Ctrl-C ignored, and hand that on: what the tests interrupt would not notice.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of real samples (``criteo/``, ``avazu/``, ``ipinyou/``): $CTR_SAMPLES, else ../shared/data."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CTR_SAMPLES", default))
    if not folder.is_dir():
        pytest.skip(f"the real samples are not at {folder}; CTR_SAMPLES names their folder")
    return folder


@pytest.fixture(scope="session")
def ready_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, to copy."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, made the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
