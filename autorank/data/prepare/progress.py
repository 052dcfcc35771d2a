"""Progress lines of long loops over rows."""

import time

import numpy as np

from autorank.data.format.source import Progress


class ProgressReport:
    """Reports rows done, rows per second and the time left, every few seconds.

    Args:
        num_rows: rows in total; may be an estimate, NaN if unknown.
        progress: receives the lines.
        done: rows done by an earlier run, which do not count towards the speed.
        every: seconds between lines.
    """

    def __init__(
        self, num_rows: float | int, progress: Progress, done: int = 0, every: float = 2.0
    ) -> None:
        self._total, self._progress, self._every = num_rows, progress, every
        self._done_before, self._began = done, time.monotonic()
        self._last = self._began
        if done:
            progress(f"resuming after the first {done:,} rows, which are already done")

    def __call__(self, verb: str, rows: int, more: str = "", last: bool = False) -> None:
        """Reports that ``rows`` rows are done, unless the previous line is too recent.

        Args:
            verb: what is done to the rows, in the past tense.
            rows: rows done.
            more: appended to the line.
            last: reports in any case, without the time left.
        """
        now = time.monotonic()
        if not last and now - self._last < self._every:
            return
        self._last = now
        rate = (rows - self._done_before) / max(now - self._began, 1e-9)
        line = f"{verb} {rows:,} rows ({rate:,.0f} rows/s){more}"
        if not last and rate > 0 and np.isfinite(self._total):
            line += f", {100 * rows / self._total:.1f} %, {(self._total - rows) / rate:,.0f} s left"
        self._progress(line)

    def estimate(self, num_rows: float | int) -> None:
        """Replaces the total number of rows."""
        self._total = num_rows
