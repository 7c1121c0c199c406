"""``--help``: each key as it is typed, beside what its YAML says of it."""

import re
import subprocess
import sys

import pytest

from ctr.config.help import WIDTH, comments, text
from ctr.config.search import folders


def meaning(shown: str, assigned: str) -> str:
    """The text beside a key, its lines joined."""
    found = re.search(rf"^  {re.escape(assigned)}(?: +|\n {{10,}})(.*(?:\n {{10,}}.*)*)", shown, re.MULTILINE)
    assert found, assigned
    return re.sub(r"\s+", " ", found[1])


@pytest.mark.parametrize(
    ("command", "overrides", "assigned", "means"),
    [
        ("train", [], "batch_size=512", "rows per step (paper: 512)"),
        ("train", [], "opt.lr=0.001", "of rows and net"),
        (
            "train",
            ["dataset=avazu", "opt=adagrad"],
            "dataset.hour=of_day",
            'of_day: the field "hour" is 0..23; raw: with',
        ),
        ("train", ["prune=magnitude"], "prune.feature_rate=???", "share of the features present in training"),
        ("train", ["dataset=csv"], "dataset.raw=???", "a file, a folder, a glob"),
        (
            "prepare",
            [],
            "dataset.encoding=onehot",
            "onehot: exact ids in order of first appearance; hash: num_buckets ids",
        ),
        (
            "reproduce",
            ["study=stream"],
            "scores=[norm,effect]",
            "what pruning ranks features by: norm (the paper), effect",
        ),
    ],
)
def test_keys_and_what_they_mean(command: str, overrides: list[str], assigned: str, means: str) -> None:
    assert meaning(text(command, overrides), assigned).startswith(means)


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("train", ["dataset", "model", "opt", "prune", "save", "tracking"]),
        ("prepare", ["dataset", "model"]),
        ("reproduce", ["dataset", "model", "study", "tracking"]),
    ],
)
def test_the_choices_are_those_of_the_command(command: str, groups: list[str]) -> None:
    shown = text(command, [])
    listed = shown.partition("Choices:\n\n")[2].partition("\n\n")[0]
    assert re.findall(r"^  (\w+)=", listed, re.MULTILINE) == groups
    assert "dataset=avazu, criteo, criteo_1tb, csv, ipinyou" in listed
    assert max(map(len, shown.splitlines())) <= WIDTH


def test_help_needs_no_torch() -> None:
    """Loading it takes seconds."""
    heavy = "{'torch', 'mlflow', 'scipy', 'matplotlib'}"
    script = "import sys, ctr.train as train; from ctr.cli import run_command; run_command(train.command, 'train')"
    script = f"import atexit, sys; atexit.register(lambda: print({heavy} & set(sys.modules))); {script}"
    done = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "set()"), done.stderr


def test_comments_that_go_on_are_joined() -> None:
    within = folders()
    assert comments("train", within)["jobs"] == (
        "finished runs of sweeps (-m) and studies; one that is there, of the same configuration, data and training "
        "code, is not done again by a sweep"
    )
    assert comments("dataset/criteo", within)["lr.adam"] == "paper, table 5 (DCN)"
