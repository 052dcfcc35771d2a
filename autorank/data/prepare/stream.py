"""Prepared rows as a stream of blocks, read ahead by a thread, and the distinct ids of a block.

A block is copied out of the mapped files by the thread, so that the consumer never waits for the
disk, into arrays of its own: JAX may use a host array in place on a CPU, so a buffer that is filled
anew would change what it computes on.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.batches import Dataset

SCANNED = 40  # ids a lookup up to which all marks are read


class Block(NamedTuple):
    """Consecutive rows."""

    sparse: np.ndarray  # int32 [n, f], offsets added
    dense: np.ndarray  # [n, m]
    labels: np.ndarray  # int8 [n, 1 or 2]


class Unique(NamedTuple):
    """The distinct ids of a batch, as `training.tables` has them."""

    ids: (
        np.ndarray
    )  # int32 [u]: rising; behind the distinct ids distinct ones >= v, which scatters drop
    inverse: np.ndarray  # int32, shape of the batch: place of each lookup in ids
    count: int  # distinct ids


def blocks(
    data: Dataset,
    block_rows: int,
    *,
    first_row: int = 0,
    ahead: int = 2,
    dense_dtype: Any = np.float32,
    drop_rest: bool = False,
) -> Iterator[Block]:
    """Blocks of ``block_rows`` rows from ``first_row`` on; the last one may be shorter.

    Args:
        ahead: blocks that the thread may be ahead; 0: no thread.
        dense_dtype: float16 halves the bytes; standardised columns keep 11 bits, an error of at most 0.05 %, and are
            clipped to +-65504.
        drop_rest: leave a shorter last block out.

    Raises:
        ValueError: no rows a block, or a negative first row.
    """
    if block_rows < 1 or first_row < 0 or ahead < 0:
        raise ValueError(
            f"block_rows={block_rows}, first_row={first_row}, ahead={ahead}: need block_rows >= 1 and none negative"
        )
    stop = len(data.labels)
    if drop_rest:
        stop = first_row + (max(stop - first_row, 0) // block_rows) * block_rows

    def read(first: int) -> Block:
        rows = slice(first, min(first + block_rows, stop))
        return Block(
            np.array(data.sparse[rows]),
            _narrow(data.dense[rows], dense_dtype),
            np.array(data.labels[rows]),
        )

    firsts = range(first_row, stop, block_rows)
    return ahead_of(map(read, firsts), ahead) if ahead else map(read, firsts)


def ahead_of(items: Iterator[Any], ahead: int) -> Iterator[Any]:
    """The same items, made by a thread that is at most ``ahead`` of them in front.

    An exception in the thread is raised where its item would have come. A consumer that stops early stops the thread.
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(entry: tuple[str, Any]) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(("item", item)):
                    return
        except BaseException as error:  # goes to the consumer
            put(("error", error))
        else:
            put(("end", None))

    thread = threading.Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def deduplicator(num_ids: int) -> Callable[..., Unique]:
    """A function ``dedup(ids, capacity=None)`` for ids below ``num_ids``; for one thread.

    Lookups are marked in tables of ``num_ids`` entries (5 bytes each), so that none is sorted or
    searched for: the marks of a short table are read through; of one that is long against the batch,
    the lookup that was written last stands for its id, and only the distinct ids are sorted.
    """
    places = np.zeros(num_ids, np.int32)
    marks = np.zeros(num_ids, bool)

    def dedup(ids: np.ndarray, capacity: int | None = None) -> Unique:
        """Distinct ids of a batch int32 [...], padded to ``capacity`` (None: as many as lookups).

        Raises:
            ValueError: an id outside [0, num_ids), or more distinct ids than ``capacity``.
        """
        capacity = ids.size if capacity is None else capacity
        if ids.size and not 0 <= ids.min() <= ids.max() < num_ids:
            raise ValueError(f"ids {ids.min()} .. {ids.max()} leave [0, {num_ids})")
        where = ids.reshape(-1).astype(np.intp)  # NumPy looks up by these; once instead of thrice
        if num_ids <= SCANNED * ids.size:
            marks[where] = True
            distinct = np.flatnonzero(marks)
            marks[distinct] = False
        else:
            lookups = np.arange(ids.size, dtype=np.int32)
            places[where] = lookups
            distinct = np.sort(where[np.take(places, where) == lookups])
        count = len(distinct)
        if count > capacity:
            raise ValueError(f"{count} distinct ids do not fit capacity={capacity}")
        places[distinct] = np.arange(count, dtype=np.int32)
        padded = np.arange(num_ids - count, num_ids - count + capacity, dtype=np.int32)
        padded[:count] = distinct
        return Unique(padded, np.take(places, where).reshape(ids.shape), count)

    return dedup


def _narrow(dense: np.ndarray, dtype: Any) -> np.ndarray:
    if np.dtype(dtype) != np.float16:
        return np.array(dense, dtype)
    return np.clip(dense, -65504, 65504).astype(np.float16)
