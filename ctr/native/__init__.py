"""The training step and the key index in compiled code, equal to their Python twins and several times as fast.

Plain C++ behind a C ABI, built by the package's install and called through ctypes. Nothing depends on it: where it is
missing (`library.available`) or does not serve a case (`support.unsupported`) the twin is used.
"""
