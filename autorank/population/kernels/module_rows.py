"""The stages of a layer that run the modules' formulas: a program has a slot, and treats one row after another.

It branches on the slot's module. Backward, a formula is computed again and its slope pulled through it; parameters'
gradients are summed over the program's rows, then added to the arena's.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from autorank.base.typing import Array
from autorank.population.capacity import Capacity
from autorank.population.kernels.layout import load, padded, store
from autorank.population.kernels.places import (
    Kernel,
    Layers,
    Piece,
    SlotRows,
    Stage,
    added,
    zeros_of,
)
from autorank.population.kernels.row_formulas import FORMULAS, Formula
from autorank.population.kernels.slot_table import Column, number_of
from autorank.population.kernels.work_lists import (
    Work,
    groups_of,
    modules_with_end,
    views_of,
)

WARPS = 2
# Numbers of a row, padded, from which on a program has one warp: the more threads, the more copies of an operand go
# through shared memory. Blocks of 64 x 32 asked for 260 KiB with two warps, and an H200 has 227.
LARGE = 2048


def warps_of(view: Capacity) -> int:
    """The warps of a program on blocks of a view."""
    return 1 if padded(view.positions) * padded(view.width) >= LARGE else WARPS


class _Modules(Stage):
    """What the stages of modules share."""

    @staticmethod
    def _branch(
        here: SlotRows, modules: Sequence[str], run: Callable[[str, Formula], None]
    ) -> None:
        """Runs the formula of the slot's module if it is among ``modules``."""
        for module in modules:
            pl.when(here.at[Column.MODULE] == number_of(module))(
                partial(run, module, FORMULAS[module])
            )


class ModuleStarts(_Modules):
    """What the modules of one layer compute first; for most of them that is all."""

    def start(self, params: Layers, x: Array, acts: Array, results: Array) -> tuple[Array, Array]:
        """``acts`` and ``results`` with inputs of the products, and with results of the modules without products.

        ``x`` is ``[layers + 1, lanes, batch, positions, width]``: what comes into each layer, and out of the last one.
        """
        inputs = (*params.norms, params.arena, x)
        kernels = self._kernels(self._start)
        acts, results = self.run(kernels, inputs, sums=(acts, results))
        return acts, results

    def _start(
        self, modules: tuple[str, ...], view: Capacity, piece: Piece, layer: Any, table: Any,
        scale: Any, bias: Any, arena: Any, x: Any,
        acts: Any, results: Any,
    ) -> None:  # fmt: skip
        here = SlotRows(self, piece, table, layer, view)
        norm = here.norm(scale, bias)

        def run(module: str, formula: Formula) -> None:
            params = here.params(arena, module, formula.start_parts)

            def one(row: Array, _: Any) -> Any:
                read = here.normed(norm, load(x, here.x(row)))
                # As for the backward pass: Triton has no rule for functions with a gradient of their own.
                y, _ = jax.vjp(lambda p, x: formula.start(p, here.own, x), params, read)
                ref = acts if formula.products else results
                store(ref, here.started(row, formula, here.at.kept), y, self.layout.kernels)

            jax.lax.fori_loop(0, here.rows, one, None)

        self._branch(here, modules, run)

    def start_pulled(
        self,
        params: Layers,
        x: Array,
        to_acts: Array,
        slopes: Array,
        to_read: Array,
        to_arena: Array,
    ) -> tuple[Array, Array]:
        """``to_read`` with what comes through the first formulas, and the arena's gradients, added to."""
        inputs = (*params.norms, params.arena, x, to_acts, slopes)
        kernels = self._kernels(self._start_pulled)
        to_read, to_arena = self.run(kernels, inputs, sums=(to_read, to_arena))
        return to_read, to_arena

    def _start_pulled(
        self, modules: tuple[str, ...], view: Capacity, piece: Piece, layer: Any, table: Any,
        scale: Any, bias: Any, arena: Any, x: Any,
        to_acts: Any, slopes: Any, to_read: Any, to_arena: Any,
    ) -> None:  # fmt: skip
        here = SlotRows(self, piece, table, layer, view)
        norm = here.norm(scale, bias)

        def run(module: str, formula: Formula) -> None:
            params = here.params(arena, module, formula.start_parts)

            def one(row: Array, sums: Any) -> Any:
                read = here.normed(norm, load(x, here.x(row)))
                _, pull = jax.vjp(lambda p, x: formula.start(p, here.own, x), params, read)
                ref = to_acts if formula.products else slopes
                block = here.started(row, formula, here.at.sloped)
                to_params, to_x = pull(load(ref, block).astype(jnp.float32))
                if formula.end:
                    to_x = to_x + load(to_read, here.read(row))
                store(to_read, here.read(row), to_x, self.layout.kernels)
                return added(sums, to_params)

            sums = jax.lax.fori_loop(0, here.rows, one, zeros_of(params))
            here.add(to_arena, module, formula.start_parts, sums)

        self._branch(here, modules, run)

    def _kernels(self, run: Callable[..., None]) -> Iterator[Kernel]:
        """A kernel for each group of the capacity's modules and each view."""
        for group in groups_of(self.layout.capacity):
            for view in views_of(self.layout.capacity):
                yield Kernel(partial(run, group, view), Work(group, view), warps_of(view))


