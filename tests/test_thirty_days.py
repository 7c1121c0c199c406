"""scripts/thirty_days.py on two short days: what it leaves, and that it goes on where it was."""

import os
from pathlib import Path

import pandas as pd
import pytest

from tests.scripts import script

ASKED = ["--days", "2", "--rows", "1024", "--anew-every", "2"]


@pytest.mark.slow
def test_two_days(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thirty_days = script("thirty_days")
    asked = ["--out", str(tmp_path), *ASKED]
    thirty_days.main(asked)
    found = pd.read_csv(tmp_path / "thirty_days.csv").set_index(["way", "day"])
    assert len(found) == 13
    assert found.auc["keep", 2] == found.auc["anew", 2]  # whole batches: to the last bit
    others = found.auc[~found.index.get_level_values("way").str.startswith("admit")]
    assert others.groupby("day").nunique()[1] == 1  # all begin alike
    assert found.rows["admit 3", 2] == found.rows["keep", 2] + 22  # a row for each field
    assert found.rows["keep", 2] == found.rows["anew", 2] > found.rows["drop, 3 days", 1]
    assert found.rows["drop, 0 days", 2] < found.rows["keep", 2]
    assert found.rows["drop, 3 days", 2] == found.rows["keep", 2]
    assert (tmp_path / "thirty_days.png").stat().st_size > 10_000
    assert "| keep |" in capsys.readouterr().out
    done = (tmp_path / "runs" / "keep" / "02" / "result.json").stat().st_mtime_ns
    thirty_days.main(asked)
    assert (tmp_path / "runs" / "keep" / "02" / "result.json").stat().st_mtime_ns == done
    with pytest.raises(SystemExit, match="give another --out"):
        thirty_days.main([*asked, "--seed", "1"])
    assert not any("checkpoints" in folders for _, folders, _ in os.walk(tmp_path / "runs" / "keep" / "01"))
