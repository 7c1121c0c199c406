"""The paper's published numbers, as printed: Yue et al., "Adaptive Optimizers with Sparse Group Lasso for Neural
Networks in CTR Prediction".

A number missing in the print at hand is None; comments say what is odd or derived. AUCs are on the full data:
see `ROWS_TRAIN`. Rates are feature rates (the paper's "sparsity"). The paper prints no standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

Found = TypeVar("Found")

# The paper calls dataset and model by one name (section 4.1).
PAIRINGS = {"avazu": "mlp", "ipinyou": "opnn", "criteo": "dcn"}
PRINTED = {"mlp": "MLP", "opnn": "OPNN", "dcn": "DCN"}

# Training rows at full size, roundly: six of seven parts of Criteo, nine of ten days of Avazu, iPinYou as printed.
ROWS_TRAIN = {"criteo": 39_300_000, "avazu": 36_200_000, "ipinyou": 15_400_000}


@dataclass(frozen=True)
class Table2Cell:
    """Adam pruned to Group Adam's rate against Group Adam, with Student's p-value."""

    adam: float | None
    group_adam: float
    rate: float
    p: float


# Table 2, lambda1 = lambda2 = 0, by lambda21. The print at hand has lost Adam's column for MLP and its last two values
# for DCN; `adam_auc` takes those from table 8.
TABLE2 = {
    "mlp": {
        1e-4: Table2Cell(None, 0.7461, 0.974, 0.470),
        5e-4: Table2Cell(None, 0.7468, 0.864, 0.466),
        1e-3: Table2Cell(None, 0.7468, 0.701, 0.058),
        5e-3: Table2Cell(None, 0.7464, 0.132, 0.335),
        1e-2: Table2Cell(None, 0.7466, 0.038, 0.014),
    },
    "opnn": {
        1e-4: Table2Cell(0.7551, 0.7595, 0.078, 0.086),
        5e-4: Table2Cell(0.7491, 0.7573, 0.039, 0.091),
        1e-3: Table2Cell(0.7465, 0.7595, 0.032, 0.014),
        5e-3: Table2Cell(0.7509, 0.7561, 0.018, 0.041),
        1e-2: Table2Cell(0.7396, 0.7493, 9.2e-3, 0.031),
    },
    "dcn": {
        1e-4: Table2Cell(0.8018, 0.8022, 0.518, 0.105),
        5e-4: Table2Cell(0.8017, 0.8019, 0.062, 0.487),
        1e-3: Table2Cell(0.8017, 0.8017, 0.018, 0.943),
        5e-3: Table2Cell(None, 0.8007, 4.2e-3, 9.11e-3),
        1e-2: Table2Cell(None, 0.7999, 2.5e-3, 5.97e-7),
    },
}


@dataclass(frozen=True)
class Table3Cell:
    """Plain against regularised; in `p_rate` the p-value of the rates, 0 where "< 2.2e-16" is printed."""

    plain: float
    plain_rate: float
    group: float
    group_rate: float
    p: float
    p_rate: float


# Table 3. OPNN's plain rate of .827 is as printed: a plain optimizer zeroes no feature that it has seen.
TABLE3 = {
    "mlp": {
        "adam": Table3Cell(0.7458, 1.000, 0.7486, 0.018, 1.10e-3, 2.69e-11),
        "adagrad": Table3Cell(0.7453, 1.000, 0.7469, 0.063, 0.106, 1.51e-9),
    },
    "opnn": {
        "adam": Table3Cell(0.7588, 0.827, 0.7617, 0.130, 0.289, 6.20e-11),
        "adagrad": Table3Cell(0.7556, 0.827, 0.7595, 0.016, 0.026, 0.0),
    },
    "dcn": {
        "adam": Table3Cell(0.8021, 1.000, 0.8019, 0.030, 0.422, 1.44e-11),
        "adagrad": Table3Cell(0.7975, 1.000, 0.7978, 0.040, 0.198, 3.94e-11),
    },
}

# Table 4, DCN with Group Adam and table 6's regularisers: embedding dimension -> (rate, AUC).
TABLE4 = {4: (0.074, 0.8008), 8: (0.030, 0.8019), 16: (0.012, 0.8020), 32: (0.008, 0.8011)}

# Table 5 (appendix E): the learning rates chosen among 1e-5 ... 1e-1.
TABLE5 = {"adam": {"mlp": 1e-4, "opnn": 1e-4, "dcn": 1e-3}, "adagrad": {"mlp": 1e-2, "opnn": 1e-2, "dcn": 1e-2}}


@dataclass(frozen=True)
class Regularisers:
    lambda1: float
    lambda21: float
    lambda2: float


# Tables 6 (Group Adam) and 7 (Group Adagrad), the best by AUC. The print at hand has MLP as "5e-3 1 | e-2" and DCN as
# "4e-4 5 | 6e-4": read as lambda1 = 5e-3, lambda21 = 1e-2 and as lambda1 = 4e-4, lambda21 = 5e-4.
REGULARISERS = {
    "adam": {
        "mlp": Regularisers(5e-3, 1e-2, 1e-5),
        "opnn": Regularisers(8e-5, 1e-5, 1e-5),
        "dcn": Regularisers(4e-4, 5e-4, 1e-5),
    },
    "adagrad": {
        "mlp": Regularisers(0.0, 1e-2, 1e-5),
        "opnn": Regularisers(8e-5, 8e-5, 1e-5),
        "dcn": Regularisers(0.0, 4e-3, 1e-5),
    },
}

# Table 8: pruned Adam's AUC by share of rows to fine-tune on, for the rates of table 2 in its order of lambda21.
# Its best at DCN's rates .518 and .062 are .8019 and .8018, where table 2 prints .8018 and .8017.
FINETUNE = (0.3, 0.2, 0.1, 0.0)
TABLE8 = {
    "mlp": {
        1e-4: (0.7454, 0.7457, 0.7439, 0.7452),
        5e-4: (0.7454, 0.7441, 0.7453, 0.7464),
        1e-3: (0.7443, 0.7452, 0.7449, 0.7452),
        5e-3: (0.7457, 0.7428, 0.7450, 0.7452),
        1e-2: (0.7444, 0.7442, 0.7437, 0.7430),
    },
    "opnn": {
        1e-4: (0.6809, 0.7259, 0.7160, 0.7551),
        5e-4: (0.6356, 0.6383, 0.6678, 0.7491),
        1e-3: (0.6826, 0.6618, 0.6604, 0.7465),
        5e-3: (0.6318, 0.6419, 0.6207, 0.7509),
        1e-2: (0.5934, 0.6003, 0.6355, 0.7396),
    },
    "dcn": {
        1e-4: (0.8016, 0.8015, 0.8015, 0.8019),
        5e-4: (0.8005, 0.7977, 0.7884, 0.8018),
        1e-3: (0.7883, 0.7969, 0.7800, 0.8017),
        5e-3: (0.7400, 0.7236, 0.6864, 0.7995),
        1e-2: (0.7442, 0.7105, 0.6925, 0.7972),
    },
}

# Table 9: ten lambda21 for each norm on DCN, the axis of figure 2. The print at hand has lost seven and
# three of them: these are what is left. The figure's AUCs are nowhere printed as numbers.
TABLE9 = {"s": (2.5e-4, 1e-3, 2.5e-2), "s_tilde": (0.0, 0.075, 0.15, 0.175, 0.2, 0.225, 0.25)}


def covers(dataset: str, model: str) -> bool:
    """Whether the paper has numbers for this dataset with this model."""
    return PAIRINGS.get(dataset) == model


def table2(model: str, lambda21: float) -> Table2Cell | None:
    """A row of table 2, None where the paper has none for this lambda21."""
    return _near(TABLE2[model], lambda21)


def table8(model: str, lambda21: float, finetune: float) -> float | None:
    """Pruned Adam's AUC in table 8, None where the paper has none."""
    return _near(dict(zip(FINETUNE, _near(TABLE8[model], lambda21) or (), strict=False)), finetune)


def adam_auc(model: str, lambda21: float) -> float | None:
    """Pruned Adam's AUC in table 2; where `is_lost`, the best of table 8, which it was chosen from."""
    cell, schedules = table2(model, lambda21), _near(TABLE8[model], lambda21)
    if cell is None or schedules is None:
        return None
    return max(schedules) if cell.adam is None else cell.adam


def is_lost(model: str, lambda21: float) -> bool:
    """Whether the print at hand has lost pruned Adam's AUC in this row of table 2."""
    cell = table2(model, lambda21)
    return cell is not None and cell.adam is None


def _near(table: Mapping[float, Found], value: float) -> Found | None:
    return next((found for key, found in table.items() if math.isclose(key, value, rel_tol=1e-6)), None)
