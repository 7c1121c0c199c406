"""The compiled library is used only where it is built from the sources beside it."""

import _ctypes
import ctypes
import logging
import platform
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import setuptools
from setuptools import Extension

from ctr.native import library, sources

HERE = Path(library.__file__).parent / "src"
REBUILD = "pip install -e . builds them anew"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The library is searched for again, in the test and by those after it."""
    library.library.cache_clear()
    yield
    library.library.cache_clear()


def test_a_library_of_other_sources_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not library.available():
        pytest.skip("the compiled kernels are not built")
    library.library.cache_clear()
    monkeypatch.delenv("CTR_NATIVE_LIBRARY", raising=False)  # `make sanitize` sets it; then the cure is another one
    edited = tmp_path / "src"
    shutil.copytree(HERE, edited)
    with (edited / "rows.cpp").open("a") as file:
        file.write("\n")
    monkeypatch.setattr(library, "SOURCES", edited)
    with caplog.at_level(logging.WARNING, "ctr"):
        assert not library.available()
        assert library.library() is None
    (said,) = caplog.messages  # once
    assert f"built from other sources than those in {edited}; using torch" in said
    assert REBUILD in said


def test_a_library_that_does_not_say_what_it_is_built_from_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As those built before it was asked for; also if it is named."""
    monkeypatch.setenv("CTR_NATIVE_LIBRARY", _ctypes.__file__)
    with caplog.at_level(logging.WARNING, "ctr"):
        assert not library.available()
    assert "built from other sources" in caplog.text
    assert f"CTR_NATIVE_LIBRARY={_ctypes.__file__} names them" in caplog.text


def test_a_named_library_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = library.library()
    if found is None:
        pytest.skip("the compiled kernels are not built")
    shutil.copy(found._name, tmp_path / "mine.so")
    monkeypatch.chdir(tmp_path)
    for name, there in (("mine.so", True), ("./mine.so", True), ("other.so", False), (".", False)):
        monkeypatch.setenv("CTR_NATIVE_LIBRARY", name)
        library.library.cache_clear()
        assert library.available() == there


def test_one_of_these_sources_is_found_behind_a_stale_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python that built the package left its library here."""
    found = library.library()
    if found is None:
        pytest.skip("the compiled kernels are not built")
    shutil.copy(found._name, tmp_path / "_kernels.cpython-399.so")
    (tmp_path / "_kernels.cpython-300.so").write_bytes(b"not a library")
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.delenv("CTR_NATIVE_LIBRARY", raising=False)
    library.library.cache_clear()
    assert library.available()


def test_the_digest_is_of_every_source_and_of_nothing_else(tmp_path: Path) -> None:
    copy = tmp_path / "src"
    shutil.copytree(HERE, copy)
    found = sources.digest(copy)
    assert found == sources.digest(HERE)
    (copy / "rows.cpp.orig").write_text("of an editor")
    assert sources.digest(copy) == found
    for path in sorted(HERE.iterdir()):
        text = path.read_text()
        (copy / path.name).write_text(f"{text}\n")
        assert sources.digest(copy) != found, path
        (copy / path.name).write_text(text)
    (copy / "rows.h").rename(copy / "row.h")
    assert sources.digest(copy) != found


def test_the_library_for_this_machine_comes_first_then_the_widest() -> None:
    names = [
        "_kernels_x86_64_v2.abi3.so",
        "_kernels_x86_64_v4.abi3.so",
        "_kernels.abi3.so",
        "_kernels_x86_64_v3.abi3.so",
    ]
    assert [path.name for path in library._by_width(map(Path, names))] == [names[2], names[1], names[3], names[0]]


# The levels of the x86-64 psABI, as the names of flags in /proc/cpuinfo.
V2 = {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}
V3 = V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
V4 = V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("c++") is None, reason="needs a compiler for x86-64")
@pytest.mark.parametrize(("level", "needs", "lanes"), [("2", V2, 4), ("3", V3, 8), ("4", V4, 16)])
def test_a_library_says_whether_the_processor_has_its_instructions(
    tmp_path: Path, level: str, needs: set[str], lanes: int
) -> None:
    made, target = tmp_path / "memory.so", f"-march=x86-64-v{level}"
    source = [str(HERE / "memory.cpp"), '-DCTR_SOURCES="of none"', f'-DCTR_FLAGS="{target}"']
    subprocess.run(["c++", "-shared", "-fPIC", "-std=c++20", target, *source, "-o", str(made)], check=True)
    built = ctypes.CDLL(str(made))
    built.ctr_build.restype = ctypes.c_char_p
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    assert bool(built.ctr_fits_processor()) == needs.issubset(flags.split())
    assert built.ctr_lanes() == lanes
    assert built.ctr_build().decode().endswith(f" {target}")


@pytest.mark.parametrize(
    ("portable", "names"),
    [("0", ["_kernels"]), ("1", ["_kernels_x86_64_v2", "_kernels_x86_64_v3", "_kernels_x86_64_v4"])],
)
def test_what_is_built(monkeypatch: pytest.MonkeyPatch, portable: str, names: list[str]) -> None:
    made: dict[str, list[Extension]] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: made.update(ext_modules=options["ext_modules"]))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("CTR_PORTABLE", portable)
    monkeypatch.chdir(Path(__file__).parents[2])
    runpy.run_path("setup.py")
    assert [extension.name for extension in made["ext_modules"]] == [f"ctr.native.{name}" for name in names]
