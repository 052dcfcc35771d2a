"""Loops compiled to machine code by numba, which is loaded with this module: import it inside functions only.

Machine code is kept by numba beside the module (``__pycache__``), else in the user's cache folder, as Python keeps its
own compiled files; where neither can be written it is compiled again in every process. numba notices a change in the
file of a loop but not in another one that it calls: a file of loops holds all that they call.
"""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import types

LOG = logging.getLogger(__name__)
# Arguments: what is only read may be read-only, as bytes from a file are.
BYTES = types.Array(types.uint8, 1, "C", readonly=True)
WORDS = types.Array(types.uint64, 1, "C", readonly=True)
INTS = types.Array(types.int32, 1, "C", readonly=True)


def compiled(*arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compiles a function for these types when it is defined; it runs without the interpreter's lock."""
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
        "%s and the user's cache folder cannot be written to, so the loops that read data are compiled again in every "
        "process (some seconds); set NUMBA_CACHE_DIR to a folder that can be written to",
        Path(__file__).parent,
    )
