"""Array and tree types that every module shares; axis letters are listed in docs/design.md."""

from typing import Any, TypeAlias

import jax
from jaxtyping import Array, Bool, Float, Int, Num, PRNGKeyArray

Key: TypeAlias = PRNGKeyArray
PyTree: TypeAlias = Any
Device: TypeAlias = jax.Device

__all__ = ["Array", "Bool", "Device", "Float", "Int", "Key", "Num", "PyTree"]
