"""Streams blocks of prepared rows, read ahead by a thread, and finds the distinct ids of a block.

The thread copies each block out of the mapped files into new arrays, so that the consumer never waits for the disk. The
arrays must be new: on a CPU, JAX may use a host array in place, so refilling a buffer would change its inputs.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from autorank.data.format.batches import Dataset

SCANNED = 40  # ids per lookup up to which scanning all marks is cheaper than sorting


class Block(NamedTuple):
    """Consecutive rows: sparse int32 [n, f] with offsets added, dense [n, m], labels int8 [n, 1 or 2]."""

    sparse: np.ndarray
    dense: np.ndarray
    labels: np.ndarray


class Unique(NamedTuple):
    """The distinct ids of a batch, in the layout of `training.tables`.

    Attributes:
        ids: int32 [u], ascending: the distinct ids, padded with distinct ids >= v, which scatters drop.
        inverse: int32, shape of the batch, the index in ``ids`` of each lookup.
        count: number of distinct ids.
    """

    ids: np.ndarray
    inverse: np.ndarray
    count: int


@runtime_checkable
class Deduplicate(Protocol):
    """Finds the distinct ids of a batch."""

    def __call__(self, ids: np.ndarray, capacity: int | None = None) -> Unique:
        """The distinct ids of an int32 array, padded to ``capacity`` (None: the number of lookups).

        Raises:
            ValueError: an id outside [0, num_ids), or more distinct ids than ``capacity``.
        """
        ...


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
        data: the rows.
        block_rows: rows per block.
        first_row: where to start.
        ahead: blocks that the thread may read ahead; 0: no thread.
        dense_dtype: float16 halves the bytes; standardised columns keep 11 bits, an error of at most 0.05 %, and are
            clipped to +-65504.
        drop_rest: omits a shorter last block.

    Raises:
        ValueError: no rows per block, or a negative first row.
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
    return read_ahead(map(read, firsts), ahead) if ahead else map(read, firsts)


def read_ahead(items: Iterator[Any], ahead: int) -> Iterator[Any]:
    """The same items, produced by a thread that is at most ``ahead`` items ahead.

    An exception in the thread is raised in place of its item. A consumer that stops early stops the thread.

    Examples:
        >>> list(read_ahead(iter(range(3)), ahead=2))
        [0, 1, 2]
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
        except BaseException as error:  # raised in the consumer
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


def deduplicator(num_ids: int) -> Deduplicate:
    """A function that finds the distinct ids of batches with ids below ``num_ids``; not thread-safe.

    It marks lookups in tables of ``num_ids`` entries (5 bytes each), so that they are neither sorted nor searched. The
    marks of a short table are scanned. If the table is long compared with the batch, the lookup that was written last
    represents its id, and only the distinct ids are sorted.

    Examples:
        >>> unique = deduplicator(num_ids=10)(np.array([[7, 2], [7, 5]], np.int32))
        >>> unique.ids[: unique.count].tolist(), unique.inverse.tolist()
        ([2, 5, 7], [[2, 0], [2, 1]])
    """
    places = np.zeros(num_ids, np.int32)
    marks = np.zeros(num_ids, bool)

    def dedup(ids: np.ndarray, capacity: int | None = None) -> Unique:
        capacity = ids.size if capacity is None else capacity
        if ids.size and not 0 <= ids.min() <= ids.max() < num_ids:
            raise ValueError(f"ids {ids.min()} .. {ids.max()} are outside [0, {num_ids})")
        # NumPy's index type, converted once instead of three times.
        where = ids.reshape(-1).astype(np.intp)
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
