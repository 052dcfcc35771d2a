"""One MLIR context for many programs, instead of a new one for each.

JAX makes a context for each program that it lowers, and loads some forty dialects into it. For a program of one
operation, of which tests have thousands, that is a quarter of what tracing, lowering and compiling cost together.
The programs are the same, and so are the keys under which their compiled forms are kept.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

# A context keeps every type and attribute that was ever made in it.
LIFE = 200


class Kept(threading.local):
    """A thread's context, and how many programs more it serves."""

    def __init__(self) -> None:
        self.context: Any = None
        self.left = 0


def shared(make: Callable[[], Any]) -> Callable[[], Any]:
    """``make``, called once for `LIFE` calls of each thread."""
    kept = Kept()

    @functools.wraps(make)
    def context() -> Any:
        if kept.left == 0:
            kept.context, kept.left = make(), LIFE
        kept.left -= 1
        return kept.context

    return context


def install() -> None:
    """From now on, JAX lowers the programs of this process in shared contexts."""
    from jax._src.interpreters import mlir

    mlir.make_ir_context = shared(mlir.make_ir_context)
