"""docs/python.md: its code runs, in its order, and gives the figures that it shows."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.api.shop import MAKE

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


@pytest.mark.slow
def test_the_code_of_the_page_runs(here: Path) -> None:
    runpy.run_path(str(MAKE))["write"](here / "shop")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, names)
    assert (
        names["auc"] == names["figures"].auc == names["same"].score(names["shop"][32_000:], names["clicked"][32_000:])
    )
    assert f"{names['auc']:.3f}" in PAGE
    assert f"is {names['model'].feature_rate_:.2f} here".replace("0.", ".") in PAGE
