"""Generated impressions with a known ("planted") click model, shared by the generators of all three
datasets.

Values. Field f holds P values ranked 0, 1, 2, ... by frequency; rank r is drawn with probability
proportional to the Zipf-Mandelbrot law (r + 1 + shift)^(-exponent), by a bounded inverse CDF of its
continuous form. Nothing is stored per value: a rank's name and its effect are both hashes of (field, rank).

Clicks. Bernoulli(sigmoid(logit)) with

    logit = bias + w_main sum_f e_f(r_f) + w_pair sum_{f<g} <v_f(r_f), v_g(r_g)> + w_count sum_j s_j(x_j)

each sum less its mean; f, g run over the paired fields in the middle sum and s_j are smooth (quadratic)
functions of log(1 + x_j). The truth is sparse: e and v are zero for every value that is not informative,
and a value of rank r is informative with probability 0.9 K / (K + r), K being 1 % of the field's distinct
values (at least 10): nearly all frequent values matter, nearly all rare ones are noise. Weights and bias are
set so that the logit has the wanted standard deviation (hence the best reachable AUC) and clicks the
wanted rate.

Randomness is a function of (seed, name of the draw, row): any rows can be made in any order, in blocks of
any size, and are always the same. Only exactly rounded arithmetic decides values, and what a mathematical
library computed (which may differ in the last bit between machines) is rounded before use.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ctr.datasets.hashing import GAMMA, splitmix64

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BLANK = -1  # the rank of a value that is missing (or of the one value that means "none")
BLANK_COUNT = np.iinfo(np.int64).min  # the same for integers, which may be negative
FACTORS = 4  # dimension of the pairwise interactions
CALIBRATION_ROWS = 65_536
_KNOTS = 1 << 14


@dataclass(frozen=True)
class ZipfField:
    """A categorical column.

    Args:
        name: column name; names and effects of its values hang on it.
        vocabulary: distinct values in the whole real dataset.
        exponent, shift: of the Zipf-Mandelbrot law.
        blank: part of [0, 1) that is blank, as an interval of the uniform draw `blank_draw`, so that fields
            that name the same draw are blank together, or one just where the other is not.
        parent: name of an earlier field that decides this one (the domain of a site); such a field draws
            its rank from its parent's value instead of from the row.
        paired: takes part in the pairwise interactions.
    """

    name: str
    vocabulary: int
    exponent: float
    shift: float = 0.0
    blank: tuple[float, float] = (0.0, 0.0)
    blank_draw: str = ""
    parent: str = ""
    paired: bool = False


@dataclass(frozen=True)
class CountField:
    """An integer column: floor(exp(mean + deviation z)), z standard normal; `blank` as above.

    Where `lowest` is below 0, everything is one lower and the least 0.2 % reach down to it.
    """

    name: str
    mean: float
    deviation: float
    lowest: int = 0
    blank: tuple[float, float] = (0.0, 0.0)
    blank_draw: str = ""


@dataclass(frozen=True)
class Impressions:
    """n generated rows: per field its ranks [n] (`BLANK` where missing), per integer its values [n]
    (`BLANK_COUNT` where missing), the true logit [n] and the click [n] (uint8, 0 or 1)."""

    ranks: dict[str, Ints]
    counts: dict[str, Ints]
    logit: Floats
    click: NDArray[np.uint8]


class ClickModel:
    """The planted model of one generated log; everything about it follows from the arguments.

    Args:
        fields, counts: the columns.
        full_rows: rows of the real dataset, at which the fields have their real vocabularies.
        rows: rows of the generated log.
        seed: another seed draws other rows and plants another truth; the names of values stay.
        click_rate: expected share of clicks.
        spread: standard deviation of the logit.
        given: ranks of the fields that row numbers decide (the hour in a log sorted by time), as a function
            of row numbers [n], which may be beyond the last row (a short log is calibrated on more rows
            than it has).
    """

    def __init__(
        self,
        fields: Sequence[ZipfField],
        counts: Sequence[CountField],
        full_rows: int,
        rows: int,
        seed: int,
        click_rate: float,
        spread: float,
        given: Callable[[Ints], Mapping[str, Ints]] | None = None,
    ) -> None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, not {rows}")
        self.fields = {field.name: field for field in fields}
        self.counts = {count.name: count for count in counts}
        self.seed = seed
        self.given = given
        # K: the rank whose values are informative half as often as the first one's.
        self.half_rank: dict[str, float] = {}
        self.population: dict[str, int] = {}
        self._quantiles: dict[str, Floats] = {}
        for field in fields:
            seen = rows * (1.0 - (field.blank[1] - field.blank[0]))
            distinct = distinct_values(field.vocabulary, rows, full_rows)
            population = population_size(distinct, field.exponent, field.shift, seen)
            if rows < full_rows:  # a part never has more values in existence than the whole
                seen *= full_rows / rows
                whole = population_size(field.vocabulary, field.exponent, field.shift, seen)
                population = min(population, whole)
            self.population[field.name] = population
            self.half_rank[field.name] = max(10.0, 0.01 * distinct)
            self._quantiles[field.name] = zipf_quantiles(population, field.exponent, field.shift)
        self._count_quantiles = {c.name: count_quantiles(c) for c in counts}
        self._curves = {c.name: self._curve(c.name) for c in counts}
        self._calibrate(rows, click_rate, spread)

    def draw(self, first: int, rows: int) -> Impressions:
        """Rows `first` .. `first + rows - 1` of the log."""
        index = np.arange(first, first + rows, dtype=np.int64)
        ranks, counts = self._columns(index)
        logit = self.bias + self._centred(self._parts(ranks, counts))
        click = (self.uniform("click", index) < _sigmoid(logit)).astype(np.uint8)
        return Impressions(ranks, counts, logit, click)

    def uniform(self, name: str, index: Ints) -> Floats:
        """Uniform draws in [0, 1) with 53 bits, one per element of `index` [n], others for every `name`."""
        start = np.uint64(key("draw", name, self.seed))
        return _unit(start + index.view(np.uint64) * np.uint64(GAMMA))

    def zipf(self, field: str, u: Floats) -> Ints:
        """The ranks [n] that the uniform draws `u` [n] mean in a field."""
        rank = _interpolate(self._quantiles[field], u).astype(np.int64)
        return np.minimum(rank, self.population[field] - 1)

    def is_informative(self, field: str, ranks: Ints) -> NDArray[np.bool_]:
        """Which values of a field, given by rank [n], affect clicks; all others do not at all."""
        return self._informative(field, ranks, self._bits(field, ranks))

    def effect(self, field: str, ranks: Ints) -> Floats:
        """Main effects [n] of values on the logit: 0, or +-[0.5, 1.5) times the weight of main effects."""
        bits = self._bits(field, ranks)
        return self.weights[0] * _main(bits, self._informative(field, ranks, bits))

    def _bits(self, field: str, ranks: Ints) -> NDArray[np.uint64]:
        """64 bits per value: 24 decide whether it is informative, 16 its effect, 4 times 6 its factors."""
        return splitmix64(np.uint64(key("effect", field, self.seed)) + ranks.view(np.uint64))

    def _informative(self, field: str, ranks: Ints, bits: NDArray[np.uint64]) -> NDArray[np.bool_]:
        half = self.half_rank[field]
        share = (0.9 * half) / (half + np.maximum(ranks, 0))
        return (bits >> np.uint64(40)).astype(np.float64) < share * 2.0**24

    def _columns(self, index: Ints) -> tuple[dict[str, Ints], dict[str, Ints]]:
        """Draw the ranks of every field and the values of every integer for the rows `index` [n]."""
        shared: dict[str, Floats] = {}

        def blanks(column: ZipfField | CountField) -> NDArray[np.bool_]:
            name = column.blank_draw or column.name
            if name not in shared:
                shared[name] = self.uniform("blank " + name, index)
            low, high = column.blank
            return (shared[name] >= low) & (shared[name] < high)

        ranks: dict[str, Ints] = dict(self.given(index)) if self.given else {}
        for field in self.fields.values():
            if field.name in ranks:
                continue
            of = ranks[field.parent] if field.parent else index
            rank = self.zipf(field.name, self.uniform(field.name, of))
            if field.blank[1] > 0:
                rank[blanks(field)] = BLANK
            ranks[field.name] = rank
        counts: dict[str, Ints] = {}
        for count in self.counts.values():
            u = self.uniform(count.name, index)
            value = np.floor(_interpolate(self._count_quantiles[count.name], u)).astype(np.int64)
            if count.blank[1] > 0:
                value[blanks(count)] = BLANK_COUNT
            counts[count.name] = value
        return ranks, counts

    def _parts(self, ranks: dict[str, Ints], counts: dict[str, Ints]) -> tuple[Floats, Floats, Floats]:
        """The three sums of the logit [n] before weighting: main effects, interactions, integers."""
        n = len(next(iter(ranks.values())))
        main, squares, smooth = np.zeros(n), np.zeros(n), np.zeros(n)
        total = np.zeros((FACTORS, n))
        for name, field in self.fields.items():
            bits = self._bits(name, ranks[name])
            informative = self._informative(name, ranks[name], bits)
            main += _main(bits, informative)
            if field.paired:
                for k in range(FACTORS):
                    six = (bits >> np.uint64(6 * k)) & np.uint64(63)
                    factor = (six.astype(np.float64) - 31.5) * (informative / 31.5)
                    total[k] += factor
                    squares += factor * factor
        # sum over pairs of <v_f, v_g> = (|sum v|^2 - sum |v|^2) / 2
        pairs = 0.5 * ((total * total).sum(axis=0) - squares)
        for name, count in self.counts.items():
            slope, bend = self._curves[name]
            t = (np.log1p(np.maximum(counts[name], 0)) - count.mean) / count.deviation
            t = np.clip(t, -3.0, 3.0)
            smooth += t * (slope + bend * t)
        return main, pairs, smooth

    def _centred(self, parts: Sequence[Floats]) -> Floats:
        """The logit [n] without its bias."""
        z = np.zeros_like(parts[0])
        for part, weight, mean in zip(parts, self.weights, self.means, strict=True):
            z += weight * (part - mean)
        return z

    def _curve(self, name: str) -> tuple[float, float]:
        """Slope +-[0.5, 1.5) and bend [-0.3, 0.3) of an integer's effect."""
        u, v, sign = _unit(np.uint64(key("curve", name, self.seed)) + np.arange(3, dtype=np.uint64))
        return float(math.copysign(0.5 + u, sign - 0.5)), float(0.6 * v - 0.3)

    def _calibrate(self, rows: int, click_rate: float, spread: float) -> None:
        """Set means, weights and bias from rows spread over the log."""
        index = np.arange(CALIBRATION_ROWS, dtype=np.int64)
        index = index * max(rows, CALIBRATION_ROWS) // CALIBRATION_ROWS
        parts = self._parts(*self._columns(index))
        # Shares of the logit's variance; integers, where there are none, leave theirs to the main effects.
        shares = (0.5, 0.2, 0.3) if self.counts else (0.8, 0.2, 0.0)
        self.means = tuple(round(float(part.mean()), 6) for part in parts)
        self.weights = tuple(
            math.sqrt(share) / max(float(part.std()), 1e-9) for part, share in zip(parts, shares, strict=True)
        )
        # The parts share fields, so their variances do not just add up.
        scale = spread / float(self._centred(parts).std())
        self.weights = tuple(round(weight * scale, 6) for weight in self.weights)
        z = self._centred(parts)
        low, high = -30.0, 30.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (middle, high) if float(_sigmoid(middle + z).mean()) < click_rate else (low, middle)
        self.bias = round(low, 6)


