import math

import pandas as pd
import pytest

from ctr.report import markdown
from ctr.report.findings import Column, rows


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
    assert markdown.cell({"auc_mean": 0.80194, "auc_std": 0.00031, "rate_mean": 0.0297}) == ".8019±.0003 (0.030)"
    assert markdown.cell({"a_auc_mean": 0.80194, "a_auc_std": math.nan, "a_rate_mean": 1.0}, "a_") == ".8019 (1.000)"
    assert markdown.cell({"auc_mean": math.nan, "auc_std": math.nan, "rate_mean": math.nan}) == markdown.GAP


def test_a_view_shows_columns_in_their_form_and_what_a_function_makes_of_a_row() -> None:
    columns = [Column("lr", "learning rate", markdown.power), Column("name", "name")]
    rows = [{"lr": 0.001, "name": "a"}, {"lr": math.nan, "name": "b"}]
    shown = markdown.view(rows, columns, [("Who", "name"), ("LR", "lr"), ("Both", lambda row: f"{row['name']}!")])
    assert shown == "| Who | LR | Both |\n| --- | ---: | ---: |\n| a | 1e-3 | a! |\n| b | – | b! |"


def test_a_missing_text_is_none_and_a_missing_number_nan() -> None:
    first, second = rows(pd.DataFrame([{"n": 1, "auc": None, "gap": None}, {"n": 2, "auc": 0.5, "gap": "why"}]))
    assert (first["n"], first["gap"], second) == (1, None, {"n": 2, "auc": 0.5, "gap": "why"})
    assert math.isnan(first["auc"])


def test_signs() -> None:
    assert markdown.difference(0.00214) == "+.0021"
    assert markdown.difference(-0.00214) == "−.0021"
    assert markdown.difference(-0.00001) == "+.0000"
    assert markdown.difference(None) == markdown.GAP
