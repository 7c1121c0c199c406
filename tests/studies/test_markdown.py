import math

import pytest

from ctr.report import markdown
from ctr.report.statistics import Summary


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.000"),
        (0.518, "0.518"),
        (0.0296, "0.030"),
        (9.2e-3, "9.2e-3"),
        (0.00449, "4.5e-3"),
        (0, "0"),
        (0.00999, "0.010"),
    ],
)
def test_rates_as_the_paper_prints_them(value: float, text: str) -> None:
    assert markdown.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.943, "0.943"), (9.11e-3, "9.11e-3"), (5.97e-7, "5.97e-7"), (0.086, "0.086")]
)
def test_p_values_as_the_paper_prints_them(value: float, text: str) -> None:
    assert markdown.p_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(5e-4, "5e-4"), (0.175, "1.75e-1"), (0, "0"), (1, "1"), (0.22360, "2.24e-1")]
)
def test_lambdas(value: float, text: str) -> None:
    assert markdown.power(value) == text


def test_cells() -> None:
    assert markdown.cell(Summary(0.80194, 0.00031, 5), Summary(0.0297, 0.001, 5)) == ".8019±.0003 (0.030)"
    assert markdown.cell(Summary(0.80194, math.nan, 1), Summary(1.0, math.nan, 1)) == ".8019 (1.000)"
    assert markdown.cell(Summary(math.nan, math.nan, 0), Summary(math.nan, math.nan, 0)) == markdown.GAP


def test_signs() -> None:
    assert markdown.difference(0.00214) == "+.0021"
    assert markdown.difference(-0.00214) == "−.0021"
    assert markdown.difference(-0.00001) == "+.0000"
    assert markdown.difference(None) == markdown.GAP
