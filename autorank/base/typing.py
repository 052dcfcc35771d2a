"""Array and tree types that every module shares; axis letters are listed in docs/design.md."""

from typing import Any, TypeAlias

from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

Key: TypeAlias = PRNGKeyArray
PyTree: TypeAlias = Any

__all__ = ["Array", "Bool", "Float", "Int", "Key", "Num", "PyTree"]
