"""Builds the compiled kernels; all else is in pyproject.toml.

Without more said they are built for the processor of this machine (-march=native). ``CTR_PORTABLE=1 python -m build
--wheel`` makes a wheel for other machines: on x86-64 with a library for each level of its instructions, of which the
loader takes the highest that the processor has. One source serves every width of vectors. Where the kernels cannot be
built (optional=True) the package works without them, slower.
"""

import os
import platform
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCE = Path("ctr/native/src")
DIGEST = runpy.run_path("ctr/native/sources.py")["digest"](SOURCE)
# No errno and no traps: square roots vectorise. Nothing here reorders sums, so results are the same from run to run.
FLAGS = ["-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
PORTABLE = os.environ.get("CTR_PORTABLE", "0") == "1"
# A library's name and what it is built for; aarch64 has vectors of one width in all processors.
# No level has PREFETCHW, which fetches a row to write to it; a processor that does not know it passes over it.
X86_64 = {f"_kernels_x86_64_v{level}": [f"-march=x86-64-v{level}", "-mprfchw"] for level in (2, 3, 4)}
TARGETS = {
    False: {"_kernels": ["-march=native"]},
    True: X86_64 if platform.machine() in ("x86_64", "AMD64") else {"_kernels": []},
}
# The library of a compiler that is newer than the user's would not load.
LINK = ["-static-libstdc++", "-static-libgcc"] if PORTABLE else []


def kernels(name: str, target: list[str]) -> Extension:
    """The library ``name`` for a kind of processor. It does not depend on the version of Python."""
    flags = [*FLAGS, *target]
    return Extension(
        f"ctr.native.{name}",
        sources=sorted(str(path) for path in SOURCE.glob("*.cpp")),
        depends=sorted(str(path) for path in SOURCE.glob("*.h")),
        define_macros=[("CTR_SOURCES", f'"{DIGEST}"'), ("CTR_FLAGS", f'"{" ".join(["-O3", *target])}"')],
        extra_compile_args=flags,
        extra_link_args=["-pthread", *LINK],
        language="c++",
        optional=True,
        py_limited_api=True,
    )


setup(
    ext_modules=[kernels(*target) for target in TARGETS[PORTABLE].items()] if sys.platform == "linux" else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
