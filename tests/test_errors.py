"""Errors cross processes: a parallel sweep hands over what ended its jobs."""

import pickle
from pathlib import Path

import pytest

from ctr.errors import ArgumentError, CtrError, DataError, Diverged, TooFewRows


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CtrError("no disk"), "no disk"),
        (ArgumentError("seed=-1"), "seed=-1"),
        (DataError(Path("log.txt"), 1234, "an empty line"), "log.txt, line 1,234: an empty line"),
        (Diverged("the loss is nan"), "diverged: the loss is nan"),
        (TooFewRows(2000, 100), "train_rows=2,000; there are 100 rows to train on"),
    ],
)
def test_an_error_is_the_same_in_another_process(error: CtrError, text: str) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error) == text
    assert vars(again) == vars(error)
