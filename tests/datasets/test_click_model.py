"""The planted truth: drawn values, effects and clicks are what the module's equations say."""

import math

import numpy as np
import pytest

from ctr.datasets.synthetic import criteo_avazu
from ctr.datasets.synthetic.click_model import (
    BLANK,
    BLANK_COUNT,
    ClickModel,
    CountField,
    ZipfField,
    distinct_values,
    key,
    named_ranks,
    rank_names,
)
from tests.datasets.test_hashing import plain_splitmix64

FIELDS = (
    ZipfField("a", 50, 1.2, 1.0, paired=True),
    ZipfField("b", 5000, 1.0, 0.0, (0.0, 0.3), "shared", paired=True),
    ZipfField("c", 400, 0.7, 5.0, (0.3, 1.0), "shared", paired=True),
    ZipfField("d", 20, 1.0, parent="a"),
)
COUNTS = (CountField("x", 2.0, 1.0, blank=(0.1, 0.5)), CountField("y", 0.0, 1.5, lowest=-3))


def small_model(rows: int = 1_000_000, seed: int = 7, click_rate: float = 0.3) -> ClickModel:
    return ClickModel(FIELDS, COUNTS, 1_000_000, rows, seed, click_rate, 1.5)


@pytest.fixture(scope="module")
def model() -> ClickModel:
    return small_model()


def test_rows_do_not_depend_on_how_they_are_cut(model: ClickModel) -> None:
    whole = model.draw(1000, 500)
    parts = [model.draw(1000, 1), model.draw(1001, 299), model.draw(1300, 200)]
    for name in ("a", "b", "c", "d"):
        assert np.array_equal(whole.ranks[name], np.concatenate([p.ranks[name] for p in parts]))
    for name in ("x", "y"):
        assert np.array_equal(whole.counts[name], np.concatenate([p.counts[name] for p in parts]))
    assert np.array_equal(whole.logit, np.concatenate([p.logit for p in parts]))
    assert np.array_equal(whole.click, np.concatenate([p.click for p in parts]))


def test_seed_changes_rows_and_truth(model: ClickModel) -> None:
    other = small_model(seed=8)
    assert (other.draw(0, 1000).ranks["a"] != model.draw(0, 1000).ranks["a"]).mean() > 0.5
    ranks = np.arange(10)
    assert not np.array_equal(other.effect("a", ranks), model.effect("a", ranks))


@pytest.mark.parametrize(("exponent", "shift"), [(1.0, 0.0), (0.6, 0.0), (1.05, 2.0), (2.5, 10.0)])
def test_values_follow_the_zipf_mandelbrot_law(exponent: float, shift: float) -> None:
    field = ZipfField("f", 300, exponent, shift)
    model = ClickModel((field,), (), 10_000_000, 10_000_000, 1, 0.5, 1.0)
    population = model.population["f"]
    n = 400_000
    ranks = model.draw(0, n).ranks["f"]
    assert ranks.min() == 0
    assert ranks.max() < population

    def integral(low: float, high: float) -> float:
        if exponent == 1.0:
            return math.log((high + shift) / (low + shift))
        return ((high + shift) ** (1 - exponent) - (low + shift) ** (1 - exponent)) / (1 - exponent)

    for low, high in [(0, 1), (1, 2), (2, 3), (9, 10), (20, 40), (100, 200)]:
        p = integral(low + 1, high + 1) / integral(1, population + 1)
        seen = ((ranks >= low) & (ranks < high)).mean()
        # Five standard deviations of a share, and what straight lines between 2^14 steps may cost.
        assert abs(seen - p) < 5 * math.sqrt(p * (1 - p) / n) + 1 / 2**14, (low, high)


def test_blanks_shared_and_complementary(model: ClickModel) -> None:
    block = model.draw(0, 50_000)
    b, c = block.ranks["b"] == BLANK, block.ranks["c"] == BLANK
    assert np.array_equal(b, ~c)
    assert abs(b.mean() - 0.3) < 0.01
    assert abs((block.counts["x"] == BLANK_COUNT).mean() - 0.4) < 0.01
    assert not (block.counts["y"] == BLANK_COUNT).any()


def test_child_field_is_a_function_of_its_parent(model: ClickModel) -> None:
    block = model.draw(0, 20_000)
    child: dict[int, set[int]] = {}
    for a, d in zip(block.ranks["a"].tolist(), block.ranks["d"].tolist(), strict=True):
        child.setdefault(a, set()).add(d)
    assert all(len(values) == 1 for values in child.values())
    assert len(set().union(*child.values())) > 5


def test_integers_have_their_median_and_lowest_value(model: ClickModel) -> None:
    block = model.draw(0, 200_000)
    x = block.counts["x"]
    x = x[x != BLANK_COUNT]
    assert np.median(x) == math.floor(math.exp(2.0))
    above = (x >= 21).mean()  # z > (ln 21 - 2) / 1 = 1.0445, whose probability is 0.1481
    assert abs(above - 0.1481) < 0.005
    y = block.counts["y"]
    assert y.min() == -3
    assert 0.0002 < (y <= -2).mean() < 0.004


