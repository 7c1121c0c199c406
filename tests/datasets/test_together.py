"""Preparation by several workers in bounded memory: every byte is that of one worker, and so is every error."""

import errno
import gzip
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctr import parts
from ctr.config.data import bytes_of, resolve_limits
from ctr.datasets import avazu, chunk, criteo, criteo_1tb, csv, ipinyou
from ctr.datasets import lines as text_lines
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import prepare
from ctr.datasets.schema import Block, Dataset, Reading
from ctr.datasets.synthetic.criteo_avazu import write_avazu
from ctr.datasets.synthetic.ipinyou import write_ipinyou
from ctr.datasets.together import Limits, limits
from ctr.errors import ArgumentError, CtrError, DataError
from tests.commands import Forked, composed
from tests.datasets.criteo_text import arguments, lines, write
from tests.datasets.test_ipinyou import join

GIB, MIB = 1 << 30, 1 << 20
Raw = Path | Sequence[Path]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 2000)


def files(dataset: Dataset, raw: Raw, folder: Path, how: Limits | None, **options: Any) -> dict[str, bytes]:
    options.setdefault("split", SplitRule(test_fraction=0.3))
    prepare(dataset, raw, folder, limits=how, **options)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def expect_same(dataset: Dataset, raw: Raw, folder: Path, *many: Limits, **options: Any) -> None:
    one = files(dataset, raw, folder / "one", None, **options)
    for number, how in enumerate(many or [Limits(1, 20_000), Limits(2, 20_000, 4000)]):
        assert files(dataset, raw, folder / str(number), how, **options) == one, how


def error_of(dataset: Dataset, raw: Raw, folder: Path, how: Limits | None, **options: Any) -> str:
    with pytest.raises((CtrError, OSError)) as caught:
        files(dataset, raw, folder / "failed", how, **options)
    assert [path.name for path in folder.iterdir() if path.name.startswith(("failed", ".tmp"))] == ["failed.lock"]
    return f"{type(caught.value).__name__}: {caught.value}"


def expect_same_error(dataset: Dataset, raw: Raw, folder: Path, wanted: str, **options: Any) -> None:
    one = error_of(dataset, raw, folder, None, **options)
    assert wanted in one
    for how in (Limits(1, 20_000), Limits(2, 20_000, 4000)):
        assert error_of(dataset, raw, folder, how, **options) == one


FORMAT = csv.make("y", ["user", "page"], ["price"], transform_default="none")


def random_log(folder: Path, seed: int) -> list[Path]:
    """Some files of a log with blanks, rare and frequent values, bad rows and lines of every length."""
    draw = random.Random(seed)
    found = []
    for number in range(draw.randint(1, 3)):
        rows = ["y,user,page,price"]
        for _ in range(draw.choice([2, 40, 400])):
            user = draw.choice(["", "ü", f"u{int(draw.expovariate(0.05))}", f"{draw.getrandbits(40)}"])
            page = draw.choice(["", "home", "x" * draw.randrange(60)])
            rows.append(f"{draw.randrange(2)},{user},{page},{draw.choice(['', '1.5', '-2'])}")
            if draw.random() < 0.02:
                rows.append(draw.choice(["bad", "", "2,u,p,1", "1,u,p,x", "1,u\rv,p,1"]))
        content = "\n".join(rows) + draw.choice(["", "\n"])
        path = folder / f"day_{number}.csv{draw.choice(['', '', '.gz'])}"
        path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
        found.append(path)
    return found


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 8))])
def test_random_logs(tmp_path: Path, seed: int) -> None:
    raw = random_log(tmp_path, seed)
    draw = random.Random(seed)
    many = [
        Limits(workers, draw.choice([2000, 20_000, GIB]), draw.choice([1, 3000, 20_000])) for workers in range(1, 5)
    ]
    expect_same(FORMAT, raw, tmp_path, *many, bad_rows="skip", num_buckets=draw.choice([None, None, 50]))