def distinct_values(vocabulary: int, rows: int, full_rows: int) -> float:
    """Distinct values that a field should show in `rows` rows: the real vocabulary at the real number.

    Below, it shrinks as (rows / full_rows)^a: large vocabularies in proportion (a = 1), small ones hardly
    (a = 0 up to 316 values). A short log so made is denser than a random sample of the long one would be,
    as a shorter stretch of time over fewer users and items is.
    """
    a = min(1.0, max(0.0, 0.24 * (math.log10(vocabulary) - 2.5)))
    return max(1.0, vocabulary * min(1.0, rows / full_rows) ** a)


def population_size(distinct: float, exponent: float, shift: float, rows: float) -> int:
    """How many values must exist for about `distinct` of them to be seen in `rows` draws.

    Many of the rarest values of a law with a long tail are never drawn. At most 2^31, and at most 1000
    times `distinct`.
    """
    low, high = distinct, min(1000.0 * distinct, 2.0**31)
    # A vocabulary that the rows show nearly whole is taken as it is: its last few percent would need a far
    # larger population.
    if expected_distinct(low, exponent, shift, rows) < 0.97 * distinct:
        while high > 1.0001 * low:
            middle = math.sqrt(low * high)
            seen = expected_distinct(middle, exponent, shift, rows)
            low, high = (middle, high) if seen < distinct else (low, middle)
    return int(float(f"{high if low > distinct else low:.3g}")) if low >= 1000 else max(1, round(low))


