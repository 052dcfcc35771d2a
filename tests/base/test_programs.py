import threading
import time

import pytest

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