def test_values_are_told_apart_by_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all texts have one hash, as two of many millions have."""
    monkeypatch.setattr(chunk, "xxh3_64_intdigest", lambda text: 7)
    expect_same(FORMAT, random_log(tmp_path, 3), tmp_path, bad_rows="skip")


@pytest.mark.parametrize("buckets", [None, 100])
def test_criteo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buckets: int | None) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 10_000)
    raw = write(tmp_path / "train.txt", lines(300))
    expect_same(criteo.make(), raw, tmp_path, Limits(2, 200_000, 20_000), num_buckets=buckets)


def test_days_of_criteo_1tb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 10_000)
    raw = tmp_path / "log"
    raw.mkdir()
    for day in (1, 2, 10):
        content = "".join(f"{line}\n" for line in lines(80, day)).encode()
        (raw / f"day_{day}.gz").write_bytes(gzip.compress(content))
    expect_same(criteo_1tb.make(), raw, tmp_path, Limits(2, 200_000, 1), split=SplitRule())


def test_avazu_with_its_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 10_000)
    write_avazu(tmp_path / "train.csv", 300, seed=1)
    expect_same(avazu.make(), tmp_path / "train.csv", tmp_path, Limits(2, 50_000, 10_000), split=SplitRule())


def test_ipinyou_logs_and_joined_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day's impressions need its clicks; the test part is that of the log."""
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 20_000)
    logs, joined = tmp_path / "raw", tmp_path / "joined"
    write_ipinyou(logs, 300, seed=1)
    days = [20130606 + day for day in range(10)]
    join(logs, days[:6], joined / "train.log.txt")
    join(logs, days[6:], joined / "test.log.txt")
    for name, raw in (("a", logs), ("b", joined)):
        (tmp_path / name).mkdir()
        expect_same(ipinyou.make(), raw, tmp_path / name, Limits(2, 100_000, 20_000), split=SplitRule())


def timed(folder: Path, name: str, times: Sequence[int], start: int = 0) -> Path:
    rows = [
        f"{number % 2},u{number % 7},{number},{1_700_000_000 + time},1.5" for number, time in enumerate(times, start)
    ]
    path = folder / name
    path.write_text("\n".join(["y,user,price,t,w", *rows]) + "\n")
    return path


@pytest.mark.parametrize("buckets", [None, 30])
def test_sorted_transformed_weighted_rows(tmp_path: Path, buckets: int | None) -> None:
    draw = random.Random(1)
    raw = [timed(tmp_path, f"{n}.csv", [draw.randrange(400_000) for _ in range(300)]) for n in range(2)]
    options = {"time": "t", "time_format": "epoch", "order": "sort", "weight": "w", "transform": ["price:bucket:3"]}
    dataset = csv.make("y", ["user"], ["price"], **options)  # type: ignore[arg-type]
    expect_same(dataset, raw, tmp_path, num_buckets=buckets)


def test_parquet_is_read_by_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number in range(3):
        users = [f"u{row * number % 11}" for row in range(50)]
        table = pa.table({"y": [0, 1] * 25, "user": users, "page": ["p"] * 50, "price": [1.5] * 50})
        pq.write_table(table, tmp_path / f"{number}.parquet")
    expect_same(FORMAT, sorted(tmp_path.glob("*.parquet")), tmp_path, Limits(2, 1000, 1))


def plain_log(folder: Path, rows: int, **at: str) -> Path:
    """Rows of `FORMAT`, some of them others: by ``row_N``."""
    made = [at.get(f"row_{row}", f"{row % 2},u{row % 50},p{row},1") for row in range(rows)]
    return write(folder / "log.csv", ["y,user,page,price", *made])


def test_the_first_bad_line_is_named_by_its_number(tmp_path: Path) -> None:
    raw = plain_log(tmp_path, 900, row_500="bad", row_700="2,u,p,1", row_890="worse")
    expect_same_error(FORMAT, raw, tmp_path, "log.csv, line 502: 1 column;")


def test_bad_lines_that_are_left_out_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    raw = plain_log(tmp_path, 900, row_500="bad", row_700="2,u,p,1", row_890="worse")
    expect_same(FORMAT, raw, tmp_path, bad_rows="skip")


def test_a_file_without_a_valid_row(tmp_path: Path) -> None:
    good, bad = plain_log(tmp_path, 300, row_7="2,u,p,1"), tmp_path / "other.csv"
    write(bad, ["y,user,page,price", *["bad line that is long enough to be cut"] * 300])
    expect_same_error(
        FORMAT, [good, bad], tmp_path, "other.csv: no valid row in it; the first problem: ", bad_rows="skip"
    )


@pytest.mark.parametrize("fall", [1, 250, 599])
def test_rows_out_of_order_between_two_workers(tmp_path: Path, fall: int) -> None:
    times = list(range(600))
    times[fall] = 0 if fall > 1 else -1
    raw = [timed(tmp_path, "a.csv", times[:300]), timed(tmp_path, "b.csv", times[300:])]
    dataset = csv.make("y", ["user"], time="t", time_format="epoch", ignore=["w"])
    expect_same_error(dataset, raw, tmp_path, "dataset.order=sort puts the rows in order")


def test_files_that_begin_before_the_last_one_ended(tmp_path: Path) -> None:
    raw = [timed(tmp_path, "a.csv", range(100, 400)), timed(tmp_path, "b.csv", range(300))]
    dataset = csv.make("y", ["user"], time="t", time_format="epoch")
    expect_same_error(dataset, raw, tmp_path, "a.csv: dataset.order=sort puts the rows in order")


def test_other_columns_in_the_last_file(tmp_path: Path) -> None:
    raw = [plain_log(tmp_path, 300), write(tmp_path / "other.csv", ["y,user,page", "1,u,p"])]
    expect_same_error(FORMAT, raw, tmp_path, "other.csv, line 1: not the columns of")


def test_a_line_that_is_too_long_at_a_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "MAX_LINE_BYTES", 1000)
    raw = plain_log(tmp_path, 300, row_200="1,u,p," + "1" * 7000)
    expect_same_error(FORMAT, raw, tmp_path, "longer than 1,000 bytes", bad_rows="skip")


def reading(read: Callable[[Reading], Iterator[None]]) -> Dataset:
    """`FORMAT` with something that happens after a block of a span."""

    def made(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
        happens = read(reading)
        for block in FORMAT.read(paths, reading):
            yield block
            next(happens, None)

    return replace(FORMAT, read=made)


def test_a_killed_worker_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    def killed(reading: Reading) -> Iterator[None]:
        if reading.start == 6000:
            os.kill(os.getpid(), signal.SIGKILL)
        yield

    raw = plain_log(tmp_path, 1500)
    said = error_of(reading(killed), raw, tmp_path, Limits(2, 5000, 5000))
    assert f"{raw} from byte 6,000 on: the worker process was ended by SIGKILL; perhaps out of memory" in said


def test_a_full_disk_is_named_by_the_file(tmp_path: Path) -> None:
    def full(reading: Reading) -> Iterator[None]:
        raise OSError(errno.ENOSPC, "No space left on device", "rows.arrow")
        yield

    said = error_of(reading(full), plain_log(tmp_path, 1500), tmp_path, Limits(2, 5000, 5000))
    assert said == "OSError: [Errno 28] No space left on device: 'rows.arrow'"


def _interrupted(folder: str) -> None:
    def slow(reading: Reading) -> Iterator[None]:
        Path(folder, f"reads-{os.getpid()}").touch()
        time.sleep(60)
        yield

    text_lines.BLOCK_BYTES = 2000
    try:
        prepare(
            reading(slow),
            Path(folder, "log.csv"),
            Path(folder, "out"),
            split=SplitRule(0.5),
            limits=Limits(2, GIB, 5000),
        )
    except KeyboardInterrupt:
        print("interrupted")


def test_ctrl_c_ends_the_workers_and_leaves_nothing(tmp_path: Path) -> None:
    plain_log(tmp_path, 1500)
    command = Forked(tmp_path, _interrupted, str(tmp_path))
    while len(readers := list(tmp_path.glob("reads-*"))) < 2:
        time.sleep(0.01)
    os.kill(command.process.pid or 0, signal.SIGINT)
    assert command.end(60).stdout == "interrupted\n"
    for reader in readers:
        with pytest.raises(ProcessLookupError):
            os.kill(int(reader.name.removeprefix("reads-")), 0)
        reader.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "out.lock"]


