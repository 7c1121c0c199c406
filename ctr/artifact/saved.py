"""A saved model that has been loaded: encodes values, computes logits and probabilities, tells what it has kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from ctr import parts
from ctr.artifact import format
from ctr.artifact.format import Contents, Manifest
from ctr.artifact.frames import inputs_of, model_inputs
from ctr.artifact.lookup import Lookup, typed_columns
from ctr.datasets.ragged import Ids, Ragged, by_field, flat
from ctr.datasets.schema import Dataset
from ctr.datasets.stream import Batch, as_tensors
from ctr.datasets.transforms import apply
from ctr.datasets.vocabulary import is_rest
from ctr.errors import ArgumentError, CtrError, DataError
from ctr.metrics import of_whole_log
from ctr.models import Bags, FeatureEmbedding
from ctr.training.build import EVAL_BATCH
from ctr.training.compiled.forward import MAX_THREADS, Forward, forward_of, unservable
from ctr.training.folder import MANIFEST

if TYPE_CHECKING:
    import pandas as pd

OTHERS = "(others)"  # in place of a value, for a reader: the row of a field's rare values
TOLERANCE = 1e-5  # of a logit, relative and absolute: another machine or backend rounds otherwise


class SavedModel:
    """A trained model as it is served; `ctr.load` makes one.

    Attributes:
        folder: where it was loaded from.
        manifest: what it is, what it was trained on, and the run's figures.
        dataset: the raw format that it takes.
        net: the model, in evaluation mode; ``net(ids, dense)`` and ``net.from_rows(rows, dense)`` give its logits
            (`net_logits`).
        rows: float32 [R + 1, d], the table of ``net.embedding``. Row 0 is zero: what unknown, never seen and removed
            values read, unless the model has rows for rare values. Row i + 1 belongs to row i of the vocabulary.
        vocabulary: Arrow table, see `ctr.artifact.format.Contents`.
        backend: ``"native"`` or ``"torch"``.
        inputs: the columns that a frame must have, with their types.
    """

    def __init__(
        self, folder: Path, contents: Contents, dataset: Dataset, net: nn.Module, forward: Forward | None
    ) -> None:
        self.folder, self.manifest, self.dataset, self.net = folder, contents.manifest, dataset, net
        self.rows: Tensor = net.get_parameter("embedding.weight").detach()
        self.vocabulary, self.others = contents.vocabulary, contents.others
        self.backend: Literal["native", "torch"] = "torch" if forward is None else "native"
        self._forward = forward
        self.inputs = inputs_of(dataset)
        try:
            self._lookup = Lookup(contents)
        except CtrError as error:
            raise DataError(folder / format.VOCABULARY, None, str(error)) from None

    def encode(self, fields: Sequence[pa.Array], first: int = 0) -> Ids:
        """int32 [n, len(fields)] row numbers of one typed array per field, from field ``first`` on; 0 reads as zero.
        `Ragged` where one of them is of lists."""
        return self._lookup.rows(fields, first)

    def known(self, ids: Ids) -> np.ndarray:
        """bool [n, F]: where a value has a row that it shares with no other, of row numbers as `take` gives; of several
        values float64, the share that has."""
        known = (flat(ids) > 0) & (flat(ids) != by_field(ids, self._lookup.own))
        return ids.means(known) if isinstance(ids, Ragged) else known.reshape(ids.shape)

    def dictionary(self, field: int) -> tuple[pa.Array, np.ndarray, int]:
        """The values of a field that the model knows, the row number of each (int64 [m]), and that of all others."""
        places = np.flatnonzero(self.vocabulary["field"].to_numpy() == field)
        values = self.vocabulary["value"].combine_chunks().take(pa.array(places))
        of_log = ~is_rest(values)
        values, rows, default = values.filter(pa.array(of_log)), places[of_log] + 1, int(self._lookup.default[field])
        if self.others is None:
            return values, rows, default
        more = self.others["value"].filter(pc.equal(self.others["field"], field)).combine_chunks()
        read = 0 if default else int(self._lookup.own[field])
        return pa.concat_arrays([values, more]), np.append(rows, np.full(len(more), read)), default

    def take(self, fields: Sequence[pa.Array], numbers: np.ndarray) -> tuple[Ids, np.ndarray]:
        """What the model takes of what the dataset's reader yields.

        Args:
            fields: one typed array [n] per field, without the buckets.
            numbers: float32 [n, K], the dense columns, NaN where missing.

        Returns:
            int32 [n, F] row numbers (`Ragged` where a field is multi-valued), and the dense inputs float32
            [n, `Manifest.num_dense`].
        """
        if not self.manifest.transforms:
            return self.encode(fields), numbers
        buckets, dense = apply(self.manifest.transforms, numbers)
        return self.encode([*fields, *buckets]), dense

    def logits(self, ids: Ids, dense: np.ndarray | None = None) -> np.ndarray:
        """float32 [n] logits, in batches as the run's own evaluation.

        Of a model that has learned from a share of the negatives they are those of the whole log.

        Args:
            ids: row numbers of n rows, as `take` gives.
            dense: float32 [n, K] inputs, as `take` gives; may be None where K = 0.
        """
        return of_whole_log(self.net_logits(ids, dense), self.dataset.negative_rate)

    def net_logits(self, ids: Ids, dense: np.ndarray | None = None) -> np.ndarray:
        """`logits` as the net gives them: those of the log that it has learned from."""
        found = np.empty(len(ids), np.float32)
        for start in range(0, len(ids), EVAL_BATCH):
            part = slice(start, start + EVAL_BATCH)
            columns = None if dense is None or not self.manifest.num_dense else torch.from_numpy(dense[part])
            found[part] = self._batch(as_tensors(ids[part]), columns).numpy()
        return found

    def _batch(self, ids: Tensor | Bags, dense: Tensor | None) -> Tensor:
        if self._forward is not None:
            return self._forward.predict(Batch(ids, dense, torch.zeros(len(ids))))
        with torch.no_grad():
            return cast(Tensor, self.net(ids, dense))

    def predict(self, frame: Any) -> np.ndarray:
        """float32 [n] click probabilities of rows with the raw log's columns.

        Args:
            frame: a pandas, Arrow or polars frame, a mapping of columns, or a list of dicts; columns that the model
                does not need, such as the label, are ignored. Or a list of raw lines, with or without the label: as
                in a log of Criteo, Avazu (without its header) or iPinYou; of one's own format the first line is the
                header. None, NaN and an empty text are blank; whole floats, as pandas makes of integers with
                blanks, are integers.

        Raises:
            ArgumentError: a column that is missing or of another type, or a value that cannot be.
        """
        return sigmoid(self.logits(*self._inputs(frame)))

    def coverage(self, frame: Any) -> dict[str, float]:
        """Share of the rows, by field, whose value has a row of its own in the model.

        The others read as zero, or the row of the field's rare values.

        What training has never seen and what it has removed are the same here. Arguments and errors are those of
        `predict`.
        """
        ids, _ = self._inputs(frame)
        names = [field.name for field in self.manifest.fields]
        return dict(zip(names, self.known(ids).mean(axis=0).tolist(), strict=True))

    def _inputs(self, frame: Any) -> tuple[Ids, np.ndarray]:
        return self.take(*model_inputs(frame, self.inputs))

    def features(self) -> pd.DataFrame:
        """What the model has kept, strongest first: one row for each embedding row that is not zero.

        Returns:
            Columns ``field``, ``value`` (None is blank; a bucket, without a field, where values are hashed into
            buckets; a hash where the values were not kept; "(others)" is the row of a field's rare values), ``norm``
            (||w||), ``effect`` (||D w||, by which Group Adam ranks rows; D is the optimizer's denominator at the end
            of training), ``count`` (occurrences in training rows).
        """
        return self.feature_table().to_pandas()

    def feature_table(self) -> pa.Table:
        """`features` as an Arrow table."""
        names = pa.array([field.name for field in self.manifest.fields], pa.string())
        table = pa.table(
            {
                "field": names.take(self.vocabulary["field"].combine_chunks()),
                "value": _shown(self.vocabulary["value"].combine_chunks()),
                "norm": torch.linalg.vector_norm(self.rows[1:], dim=1).numpy(),
                "effect": self.vocabulary["effect"],
                "count": self.vocabulary["count"],
            }
        )
        return table.sort_by([("effect", "descending"), ("norm", "descending")])

    def check_golden(self) -> None:
        """Compares the golden rows' logits with those that the run computed.

        Raises:
            DataError: they differ, or a probe's key does: this version would look values up in vain.
        """
        golden, manifest, path = self.manifest.golden, self.manifest, self.folder / MANIFEST
        if golden.probes is not None:
            fields = self.dataset.fields
            probes = [[[text] if field.multi else text] for field, (text, _) in zip(fields, golden.probes, strict=True)]
            if flat(self._lookup.keys(typed_columns(fields, probes))).tolist() != [key for _, key in golden.probes]:
                raise DataError(path, None, "this version of ctr hashes values otherwise than the one that saved it")
        numbers = np.array(golden.dense, np.float32).reshape(len(golden.logits), len(manifest.dense))  # None: NaN
        if golden.values is not None:
            columns = typed_columns(self.dataset.read_fields, list(zip(*golden.values, strict=True)))
            ids, dense = self.take(columns, numbers)
        else:
            rows = golden.rows or []
            ids = np.array(rows, np.int32) if manifest.pool is None else Ragged.of(rows)
            dense = apply(manifest.transforms, numbers)[1] if manifest.transforms else numbers
        found, expected = self.net_logits(ids, dense), np.array(golden.logits, np.float32)
        if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            worst = int(np.argmax(np.abs(found - expected)))
            raise DataError(
                path, None,
                f"golden row {worst} has logit {found[worst]:.6f}, but {expected[worst]:.6f} when the model was saved: "
                "it is damaged, or this version of ctr computes otherwise",
            )  # fmt: skip


def _shown(values: pa.Array) -> pa.Array:
    return pc.if_else(pa.array(is_rest(values)), OTHERS, values) if pa.types.is_string(values.type) else values


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float32 probabilities of float32 logits, without overflow."""
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


def load(
    path: Path | str,
    *,
    allow_module: bool = False,
    backend: Literal["auto", "native", "torch"] | None = None,
    threads: int | None = None,
) -> SavedModel:
    """Loads a saved model; see `ctr.load`."""
    folder = format.locate(path)
    return assemble(folder, format.read(folder), allow_module=allow_module, backend=backend, threads=threads)


def assemble(
    folder: Path,
    contents: Contents,
    *,
    allow_module: bool = False,
    backend: Literal["auto", "native", "torch"] | None = None,
    threads: int | None = None,
) -> SavedModel:
    """Makes a model of what `ctr.artifact.format.read` gave; see `load`."""
    manifest = contents.manifest
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise ArgumentError(f"threads={threads}; expected 1 to {MAX_THREADS:,}")
    for key, module in (("dataset", manifest.dataset_module), ("model", manifest.model_module)):
        if module is not None and not allow_module:
            raise ArgumentError(
                f"{folder}: its {key} is code of another package, module {module}; "
                f"if you trust that package: allow_module=true (in Python: allow_module=True)"
            )
    dataset = _dataset(folder, manifest)
    net = _net(folder, contents)
    wanted = backend or manifest.backend
    reason = None if wanted == "torch" else unservable(net)
    if backend == "native" and reason is not None:
        raise ArgumentError(f"backend=native cannot serve this model: {reason}; use backend=auto")
    forward = None
    if wanted != "torch" and reason is None:
        forward = forward_of(net, manifest.threads if threads is None else threads)
    model = SavedModel(folder, contents, dataset, net, forward)
    model.check_golden()
    return model


def _dataset(folder: Path, manifest: Manifest) -> Dataset:
    try:
        dataset = parts.dataset(manifest.dataset, manifest.dataset_module)(**manifest.dataset_options)
    except (TypeError, ValueError) as error:
        raise DataError(folder / MANIFEST, None, f"dataset={manifest.dataset}: {error}") from None
    assert isinstance(dataset, Dataset)
    names = tuple(name for name, _ in manifest.dense)
    transformed = tuple(transform.name for transform in manifest.transforms)
    if (list(dataset.fields), dataset.dense, len(dataset.read_fields), dataset.pool) != (
        *(manifest.typed_fields, names, len(manifest.read_fields), manifest.pool),
    ) or transformed != (names if dataset.transforms else ()):
        raise DataError(
            folder / MANIFEST, None, f"its columns are not those of dataset={manifest.dataset} in this version"
        )
    return dataset


def _net(folder: Path, contents: Contents) -> nn.Module:
    """The model with its table: the rows below one of zeros."""
    manifest = contents.manifest
    kind = parts.model(manifest.model, manifest.model_module)
    size = manifest.rows + 1, len(manifest.fields), manifest.num_dense
    with torch.random.fork_rng(devices=[]):  # initial values are drawn, to be overwritten
        embedding = FeatureEmbedding(size[0], manifest.embedding_dim, init_scale=0, pool=manifest.pool)
        try:
            net = kind(*size, embedding=embedding, generator=torch.Generator(), **manifest.model_options)
        except (TypeError, ValueError) as error:
            raise DataError(folder / MANIFEST, None, f"model={manifest.model}: {error}") from None
    embedding.weight.data[1:] = contents.rows
    embedding.seen.fill_(True)
    expected = {name: tensor for name, tensor in net.state_dict().items() if not name.startswith("embedding.")}
    shapes = [{name: tuple(tensor.shape) for name, tensor in part.items()} for part in (contents.net, expected)]
    if shapes[0] != shapes[1]:
        problem = f"the net is {shapes[0]}; model={manifest.model} has {shapes[1]}"
        raise DataError(folder / format.WEIGHTS, None, problem)
    net.load_state_dict(contents.net, strict=False)
    return net.eval().requires_grad_(False)
