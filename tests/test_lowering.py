"""Sharing MLIR contexts changes nothing but the time that lowering takes."""

import threading

import jax
import jax.numpy as jnp
from jax._src.interpreters import mlir

from tests.lowering import LIFE, shared


def lowered() -> str:
    program = jax.jit(lambda x: jax.lax.scan(lambda s, row: (s + jnp.sin(row), s @ row), x[0], x))
    return program.lower(jnp.ones((3, 2))).as_text()


def test_programs_are_those_of_a_context_of_their_own(monkeypatch):
    found = lowered(), lowered()
    monkeypatch.setattr(mlir, "make_ir_context", mlir.make_ir_context.__wrapped__)
    assert found == (lowered(),) * 2


def test_a_context_serves_one_thread_and_not_forever():
    made = []
    make = shared(lambda: made.append(len(made)) or made[-1])
    assert [make() for _ in range(LIFE)] == [0] * LIFE
    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert made == [0, 1, 2] and make() == 3
