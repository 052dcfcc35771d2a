import threading
import time

import pytest

from autorank.base.ahead import Ahead
from autorank.base.programs import ProgramCache


def test_one_build_for_many_threads():
    cache, built = ProgramCache(), []

    def build():
        time.sleep(0.05)
        built.append(1)
        return object()

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(cache.get("a", build))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len({id(program) for program, _ in found}) == 1
    assert sum(seconds > 0 for _, seconds in found) == 1
    assert cache.stats.num_compiles == 1 and cache.stats.num_hits == 7
    assert cache.stats.compile_seconds >= 0.05


def test_a_failed_build_is_tried_again():
    cache = ProgramCache()

    def broken():
        raise MemoryError("too big")

    with pytest.raises(MemoryError, match="too big"):
        cache.get("a", broken)
    assert cache.get("a", lambda: 1)[0] == 1
    assert cache.stats.num_compiles == 1


def test_an_error_ahead_of_time_is_raised_where_the_program_is_needed():
    cache, ahead, built = ProgramCache(), Ahead(3, {}), []

    def broken() -> None:
        raise ValueError("no such program")

    ahead.start(
        [lambda: cache.get("broken", broken), lambda: cache.get("ok", lambda: built.append(1))]
    )
    ahead.join()
    assert built == [1] and "ok" in cache and "broken" not in cache
    with pytest.raises(ValueError, match="no such program"):
        cache.get("broken", broken)
