"""What is tested only where the compiled kernels are built."""

import pytest

from ctr.native.library import available

needs_kernels = pytest.mark.skipif(not available(), reason="the compiled kernels are not built")
BACKENDS = ["torch", pytest.param("native", marks=needs_kernels)]
ALL_BACKENDS = [*BACKENDS, pytest.param("rows", marks=needs_kernels)]
