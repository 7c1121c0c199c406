"""Raw logs -> typed columns -> ids -> prepared rows on disk -> batches."""

from collections.abc import Callable

from ctr.datasets import avazu, criteo, csv, ipinyou
from ctr.datasets.schema import Dataset

# Called with the options of the format, which are the keys that its configuration has beyond the shared ones.
DATASETS: dict[str, Callable[..., Dataset]] = {
    "criteo": criteo.make,
    "avazu": avazu.make,
    "ipinyou": ipinyou.make,
    "csv": csv.make,
}

__all__ = ["DATASETS", "Dataset"]
