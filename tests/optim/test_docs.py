"""The page docs/optimizers.md: its Python blocks run, in order, and print what is written below them."""

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "optimizers.md"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.parametrize("title", re.findall(r"^### (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
def test_the_examples_print_what_the_page_says(title: str) -> None:
    section = re.split(r"^##+ ", PAGE.read_text(encoding="utf-8").split(f"### {title}\n")[1], flags=re.MULTILINE)[0]
    blocks = BLOCK.findall(section)
    assert blocks
    names: dict[str, object] = {}
    for code, expected in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, names)
        assert out.getvalue() == expected
