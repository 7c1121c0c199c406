"""The example clients of docs/examples/serving, as a service would use them."""

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SERVING = Path(__file__).parents[2] / "docs" / "examples" / "serving"


def python_client() -> ModuleType:
    """``client.py`` as a module."""
    spec = importlib.util.spec_from_file_location("serving_client", SERVING / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def node_client(folder: Path) -> Path:
    """``client.mjs`` beside its package, in a folder; skips the test where node or the package is absent."""
    modules = Path(os.environ.get("CTR_NODE_MODULES", SERVING / "node_modules"))
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (modules / "onnxruntime-node").is_dir():
        pytest.skip(f"no onnxruntime-node in {modules}: npm install --ignore-scripts in {SERVING}")
    client = folder / "client.mjs"
    shutil.copy(SERVING / "client.mjs", client)
    (folder / "node_modules").symlink_to(modules.resolve())
    return client


def node(client: Path, given: list[Any], function: str) -> list[Any]:
    """What a JavaScript function gives for each of some values; the client's exports are in ``client``."""
    script = client.with_name("test.mjs")
    script.write_text(
        f"""import * as client from "./{client.name}";
import {{ readFileSync }} from "node:fs";
const answers = JSON.parse(readFileSync(0)).map({function});
console.log(JSON.stringify(answers));
"""
    )
    done = subprocess.run(
        ["node", str(script)], input=json.dumps(given), capture_output=True, text=True, timeout=60, check=True
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers


def probabilities(command: Sequence[object]) -> list[float]:
    """What a client prints."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=True)
    return [float(line) for line in done.stdout.splitlines()]
