"""What a study refuses to be asked, before it runs anything."""

import math
from typing import Any

import pytest

from ctr.errors import ArgumentError
from ctr.studies.study import Counts, Lambdas, Rates, Scores, Shares, check
from tests.studies.oracle import ALL, OWN, options

TYPES: dict[str, Any] = {
    "lambda1": Lambdas, "lambda21": Lambdas, "lambda2": Lambdas, "finetune": Shares, "lrs": Rates, "dims": Counts,
    "steps": Counts, "scores": Scores,
}  # fmt: skip
GOOD: dict[str, Any] = {**ALL, **OWN}


def checked(name: str, values: list[Any]) -> None:
    check({name: TYPES[name]}, {name: values})
    if name == "lrs":
        options(lrs=values)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *((name, value) for name in ("lambda1", "lambda21", "lambda2") for value in (-1e-9, math.inf, math.nan, True)),
        *(("finetune", value) for value in (-0.1, 1.0, math.nan, False)),
        *(("lrs", value) for value in (0.0, -1e-3, math.inf, math.nan, True)),
        *((name, value) for name in ("dims", "steps") for value in (0, -8, 2.5, math.inf, True)),
        ("scores", "size"),
        ("scores", 1),
    ],
)
def test_values_out_of_range(name: str, wrong: object) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name}=\[.*\]; expected "):
        checked(name, [*GOOD[name], wrong])


@pytest.mark.parametrize("name", TYPES)
def test_a_duplicate_value(name: str) -> None:
    twice = [*GOOD[name]] * 2
    with pytest.raises(ArgumentError, match=rf"^{name}=\[.*\]: duplicate value {twice[0]}"):
        checked(name, twice)


@pytest.mark.parametrize("name", TYPES)
def test_an_empty_list(name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name}=\[\]; expected at least one value"):
        checked(name, [])


def test_learning_rates_are_checked_by_the_options() -> None:
    with pytest.raises(ArgumentError, match=r"^lrs=\[-1\]; expected numbers above 0"):
        options(lrs=[-1])


def test_the_ends_of_the_ranges() -> None:
    ends = {"lambda1": [0.0, 1e9], "finetune": [0.0, 0.999], "lrs": [1e-300, 1e300], "dims": [1], "scores": ["effect"]}
    for name, values in ends.items():
        checked(name, values)
