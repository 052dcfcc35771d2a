"""A pool of array memory: memory is reused once no array refers to it.

Fresh memory from the operating system is zeroed and mapped page by page, which costs as much as several passes over
the data. Reading a log needs arrays of the same sizes for one segment after another, so the pool pays off.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

SMALLEST = 1 << 16  # bytes; smaller arrays are cheap to allocate
_LOCK = threading.RLock()  # reentrant: a finalizer may return memory while the lock is held
_FREE: dict[int, list[np.ndarray]] = {}  # free memory by its size in bytes
_USERS = 0


@contextmanager
def pooling() -> Iterator[None]:
    """Makes `empty` reuse memory inside the block; all free memory is released when the last such block ends."""
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
    """`np.empty`, with memory from the pool inside `pooling`.

    Examples:
        >>> with pooling():
        ...     array = empty((3, 50_000), np.int32)
        >>> array.shape, array.dtype
        ((3, 50000), dtype('int32'))
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not _USERS or size < SMALLEST:
        return np.empty(shape, dtype)
    capacity = 1 << (size - 1).bit_length()  # pages that are never touched take no memory
    with _LOCK:
        free = _FREE.get(capacity)
        memory = free.pop() if free else None
    if memory is None:
        memory = np.empty(capacity, np.uint8)
    # A NumPy view refers to the owner of the memory, not to the view that it was made from. The memoryview in between
    # is what all views keep alive, and it keeps the handle alive.
    handle = memory[:]
    weakref.finalize(handle, _give_back, memory).atexit = False
    return np.frombuffer(handle.data[:size], dtype).reshape(shape)


def _give_back(memory: np.ndarray) -> None:
    with _LOCK:
        if _USERS:
            _FREE.setdefault(len(memory), []).append(memory)
