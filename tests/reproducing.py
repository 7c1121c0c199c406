"""Running a study of one's own as the command runs the paper's."""

from typing import Any

from ctr.report.findings import Findings
from ctr.reproduce import reproduce
from ctr.studies.study import Ask, Options
from tests.commands import composed

SAMPLE = ["dataset=criteo", "dataset.source=sample", "dataset.sample_rows=2000", "dataset.prepared=data/prepared"]


def no_study(ask: Ask, options: Options, **own: object) -> Findings:
    raise AssertionError("nothing must run")


def reproduced(study: Any, *overrides: str) -> None:
    reproduce(composed("reproduce", *overrides), list(overrides), study)
