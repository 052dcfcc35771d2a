"""Line numbers of good and bad rows while Arrow reads delimited text.

Arrow numbers rows, not lines: a quoted cell may span several lines, and bad rows are skipped.
"""

from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np

from autorank.data.format.source import BadRow


class RefusedRow(NamedTuple):
    """A row with a wrong number of cells: its number, the lines it spans, and the reason."""

    number: int
    num_lines: int
    reason: str


class LineNumbers:
    """Translates Arrow's row numbers into line numbers, and collects bad rows.

    Attributes:
        cells_with_line_ends: line ends inside the cells of good rows.

    Args:
        file: name of the file, for messages.
        first: line number of the first row.
        rows_before: rows of the file that Arrow does not see.
    """

    def __init__(self, file: str, first: int, rows_before: int = 0):
        self.cells_with_line_ends = 0
        self._file, self._rows_before, self._next_row = file, rows_before, first
        self._skipped: list[int] = []  # refused rows from _next_row on, ascending
        self._multiline: list[tuple[int, int]] = []  # refused row, its lines beyond the first
        self._bad: list[BadRow] = []
        self._refused: list[RefusedRow] = []

    def refuse(self, row: Any) -> str:
        """Records a row with a wrong number of cells (`pyarrow.csv.InvalidRow`); Arrow skips it."""
        number = row.number + self._rows_before
        self._skipped.append(number)
        line = number + sum(extra for _, extra in self._multiline)
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
        extra = row.text.count("\n")
        self._refuse_lines(range(line, line + extra + 1), reason)
        self._refused.append(RefusedRow(number, 1 + extra, reason))
        if extra:
            self._multiline.append((number, extra))
        return "skip"

    def has_multiline_rows(self, num_lines: int, num_good: int) -> bool:
        """Whether some good rows span several lines, given the lines of the text and the good rows read."""
        return num_good + sum(row.num_lines for row in self._refused) < num_lines

    def lines_of_multiline_rows(self, line_ends: np.ndarray) -> np.ndarray:
        """`next_lines` for all good rows of a text, given the line ends inside the cells of each."""
        numbers = [row.number for row in self._refused]
        rows = np.arange(self._next_row, self._next_row + len(line_ends) + len(numbers))
        is_bad = np.isin(rows, numbers)
        sizes = np.ones(len(rows), np.int64)
        sizes[~is_bad] += line_ends
        sizes[is_bad] = [row.num_lines for row in self._refused]
        firsts = self._next_row + np.cumsum(sizes) - sizes
        self._bad = []
        for first, row in zip(firsts[is_bad].tolist(), self._refused, strict=True):
            self._refuse_lines(range(first, first + row.num_lines), row.reason)
        self.cells_with_line_ends = int(line_ends.sum())
        return firsts[~is_bad]

    def refuse_unclosed_quote(self, num_lines: int, lines: np.ndarray, line_ends: int) -> bool:
        """Refuses the lines of the last good row if a quote in it is never closed; returns whether it did.

        The cells of such a row contain the last line end of the text, so that its line ends lead beyond the text.

        Args:
            num_lines: lines of the text.
            lines: the first line of each good row.
            line_ends: line ends inside the cells of the last good row.
        """
        if not line_ends:
            return False
        first, last = int(lines[-1]), self._rows_before + num_lines
        if first + line_ends <= last:
            return False
        reason = f"the quote that opens in line {first} is never closed"
        self._refuse_lines(range(first, last + 1), reason)
        self.cells_with_line_ends = max(0, self.cells_with_line_ends - line_ends)
        return True

    def refuse_empty_rows(self, text: bytes | memoryview, lines: np.ndarray) -> None:
        """Refuses those of the lines that consist of separators only; a line without any is blank, not bad."""
        if not len(lines):
            return
        whole = bytes(text).split(b"\n")
        for line in lines.tolist():
            index = line - self._rows_before - 1
            # A carriage return inside a cell can lead beyond the end.
            if index >= len(whole) or whole[index].strip(b"\r\xef\xbb\xbf"):
                self._refuse_lines([line], "every cell is empty")

    def next_lines(self, num_good: int) -> np.ndarray:
        """Line numbers of the next good rows."""
        if not self._skipped and not self._multiline:
            self._next_row += num_good
            return np.arange(self._next_row - num_good, self._next_row)
        start = stop = self._next_row
        while True:
            skipped = bisect_left(self._skipped, stop)
            if stop == start + num_good + skipped:
                break
            stop = start + num_good + skipped
        rows = np.setdiff1d(np.arange(start, stop), self._skipped)
        self._next_row = stop
        self._skipped = [row for row in self._skipped if row >= stop]
        shifts = np.cumsum([0, *(extra for _, extra in self._multiline)])
        return rows + shifts[np.searchsorted([row for row, _ in self._multiline], rows)]

    def take_bad_rows(self) -> tuple[BadRow, ...]:
        """The bad rows recorded since the last call."""
        found, self._bad = tuple(self._bad), []
        return found

    def _refuse_lines(self, lines: Any, reason: str) -> None:
        self._bad += [BadRow(f"{self._file}:{line}", reason) for line in lines]
