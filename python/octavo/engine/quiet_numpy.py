"""Imports NumPy without the threads that its BLAS would start: 45 ms of processor time, for a few small tables.

The variable is gone again afterwards: torch may bring a BLAS of its own, which should have its threads.
"""

import os

OPTION = "OPENBLAS_NUM_THREADS"

_is_ours = OPTION not in os.environ
os.environ.setdefault(OPTION, "1")

import numpy  # noqa: E402, F401

if _is_ours:
    del os.environ[OPTION]
