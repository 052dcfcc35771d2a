"""Progress of a search: one line that is rewritten on a terminal, a line now and then in a log."""

import logging
import sys
import time
from typing import TextIO

from autorank.search.meter import Event

LOG = logging.getLogger(__name__)


class Progress:
    """Shows events: trials done, rows/s, best label so far, time left."""

    def __init__(
        self, stream: TextIO | None = None, log_every: float = 15.0, unit: str = "%"
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live, self._unit = self._stream.isatty(), unit
        self._log_every, self._last_log = log_every, 0.0
        self._started = time.monotonic()
        self._first: Event | None = None
        self._stage = ""

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        now = time.monotonic()
        # A resumed search starts with work already done, which says nothing about its speed.
        if self._first is None:
            self._first, self._started = event, now
        line = self.line(event, now - self._started)
        if self._live:
            self._stream.write(f"\r\x1b[2K{line}")
            self._stream.flush()
        elif event.stage != self._stage or now - self._last_log >= self._log_every:
            LOG.info("%s", line)
            self._last_log = now
        self._stage = event.stage

    def line(self, event: Event, seconds: float) -> str:
        """The text for one event, ``round | 57/100 trials | ...``, after so many seconds."""
        first = self._first or event
        parts = [event.stage, f"{event.trials_done}/{event.trials_total} trials"]
        if event.num_failed:
            parts.append(f"{event.num_failed} failed")
        rows, share = event.trained_rows - first.trained_rows, event.done_share - first.done_share
        if seconds > 1 and rows > 0:
            parts.append(f"{rows / seconds:,.0f} rows/s")
        if event.best is not None:
            parts.append(f"best gain {event.best:+.3f}{self._unit}")
        if seconds > 1 and share > 0:
            parts.append(f"{duration((1 - event.done_share) * seconds / share)} left")
        return " | ".join(parts)

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._live:
            self._stream.write("\n")


def duration(seconds: float) -> str:
    """A duration for people.

    Examples:
        >>> duration(9.0), duration(75.0), duration(7260.0)
        ('9s', '1m15s', '2h01m')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
    )
