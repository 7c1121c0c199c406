"""The compiled library is used only where it is built from the sources beside it."""

import _ctypes
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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
