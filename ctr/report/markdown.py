"""Numbers and tables in the paper's form: ``.8019±.0003 (0.030)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ctr.report.findings import Column, Row

GAP = "–"

# Of each column of a Markdown table: its heading, and the column that it shows or a function of the row.
Layout = Sequence[tuple[str, str | Callable[[Row], str]]]


def auc(value: float | None, std: float = math.nan) -> str:
    """``.8019``, or ``.8019±.0003`` where the spread is known."""
    if value is None or math.isnan(value):
        return GAP
    return _fraction(value) if math.isnan(std) else f"{_fraction(value)}±{_fraction(std)}"


def difference(value: float | None) -> str:
    """With its sign: ``+.0021``."""
    if value is None or math.isnan(value):
        return GAP
    return f"{'−' if round(value, 4) < 0 else '+'}{_fraction(abs(value))}"


def interval(low: float | None, high: float | None) -> str:
    """``[−.0003, +.0021]``."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return GAP
    return f"[{difference(low)}, {difference(high)}]"


def rate(value: float | None) -> str:
    """Three digits behind the point, two digits and the exponent below .01: ``0.518``, ``9.2e-3``."""
    if value is None or math.isnan(value):
        return GAP
    return _scientific(value, 1) if 0 < value < 0.00995 else f"{value:.3f}" if value else "0"


def p_value(value: float | None) -> str:
    """``0.943``, ``9.11e-3``."""
    if value is None or math.isnan(value):
        return GAP
    return _scientific(value, 2) if value < 0.00995 else f"{value:.3f}"


def power(value: float | None) -> str:
    """A lambda or learning rate to three digits: ``5e-4``, ``1.75e-1``, ``1``."""
    if value is None or math.isnan(value):
        return GAP
    mantissa, exponent = f"{value:.2e}".split("e")
    short = f"{float(mantissa):g}"
    return short if int(exponent) == 0 else f"{short}e{int(exponent)}"


def share(value: float | None) -> str:
    """``30%``."""
    return GAP if value is None or math.isnan(value) else f"{value:.0%}"


def count(value: float | None) -> str:
    """``1,234``."""
    return GAP if value is None or math.isnan(value) else f"{value:,.0f}"


def cell(row: Row, prefix: str = "") -> str:
    """A row's mean AUC, its spread and the mean feature rate: ``.8019±.0003 (0.030)``."""
    mean, std = row[f"{prefix}auc_mean"], row[f"{prefix}auc_std"]
    return GAP if math.isnan(mean) else f"{auc(mean, std)} ({rate(row[f'{prefix}rate_mean'])})"


def bold(text: str, condition: bool = True) -> str:
    return f"**{text}**" if condition and text != GAP else text


def choice(text: str, best: bool, tied: bool) -> str:
    """The best of several bold, what ties with it marked: ``.8019 =``."""
    return f"{text} =" if tied else bold(text, best)


def view(
    rows: Sequence[Row], columns: Sequence[Column], layout: Sequence[tuple[str, str | Callable[[Row], str]]]
) -> str:
    """A Markdown table of some rows."""
    forms = {column.name: column.form for column in columns}
    lines = [[forms[of](row[of]) if isinstance(of, str) else of(row) for _, of in layout] for row in rows]
    return table([heading for heading, _ in layout], lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, numbers to the right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _fraction(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _scientific(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
