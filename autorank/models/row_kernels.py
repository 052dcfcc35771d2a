"""Small functions of one row of the log as one kernel: everything between two large products stays in registers.

A module of a ranking model is a dozen tiny products, norms and choices over a few dozen embeddings. As kernels of a
library each of them reads and writes the whole batch, and starting them takes longer than the arithmetic. Here a
program walks over its rows, computes the function of each, and writes the result only; backward it computes the
function again, pulls the slope through it, and sums the parameters' gradients over its rows. Written in Pallas (its
Triton form); "interpret" runs the same code anywhere, for tests.

A function takes matrices padded to powers of two (at least 16) and zero beyond their real sizes. It may use products
of matrices (`dot`), elementwise operations and sums over one axis.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from autorank.base.typing import Array, Float, Int
from autorank.models.maps import sum_float32

KERNELS = ("gpu", "interpret")  # what may be asked for; "" leaves everything to the compiler
MOST = 64  # beyond, a row does not stay in the registers of its program
# Each program writes gradients of its own, so it takes several rows; and there are many, to fill a device.
MIN_ROWS, MOST_PROGRAMS = 4, 256
WARPS = 2


@runtime_checkable
class RowFunction(Protocol):
    """A function of one row; hashable."""

    def __call__(
        self,
        params: Sequence[Float[Array, "i j"]],
        numbers: Sequence[Array],
        xs: Sequence[Float[Array, "m n"]],
    ) -> Float[Array, "l d"]:
        """The result from parameters, integers that say what is active, and the row's matrices."""
        ...


def fits(kernels: str, *sizes: int) -> bool:
    """Whether `by_row` takes matrices of these sizes; else they are left to the compiler.

    Examples:
        >>> fits("gpu", 27, 16), fits("gpu", 27, 128), fits("", 4)
        (True, False, False)
    """
    return kernels in KERNELS and max(sizes) <= MOST


def dot(a: Array, b: Array, over: tuple[int, int] = (1, 0)) -> Array:
    """The product of two matrices of one precision over one axis of each; float32 sums and result."""
    found: Any = _dot(a, b, over)
    return found


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dot(a: Array, b: Array, over: tuple[int, int]) -> Array:
    return sum_float32(a, b, over)


def _dot_fwd(a: Array, b: Array, over: tuple[int, int]) -> tuple[Array, tuple[Array, Array]]:
    return sum_float32(a, b, over), (a, b)


def _dot_bwd(
    over: tuple[int, int], saved: tuple[Array, Array], slope: Array
) -> tuple[Array, Array]:
    (a, b), (i, j) = saved, over
    # A tensor core takes two operands of one precision.
    slope = slope.astype(a.dtype)
    to_a = sum_float32(slope, b, (1, 1 - j)) if i else sum_float32(b, slope, (1 - j, 1))
    to_b = sum_float32(slope, a, (0, 1 - i)) if j else sum_float32(a, slope, (1 - i, 0))
    return to_a.astype(a.dtype), to_b.astype(b.dtype)


