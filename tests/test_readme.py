"""What the README tells a newcomer to type works; test_site.py follows its links."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.artifact.runs import log_of_test_rows, trained
from tests.commands import composed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_code_runs(here: Path) -> None:
    serving, code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    run = trained("dataset=criteo")
    shutil.copytree(run.folder, here / "runs" / "mine")
    frame = log_of_test_rows(run, here, labels=True).read_text().splitlines()
    names: dict[str, object] = {"frame": frame}
    exec(f"{serving}\np = model.predict(frame)", names)
    assert len(names["p"]) == len(frame) == run.result["rows_test"]  # type: ignore[arg-type]
    names = {}
    exec(code, names)
    touched = names["ids"].unique()  # type: ignore[attr-defined]
    assert (names["table"].weight[touched] == 0).all(dim=1).any()  # type: ignore[attr-defined]


def commands() -> list[str]:
    found = re.findall(r"^(?:\S*/)?python -m (ctr\.train .*)$", README, re.MULTILINE)
    found += re.findall(r"`(?:\S*/)?python -m (ctr\.train [^`|]*)`", README)
    return [line for line in found if "..." not in line]


@pytest.mark.parametrize("line", commands())
def test_the_commands_are_understood(line: str) -> None:
    """Every value of a sweep, with the schemas as judge; the runs themselves are tested in test_train.py."""
    words = [word for word in shlex.split(line)[1:] if not word.startswith(("-m", "hydra/"))]
    for word, override in zip(words, OverridesParser.create().parse_overrides(words), strict=True):
        key = word.split("=")[0]
        values = word.split("=")[1].split(",") if override.is_sweep_override() else [word.split("=")[1]]
        for value in values:
            assert value
            others = [other for other in words if not other.startswith(f"{key}=") and "," not in other]
            composed("train", *others, f"{key}={value}")


def test_there_are_commands_to_try() -> None:
    assert len(commands()) >= 3


def test_make_run_is_what_the_readme_shows() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (line,) = re.findall(r"-m (ctr.train .*)", makefile)
    config = composed("train", *line.split()[1:])
    assert (config.dataset.name, config.dataset.source, config.opt.name) == ("criteo", "sample", "group_adam")
    assert f"{config.dataset.sample_rows:,} lines in Criteo's raw format" in README
