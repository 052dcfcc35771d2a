"""Wrong types fail where they are passed or returned, in every kind of function and class of the package."""

import importlib
import sys

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from tests.type_checks import Finder

MODULE = """
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, no_type_check

from jaxtyping import Array, Float

if TYPE_CHECKING:
    from nowhere import Unknown


def doubled(x: Float[Array, "n"], *, times: int = 2) -> Float[Array, "n"]:
    return x * times


def joined(x: Float[Array, "n"], y: Float[Array, "n"]) -> Float[Array, "n 2"]:
    return x + y


def words(*texts: str, **named: "int | None") -> list[str]:
    return list(texts) + list(named)


def inner(result, text: str = "") -> "Unknown":
    def one(x: "int") -> str:
        return result

    return one


def numbers() -> Iterator[int]:
    yield 1


@no_type_check
def unchecked(x: int):
    return x


@functools.lru_cache
def kept(x: int) -> int:
    return x


@dataclass(frozen=True)
class Point:
    x: int
    tag: str = "t"

    @property
    def wrong(self) -> str:
        return self.x

    @classmethod
    def made(cls, x: int) -> "Point":
        return cls(x)

    @staticmethod
    def plain(x: int) -> int:
        return x


@dataclass
class Named:
    x: str
    tag: str = "t"
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "checked_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [Finder("checked_module"), *sys.meta_path])
    yield importlib.import_module("checked_module")
    del sys.modules["checked_module"]


def test_the_package_is_checked():
    from autorank.base.metrics import regret_at_k

    with pytest.raises(TypeCheckError, match="regret_at_k"):
        regret_at_k([1.0], [1.0], "one")  # pyright: ignore[reportArgumentType]


def test_what_is_right_passes(module):
    assert module.doubled(jnp.ones(3), times=3).sum() == 9
    assert module.words("a", b=1, c=None) == ["a", "b", "c"]
    assert module.inner("text")(1) == "text"
    assert list(module.numbers()) == [1]
    assert module.unchecked("text") == "text"
    assert module.kept(2) == 2 and module.kept.cache_info().misses == 1
    assert module.Point(1) == module.Point.made(1) and module.Point.plain(1) == 1
    assert module.Named("x").x == "x"  # another dataclass of the same names


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m: m.doubled(jnp.ones((3, 1))),
        lambda m: m.doubled(jnp.ones(3), times=2.0),
        lambda m: m.joined(jnp.ones(3), jnp.ones(1)),
        lambda m: m.joined(jnp.ones(3), jnp.ones(3)),  # its result
        lambda m: m.words("a", 1),
        lambda m: m.words(b="text"),
        lambda m: m.inner("text")("text"),
        lambda m: m.inner(1)(1),
        lambda m: m.kept("text"),
        lambda m: m.Point("text"),
        lambda m: m.Point(1).wrong,
        lambda m: m.Point.made("text"),
        lambda m: m.Point.plain("text"),
        lambda m: m.Named(1),
    ],
)
def test_what_is_wrong_fails(module, wrong):
    with pytest.raises(TypeCheckError):
        wrong(module)