class ModuleEnds(_Modules):
    """What modules compute behind their matrix products."""

    def end(self, params: Layers, x: Array, results: Array) -> Array:
        """``results`` with those of modules whose products go through a formula."""
        if not self._with_end:
            return results
        inputs = (*params.norms, params.arena, x)
        (results,) = self.run(self.views(self._end, self._with_end), inputs, sums=[results])
        return results

    def _end(
        self, view: Capacity, piece: Piece, layer: Any, table: Any,
        scale: Any, bias: Any, arena: Any, x: Any,
        results: Any,
    ) -> None:  # fmt: skip
        here = SlotRows(self, piece, table, layer, view)
        norm = here.norm(scale, bias)

        def run(module: str, formula: Formula) -> None:
            end = _end_of(formula)
            params = here.params(arena, module, formula.end_parts)

            def one(row: Array, _: Any) -> Any:
                read = here.normed(norm, load(x, here.x(row)))
                y = load(results, here.products(row, here.at.kept)).astype(jnp.float32)
                value, _ = jax.vjp(lambda p, x, y: end(p, here.own, x, y), params, read, y)
                store(results, here.result(row, here.at.kept), value, self.layout.kernels)

            jax.lax.fori_loop(0, here.rows, one, None)

        self._branch(here, self._with_end, run)

    def end_pulled(
        self, params: Layers, x: Array, results: Array, slopes: Array, to_arena: Array
    ) -> tuple[Array, Array, Array]:
        """What comes through the last formulas.

        Returns:
            slopes of the embeddings that each slot reads ``[pairs, batch, positions, width]``, ``slopes`` with those of
            the products' results, and the gradients of the arena, added to.
        """
        out = self.layout
        size = out.pairs * out.batch * out.row
        if not self._with_end:
            return jnp.zeros(size, out.dtype), slopes, to_arena
        inputs = (*params.norms, params.arena, x, results)
        kernels, sums = self.views(self._end_pulled, self._with_end), (slopes, to_arena)
        to_read, slopes, to_arena = self.run(kernels, inputs, [size], sums)
        return to_read, slopes, to_arena

    def _end_pulled(
        self, view: Capacity, piece: Piece, layer: Any, table: Any,
        scale: Any, bias: Any, arena: Any, x: Any,
        results: Any, to_read: Any, slopes: Any, to_arena: Any,
    ) -> None:  # fmt: skip
        here = SlotRows(self, piece, table, layer, view)
        norm, kernels = here.norm(scale, bias), self.layout.kernels

        def run(module: str, formula: Formula) -> None:
            end = _end_of(formula)
            params = here.params(arena, module, formula.end_parts)

            def one(row: Array, sums: Any) -> Any:
                read = here.normed(norm, load(x, here.x(row)))
                y = load(results, here.products(row, here.at.kept)).astype(jnp.float32)
                _, pull = jax.vjp(lambda p, x, y: end(p, here.own, x, y), params, read, y)
                slope = load(slopes, here.result(row, here.at.sloped)).astype(jnp.float32)
                to_params, to_x, to_y = pull(slope)
                store(to_read, here.read(row), to_x, kernels)
                store(slopes, here.products(row, here.at.sloped), to_y, kernels)
                return added(sums, to_params)

            sums = jax.lax.fori_loop(0, here.rows, one, zeros_of(params))
            here.add(to_arena, module, formula.end_parts, sums)

        self._branch(here, self._with_end, run)

    @property
    def _with_end(self) -> tuple[str, ...]:
        return modules_with_end(self.layout.capacity)


def _end_of(formula: Formula) -> Callable[..., Array]:
    assert formula.end
    return formula.end
