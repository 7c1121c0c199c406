"""scripts/make_paper_scale.py: the generators' rows, whole, once, and labelled as generated to the end."""

import json
from pathlib import Path

import pytest

from ctr import parts
from ctr.datasets.manifest import SplitRule
from ctr.datasets.prepared import prepare
from ctr.datasets.synthetic.criteo_avazu import write_criteo
from ctr.prepare import table
from tests.commands import composed, job
from tests.scripts import script

paper_scale = script("make_paper_scale")


@pytest.mark.parametrize("name", ["criteo", "avazu", "ipinyou"])
def test_full_sizes_and_a_small_log(name: str, tmp_path: Path) -> None:
    full = paper_scale.FULL[name]
    published = parts.dataset(name)().published
    assert published is not None
    assert full.rows == published.rows
    paper_scale.make(name, tmp_path / "log", 3000)
    size = sum(path.stat().st_size for path in (tmp_path / "log").rglob("*") if path.is_file())
    assert 0.85 * full.bytes_per_row < size / 3000 <= full.bytes_per_row
    data = prepare(parts.dataset(name)(), tmp_path / "log", tmp_path / "out", split=SplitRule(0.1))
    assert data.manifest.rows == 3000


def test_ipinyou_has_the_real_click_rate(tmp_path: Path) -> None:
    paper_scale.make("ipinyou", tmp_path, 40_000)
    clicked = set()
    for path in (tmp_path / "raw").glob("clk.*"):
        clicked |= {line.split("\t")[0] for line in path.read_text().splitlines()}
    assert 15 <= len(clicked) <= 48  # 30 expected; a Poisson number is that far off once in 500


def test_what_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = paper_scale.make("criteo", tmp_path, 500, seed=3)
    write_criteo(tmp_path / "expected.txt", 500, 3)
    before = path.read_bytes()
    assert before == (tmp_path / "expected.txt").read_bytes()
    paper_scale.make("criteo", tmp_path, 100)
    assert path.read_bytes() == before
    assert "is there already" in capsys.readouterr().err


def test_an_interrupted_run_leaves_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(rows: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.std.tqdm.update", lambda self, rows: interrupt(rows))
    with pytest.raises(KeyboardInterrupt):
        paper_scale.make("avazu", tmp_path, 500)
    assert [path.name for path in tmp_path.iterdir()] == ["GENERATED.md"]


def test_no_rows_or_more_than_the_disk_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--rows 0; expected at least 1"):
        paper_scale.make("criteo", tmp_path, 0)
    with pytest.raises(ValueError, match=r"take .* GB; .* free"):
        paper_scale.make("criteo", tmp_path, 10**12)
    assert not list(tmp_path.iterdir())


def test_results_are_labelled_as_generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log is read as a raw one, but its figures are marked as not real."""
    for raw in (tmp_path / "log", paper_scale.make("criteo", tmp_path / "log", 700)):
        overrides = ["dataset=criteo", f"dataset.raw={raw}", f"dataset.prepared={tmp_path / 'prepared'}"]
        job(composed("train", *overrides, "tracking=none"), tmp_path)
        assert json.loads((tmp_path / "result.json").read_text())["source"] == "generated"
        assert "says nothing about real clicks" in capsys.readouterr().out
    criteo = parts.dataset("criteo")()
    data = prepare(criteo, tmp_path / "log", tmp_path / "out", source="generated", split=SplitRule(0.1))
    assert "(generated)" in table(data, criteo.published)
