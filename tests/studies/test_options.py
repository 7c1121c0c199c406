"""What a study refuses to be asked, before it runs anything."""

import math

import pytest

from ctr.errors import ArgumentError
from tests.studies.oracle import options


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
        options(**{name: [*getattr(options(), name), wrong]})


@pytest.mark.parametrize("name", ["lambda1", "lambda21", "lambda2", "finetune", "lrs", "dims", "steps", "scores"])
def test_a_value_that_stands_twice(name: str) -> None:
    twice = [*getattr(options(), name)] * 2
    with pytest.raises(ArgumentError, match=rf"^{name}=\[.*\]; {twice[0]} stands there twice"):
        options(**{name: twice})


def test_the_ends_of_the_ranges() -> None:
    options(lambda1=[0.0, 1e9], finetune=[0.0, 0.999], lrs=[1e-300, 1e300], dims=[1], steps=[1], scores=["effect"])
