"""The points of a run's course."""

import math

import pytest
import torch

from ctr.models import FeatureEmbedding
from ctr.training import curve
from ctr.training.curve import Curve


def table(rows: int) -> FeatureEmbedding:
    """The first half of its rows touched, every fourth of these zero."""
    embedding = FeatureEmbedding(rows, 2)
    embedding.seen[: rows // 2] = True
    embedding.weight.data[::4] = 0
    return embedding


@pytest.mark.parametrize("rows", [80, 80_000])
def test_the_share_of_living_rows_is_that_of_all_of_a_small_table_and_of_a_sample_of_a_large_one(rows: int) -> None:
    found = Curve(table(rows), windows=3)
    found.add(50, 25_600, 0.5, 0.7, 1e-3)
    # Of 80,000 rows every fifth is looked at, a fourth of which are zero too.
    assert found.living == 0.75
    assert found.points.tolist() == [[50, 25_600, 0.5, 0.7, 1e-3, 0.75]]


def test_before_the_first_look_and_without_touched_rows_nothing_is_known() -> None:
    found = Curve(FeatureEmbedding(5, 2), windows=1)
    assert math.isnan(found.living)
    assert found.state_dict() is None
    found.add(1, 5, 0.5, math.nan, 0)
    assert math.isnan(found.living)


def test_a_long_run_looks_at_its_rows_a_limited_number_of_times() -> None:
    found = Curve(table(8), windows=10_000)
    for step in range(10_000):
        found.add(step, step, 0.5, 0.7, 0)
    assert curve.LOOKS <= sum(1 for point in found.points if point[-1] == point[-1]) < 2 * curve.LOOKS


def test_a_saved_curve_goes_on_with_what_was_known() -> None:
    first, second = Curve(table(8), 2), Curve(table(8), 2)
    first.add(1, 5, 0.5, math.nan, 0)
    second.load_state_dict(first.state_dict())
    assert second.living == first.living == 0.75
    for each in (first, second):
        each.add(2, 10, 0.25, 0.5, 0)
    assert torch.equal(second.state_dict().nan_to_num(-1), first.state_dict().nan_to_num(-1))  # type: ignore[union-attr]
    second.load_state_dict(None)  # of an earlier version
    assert len(second.points) == 0
