"""`SparseCTRClassifier`: training and prediction of data frames in memory, as a scikit-learn estimator.

A frame takes the way of a log: it is written to a temporary Parquet file, prepared, and trained on by the code of
``python -m ctr.train dataset=csv``. The same rows and options give the same model, to the last bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ctr.api.checks import (
    WEIGHT,
    InputError,
    as_input_error,
    labels_of,
    name_of_label,
    names_of,
    unused,
    weights_of,
)
from ctr.api.parameters import settings_of
from ctr.api.process import Kept, process_state
from ctr.artifact import format
from ctr.artifact.frames import model_inputs
from ctr.artifact.save import save_model
from ctr.artifact.saved import assemble, sigmoid
from ctr.datasets.frame import write_log
from ctr.datasets.ragged import Ids
from ctr.errors import DataError, warn_once
from ctr.files import atomic_folder, read_sealed, sealed
from ctr.metrics import exact_auc
from ctr.training.experiment import run_family
from ctr.training.folder import MODEL
from ctr.training.run import Run

ESTIMATOR = "estimator.json"  # beside the saved model: what it does not say of the estimator
LOG = "rows.parquet"


class SparseCTRClassifier(ClassifierMixin, BaseEstimator):
    """Predicts clicks with a model whose embedding rows the optimizer sets to exactly zero where they do not matter.

    The parameters have the names and the meaning of the keys of ``python -m ctr.train``; None: the command's own
    default for the model or optimizer. Rows are taken in the order of the frame, in one pass, all of them: order them
    by time, and hold the last ones back for a test (`TimeSeriesSplit`).

    Args:
        model: ``"dcn"``, ``"mlp"``, ``"opnn"``, ``"deepfm"``, ``"lr"``, or one of your own package.
        opt: ``"group_adam"``, ``"group_adagrad"``, ..., or a plain one, ``"adam"``, ...
        lr: learning rate.
        lambda1, lambda21, lambda2: l1, l21 (whole rows: larger = fewer features), l2; of a grouped optimizer.
        norm, threshold, lambda_schedule: of a grouped optimizer.
        budget: how many features live, in place of ``lambda21``: a share, a number, or a size such as ``"20MB"``.
        budget_schedule: how many may live during the run.
        embedding_dim: length of an embedding row.
        hidden: sizes of the hidden layers.
        dropout: of OPNN.
        categorical: columns whose values become features; ``"auto"``: those that look like it.
        dense: columns that hold numbers; None: ``"auto"`` if ``categorical`` is, else none.
        ignore: columns that ``"auto"`` leaves out.
        time: the column with the time of each row; ``order`` checks or sorts by it.
        time_format: of its values.
        order: ``"check"`` or ``"sort"``.
        transforms: what becomes of columns that hold numbers, ``"NAME:TRANSFORM"`` each: ``dataset.transform``, whose
            name would make a transformer of the estimator.
        transform_default: what becomes of the others.
        multi: columns of text in which a row may have several values, ``"NAME:SEPARATOR"`` each; of lists ``"NAME"``.
            With auto a column of lists needs no mention.
        pool: ``"mean"`` or ``"sum"`` of the embedding rows of these values.
        encoding: ``"onehot"``, exact; or ``"hash"`` into ``num_buckets``.
        num_buckets: of ``encoding="hash"``.
        min_count: values that occur fewer times share one row for each field.
        unseen: what values that training has not seen read: ``"zero"``, or the ``"row"`` of rare ones.
        negative_rate: share of the negatives that the rows hold; probabilities are those of all.
        admit: k; a value has a row of its own from its k-th occurrence on.
        average: share of the steps, at the end, over which the net's weights are averaged.
        batch_size: rows per step.
        epochs: passes over the rows; more than one overfits the rows of rare values.
        seed: of the initial weights and of dropout.
        device, backend, threads, compile, precision: where and how it is computed.
        verbose: shows what each column is taken as, and progress bars.

    Attributes:
        classes_: [2], the labels; the second is the click.
        n_features_in_: number of columns.
        feature_names_in_: their names, where they have any. An array's columns are called x0, x1, ...
        feature_rate_: share of the features present in training whose rows are not zero.
        features_: DataFrame of the values that are kept, strongest first; see `ctr.artifact.saved.SavedModel.features`.
    """

    def __init__(
        self,
        *,
        model: str = "dcn",
        opt: str = "group_adam",
        lr: float | None = None,
        lambda1: float | None = None,
        lambda21: float | None = None,
        lambda2: float | None = None,
        norm: str | None = None,
        threshold: str | None = None,
        lambda_schedule: str | None = None,
        budget: float | int | str | None = None,
        budget_schedule: str | None = None,
        embedding_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        dropout: float | None = None,
        categorical: str | Sequence[str] = "auto",
        dense: str | Sequence[str] | None = None,
        ignore: Sequence[str] = (),
        time: str | None = None,
        time_format: str = "auto",
        order: Literal["check", "sort"] = "check",
        transforms: Sequence[str] = (),
        transform_default: str = "auto",
        multi: Sequence[str] = (),
        pool: Literal["mean", "sum"] = "mean",
        encoding: Literal["onehot", "hash"] = "onehot",
        num_buckets: int = 1_000_000,
        min_count: int = 1,
        unseen: Literal["zero", "row"] = "zero",
        negative_rate: float = 1.0,
        admit: int = 1,
        average: float = 0.0,
        batch_size: int = 512,
        epochs: int = 1,
        seed: int = 0,
        device: str = "cpu",
        backend: Literal["auto", "native", "rows", "torch"] = "auto",
        threads: int = 2,
        compile: bool | Literal["auto"] = False,
        precision: Literal["float32", "bfloat16"] = "float32",
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.opt = opt
        self.lr = lr
        self.lambda1 = lambda1
        self.lambda21 = lambda21
        self.lambda2 = lambda2
        self.norm = norm
        self.threshold = threshold
        self.lambda_schedule = lambda_schedule
        self.budget = budget
        self.budget_schedule = budget_schedule
        self.embedding_dim = embedding_dim
        self.hidden = hidden
        self.dropout = dropout
        self.categorical = categorical
        self.dense = dense
        self.ignore = ignore
        self.time = time
        self.time_format = time_format
        self.order = order
        self.transforms = transforms
        self.transform_default = transform_default
        self.multi = multi
        self.pool = pool
        self.encoding = encoding
        self.num_buckets = num_buckets
        self.min_count = min_count
        self.unseen = unseen
        self.negative_rate = negative_rate
        self.admit = admit
        self.average = average
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.device = device
        self.backend = backend
        self.threads = threads
        self.compile = compile
        self.precision = precision
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains anew on the rows of a frame, in their order.

        Args:
            X: a pandas, polars or Arrow frame of n rows, or an array [n, K]. None and NaN are blank.
            y: [n] labels, of two classes.
            sample_weight: [n], how much each row counts in the loss, finite and at least 0; None: 1 each. The loss of a
                batch is the sum of weight times logloss over its number of rows.

        Raises:
            InputError: a parameter, a column, a label or a weight that cannot work.
            Diverged: the loss is not finite any more.
        """
        return self._train(X, y, None, sample_weight, anew=True)

    def partial_fit(self, X: Any, y: Any, classes: Sequence[Any] | None = None, sample_weight: Any = None) -> Self:
        """Goes on with the model on more rows, as ``init=`` does: known values keep their rows, new ones get rows.

        Two frames one after the other give what one with the rows of both gives, to the last bit, if the first has a
        whole number of batches and no transform is fitted: those of the first frame stay. A copy of the estimator, an
        unpickled or a loaded one has the model alone: there the optimizer's moments begin anew.

        Args:
            X, y: as for `fit`. The first call finds out what the columns are.
            classes: [2], all labels; needed in the first call where its rows have only one.
            sample_weight: as for `fit`.

        Raises:
            InputError, Diverged: as `fit`.
        """
        return self._train(X, y, classes, sample_weight, anew=not hasattr(self, "_model"))

    def predict_proba(self, X: Any) -> np.ndarray:
        """float64 [n, 2] probabilities of ``classes_`` for the rows of a frame with the columns of `fit`."""
        clicks = sigmoid(self.decision_function(X)).astype(np.float64)
        return np.stack([1 - clicks, clicks], axis=1)

    def decision_function(self, X: Any) -> np.ndarray:
        """float32 [n] logits of the second class."""
        inputs = self._inputs(X)  # checks first that there is a model
        return self._model.logits(*inputs)

    def predict(self, X: Any) -> np.ndarray:
        """[n] the more probable class of each row."""
        clicks = self.decision_function(X) > 0
        return self.classes_[clicks.astype(int)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The AUC, as the commands report it; the accuracy of rare clicks would say nothing.

        NaN where the rows have one label only, with a warning.
        """
        inputs, labels = self._inputs(X), self._encoded(labels_of(X, y))
        auc = exact_auc(self._model.net_logits(*inputs), labels, weights_of(X, sample_weight))
        if auc != auc:
            warn_once("the AUC of rows with one label only is undefined")
        return auc

    @property
    def features_(self) -> pd.DataFrame:
        check_is_fitted(self)
        return self._model.features()

    def save(self, path: Path | str) -> None:
        """Saves model, parameters and classes in a folder; an older one there is replaced.

        `SparseCTRClassifier.load` reads it, and so do `ctr.load` and the commands.
        """
        check_is_fitted(self)
        known = {
            "params": self.get_params(),
            "classes": self.classes_.tolist(),
            "dtype": self.classes_.dtype.str,
            "columns": self.feature_names_in_.tolist() if hasattr(self, "feature_names_in_") else None,
            "n_columns": self.n_features_in_,
        }
        try:
            text = sealed(known)
        except TypeError as error:
            raise InputError(f"a parameter or class that JSON cannot hold: {error}") from None
        with atomic_folder(Path(path)) as folder:
            format.write_files(folder, self._contents)
            (folder / ESTIMATOR).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str, *, allow_module: bool = False) -> Self:
        """Loads what `save` has written, and checks all of it; nothing in the folder is executed.

        Args:
            path: the folder.
            allow_module: as for `ctr.load`.

        Raises:
            InputError: no saved estimator there; a model that a command left is for `ctr.load`.
            DataError: it is damaged, or of a newer version.
        """
        with as_input_error(but=DataError):
            folder = format.locate(path)
            try:
                known = read_sealed(folder / ESTIMATOR)
            except FileNotFoundError:
                raise InputError(f"{folder}: a saved model, but of no estimator; ctr.load reads it") from None
            except DataError as damage:
                raise format.damaged(damage.path, damage.problem) from None
            try:
                params = {name: tuple(v) if isinstance(v, list) else v for name, v in known["params"].items()}
                loaded = cls().set_params(**params)
                loaded.classes_ = np.array(known["classes"], np.dtype(known["dtype"]))
                loaded.n_features_in_ = known["n_columns"]
                if known["columns"] is not None:
                    loaded.feature_names_in_ = np.array(known["columns"], object)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(folder / ESTIMATOR, None, f"not of this version of ctr: {error}") from None
            loaded._take(format.read(folder), folder, allow_module=allow_module)
        return loaded

    def _inputs(self, X: Any) -> tuple[Ids, np.ndarray]:
        """What the model takes of the rows of a frame."""
        check_is_fitted(self)
        frame = self._frame(X, reset=False)
        with as_input_error():
            return self._model.take(*model_inputs(frame, self._model.inputs))

    def _train(self, X: Any, y: Any, classes: Sequence[Any] | None, sample_weight: Any, *, anew: bool) -> Self:
        if y is None:
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        frame, labels = self._frame(X, reset=anew), labels_of(X, y)
        if anew:
            self.classes_ = np.unique(labels if classes is None else np.asarray(classes))
            if len(self.classes_) != 2:
                raise InputError(f"{len(self.classes_)} class in y; expected two: partial_fit(..., classes=[0, 1])")
        elif classes is not None and not np.array_equal(np.unique(np.asarray(classes)), self.classes_):
            raise InputError(f"classes={list(classes)}; the model has {self.classes_.tolist()}")
        label = name_of_label(y, frame) if anew else self._contents.manifest.dataset_options["label"]
        more = {label: self._encoded(labels)}
        if (weights := weights_of(X, sample_weight)) is not None:
            more[unused(names_of(frame) | {label}, WEIGHT)] = weights
        with (
            tempfile.TemporaryDirectory(prefix="ctr-") as place,
            as_input_error({f"{place}/{LOG}": "the frame"}),
            process_state(),
        ):
            write_log(frame, Path(place, LOG), more)
            origin = None if anew else self._origin(Path(place))
            settings = settings_of(self.get_params(deep=False), Path(place, LOG), [*more], origin)
            if self.verbose and settings.data.format.settle is not None:
                print(settings.data.format.settle([Path(place, LOG)]).note, flush=True)
            kept = Kept()
            run = Run(settings, kept.path, save=save_model)
            run_family([run], None if self.verbose else lambda rows: None)
            if run.error is not None:
                raise run.error
        assert run.result is not None
        for warning in run.result.warnings:
            warn_once(warning)
        folder = kept.path / MODEL
        self._take(format.read(folder), folder, allow_module=True)
        self._kept = kept
        return self

    def _origin(self, place: Path) -> Path:
        """Where `partial_fit` goes on: the state that training left, or the model alone."""
        if hasattr(self, "_kept"):
            return self._kept.path
        format.write(place / MODEL, self._contents)
        return place / MODEL

    def _take(self, contents: format.Contents, folder: Path, *, allow_module: bool) -> None:
        self._model = assemble(folder, contents, allow_module=allow_module)
        self._contents = contents
        self.feature_rate_ = contents.manifest.run["feature_rate"]

    def _frame(self, X: Any, *, reset: bool) -> Any:
        """The rows as a frame with named columns, after scikit-learn's checks of names and numbers of columns."""
        if isinstance(X, pa.RecordBatch):
            X = pa.Table.from_batches([X])
        if isinstance(X, pd.DataFrame) or hasattr(X, "__arrow_c_stream__"):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if isinstance(X, pd.DataFrame) and not all(isinstance(name, str) for name in X.columns):
                return X.set_axis([f"x{number}" for number in range(X.shape[1])], axis=1)
            return X
        array = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan")
        return pa.table({f"x{n}": pa.array(array[:, n], from_pandas=True) for n in range(array.shape[1])})

    def _encoded(self, labels: np.ndarray) -> np.ndarray:
        """uint8 [n], 1 for the second class."""
        if strange := sorted(set(np.unique(labels).tolist()) - set(self.classes_.tolist())):
            raise InputError(f"y has the label {strange[0]!r}; the classes are {self.classes_.tolist()}")
        return (labels == self.classes_[1]).astype(np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        """Without the loaded model, which `__setstate__` makes again, and the state on the disk."""
        return {name: value for name, value in super().__getstate__().items() if name not in ("_model", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "_contents"):
            self._take(self._contents, Path(MODEL), allow_module=True)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags
