"""Damaged prepared rows: an error that names the file, or the rows prepared anew; never other figures."""

import json
import logging
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctr.config import learning_rates
from ctr.config.data import resolve_data
from ctr.config.schema import plain_dict
from ctr.datasets import checked, criteo
from ctr.datasets import lines as text_lines
from ctr.datasets.manifest import Manifest, Split, SplitRule
from ctr.datasets.prepared import MANIFEST, ROWS, VOCABULARY, Prepared, prepare, read_vocabulary
from ctr.datasets.source import open_data
from ctr.datasets.split import count_features
from ctr.datasets.stream import RowStream
from ctr.errors import CtrError, DataError
from ctr.prepare import main as prepare_command
from tests.commands import composed
from tests.datasets.criteo_text import lines, write

N = 120
CURE = "to prepare it anew, run python -m ctr.prepare"


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 4_000)  # several blocks
    return write(tmp_path / "train.txt", lines(N))


def prepared(raw: Path, folder: Path, **options: object) -> Prepared:
    options.setdefault("split", SplitRule(test_fraction=0.5))
    return prepare(criteo.make(), raw, folder, **options)  # type: ignore[arg-type]


def content(data: Prepared) -> list[object]:
    """All that a run can take from prepared rows."""
    return [
        *(column.tobytes() for column in data.rows[0:N]),
        data.rows.positives(slice(0, N)),
        data.manifest,
        data.split,
        None if data.vocabulary is None else read_vocabulary(data).to_pydict(),
    ]


def flip(byte: int, bit: int) -> Callable[[bytes], bytes]:
    return lambda was: was[:byte] + bytes([was[byte] ^ 1 << bit]) + was[byte + 1 :]


def zero(start: int, stop: int) -> Callable[[bytes], bytes]:
    return lambda was: was[:start] + bytes(len(was[start:stop])) + was[stop:]


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Writes what becomes of a file in place of it, as a new file: older mappings keep what they have."""
    was = path.read_bytes()
    path.unlink()
    path.write_bytes(change(was))


def mutants(size: int, count: int, draw: random.Random) -> list[tuple[str, Callable[[bytes], bytes]]]:
    made: list[tuple[str, Callable[[bytes], bytes]]] = []
    for _ in range(count):
        at, length = draw.randrange(size), draw.randrange(1, 2000)
        bit = draw.randrange(8)
        noise = draw.randbytes(length)
        made += [
            (f"bit {bit} of byte {at}", flip(at, bit)),
            (f"cut at {at}", lambda was, at=at: was[:at]),  # type: ignore[misc]
            (f"zeros from {at}, {length} bytes", zero(at, at + length)),
            (f"noise at {at}", lambda was, at=at, noise=noise: (was[:at] + noise + was[at:])[: len(was)]),  # type: ignore[misc]
            (f"longer by {length}", lambda was, noise=noise: was + noise),  # type: ignore[misc]
        ]
    # The ends of a file hold its structure.
    made += [(f"bit of byte {at}", flip(at, at % 8)) for at in range(-60, 0, max(20 // count, 1))]
    return made


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [ROWS, VOCABULARY, MANIFEST])
def test_mutants(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    monkeypatch.setattr(text_lines, "BLOCK_BYTES", 12_000)  # three blocks: each takes time, in a hundred preparations
    folder, whole = tmp_path / "out", tmp_path / "whole"
    wanted = content(prepared(raw, folder))
    shutil.copytree(folder, whole)
    refused = prepared_again = 0
    for number, (what, change) in enumerate(mutants((folder / name).stat().st_size, count, random.Random(name))):
        shutil.copyfile(whole / name, folder / name)
        damage(folder / name, change)
        verify = bool(number % 2)
        try:
            data = prepared(raw, folder, verify=verify)
            assert content(data) == wanted, what
            prepared_again += not data.reused
        except DataError as error:
            assert not verify, what
            assert str(folder / name) in str(error), what  # noqa: PT017
            assert CURE in str(error), what  # noqa: PT017
            refused += 1
            data = prepared(raw, folder, verify=True)
            assert not data.reused, what
            assert content(data) == wanted, what
    assert prepared_again > count
    assert (refused > count // 2) == (name != MANIFEST)


def test_rates_mutants(tmp_path: Path) -> None:
    config = plain_dict(composed("train", "dataset=criteo", "opt=adam"))
    learning_rates.record(tmp_path, config, 0.0012345)
    path = tmp_path / "learning_rates.json"
    whole = path.read_bytes()
    for what, change in mutants(len(whole), 30, random.Random(0)):
        path.write_bytes(change(whole))
        try:
            assert learning_rates.recorded(tmp_path, config) == 0.0012345, what
        except DataError as error:
            assert str(path) in str(error), what  # noqa: PT017


def test_damaged_rates_are_not_written_over(tmp_path: Path) -> None:
    config = plain_dict(composed("train", "dataset=criteo", "opt=adam"))
    path = tmp_path / "learning_rates.json"
    for text in ("", "{}", "[]", '"a"', "[1]", "[" * 10_000, "\xff", '{"checksum": 1}'):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=r"learning_rates\.json: .*; delete it and choose the rates again"):
            learning_rates.record(tmp_path, config, 0.1)
        assert path.read_text(encoding="latin-1") == text


READS: dict[str, Callable[[Prepared, int], object]] = {
    "slice": lambda data, row: data.rows[row : row + 1],
    "across": lambda data, row: data.rows[0:N],
    "positives": lambda data, row: data.rows.positives(slice(row - 5, row + 1)),
    "stream": lambda data, row: list(RowStream(data.rows, [(row, N)], 2)),
    "features": lambda data, row: count_features(data.rows, [(0, N)]),
    "another split": lambda data, row: prepared(
        Path(data.manifest.input.path), data.folder, split=SplitRule(test_fraction=0.1)
    ),
}


@pytest.mark.parametrize("read", READS)
def test_zeroed_rows_are_noticed_however_they_are_read(raw: Path, tmp_path: Path, read: str) -> None:
    data = prepared(raw, tmp_path / "out")
    first, second, *_ = data.manifest.blocks[ROWS]
    damage(data.folder / ROWS, zero(second.stop - 30, second.stop))  # labels
    again = prepared(raw, tmp_path / "out")
    assert again.reused
    row, last = first.rows, first.rows + second.rows - 1
    for _ in range(2):  # a later attempt fails too
        with pytest.raises(DataError, match=rf"{ROWS}: rows {row} to {last} are not as written .*; {CURE} "):
            READS[read](again, row)
    again.rows[0:row]  # a block that is whole can be read


def test_a_whole_block_is_checked_once(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(raw, tmp_path / "out")
    data = prepared(raw, tmp_path / "out")
    checks = []
    real = checked.xxh3_64_hexdigest
    monkeypatch.setattr(checked, "xxh3_64_hexdigest", lambda view: (checks.append(len(view)), real(view))[1])
    blocks = data.manifest.blocks[ROWS]
    assert len(blocks) > 4
    for start in [*range(N - 7, 0, -7), 0]:
        data.rows[start : start + 7]
    list(RowStream(data.rows, [(0, N)], 16))
    count_features(data.rows, [(0, N)])
    assert sum(checks) == blocks[-2].stop  # all but the footer, which was checked at opening


def test_preparing_verifies_and_says_what_was_wrong(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = prepared(raw, tmp_path / "out")
    wanted = content(data)
    assert prepared(raw, tmp_path / "out", verify=True).reused
    assert not caplog.messages
    for name in (ROWS, VOCABULARY):
        caplog.clear()
        damage(data.folder / name, zero(900, 910))
        again = prepared(raw, tmp_path / "out", verify=True)
        assert not again.reused
        (line,) = caplog.messages
        assert line.startswith(f"warning: {data.folder / name}: rows 0 to ")
        assert line.endswith("prepared anew")
        assert content(again) == wanted


def test_vocabulary_is_checked_when_it_is_read(raw: Path, tmp_path: Path) -> None:
    folder = prepared(raw, tmp_path / "out").folder
    damage(folder / VOCABULARY, zero(900, 910))
    again = prepared(raw, tmp_path / "out")
    assert again.reused
    with pytest.raises(DataError, match=rf"{VOCABULARY}: rows 0 to .*; {CURE}"):
        read_vocabulary(again)


def test_a_file_cut_while_it_is_mapped_is_an_error(raw: Path, tmp_path: Path) -> None:
    data = prepared(raw, tmp_path / "out")
    data.rows[0:N]  # all checked
    path = data.folder / ROWS
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(DataError, match=rf"{ROWS}: 5,000 bytes; expected [0-9,]+; {CURE}"):
        data.rows[0:1]


def edited(change: Callable[[Manifest], Manifest]) -> Callable[[Path], None]:
    """Changes a manifest with a right checksum."""

    def apply(path: Path) -> None:
        path.write_text(change(Manifest.read(path.parent)).to_json())

    return apply


def raw_json(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Changes a manifest without its checksum."""

    def apply(path: Path) -> None:
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return apply


RULE = SplitRule(test_fraction=0.5)
MISFITS: dict[str, Callable[[Path], None]] = {
    "no checksum": raw_json(lambda values: values.pop("checksum")),
    "rows": edited(lambda m: replace(m, rows=N - 1)),
    "positives": edited(lambda m: replace(m, positives=N + 1)),
    "features": edited(lambda m: replace(m, num_features=m.num_features - 1)),
    "values": edited(lambda m: replace(m, values_per_field=m.values_per_field[1:])),
    "fields": edited(lambda m: replace(m, fields=m.fields[::-1])),
    "dense": edited(lambda m: replace(m, dense=m.dense[1:])),
    "days": edited(lambda m: replace(m, days=[(20130606, 0, N + 1)])),
    "days with a gap": edited(lambda m: replace(m, days=[(20130606, 0, 5), (20130607, 6, N)])),
    "days of text": edited(lambda m: replace(m, days=[("monday", "a", "b")])),  # type: ignore[list-item]
    "test part": edited(lambda m: replace(m, test_part=[(5, 3)])),
    "split": edited(lambda m: replace(m, split=Split(RULE, [(0, 70)], [(60, N)], 9))),
    "split beyond": edited(lambda m: replace(m, split=Split(RULE, [(0, 60)], [(60, 2 * N)], 9))),
    "split of text": edited(lambda m: replace(m, split=Split(RULE, "abc", [], 9))),  # type: ignore[arg-type]
    "split by unknown days": edited(lambda m: replace(m, split=replace(m.split, rule=SplitRule(None, [20200101])))),  # type: ignore[type-var]
    "split count": edited(lambda m: replace(m, split=replace(m.split, features_train=10**9))),  # type: ignore[type-var]
    "no blocks": edited(lambda m: replace(m, blocks={})),
    "empty blocks": edited(lambda m: replace(m, blocks={ROWS: [], VOCABULARY: []})),
    "blocks of fewer": edited(lambda m: replace(m, blocks={**m.blocks, ROWS: m.blocks[ROWS][1:]})),
    "empty": lambda path: path.write_text("") and None,
    "a list": lambda path: path.write_text("[]") and None,
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00") and None,
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_manifest_that_does_not_fit_is_made_anew(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, misfit: str
) -> None:
    data = prepared(raw, tmp_path / "out")
    wanted = content(data)
    MISFITS[misfit](data.folder / MANIFEST)
    again = prepared(raw, tmp_path / "out")
    assert not again.reused
    assert content(again) == wanted
    (line,) = caplog.messages
    assert line.startswith(f"warning: {tmp_path / 'out'}/")
    assert line.endswith("; prepared anew")


def test_a_manifest_written_again_is_the_same(raw: Path, tmp_path: Path) -> None:
    data = prepared(raw, tmp_path / "out")
    edited(lambda manifest: manifest)(data.folder / MANIFEST)
    assert prepared(raw, tmp_path / "out").reused


def test_foreign_files_do_not_fit(raw: Path, tmp_path: Path) -> None:
    """Each file whole in itself, but of another log."""
    data = prepared(raw, tmp_path / "out")
    other = prepared(write(tmp_path / "other.txt", lines(N, seed=1)), tmp_path / "other")
    wanted = content(data)
    for name in (ROWS, VOCABULARY, MANIFEST):
        shutil.copyfile(other.folder / name, data.folder / name)
        again = prepared(raw, tmp_path / "out")
        assert not again.reused
        assert content(again) == wanted


def test_a_reader_keeps_its_rows_while_others_prepare(raw: Path, tmp_path: Path) -> None:
    """The folder is replaced as a whole: what is open stays as it was, a later reader has the new rows."""
    reader = prepared(raw, tmp_path / "out")
    wanted = [column.copy() for column in reader.rows[0:N]]
    fresh = prepared(raw, tmp_path / "out")  # nothing read yet
    words = read_vocabulary(reader)["value"].to_pylist()
    write(raw, lines(N + 1, seed=2))
    assert not prepared(raw, tmp_path / "out").reused
    assert not prepared(raw, tmp_path / "out", num_buckets=7).reused  # it has no vocabulary
    for data in (reader, fresh):
        assert all(np.array_equal(a, b) for a, b in zip(data.rows[0:N], wanted, strict=True))
        assert read_vocabulary(data)["value"].to_pylist() == words


def test_the_command_prepares_damaged_rows_anew(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ctr")
    config = composed("prepare", "dataset=criteo", f"dataset.raw={raw}", f"dataset.prepared={tmp_path / 'p'}")
    settings = resolve_data(config)
    folder = open_data(settings, quiet=True).folder
    damage(folder / ROWS, zero(2000, 2300))
    data = open_data(settings, quiet=True)
    assert data.reused
    with pytest.raises(CtrError, match=CURE):
        data.rows[0:N]
    prepare_command.__wrapped__(config)
    assert f"{folder / ROWS}: rows 0 to" in caplog.text
    assert len(open_data(settings, quiet=True).rows[0:N][0]) == N
