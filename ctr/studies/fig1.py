"""Figure 1: AUC against feature rate. It is drawn from table 2's cells: the same runs, the same table."""

from __future__ import annotations

from ctr.report.findings import Findings
from ctr.studies import table2
from ctr.studies.study import Ask, Lambdas, Options, Scores, Shares


def study(ask: Ask, options: Options, *, lambda21: Lambdas, finetune: Shares, scores: Scores) -> Findings:
    title = f"# Figure 1 · AUC against feature rate · {options.dataset}"
    return table2.findings(ask, options, title, lambda21, finetune, scores)
