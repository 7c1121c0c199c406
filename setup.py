"""Builds the compiled kernels; all else stands in pyproject.toml.

They are built on the user's machine for its own processor (-march=native): the matrix products gain 2x from AVX-512,
and one source serves every width. The library says at load whether it fits the processor. Where it cannot be built
(optional=True) the package works without it, slower.
"""

import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCE = Path("ctr/native/src")
DIGEST = runpy.run_path("ctr/native/sources.py")["digest"](SOURCE)
# No errno and no traps: square roots vectorise. Nothing here reorders sums, so results are the same from run to run.
FLAGS = ["-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-pthread"]

setup(
    ext_modules=[
        Extension(
            "ctr.native._kernels",
            sources=sorted(str(path) for path in SOURCE.glob("*.cpp")),
            depends=sorted(str(path) for path in SOURCE.glob("*.h")),
            define_macros=[("CTR_SOURCES", f'"{DIGEST}"')],
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        )
    ]
    if sys.platform == "linux"
    else []
)
