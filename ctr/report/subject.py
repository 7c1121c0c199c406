"""What a study in MLflow is about: it identifies the study's report, view and runs."""

from __future__ import annotations

from dataclasses import dataclass

SHOWN, TRIED = "shown", "tried"  # values of `tag`: a point of the study's figures, or a run on the way to them


@dataclass(frozen=True)
class Subject:
    """A study on certain data. Running it again, with more seeds for example, replaces the earlier report.

    Attributes:
        study: table2, fig1, ...
        dataset: criteo, avazu, ...
        chosen: other choices that identify it: another model, ``validation``.
        rows: of the whole log.
        source: ``raw``, or ``generated`` rows.
        data_hash: of the prepared rows.
    """

    study: str
    dataset: str
    chosen: tuple[str, ...]
    rows: int
    source: str
    data_hash: str

    @property
    def title(self) -> str:
        """For a reader: "table2 on criteo, validation (300,000 generated rows)"."""
        generated = "generated " if self.source == "generated" else ""
        return f"{self.study} on {', '.join([self.dataset, *self.chosen])} ({self.rows:,} {generated}rows)"

    @property
    def key(self) -> str:
        return "-".join([self.study, self.dataset, *self.chosen, self.data_hash[:8]])


def tag(key: str) -> str:
    """The tag that a study's runs have, each `SHOWN` or `TRIED`."""
    return f"study.{key}"
