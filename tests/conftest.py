"""What the tests share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist keeps all cores busy; read when torch is loaded

# isort: split

import ctr.environment  # noqa: F401  # before torch

# isort: split

import functools
import gc
import multiprocessing
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

os.fsync = lambda descriptor: None  # no test cuts the power, and a busy disk takes long

# A busy machine is no failure.
settings.register_profile("ctr", deadline=None)
settings.load_profile("ctr")

# A shell's background jobs begin with Ctrl-C ignored, and hand that on: what the tests interrupt would not notice.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Libraries and tests never become garbage: the search for it leaves them out, now and later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test begins first: it takes minutes, in which the other processes do all the others."""
    items.sort(key=lambda item: item.path.name != "test_chaos.py")


@pytest.fixture(scope="session", autouse=True)
def shared_work() -> None:
    """What would be done again and again. Imported here: the process of pytest-xdist that runs no test needs nothing of
    it, and the others start after it has loaded this file."""
    from ctr.jobs import local
    from ctr.provenance import git_sha
    from ctr.training import result, run
    from tests.commands import LIBRARIES

    local.PRELOAD = LIBRARIES  # a process has one forkserver, which loads what the first to need it names
    multiprocessing.set_forkserver_preload(LIBRARIES)
    result.git_sha = run.git_sha = functools.cache(git_sha)  # else each run starts git twice


@pytest.fixture
def threads() -> Iterator[None]:
    """For a test that sets the number of torch's threads."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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
    """An MLflow database with its tables, to copy; made once for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mlflow.db"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            from mlflow.tracking import MlflowClient

            made = path.with_name("new.db")
            MlflowClient(f"sqlite:///{made}").search_experiments()
            shutil.copy(made, path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, made the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["meta", "cuda"])
def elsewhere(request: pytest.FixtureRequest) -> Generator[str]:
    """A device that is not the CPU: a GPU, and what stands for one on a machine without (`tests.other_device`)."""
    import torch

    from tests.other_device import other_device

    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        yield "cuda"
    else:
        with other_device() as name:
            yield name
