"""One rule for exit codes: 2 where the arguments ask for what is not there or cannot be, 1 for failures on the way."""

import re
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ctr.cli import Terminated, _exit_code, fail, message, send_again, terminate
from tests.commands import composed, job, new_process, prepared
from tests.datasets.criteo_text import lines, write

CSV = ["dataset=csv", "dataset.label=y", "dataset.categorical=[a]", "dataset.raw=mine.csv"]
AVAZU = ["dataset=avazu", "dataset.source=sample", "dataset.sample_rows=200"]


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("mine.csv").write_text("y,a\n1,x\n0,y\n")
    write(Path("train.txt"), lines(50))
    write(Path("bad.txt"), [*lines(50), "0\tx"])


def outcome(*overrides: str) -> tuple[int, str]:
    """Exit code and message of opening the data and of a whole run."""
    seen = set()
    config = composed("train", "tracking=none", *overrides)
    for action in (lambda: prepared(config), lambda: job(config, Path("run"))):
        with pytest.raises(Exception) as error:  # noqa: PT011  # whatever it is: its code is asked for
            action()
        seen.add((_exit_code(error.value), message(error.value)))
    (found,) = seen
    return found


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["dataset=criteo", "dataset.raw=nothing"], "dataset.raw=nothing: no such file or folder"),
        (["dataset=criteo", "dataset.raw=empty"], "empty: the folder has none of train.txt"),
        (["dataset=ipinyou", "dataset.raw=empty"], "empty: no imp.YYYYMMDD.txt of season 2 or 3"),
        ([*CSV, "dataset.raw=empty"], "empty: no log; expected a file that ends with .csv"),
        ([*CSV, "dataset.label=click"], "mine.csv: no column click; the columns are y, a"),
        ([*AVAZU, "dataset.test_days=[20200101]"], r"\[20200101\] not in the log; days found: "),
        (["dataset=criteo", "dataset.raw=train.txt", "dataset.test_fraction=1e-9"], "leaves 50 of 50 rows to train on"),
        ([*CSV, "dataset.source=sample"], "there are no generated rows for dataset=csv"),
    ],
)
def test_what_the_arguments_ask_for_is_not_there(overrides: list[str], text: str) -> None:
    code, said = outcome(*overrides)
    assert code == 2
    assert re.search(text, said)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["dataset=criteo", "dataset.raw=bad.txt"], "bad.txt, line 51: 2 columns"),
        ([*CSV, "dataset.label=a", "dataset.categorical=[y]"], "mine.csv, line 2: column a is 'x'; expected 0 or 1"),
    ],
)
def test_what_fails_on_the_way(overrides: list[str], text: str) -> None:
    code, said = outcome(*overrides)
    assert code == 1
    assert text in said


def test_no_rate_for_auto_is_a_wrong_argument() -> None:
    config = composed("train", "tracking=none", "dataset=criteo", "dataset.raw=train.txt", "opt.lr=auto")
    with pytest.raises(Exception, match="no learning rate was chosen") as error:
        job(config, Path("run"))  # type: ignore[arg-type]
    assert _exit_code(error.value) == 2


@pytest.mark.parametrize("name", ["train", "prepare", "reproduce"])
def test_ctrl_c_while_the_libraries_load(name: str) -> None:
    """A stand-in for Hydra presses it."""
    Path("hydra.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    done = new_process(Path(), f"ctr.{name}", "dataset=criteo")
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_only_what_can_be_generated_is_said_to_be() -> None:
    assert "dataset.source=sample" in outcome("dataset=criteo")[1]
    assert "dataset.source" not in outcome(*CSV, "dataset.raw=nothing")[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated])
def test_a_signal_that_comes_while_an_object_is_cleared_away_is_not_lost(
    error: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python only prints what is raised there, and goes on."""

    class Cleared:
        def __del__(self) -> None:
            raise error

    monkeypatch.setattr("sys.unraisablehook", send_again)
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(KeyboardInterrupt) as raised:  # noqa: PT012
            Cleared()
            threading.Event().wait(30)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert raised.type is error


def test_a_signal_that_is_sent_again_too_early_is_sent_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """While its timer starts, as on a busy machine."""
    waits = []

    class Timer:
        def __init__(self, seconds: float, *_: object) -> None:
            waits.append(seconds)

        def start(self) -> None:
            if len(waits) < 3:
                raise KeyboardInterrupt

    monkeypatch.setattr("ctr.cli.Timer", Timer)
    send_again(SimpleNamespace(exc_value=KeyboardInterrupt()))  # type: ignore[arg-type]
    assert waits == [0.01, 0.02, 0.04]


def test_other_errors_there_are_printed_as_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Cleared:
        def __del__(self) -> None:
            raise ValueError("lost")

    monkeypatch.setattr("sys.unraisablehook", send_again)
    Cleared()
    assert "ValueError: lost" in capsys.readouterr().err


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_error_while_a_library_clears_up_after_an_interruption_is_that_interruption(stop: type, code: int) -> None:
    """OmegaConf's own, for example, where the signal comes while it holds a lock of its own."""

    def broken() -> None:
        try:
            raise stop
        finally:
            raise AttributeError("'NoneType' object has no attribute '_invalidate_flags_cache'")

    with pytest.raises(AttributeError) as raised:
        broken()
    with pytest.raises(SystemExit) as ended:
        fail(raised.value)
    assert ended.value.code == code
