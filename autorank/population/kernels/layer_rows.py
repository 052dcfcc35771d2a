"""The stages of a layer around its modules: a program has a lane, and treats one row after another."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from autorank.base.typing import Array
from autorank.population.capacity import Capacity
from autorank.population.kernels.layout import load, store
from autorank.population.kernels.places import (
    LaneRows,
    Layers,
    Norms,
    Piece,
    Stage,
    added,
    zeros_of,
)


class LayerRows(Stage):
    """One layer: its input, norms, and the sum of its modules' results with the shortcut."""

    def enter(self, x: Array, count: int) -> Array:
        """The room for all layers' inputs, the first one filled from ``[lanes, batch, count, width]``."""
        out = self.layout

        def enter(view: Capacity, piece: Piece, layer: Any, table: Any, x: Any, xs: Any) -> None:
            here = LaneRows(self, piece, table, layer, view)

            def one(row: Array, _: Any) -> Any:
                store(xs, here.x(row), load(x, here.entering(row, count)), out.kernels)

            jax.lax.fori_loop(0, here.rows, one, None)

        size = (out.capacity.num_layers + 1) * out.lanes * out.batch * out.row
        (xs,) = self.run(self.views(enter), [x], [size])
        return xs

    def join(self, params: Layers, x: Array, results: Array) -> Array:
        """``x`` with the layer's output: shortcut and modules, normed if the model does so."""
        inputs = (*params.norms, params.scale, params.shortcut, results)
        (x,) = self.run(self.views(self._join), inputs, sums=[x])
        return x

    def _join(
        self, view: Capacity, piece: Piece, layer: Any, table: Any,
        scale: Any, bias: Any, factors: Any, shortcut: Any,
        results: Any, x: Any,
    ) -> None:  # fmt: skip
        here = LaneRows(self, piece, table, layer, view)

        def run(mapped: bool) -> None:
            params = here.params(scale, bias, factors, shortcut, mapped=mapped)

            def one(row: Array, _: Any) -> Any:
                value, _ = jax.vjp(
                    here.output, params, load(x, here.x(row)), here.parts(results, row)
                )
                store(x, here.y(row), value, self.layout.kernels)

            jax.lax.fori_loop(0, here.rows, one, None)

        for condition, mapped in here.cases():
            pl.when(condition)(partial(run, mapped))

    def join_pulled(
        self, params: Layers, x: Array, results: Array, slope: Array, to: Layers
    ) -> tuple[Array, Array, Layers]:
        """Slopes with that of ``x`` through the shortcut, the slopes of the modules' results, gradients, added to.

        ``slope`` is ``[2, lanes, batch, positions, width]``: in one half that of what leaves the layer, in the other
        one that of what comes in.
        """
        out = self.layout
        inputs = (*params.norms, params.scale, params.shortcut, x, results)
        size = 2 * out.pairs * out.batch * out.result
        sums = (slope, *to.norms, to.scale, to.shortcut)
        kernels = self.views(self._join_pulled)
        found = self.run(kernels, inputs, [size], sums)
        to_results, slope, to_scale, to_bias, to_factors, to_shortcut = found
        norms = Norms(to_scale, to_bias)
        to = to._replace(norms=norms, scale=to_factors, shortcut=to_shortcut)
        return slope, to_results, to

    def _join_pulled(
        self, view: Capacity, piece: Piece, layer: Any, table: Any,
        scale: Any, bias: Any, factors: Any, shortcut: Any, x: Any,
        results: Any, to_results: Any, slope: Any, *to: Any,
    ) -> None:  # fmt: skip
        here, kernels = LaneRows(self, piece, table, layer, view), self.layout.kernels

        def run(mapped: bool) -> None:
            params = here.params(scale, bias, factors, shortcut, mapped=mapped)

            def one(row: Array, sums: Any) -> Any:
                parts = here.parts(results, row)
                _, pull = jax.vjp(here.output, params, load(x, here.x(row)), parts)
                found = pull(load(slope, here.to_y(row)).astype(jnp.float32))
                to_params, to_own, to_parts = found
                store(slope, here.to_x(row), to_own, kernels)
                for block, part in zip(here.slopes(row), to_parts, strict=True):
                    store(to_results, block, part, kernels)
                return added(sums, to_params)

            here.add(to, jax.lax.fori_loop(0, here.rows, one, zeros_of(params)))

        for condition, mapped in here.cases():
            pl.when(condition)(partial(run, mapped))

    def norm_pulled(
        self, params: Layers, x: Array, to_read: Array, to_x: Array, norms: Norms
    ) -> tuple[Array, Norms]:
        """``to_x`` with the slopes of what the slots read, through the norm before them; norms' gradients, added to."""
        inputs = (*params.norms, x, to_read)
        kernels, sums = self.views(self._norm_pulled), (to_x, *norms)
        to_x, *changed = self.run(kernels, inputs, sums=sums)
        return to_x, Norms(*changed)

    def _norm_pulled(
        self, view: Capacity, piece: Piece, layer: Any, table: Any,
        scale: Any, bias: Any, x: Any, to_read: Any, to_x: Any,
        *to: Any,
    ) -> None:  # fmt: skip
        here, out = LaneRows(self, piece, table, layer, view), self.layout
        norm = here.norm(scale, bias)

        def one(row: Array, sums: Any) -> Any:
            block = here.to_x(row)
            _, pull = jax.vjp(here.normed, norm, load(x, here.x(row)))
            found = jnp.zeros(block.index.shape, jnp.float32)
            for s in range(out.capacity.slots):
                found = found + load(to_read, here.read(s, row)).astype(jnp.float32)
            to_norm, to_own = pull(found.astype(out.dtype))
            store(to_x, block, to_own + load(to_x, block), out.kernels)
            return added(sums, to_norm)

        here.add_norm(to, jax.lax.fori_loop(0, here.rows, one, zeros_of(norm)))
