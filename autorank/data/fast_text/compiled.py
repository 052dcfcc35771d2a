"""Compiles loops to machine code with numba.

This module imports numba, so import it (and the loops) inside functions only.

Numba caches machine code beside the module (``__pycache__``) or else in the user's cache folder. If neither is
writable, every process compiles the loops again. The cache is invalidated when the file of a loop changes, but not when
another file changes; each file of loops therefore contains every compiled function that its loops call.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import types

LOG = logging.getLogger(__name__)
# Types of arguments that are only read; they accept read-only memory, such as the bytes of a file.
BYTES = types.Array(types.uint8, 1, "C", readonly=True)
UINT64S = types.Array(types.uint64, 1, "C", readonly=True)
INT32S = types.Array(types.int32, 1, "C", readonly=True)


def compiled(*arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that compiles a function for these argument types at definition time; it runs without the GIL."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(arguments, cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            _warn_once()
            return numba.njit(arguments, **options)(function)

    return decorate


@functools.cache
def _warn_once() -> None:
    LOG.warning(
        "neither %s nor the user's cache folder is writable, so every process compiles the loops that read data again "
        "(some seconds); set NUMBA_CACHE_DIR to a writable folder",
        Path(__file__).parent,
    )
