"""The studies by the names that ``study=...`` knows."""

from __future__ import annotations

from ctr.studies import table2, table5
from ctr.studies.options import Study

STUDIES: dict[str, Study] = {
    "table2": table2.study,
    "table5": table5.study,
    "fig1": table2.fig1,
}
