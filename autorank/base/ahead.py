"""Compiling ahead: programs that will be needed are compiled in threads while something else runs."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autorank.base.jax_settings import own_settings

LOG = logging.getLogger(__name__)


class Ahead:
    """Threads that compile; an error in one of them is raised where the program is needed, not here.

    Args:
        workers: threads of one call.
        jax_choices: the user's settings of JAX that training follows (`training_choices`).

    Examples:
        >>> from autorank.base.programs import ProgramCache
        >>> cache, ahead = ProgramCache(), Ahead(2, {})
        >>> ahead.start([lambda name=name: cache.get(name, name.upper) for name in ("a", "b")])
        >>> ahead.join()
        >>> cache.get("a", str)
        ('A', 0.0)
    """

    def __init__(self, workers: int, jax_choices: Mapping[str, Any]) -> None:
        self._workers, self._choices = max(1, workers), dict(jax_choices)
        self._threads: list[threading.Thread] = []

    def start(self, builds: Iterable[Callable[[], Any]]) -> None:
        """Begins to call ``builds``, the first of them first, and returns at once."""
        waiting = deque(builds)
        for _ in range(min(self._workers, len(waiting))):
            thread = threading.Thread(target=self._work, args=(waiting,), name="compile ahead")
            self._threads.append(thread)
            thread.start()

    def join(self) -> None:
        """Waits until nothing is compiling any more: it would slow down what is measured beside it."""
        while self._threads:
            self._threads.pop().join()

    def _work(self, waiting: deque[Callable[[], Any]]) -> None:
        with own_settings(**self._choices):
            # A program that was stopped waits for what is compiling now, but begins nothing new.
            while threading.main_thread().is_alive():
                try:
                    build = waiting.popleft()
                except IndexError:
                    return
                try:
                    build()
                except Exception as error:
                    LOG.debug("compiling ahead: %s", error)
