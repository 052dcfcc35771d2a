"""Arrays whose memory is used again once nothing refers to it.

Memory fresh from the system is zeroed and mapped page by page, which costs as much as some passes over it; pieces of a
log need the same arrays again and again.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

SMALL = 1 << 16  # bytes that are fetched as cheaply
_LOCK = threading.RLock()  # a handle may die, and give back, while it is held
_FREE: dict[int, list[np.ndarray]] = {}  # by bytes; what is there was in use at one time
_USERS = 0


@contextmanager
def recycling() -> Iterator[None]:
    """Within it `empty` recycles; at its end all free memory is let go."""
    global _USERS
    with _LOCK:
        _USERS += 1
    try:
        yield
    finally:
        with _LOCK:
            _USERS -= 1
            if not _USERS:
                _FREE.clear()


def empty(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `np.empty`."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not _USERS or size < SMALL:
        return np.empty(shape, dtype)
    room = 1 << (size - 1).bit_length()  # what is not touched takes no memory
    with _LOCK:
        free = _FREE.get(room)
        memory = free.pop() if free else None
    if memory is None:
        memory = np.empty(room, np.uint8)
    # NumPy's views refer to the owner of the memory, not to the view that they were made of. A memoryview in between is
    # what all of them keep alive, and with it the handle.
    handle = memory[:]
    weakref.finalize(handle, _give_back, memory).atexit = False
    return np.frombuffer(handle.data[:size], dtype).reshape(shape)


def _give_back(memory: np.ndarray) -> None:
    with _LOCK:
        if _USERS:
            _FREE.setdefault(len(memory), []).append(memory)