def test_logit_by_hand(model: ClickModel) -> None:
    """The module's equations, value by value in plain Python."""

    def value(field: str, rank: int) -> tuple[float, list[float]]:
        bits = plain_splitmix64((key("effect", field, 7) + rank) % 2**64)
        half = model.half_rank[field]
        if (bits >> 40) / 2**24 >= 0.9 * half / (half + max(rank, 0)):
            return 0.0, [0.0] * 4
        size = ((bits >> 24) % 2**16 - 2**15) / 2**15
        factors = [((bits >> 6 * k) % 64 - 31.5) / 31.5 for k in range(4)]
        return size + (0.5 if size >= 0 else -0.5), factors

    def curve(name: str, mean: float, deviation: float, x: int) -> float:
        u, v, sign = ((plain_splitmix64((key("curve", name, 7) + i) % 2**64) >> 11) / 2**53 for i in range(3))
        slope, bend = (0.5 + u) * (1 if sign >= 0.5 else -1), 0.6 * v - 0.3
        t = min(3.0, max(-3.0, (math.log1p(max(x, 0)) - mean) / deviation))
        return slope * t + bend * t * t

    block = model.draw(0, 300)
    for i in range(300):
        values = {f.name: value(f.name, int(block.ranks[f.name][i])) for f in FIELDS}
        main = sum(effect for effect, _ in values.values())
        pair = sum(
            sum(p * q for p, q in zip(values[f][1], values[g][1], strict=True))
            for f, g in [("a", "b"), ("a", "c"), ("b", "c")]
        )
        smooth = sum(curve(c.name, c.mean, c.deviation, int(block.counts[c.name][i])) for c in COUNTS)
        centred = (part - mean for part, mean in zip((main, pair, smooth), model.means, strict=True))
        expected = model.bias + sum(w * part for w, part in zip(model.weights, centred, strict=True))
        assert block.logit[i] == pytest.approx(expected, abs=1e-9)


def test_clicks_are_calibrated(model: ClickModel) -> None:
    block = model.draw(0, 300_000)
    assert abs(block.click.mean() - 0.3) < 0.006
    assert abs(block.logit.std() - 1.5) < 0.03
    for low, high in [(-4, -2), (-2, -1), (-1, 0), (0, 1), (1, 3)]:
        inside = (block.logit >= low) & (block.logit < high)
        p = (1 / (1 + np.exp(-block.logit[inside]))).mean()
        error = 5 * math.sqrt(p * (1 - p) / inside.sum())
        assert abs(block.click[inside].mean() - p) < error


def test_truth_is_sparse_and_frequent_values_matter(model: ClickModel) -> None:
    ranks = np.arange(5000)
    informative = model.is_informative("b", ranks)
    effect = model.effect("b", ranks)
    assert np.array_equal(informative, effect != 0)
    half = 0.01 * 5000  # by the definition of the half rank
    for low, high in [(0, 25), (25, 100), (1000, 5000)]:
        expected = (0.9 * half / (half + np.arange(low, high))).mean()
        assert abs(informative[low:high].mean() - expected) < 4 * math.sqrt(expected / (high - low))
    size = np.abs(effect[informative]) / model.weights[0]
    assert size.min() >= 0.5
    assert size.max() < 1.51
    assert 0.3 < (effect[informative] > 0).mean() < 0.7


def test_names_are_one_to_one_and_can_be_traced_back() -> None:
    ranks = np.concatenate([np.arange(200_000), np.array([BLANK, 2**31 - 1, 594_000_000])])
    names = rank_names("C3", ranks)
    assert names.dtype == np.uint32
    assert len(np.unique(names)) == len(ranks)
    assert np.array_equal(named_ranks("C3", names), ranks)
    assert (rank_names("C4", ranks) != names).mean() > 0.99
    assert abs((names >> np.uint32(31)).mean() - 0.5) < 0.01  # small ranks fill all 32 bits


def test_distinct_values_shrink_with_the_log() -> None:
    assert distinct_values(10_000_000, 1_000_000, 10_000_000) == pytest.approx(1_000_000)  # in proportion
    assert distinct_values(300, 1_000, 10_000_000) == 300  # hardly
    assert distinct_values(5_000, 99, 99) == 5_000
    # 100_000 values: a = 0.24 (5 - 2.5) = 0.6
    assert distinct_values(100_000, 10_000, 10_000_000) == pytest.approx(100_000 * 1e-3**0.6)


def test_log_shows_about_as_many_values_as_it_should() -> None:
    rows = 200_000
    model = criteo_avazu.criteo_model(rows)
    block = model.draw(0, rows)
    for name, exponent in [("C3", 1.0), ("C24", 0.24 * (math.log10(286181) - 2.5)), ("C21", 1.0)]:
        ranks = block.ranks[name]
        expected = model.fields[name].vocabulary * (rows / 45_840_617) ** exponent
        assert len(np.unique(ranks[ranks != BLANK])) == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_full_size_field_shows_its_published_vocabulary() -> None:
    model = criteo_avazu.criteo_model(criteo_avazu.CRITEO_ROWS)
    seen = np.zeros(model.population["C24"], dtype=bool)
    rows = round(criteo_avazu.CRITEO_ROWS * 0.966)  # the rest is blank
    for first in range(0, rows, 1 << 18):
        index = np.arange(first, min(first + (1 << 18), rows))
        seen[model.zipf("C24", model.uniform("C24", index))] = True
    assert seen.sum() == pytest.approx(286_181, rel=0.003)


@pytest.mark.parametrize("rows", [1, 2, 37])
def test_tiny_logs(rows: int) -> None:
    assert len(criteo_avazu.criteo_model(rows).draw(0, rows).click) == rows


def test_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        small_model(rows=0)
