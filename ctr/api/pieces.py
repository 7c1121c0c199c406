"""The pieces of a run, for those who write their own loop: settings, rows, model, figures, a saved model.

They are those that ``python -m ctr.train`` is made of, and one pass over the stream gives its digits.
"""

from __future__ import annotations

from pathlib import Path

from ctr.artifact.save import save_model
from ctr.config.compose import compose, resolve
from ctr.datasets import source
from ctr.datasets.frame import write_log
from ctr.datasets.prepared import Prepared
from ctr.datasets.split import days_of
from ctr.datasets.stream import RowStream
from ctr.errors import ArgumentError
from ctr.training import build as building
from ctr.training import trainer
from ctr.training.continuing import under_known
from ctr.training.experiment import set_up
from ctr.training.result import summarise
from ctr.training.settings import Settings
from ctr.training.trainer import Evaluation, TrainingRun

__all__ = ["build", "configure", "evaluate", "open_data", "save", "train", "write_log"]


def configure(*overrides: str) -> Settings:
    """The settings of a run, checked.

    Args:
        overrides: as on the command line of ``ctr.train``: ``"dataset=csv"``, ``"opt.lr=1e-2"``, ...

    Raises:
        ArgumentError, OmegaConfBaseException, HydraException: a key or value that cannot work; or pruning, retraining
            and going on with a known model, which are more than one pass: those are for ``ctr.train``.
    """
    settings = resolve(compose("train", ["tracking=none", *overrides]))
    beyond = {
        "prune": settings.pruning is not None,
        "retrain": settings.retrain,
        "init": settings.init is not None,
        "tracking": settings.tracking is not None,
    }
    if asked := [key for key, value in beyond.items() if value]:
        raise ArgumentError(f"{', '.join(asked)}: a loop of one's own has no such part; python -m ctr.train has")
    return settings


def open_data(settings: Settings) -> Prepared:
    """The rows, prepared first where that is not done yet: ``data.split`` says which of them train and test.

    Raises:
        CtrError: a raw log that is not as expected.
    """
    data, _ = under_known(settings, building.narrowed(settings, source.open_data(settings.data)), None)
    return data


def build(settings: Settings, data: Prepared) -> TrainingRun:
    """A run at its first row: ``run.stream`` yields batches, ``run.step(batch)`` learns from one, ``run.model`` is the
    ``nn.Module``.

    It sets torch's number of threads for the process, and its random generator, as the command does.
    """
    set_up(settings)
    return building.start(settings, data)


def train(run: TrainingRun) -> None:
    """The rest of the pass, to its end: what a loop of one's own takes the place of::

        for batch in run.stream:
            loss, window = run.step(batch)  # window: loss and AUC of the last steps, or None
        run.finish()

    Raises:
        Diverged: the loss is not finite any more.
    """
    trainer.train(run)


def evaluate(run: TrainingRun, data: Prepared) -> Evaluation:
    """The figures of the test rows.

    Raises:
        ArgumentError: there are no test rows.
        Diverged: a prediction is not finite.
    """
    if not data.split.rows_test:
        raise ArgumentError("no row tests: dataset.test_fraction or dataset.test_days says which do")
    test = RowStream(data.rows, data.split.test, building.EVAL_BATCH)
    with run.averaged():
        days = days_of(data.split.test, data.manifest.days)
        return trainer.evaluate(run.learner, test, days=days, negative_rate=data.dataset.negative_rate)


def save(path: Path | str, settings: Settings, data: Prepared, run: TrainingRun, figures: Evaluation | None) -> None:
    """Saves the model in a folder, as ``ctr.load`` and the commands read it; an older one there is replaced.

    Args:
        path: the folder.
        settings, data, run: of the model.
        figures: that `evaluate` gave, to be kept with it; None: there are none.

    Raises:
        ArgumentError: settings by which a model cannot be saved.
        OSError, CtrError: it cannot be written.
    """
    if settings.save is None:
        raise ArgumentError("save=none: the settings ask for no saved model")
    result = summarise(settings, data, run, figures, None, None, retrained=None)
    with run.averaged():
        save_model(Path(path), settings, data, run, result)