_dot.defvjp(_dot_fwd, _dot_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def by_row(
    function: RowFunction,
    shape: tuple[int, int],
    kernels: str,
    params: tuple[Float[Array, "i j"], ...],
    numbers: Int[Array, " k"],
    xs: tuple[Float[Array, "b m n"], ...],
) -> Float[Array, "b l d"]:
    """``function`` of every row of the batch, as ``[b, *shape]`` in the precision of the rows."""
    return _forward(function, shape, kernels, params, numbers, xs)[0]


def _forward(
    function: RowFunction,
    shape: tuple[int, int],
    kernels: str,
    params: Any,
    numbers: Array,
    xs: Any,
) -> tuple[Array, Any]:
    batch, dtype = xs[0].shape[0], xs[0].dtype
    programs = _programs(batch)

    def kernel(*refs: Any) -> None:
        origin = 0 * pl.program_id(0)
        param_refs, (number_ref,), x_refs, (out_ref,) = _split(refs, params, xs)
        loaded = [_load(ref, origin) for ref in param_refs]
        active = [number_ref[i] for i in range(numbers.shape[0])]

        def one(row: Array, _: Any) -> Any:
            values = [_load(ref, origin, row) for ref in x_refs]
            # As for the backward pass: Triton has no rule for functions with a gradient of their own.
            value, _ = jax.vjp(lambda p, x: function(p, active, x), loaded, values)
            _store(out_ref, value, origin, row)

        jax.lax.fori_loop(0, batch // programs, one, None)

    specs = [*map(_whole, params), _whole(numbers), *(_part(x.shape, programs) for x in xs)]
    out = jax.ShapeDtypeStruct((batch, *shape), dtype)
    y = _call(kernel, kernels, programs, specs, [_part(out.shape, programs)], [out])(
        *params, numbers, *xs
    )[0]
    return y, (params, numbers, xs)


def _backward(
    function: RowFunction, shape: tuple[int, int], kernels: str, saved: Any, slope: Array
) -> tuple[Any, None, Any]:
    params, numbers, xs = saved
    batch = slope.shape[0]
    programs = _programs(batch)

    def kernel(*refs: Any) -> None:
        origin = 0 * pl.program_id(0)
        param_refs, (number_ref,), x_refs, rest = _split(refs, params, xs)
        slope_ref, to_x_refs, to_param_refs = rest[0], rest[1 : 1 + len(xs)], rest[1 + len(xs) :]
        loaded = [_load(ref, origin) for ref in param_refs]
        active = [number_ref[i] for i in range(numbers.shape[0])]

        def one(row: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            values = [_load(ref, origin, row) for ref in x_refs]
            _, pull = jax.vjp(lambda p, x: function(p, active, x), loaded, values)
            to_params, to_xs = pull(_load(slope_ref, origin, row).astype(jnp.float32))
            for ref, value in zip(to_x_refs, to_xs, strict=True):
                _store(ref, value, origin, row)
            return tuple(a + b.astype(a.dtype) for a, b in zip(sums, to_params, strict=True))

        start = tuple(jnp.zeros(p.shape, jnp.float32) for p in loaded)
        sums = jax.lax.fori_loop(0, batch // programs, one, start)
        for ref, value in zip(to_param_refs, sums, strict=True):
            _store(ref, value, origin, origin)

    sliced = [_part(x.shape, programs) for x in xs]
    specs = [*map(_whole, params), _whole(numbers), *sliced, _part(slope.shape, programs)]
    outs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in xs]
    sums = [jax.ShapeDtypeStruct((programs, *p.shape), jnp.float32) for p in params]
    out_specs = sliced + [_part(s.shape, programs) for s in sums]
    found = _call(kernel, kernels, programs, specs, out_specs, outs + sums)(
        *params, numbers, *xs, slope
    )
    to_xs, parts = found[: len(xs)], found[len(xs) :]
    to_params = tuple(
        jnp.sum(part, axis=0).astype(p.dtype) for part, p in zip(parts, params, strict=True)
    )
    return to_params, None, tuple(to_xs)


by_row.defvjp(_forward, _backward)


def _programs(batch: int) -> int:
    """Programs among which the rows are divided."""
    found = min(MOST_PROGRAMS, max(1, batch // MIN_ROWS))
    while batch % found:
        found -= 1
    return found


def _split(refs: Sequence[Any], params: Any, xs: Any) -> tuple[Any, ...]:
    """References to parameters, numbers, rows, and the rest."""
    a, b = len(params), len(params) + 1 + len(xs)
    return refs[:a], refs[a : a + 1], refs[a + 1 : b], refs[b:]


def _whole(array: Array) -> pl.BlockSpec:
    return pl.BlockSpec(array.shape, lambda _: (0,) * array.ndim)


def _part(shape: tuple[int, ...], programs: int) -> pl.BlockSpec:
    """The rows of one program."""
    return pl.BlockSpec((shape[0] // programs, *shape[1:]), lambda i: (i, 0, 0))


def _padded(size: int) -> int:
    """Sides of a block are powers of two; tensor cores want 16."""
    return max(16, 1 << (size - 1).bit_length())


def _where(ref: Any, origin: Array, row: Any) -> tuple[Any, Array]:
    """A matrix, padded, and the mask of what is inside; of one row where there is an axis of rows.

    ``origin`` is a traced 0: a block that began at a constant would be checked against the array's bounds, which are
    the mask's business.
    """
    sizes = ref.shape[-2:]
    shape = _padded(sizes[0]), _padded(sizes[1])
    at = [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)]
    inside = (at[0] < sizes[0]) & (at[1] < sizes[1])
    block = pl.ds(origin, shape[0]), pl.ds(origin, shape[1])
    return ref.at[block] if row is None else ref.at[(row, *block)], inside


def _load(ref: Any, origin: Array, row: Any = None) -> Array:
    here, inside = _where(ref, origin, row)
    return triton.load(here, mask=inside, other=0.0)


def _store(ref: Any, value: Array, origin: Array, row: Any) -> None:
    here, inside = _where(ref, origin, row)
    triton.store(here, value.astype(ref.dtype), mask=inside)


def _call(
    kernel: Callable[..., None],
    kernels: str,
    programs: int,
    in_specs: Sequence[pl.BlockSpec],
    out_specs: Sequence[pl.BlockSpec],
    outputs: Sequence[jax.ShapeDtypeStruct],
) -> Any:
    return pl.pallas_call(
        kernel,
        grid=(programs,),
        in_specs=list(in_specs),
        out_specs=list(out_specs),
        out_shape=list(outputs),
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=kernels == "interpret",
    )