def expected_distinct(population: float, exponent: float, shift: float, rows: float) -> float:
    """Expected number of distinct values in `rows` draws, by integration over ranks in about 1000 steps."""
    head = np.arange(1.0, min(population, 200.0) + 1.0)
    tail = np.geomspace(head[-1], population + 1.0, 800)[1:]
    edges = np.concatenate([head, tail])
    width = np.diff(edges)
    mass = np.diff(_cumulative(edges + shift, exponent))
    mass /= mass.sum()
    return float((width * -np.expm1(-rows * mass / width)).sum())


def zipf_quantiles(population: int, exponent: float, shift: float) -> Floats:
    """Inverse CDF of the law over ranks [0, population) at 2^14 + 1 equal steps of probability.

    Between two of them `_interpolate` draws a straight line: multiplication and addition only, the same on
    every machine, which powers and logarithms are not.
    """
    low, high = _cumulative(np.array([1.0 + shift, population + 1.0 + shift]), exponent)
    c = low + (high - low) * (np.arange(_KNOTS + 1) / _KNOTS)
    x = np.exp(c) if exponent == 1.0 else ((1.0 - exponent) * c) ** (1.0 / (1.0 - exponent))
    return _rounded(x - 1.0 - shift)


def count_quantiles(count: CountField) -> Floats:
    """Inverse CDF of an integer before flooring, at the steps of `zipf_quantiles`, without the last half step."""
    normal = NormalDist(count.mean, count.deviation)
    u = (np.arange(_KNOTS + 1) / _KNOTS).clip(0.5 / _KNOTS, 1 - 0.5 / _KNOTS)
    x = _rounded(np.exp([normal.inv_cdf(float(p)) for p in u]))
    if count.lowest < 0:
        x -= 1.0
        x[:33] = np.linspace(count.lowest, x[32], 33)
    return x


