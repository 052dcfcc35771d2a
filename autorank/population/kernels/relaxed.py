"""Adding to memory beside other programs, in no order with what else they read and write.

Pallas' `atomic_add` acquires and releases memory: for each number a thread waits until others can see all that it
wrote, and then drops its cache. Sums of gradients need no such order, because only later kernels read them. Pallas has
no argument for relaxed additions, so this module changes how JAX lowers them. If a version of JAX has other private
names, Pallas' own addition is used, which is slower (`IS_RELAXED`).
"""

import functools
import logging
from typing import Any

import jax
from jax.experimental.pallas import triton

from autorank.base.typing import Array, Bool, Int

LOG = logging.getLogger(__name__)

try:
    from jax._src.lib.mlir import ir  # pyright: ignore[reportPrivateImportUsage]
    from jax._src.lib.triton import dialect
    from jax._src.pallas import primitives as pallas
    from jax._src.pallas.triton import lowering, primitives
    from jax._src.state.primitives import get_ref_and_transforms
    from jax.extend.core import Primitive

    _RELAXED = int(dialect.MemSemantic.RELAXED)
    _lower_ordered, _abstract = primitives._atomic_lowering_rule, pallas._swap_abstract_eval
    _ADD = primitives.AtomicOpType.ADD
    IS_RELAXED = True
except (ImportError, AttributeError):
    IS_RELAXED = False


def add_relaxed(ref: Any, index: Int[Array, "..."], value: Array, mask: Bool[Array, "..."]) -> None:
    """Adds to the numbers of a flat array where ``mask`` is true; on GPUs only."""
    if not IS_RELAXED:
        _warn()
        triton.atomic_add(ref, (index,), value, mask=mask)
        return
    ref, transforms = get_ref_and_transforms(ref, (index,), "add_relaxed")
    flat, tree = jax.tree.flatten((ref, transforms, value, mask))
    _add_p.bind(*flat, args_tree=tree)


@functools.cache
def _warn() -> None:
    LOG.warning(
        "jax %s has renamed what autorank's kernels use: lanes train more slowly than with the jax of constraints.txt",
        jax.__version__,
    )


if IS_RELAXED:
    _add_p = Primitive("add_relaxed")
    _add_p.def_effectful_abstract_eval(_abstract)

    @lowering.register_lowering(_add_p)
    def _lower(context: Any, *flat: Any, args_tree: Any) -> Any:
        """Pallas' addition, with relaxed memory semantics."""
        found: Any = _lower_ordered(context, *flat, args_tree=args_tree, atomic_type=_ADD)
        i32 = ir.IntegerType.get_signless(32)
        found.owner.attributes["sem"] = ir.IntegerAttr.get(i32, _RELAXED)
        return found
