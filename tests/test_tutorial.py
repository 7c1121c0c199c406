"""docs/tutorial.md: its commands run in their order, and print what it shows (the digits of figures aside)."""

import importlib
import json
import re
import runpy
import shlex
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import ctr
from tests.commands import command, composed
from tests.pages import ROOT, blocks, missing

DOCS = ROOT / "docs"
PAGE = (DOCS / "tutorial.md").read_text()
(SHOP,) = re.findall(r'^SHOP="(.*)"$', PAGE, re.MULTILINE)


def shown() -> list[tuple[str, list[str]]]:
    """Each ``python -m`` command of the page with the blocks after it, which it prints."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks(PAGE):
        if block.startswith("python -m "):
            found.append((block.replace("$SHOP", SHOP), []))
        elif block.startswith((" ", "#", "error")) and found:
            found[-1][1].append(block)
    return found


def curl() -> str:
    """The rows that the page sends to the server."""
    (line,) = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
    return shlex.split(line)[-1]


def test_each_command_is_understood_and_shows_what_it_prints() -> None:
    assert [line.split()[2] for line, _ in shown()] == [
        *["ctr.train"] * 4,
        *["ctr.predict", "ctr.features", "ctr.train", "ctr.export"],
    ]
    for line, printed in shown():
        _, _, module, *words = shlex.split(line)
        assert printed
        if module == "ctr.train":
            composed("train", *(word.split(",")[0] for word in words if word != "-m"))


def test_the_log_is_what_the_page_shows(tmp_path: Path) -> None:
    runpy.run_path(str(DOCS / "examples" / "make_shop.py"))["write"](tmp_path, days=1)
    first = (tmp_path / "day_1.csv").read_text().splitlines()[:3]
    assert "\n".join(f"    {line}" for line in first) in PAGE


def kept(text: str) -> dict[str, str]:
    """Numbers of features by what they are of: exact, as a budget is."""
    return dict(re.findall(r"(feature rate|kept) +(?:\S+ +\()?([0-9,]+ of [0-9,]+)", text))


@pytest.mark.slow
def test_the_tutorial_runs_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runpy.run_path(str(DOCS / "examples" / "make_shop.py"))["write"](tmp_path / "shop")
    for line, printed in shown():
        _, _, module, *words = shlex.split(line)
        untracked = ["tracking=none"] if module == "ctr.train" else []
        done = command(tmp_path, module, *words, *untracked)
        assert done.returncode == 0, done.stderr
        for block in printed:
            assert missing(block, done.stdout + done.stderr) == []
            if "budget" in line and "-m" not in words:
                assert kept(block).items() <= kept(done.stdout).items()
            for name in ("test AUC", "progressive AUC", "  AUC"):
                pattern = rf"^ *{name.strip()} +([0-9.]+)"
                for figure in re.findall(pattern, block, re.MULTILINE):
                    (found,) = re.findall(pattern, done.stdout, re.MULTILINE)
                    assert float(found) == pytest.approx(float(figure), abs=0.003)
    assert (tmp_path / "clicks.csv").exists()
    assert (tmp_path / "features.png").exists()

    monkeypatch.syspath_prepend(DOCS / "examples" / "serving")
    served = importlib.import_module("server")
    model = served.Model(tmp_path / "shop.onnx")
    with served.server(model, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        with urllib.request.urlopen(address, curl().encode()) as answer:
            (p,) = json.load(answer)
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(address, b'[{"user_id": "u17"}]')
        with refused.value as error:
            assert "no column" in json.load(error)["error"]
        server.shutdown()
    assert p == pytest.approx(float(ctr.load(tmp_path / "runs" / "day_10").predict(json.loads(curl()))[0]), abs=1e-6)
    (figure,) = [json.loads(block)[0] for block in blocks(PAGE) if block.startswith("[")]
    assert p == pytest.approx(figure, abs=0.02)
