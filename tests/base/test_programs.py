import gc
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from autorank.base.ahead import Ahead
from autorank.base.programs import OneFirst, ProgramCache, lower

MAPS = Path("/proc/self/maps")


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


@pytest.mark.parametrize("kept", [True, False])
def test_others_wait_for_the_first_build_where_they_can_load_it(monkeypatch, kept):
    monkeypatch.setattr("autorank.base.programs.kept_on_disk", lambda: kept)
    begun: queue.SimpleQueue[str] = queue.SimpleQueue()
    may_end, first = threading.Event(), OneFirst()

    def build(device: str) -> str:
        begun.put(device)
        assert may_end.wait(20)
        if device == "one":
            raise ValueError("its own failure")
        return device

    def start(key: str, device: str):
        return pool.submit(first.build, key, lambda: build(device))

    with ThreadPoolExecutor(4) as pool:
        failing = start("lanes", "one")
        assert begun.get(timeout=20) == "one"
        others = [start("lanes", name) for name in ("two", "three")]
        another = start("more lanes", "four")
        assert begun.get(timeout=20) in ({"four"} if kept else {"two", "three", "four"})
        time.sleep(0.1)
        assert begun.qsize() == (0 if kept else 2)
        may_end.set()
        with pytest.raises(ValueError, match="its own failure"):
            failing.result()
        assert [f.result() for f in (*others, another)] == ["two", "three", "four"]


def test_a_failed_build_is_tried_again():
    cache = ProgramCache()

    def broken():
        raise MemoryError("too big")

    with pytest.raises(MemoryError, match="too big"):
        cache.get("a", broken)
    assert cache.get("a", lambda: 1)[0] == 1
    assert cache.stats.num_compiles == 1


def test_the_program_that_was_not_used_the_longest_goes_and_is_built_again():
    cache, built = ProgramCache(most=2), []

    def get(key):
        return cache.get(key, lambda: built.append(key) or key)[0]

    assert [get(key) for key in ("a", "b", "a", "c", "a", "b")] == ["a", "b", "a", "c", "a", "b"]
    assert built == ["a", "b", "c", "b"]
    assert "c" not in cache and "a" in cache and "b" in cache
    assert cache.stats.num_compiles == 4 and cache.stats.num_hits == 2


@pytest.mark.skipif(not MAPS.exists(), reason="no list of a process's memory mappings")
def test_a_program_that_goes_gives_its_memory_mappings_back():
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)

    def build(i):
        def function(x):
            for k in range(4):
                x = jnp.sin(x @ x + i * k) + jax.lax.fori_loop(0, 3, lambda _, y, x=x: y @ x, x)
            return x

        return lower(function, x).compile()

    def mappings() -> int:
        gc.collect()
        return len(MAPS.read_text().splitlines())

    def grown(most: int) -> int:
        cache, before = ProgramCache(most), mappings()
        for i in range(12):
            cache.get(str(i), lambda i=i: build(i))
        return mappings() - before

    build(-1)  # the first one loads libraries
    few, many = grown(2), grown(12)
    assert few < 0.5 * many, (few, many)


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
