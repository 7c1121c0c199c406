"""What the README and the pages for a newcomer tell one to type works, and prints what they show; test_site.py
follows the links."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.artifact.runs import log_of_test_rows, trained
from tests.commands import command, composed
from tests.pages import ROOT, blocks, missing
from tests.scripts import script

README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
START = (DOCS / "get-started.md").read_text()
TYPED = [
    README,
    *((DOCS / f"{name}.md").read_text() for name in ("get-started", "choose-a-size", "reproduce", "commands")),
]
FIRST, USED = (block for block in blocks(START) if "test AUC" in block or "of the run's test rows" in block)


def test_the_optimizer_in_ones_own_model_removes_rows() -> None:
    (code,) = blocks(README, "python")
    names: dict[str, object] = {}
    exec(code, names)
    touched = names["ids"].unique()  # type: ignore[attr-defined]
    assert (names["table"].weight[touched] == 0).all(dim=1).any()  # type: ignore[attr-defined]


def test_a_model_is_loaded_and_predicts_lines(here: Path) -> None:
    (code,) = blocks(START, "python")
    run = trained("dataset=criteo")
    shutil.copytree(run.folder, here / "runs" / "mine")
    frame = log_of_test_rows(run, here, labels=True).read_text().splitlines()
    names: dict[str, object] = {"frame": frame}
    exec(f"{code}\np = model.predict(frame)", names)
    assert len(names["p"]) == len(frame) == run.result["rows_test"]  # type: ignore[arg-type]


def commands() -> list[str]:
    """The lines of the pages that train or begin a study, each once."""
    page = "\n".join(TYPED).replace("\n'rates", " 'rates")
    found = re.findall(r"^(?:\S*/)?python -m (ctr\.(?:train|reproduce) .*)$", page, re.MULTILINE)
    found += re.findall(r"`(?:\S*/)?python -m (ctr\.(?:train|reproduce) [^`|]*)`", page)
    return [line for line in dict.fromkeys(found) if not re.search(r"\.\.\.(?!\])|--help|RUN_DIR", line)]


@pytest.mark.parametrize("line", commands())
def test_the_commands_are_understood(line: str) -> None:
    """Every value of a sweep, with the schemas as judge; the runs themselves are tested in test_train.py."""
    module, *words = shlex.split(line, comments=True)
    words = [word for word in words if not word.startswith(("-m", "hydra/"))]
    for word, override in zip(words, OverridesParser.create().parse_overrides(words), strict=True):
        key, _, value = word.partition("=")
        for one in value.split(",") if override.is_sweep_override() else [value]:
            assert one
            others = [other for other in words if not other.startswith(f"{key}=") and not is_sweep(other)]
            composed(module.removeprefix("ctr."), *others, f"{key}={one}")


def is_sweep(word: str) -> bool:
    (override,) = OverridesParser.create().parse_overrides([word])
    return override.is_sweep_override()


def test_there_are_commands_to_try() -> None:
    assert len(commands()) >= 12
    assert any("ctr.reproduce" in line for line in commands())


def made_by_make_run() -> list[str]:
    (line,) = re.findall(r"-m ctr.train (.*)", (ROOT / "Makefile").read_text())
    return shlex.split(line)


def test_make_run_is_what_the_pages_show() -> None:
    config = composed("train", *made_by_make_run())
    assert (config.dataset.name, config.dataset.source, config.opt.name) == ("criteo", "sample", "group_adam")
    assert f"{config.dataset.sample_rows:,} lines in Criteo's raw" in START
    assert f"python -m ctr.train {' '.join(made_by_make_run())}" in START


def number(text: str, before: str) -> float:
    """The number of a text that comes after some words and blanks, or the marks of a table."""
    (found,) = re.findall(rf"{re.escape(before)}[ |]+([0-9,]*\.?[0-9]+)", text)
    return float(found.replace(",", ""))


@pytest.mark.slow
def test_a_first_run_and_a_prediction_print_what_the_pages_show(tmp_path: Path) -> None:
    done = command(tmp_path, "ctr.train", *made_by_make_run(), "run_dir=runs/mine", "tracking=none", "report=true")
    shown = FIRST.replace(re.findall(r"runs/\S+?(?=/)", FIRST)[0], "runs/mine")
    other = ("tracked in", "versions", "to repeat")  # of this machine, and with the options above
    assert [line for line in missing(shown, done.stdout) if not line.strip().startswith(other)] == []
    assert all(re.search(rf"^  {name}  ", done.stdout, re.MULTILINE) for name in other[1:])
    for name in ("test AUC", "test logloss", "norm. entropy"):
        assert number(done.stdout, name) == pytest.approx(number(FIRST, name), abs=0.001)
    assert number(done.stdout, "calibration") == pytest.approx(number(FIRST, "calibration"), abs=0.01)
    assert number(done.stdout, "feature rate") == pytest.approx(number(FIRST, "feature rate"), rel=0.02)
    for page in (README, START):  # what is said of it in other places
        assert ".7773" in page
        assert "11,803" in page
        assert "0.8 MB" in page
    assert "(0.8 MB)" in done.stdout

    (log,) = tmp_path.glob("data/criteo/sample/300000-rows-seed-0-*/train.txt")
    tail = next(line for line in blocks(README)[1].splitlines() if line.startswith("tail "))
    assert tail in START
    rows = int(shlex.split(tail)[2])
    (tmp_path / "today.txt").write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[-rows:]))
    predicted = command(tmp_path, "ctr.predict", "model=runs/mine", "raw=today.txt", "out=predictions.csv")
    assert missing(USED, predicted.stdout) == []
    assert number(predicted.stdout, "AUC") == number(done.stdout, "test AUC")

    dense = command(tmp_path, "ctr.train", "dataset=criteo", "dataset.source=sample", "opt=adam", "tracking=none")
    row = next(line for line in README.splitlines() if line.startswith("| Adam |"))
    _, features, size, auc = [cell.strip() for cell in row.strip("|").split("|")]
    assert f"({features} of {features} features kept)" in dense.stdout
    assert f"({size})" in dense.stdout
    assert number(dense.stdout, "test AUC") == pytest.approx(float(auc), abs=0.001)


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest, day = re.findall(r"^## ([0-9.]+) \((.*)\)$", changelog, re.MULTILINE)[0]
    assert (cited["version"], str(cited["date-released"])) == (newest, day)
    assert newest == version
    assert changelog.startswith("# Changelog\n\n## Unreleased\n")
    images = re.findall(r"REGISTRY/ctr:(\S+)", (DOCS / "examples" / "scale-out" / "rayjob.yaml").read_text())
    assert images == [version, version]


def test_the_forms_for_issues_ask_for_what_a_bug_needs() -> None:
    forms = {
        path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")
    }
    assert {"bug", "question", "config"} == {*forms}
    asked = {part["id"]: part for part in forms["bug"]["body"]}
    assert "result.json" in asked["result"]["attributes"]["label"]
    assert "one line" in asked["error"]["attributes"]["label"]


def test_the_picture_shows_the_cells_of_the_published_tables(tmp_path: Path) -> None:
    drawing = script("readme_picture")
    shown = {name: drawing.table(DOCS / "results" / "real" / f"rivals-{name}.csv") for name in drawing.DATASETS}
    figure = drawing.figure(shown)
    for axes, name in zip(figure.axes, ("avazu", "criteo"), strict=True):
        whole = pd.read_csv(DOCS / "results" / "real" / f"rivals-{name}.csv")
        ours = whole[(whole.method == "Group Adam, budget") & (whole.average == 0.3)].sort_values("bytes_mean")
        (line,) = [bar.lines[0] for bar in axes.containers if bar.get_label() == "ctr: Group Adam, budget"]
        assert [*line.get_xdata()] == [*ours.bytes_mean]
        assert [*line.get_ydata()] == [*ours.auc_mean]
        assert len(axes.containers) == len(drawing.METHODS)
        assert axes.get_xscale() == "log"
