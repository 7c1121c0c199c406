"""A generated log that comes in a file for each day, with new values every day, in Avazu's format.

Its clicks are those of one long log of `ctr.datasets.synthetic.criteo_avazu`, and the users, sites and ads behind the
values stay the same. But their names change: a device keeps its address for some days, an ad its number for some more.
What was learned about the old name is then of no use, and the new name has to be learned.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ctr.datasets.hashing import splitmix64
from ctr.datasets.synthetic.click_model import BLANK, Ints, key
from ctr.datasets.synthetic.criteo_avazu import AVAZU_COLUMNS, avazu_model, avazu_table, blocks, clock, write_csv
from ctr.files import atomic_path

FIRST_DAY = 14_10_01
# Days for which a name is in use; each value changes its name on a day of its own. Other fields keep theirs.
LIFETIMES = {"device_ip": 3, "device_id": 7, "C14": 10, "site_id": 20, "app_id": 20}
_NAMES = {"C14": 1 << 12}  # ranks between two names of a value; more than there are
_MANY = 1 << 23


def write_day(path: Path, day: int, days: int, rows: int, seed: int = 0) -> None:
    """Writes the ``train.csv`` of one day.

    Args:
        path: the file.
        day: 0 to ``days`` - 1, which is 2014-10-01 and later.
        days: of the whole log, at most 31.
        rows: of each day.
        seed: another seed draws other rows and plants another truth.
    """
    if not 0 <= day < days <= 31:
        raise ValueError(f"day {day} of {days}; expected one of at most 31 days")
    model = avazu_model(days * rows, seed)
    with atomic_path(path) as tmp, pa.OSFile(str(tmp), "wb") as file:
        file.write((",".join(AVAZU_COLUMNS) + "\n").encode())
        for first, n in blocks(rows, day * rows):
            index = np.arange(first, first + n, dtype=np.int64)
            _, milliseconds = clock(index, days * rows, days)
            block = model.draw(first, n)
            names = {field: renamed(field, ranks, day) for field, ranks in block.ranks.items()}
            hour = 100 * (FIRST_DAY + day) + milliseconds // 3_600_000
            write_csv(file, avazu_table(replace(block, ranks=names), index, hour, seed), ",")


def renamed(field: str, ranks: Ints, day: int) -> Ints:
    """The ranks [n] by which the values of a field are named on a day; each name has one value, for some days."""
    if field not in LIFETIMES:
        return ranks
    lifetime = LIFETIMES[field]
    age = splitmix64(np.uint64(key("age", field)) + ranks.view(np.uint64)) % np.uint64(lifetime)  # on day 0
    names = (day + age.astype(np.int64)) // lifetime  # that the value had before
    return np.where(ranks == BLANK, BLANK, ranks + names * _NAMES.get(field, _MANY))