def rank_names(field: str, ranks: Ints) -> NDArray[np.uint32]:
    """The 32-bit name of each rank [n] in a field: well mixed and one to one, so no two values share one.

    `BLANK` has a name too, for formats in which a certain value means "none".
    The mixer is Wellons' ``lowbias32``; the field's salt comes from splitmix64.
    """
    salt = splitmix64(np.array([key("name", field)], dtype=np.uint64))[0]
    x = ranks.astype(np.uint32) ^ np.uint32(salt >> np.uint64(32))
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


def named_ranks(field: str, names: NDArray[np.uint32]) -> Ints:
    """The ranks [n] whose `rank_names` are `names` [n]: for every name there is one."""
    salt = splitmix64(np.array([key("name", field)], dtype=np.uint64))[0]
    x = names.copy()
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x43021123)  # the inverse of 0x846CA68B modulo 2^32
    x ^= (x >> np.uint32(15)) ^ (x >> np.uint32(30))
    x *= np.uint32(0x1D69E2A5)  # the inverse of 0x7FEB352D
    x ^= x >> np.uint32(16)
    ranks = (x ^ np.uint32(salt >> np.uint64(32))).astype(np.int64)
    ranks[ranks == 2**32 - 1] = BLANK
    return ranks


def key(*parts: str | int) -> int:
    """A 64-bit key for a tuple of names and numbers."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _cumulative(x: Floats, exponent: float) -> Floats:
    """Integral of x^(-exponent)."""
    return np.log(x) if exponent == 1.0 else x ** (1.0 - exponent) / (1.0 - exponent)


def _rounded(x: Floats) -> Floats:
    """To single precision: away go the last bits, in which mathematical libraries differ."""
    return np.asarray(x.astype(np.float32), dtype=np.float64)


def _interpolate(quantiles: Floats, u: Floats) -> Floats:
    scaled = u * _KNOTS
    cell = scaled.astype(np.int64)
    low = quantiles[cell]
    return low + (scaled - cell) * (quantiles[cell + 1] - low)


def _main(bits: NDArray[np.uint64], informative: NDArray[np.bool_]) -> Floats:
    """Unweighted main effects [n]: +-[0.5, 1.5) where informative."""
    sixteen = ((bits >> np.uint64(24)) & np.uint64(0xFFFF)).astype(np.float64)
    signed = sixteen - 32768.0  # [-32768, 32768)
    size = signed / 32768.0
    return (size + np.where(size < 0, -0.5, 0.5)) * informative


def _unit(x: NDArray[np.uint64]) -> Floats:
    """Hash to [0, 1) with 53 bits."""
    return (splitmix64(x) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _sigmoid(z: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-z))
