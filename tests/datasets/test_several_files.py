"""One's own log in several files."""

import bz2
import gzip
from collections.abc import Sequence
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ctr.datasets import criteo, csv
from ctr.datasets.locate import located
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import Prepared, prepare, read_vocabulary
from ctr.errors import ArgumentError, DataError
from tests.commands import composed, prepared

DATASET = csv.make("y", ["user"], ["price"])
DAYS = ("day_1", "day_2", "day_10")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three days of a log, with files that are none of it."""
    folder = tmp_path / "log"
    folder.mkdir()
    for number, name in enumerate(DAYS):
        rows = [f"{row % 2},user {number},{number}.{row}" for row in range(3)]
        (folder / f"{name}.csv").write_text("\n".join(["y,user,price", *rows]) + "\n")
    for other in ("README.md", "_SUCCESS.csv", ".hidden.csv"):
        (folder / other).write_text("not of the log")
    return folder


def opened(raw: Path | Sequence[Path], out: Path) -> Prepared:
    return prepare(DATASET, raw, out, split=SplitRule(test_fraction=0.3))


def users(data: Prepared) -> list[str]:
    """The user of every third row."""
    names = read_vocabulary(data)["value"].to_pylist()
    return [names[row] for row in data.rows[0 : len(data.rows)][0][::3, 0]]


def test_a_folder_a_glob_and_a_list_are_read_in_natural_order(folder: Path, tmp_path: Path) -> None:
    in_order = ["user 0", "user 1", "user 2"]
    for number, raw in enumerate([folder, folder / "day_*.csv", [folder / "day_[12].csv", folder / "day_10.csv"]]):
        data = opened(raw, tmp_path / str(number))
        assert users(data) == in_order
        assert [Path(path).name for path, _, _ in data.manifest.input.files] == [f"{day}.csv" for day in DAYS]
        assert opened(raw, tmp_path / str(number)).reused
    listed = [folder / f"{day}.csv" for day in reversed(DAYS)]
    assert users(opened(listed, tmp_path / "listed")) == in_order[::-1]  # a list is in the user's order


def test_packed_files_and_parquet_among_them(folder: Path, tmp_path: Path) -> None:
    plain = opened(folder, tmp_path / "plain")
    one, two, ten = (folder / f"{day}.csv" for day in DAYS)
    Path(f"{one}.gz").write_bytes(gzip.compress(one.read_bytes()))
    Path(f"{two}.bz2").write_bytes(bz2.compress(two.read_bytes()))
    pq.write_table(pyarrow.csv.read_csv(ten).select(["price", "y", "user"]), ten.with_suffix(".parquet"))
    for path in (one, two, ten):
        path.unlink()
    packed = opened(folder, tmp_path / "packed")
    for a, b in zip(plain.rows[0:9], packed.rows[0:9], strict=True):
        assert (a == b).all()


def test_a_new_day_and_a_changed_one_are_prepared_anew(folder: Path, tmp_path: Path) -> None:
    first = opened(folder, tmp_path / "out")
    (folder / "day_11.csv").write_text("user,price,y\nuser 3,1,1\n")
    second = opened(folder, tmp_path / "out")
    assert not second.reused
    assert second.manifest.rows == first.manifest.rows + 1
    (folder / "day_2.csv").write_text("y,user,price\n0,u,2\n")
    assert opened(folder, tmp_path / "out").manifest.rows == 8


def test_a_file_with_other_columns_is_named_with_the_difference_before_any_is_read(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "day_1.csv").write_text("y,user,price\n7,bad label,1\n")
    (folder / "day_10.csv").write_text("y,user,cost,Price\n0,u,2,3\n")
    with pytest.raises(DataError) as error:
        opened(folder, tmp_path / "out")
    first = folder / "day_1.csv"
    assert (
        str(error.value)
        == f"{folder / 'day_10.csv'}, line 1: not the columns of {first}: without price and with Price, cost"
    )


def test_an_error_names_the_file_and_the_line_in_it(folder: Path, tmp_path: Path) -> None:
    (folder / "day_2.csv").write_text("y,user,price\n0,u,1\n2,u,1\n")
    with pytest.raises(DataError, match=r"day_2.csv, line 3: column y is '2'"):
        opened(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ("log/*.tsv", "no log; expected a file that matches it"),
        ("log/empty", "no log; expected a file that ends with .csv"),
        ("log/day_3.csv", "dataset.raw=log/day_3.csv: no such file or folder"),
        ("[log/day_1.csv,log/day_1.csv]", "day_1.csv more than once"),
        ("[]", "expected a path, or a list of paths"),
        ("[log/twice,log/day_1.csv]", "day_1.csv and day_1.csv.gz are one log"),
    ],
)
def test_what_is_not_there(
    raw: str, problem: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "empty").mkdir()
    (folder / "twice").mkdir()
    (folder / "twice" / "day_1.csv").touch()
    (folder / "twice" / "day_1.csv.gz").touch()
    monkeypatch.chdir(tmp_path)
    overrides = ("dataset=csv", f"dataset.raw={raw}", "dataset.label=y", "dataset.categorical=[user]")
    config = composed("prepare", *overrides)
    with pytest.raises(ArgumentError, match=problem):
        prepared(config)


def test_the_command_line_names_them(folder: Path, tmp_path: Path) -> None:
    for number, raw in enumerate([folder, f"{folder}/day_*.csv", f"[{folder}/day_1.csv,{folder}/day_2.csv]"]):
        options = ("dataset.label=y", "dataset.categorical=[user]", f"dataset.prepared={tmp_path}/{number}/prepared")
        config = composed("prepare", "dataset=csv", f"dataset.raw={raw}", *options)
        assert prepared(config).manifest.rows == (6 if number == 2 else 9)


def test_other_formats_take_one(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="2 names; dataset=criteo expects one file or folder"):
        located(criteo.make(), [tmp_path / "a", tmp_path / "b"])
