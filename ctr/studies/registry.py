"""The studies by the names that ``study=...`` knows."""

from __future__ import annotations

from ctr.studies import fig2, fig3, stream, table2, table3, table4, table5, table8
from ctr.studies.study import Study

# Table 9 of the paper holds the lambda21 of figure 2.
STUDIES: dict[str, Study] = {
    "table2": table2.study,
    "table3": table3.study,
    "table4": table4.study,
    "table5": table5.study,
    "table8": table8.study,
    "fig1": table2.fig1,
    "fig2": fig2.study,
    "fig3": fig3.study,
    "stream": stream.study,
}