def test_one_worker_reads_what_cannot_be_divided(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "ctr")
    raw = plain_log(tmp_path, 300)
    expect_same(replace(FORMAT, divide=None), raw, tmp_path, Limits(3, 20_000, 5000))
    assert "one worker reads the log: the reader of dataset=csv does not say how to divide it" in caplog.text
    caplog.clear()
    packed = tmp_path / "log.csv.gz"
    packed.write_bytes(gzip.compress(raw.read_bytes()))
    (tmp_path / "packed").mkdir()
    expect_same(FORMAT, packed, tmp_path / "packed", Limits(3, 20_000, 5000))
    assert "1 of 3 workers read" in caplog.text


def test_progress_is_of_all_workers(tmp_path: Path) -> None:
    raw = plain_log(tmp_path, 1500)
    read: list[tuple[int, float]] = []
    joined: list[tuple[int, float]] = []
    prepare(
        FORMAT,
        raw,
        tmp_path / "out",
        split=SplitRule(0.5),
        limits=Limits(2, 50_000, 3000),
        progress=lambda rows, share: read.append((rows, share)),
        progress_joining=lambda rows, share: joined.append((rows, share)),
    )
    for seen in (read, joined):
        assert seen == sorted(seen)
        assert seen[-1] == (1500, 1.0)


def test_memory_is_divided_between_workers() -> None:
    assert limits(1, None) is None
    two, four = limits(2, 2 * GIB), limits(4, 2 * GIB)
    assert two is not None
    assert four is not None
    assert two.workers * two.memory < 2 * GIB
    assert 0 < four.memory < two.memory
    with pytest.raises(ArgumentError, match=r"memory=100MiB; 2 workers need at least \d+MiB"):
        limits(2, 100 * MIB)
    with pytest.raises(ArgumentError, match="workers=0; expected at least 1"):
        limits(0, None)


def test_bytes_are_given_with_their_unit() -> None:
    assert [bytes_of(text, "memory") for text in ("512MiB", "2GiB", "1.5GB", "3 TiB")] == [
        *(512 * MIB, 2 * GIB, 1_500_000_000, 3072 * GIB)
    ]
    for wrong in ("2", "2G", "GiB", "-1GiB", "2gib"):
        with pytest.raises(ArgumentError, match=f"memory={wrong}; expected a number of bytes with its unit"):
            bytes_of(wrong, "memory")


def test_the_command_divides_and_refuses(here: Path) -> None:
    given = arguments(here, "workers=2", "memory=1GiB", "launcher=local")
    assert resolve_limits(composed("prepare", *given)) == limits(2, GIB)
    with pytest.raises(ArgumentError, match="memory=much; expected"):
        resolve_limits(composed("prepare", *arguments(here, "memory=much")))
    with pytest.raises(ArgumentError, match="launcher=ray workers=1; expected the number of tasks"):
        resolve_limits(composed("prepare", *arguments(here, "launcher=ray")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["criteo", "avazu", "ipinyou"])
def test_real_samples(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 1 << 20)
    dataset = parts.dataset(name)()
    split = SplitRule() if name == "avazu" else SplitRule(1 / 7)
    expect_same(dataset, samples / name, tmp_path, Limits(2, 4 * MIB), Limits(3, 16 * MIB, 3 * MIB), split=split)


def test_marks_count_what_is_before() -> None:
    from ctr.datasets.merge import WORD, _Marks

    draw = np.random.default_rng(0)
    sizes = [1, 64, 100, 0, 129]
    starts = np.cumsum([0, *(-(-size // WORD) * WORD for size in sizes)]).tolist()
    marks, all_marked = _Marks(starts[-1]), np.zeros(starts[-1], bool)
    for start, size in zip(starts, sizes, strict=False):
        marked = draw.random(size) < 0.5
        marks.add(start, marked)
        all_marked[start : start + size] = marked
        places = np.concatenate([np.arange(begin, begin + size) for begin, size in zip(starts, sizes, strict=False)])
        places = places[places < start + size]
        assert marks.before(places).tolist() == [int(all_marked[:place].sum()) for place in places]
    assert marks.count == all_marked.sum()


def test_errors_are_data_errors_of_the_file(tmp_path: Path) -> None:
    raw = plain_log(tmp_path, 900, row_800="bad")
    with pytest.raises(DataError) as caught:
        prepare(FORMAT, raw, tmp_path / "out", split=SplitRule(0.5), limits=Limits(2, 5000, 5000))
    assert (caught.value.path, caught.value.line) == (raw, 802)
