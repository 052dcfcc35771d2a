"""All layers of all lanes by kernels, forward and backward: the same function as `network.run_layers` elsewhere."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from autorank.base.typing import Array, Float, Int, PyTree
from autorank.models.embedding import num_embeddings
from autorank.population.capacity import Capacity, Lane
from autorank.population.kernels.arena import cleared
from autorank.population.kernels.layer_rows import LayerRows
from autorank.population.kernels.layout import KERNELS, Layout, empty, padded
from autorank.population.kernels.module_rows import ModuleEnds, ModuleStarts
from autorank.population.kernels.places import Layers, Norms
from autorank.population.kernels.product_stages import (
    Chain,
    MatrixProducts,
    PulledProducts,
    empty_chain,
)
from autorank.population.kernels.row_formulas import FORMULAS
from autorank.population.kernels.work_lists import table_with_lists

MOST = 64  # embeddings, or numbers of one, that a program holds
# Bytes of a matrix (weights, say) for each embedding, which bounds what a program needs. The shared memory of an H100
# or H200 is 227 KiB; 128 KiB ran there, 64 embeddings of width 32 (256 KiB) with one warp a program
# (`module_rows.LARGE`), 32 embeddings of width 64 (512 KiB) did not.
MOST_BYTES = 256 * 1024


def fits(kernels: str, capacity: Capacity) -> bool:
    """Whether the kernels hold a capacity: its modules have formulas, and its rows are small.

    Examples:
        >>> from autorank.models.dhen import DhenConfig, LayerConfig
        >>> from autorank.population.capacity import capacity_of
        >>> def fits_width(width, kernels="gpu"):
        ...     model = DhenConfig(width=width, num_tokens=32, layer1=LayerConfig("cross"))
        ...     return fits(kernels, capacity_of([model], 26, 13))
        >>> fits_width(32), fits_width(64), fits_width(128), fits_width(32, "")
        (True, False, False, False)
        >>> fits("gpu", capacity_of([DhenConfig(width=32, layer1=LayerConfig("cross"))], 37, 7))
        True
    """
    known = all(kind.module in FORMULAS for kind in capacity.kinds)
    sizes = capacity.positions, capacity.width, capacity.rank
    positions, width, rank = map(padded, sizes)
    small = 4 * positions * width * max(width, rank) <= MOST_BYTES and max(sizes) <= MOST
    return kernels in KERNELS and known and bool(capacity.kinds) and small


class Saved(NamedTuple):
    """What the backward pass starts from."""

    params: Layers
    inputs: Float[Array, " x"]  # of all layers
    chain: Any  # a `Chain` of all layers if they are kept, else None
    table: Int[Array, " t"]
    lanes: Lane


def run(
    layout: Layout, params: PyTree, x: Float[Array, "p b f d"], lanes: Lane
) -> tuple[Array, Saved]:
    """What comes out of the last layer ``[p, b, m, d]``; ``params`` are those of `storage.LAYERED`."""
    c, flat, table = layout.capacity, _flat(params), table_with_lists(layout.capacity, lanes)
    inputs = LayerRows(layout, table, jnp.zeros(1, jnp.int32)).enter(x.reshape(-1), x.shape[2])

    def one(layer: Array, found: tuple[Array, Chain]) -> tuple[Array, Chain]:
        x, chain = found
        stages = _Stages(layout, table, layer)
        chain = stages.forward(flat, x, chain)
        return stages.layer.join(flat, x, chain.results), chain

    start = inputs, empty_chain(layout)
    inputs, chain = jax.lax.fori_loop(0, c.num_layers, one, start)
    shape = c.num_layers + 1, *x.shape[:2], c.positions, c.width
    y = _own(c, lanes.positions[:, -1], lanes.width, inputs.reshape(shape)[-1])
    return y, Saved(flat, inputs, chain if layout.keeps else None, table, lanes)


def pull(layout: Layout, saved: Saved, params: PyTree, slope: Array) -> tuple[PyTree, Array]:
    """The gradients of the parameters, in their shapes, and the slope of the first layer's input.

    The arena's gradients are arbitrary where no model has numbers (`arena.py`).
    """
    c, flat = layout.capacity, saved.params

    def one(i: Array, found: tuple[Array, Any, Layers]) -> tuple[Array, Any, Layers]:
        slope, chain, to = found
        stages = _Stages(layout, saved.table, c.num_layers - 1 - i)
        again = None if layout.keeps else stages.forward(flat, saved.inputs, chain)
        slope, to = stages.backward(flat, saved.inputs, again or saved.chain, slope, to)
        return slope, again, to

    zeros: Layers = jax.tree.map(jnp.zeros_like, flat._replace(arena=None))
    start = (
        _halves(layout, slope.reshape(-1)),
        None if layout.keeps else empty_chain(layout),
        zeros._replace(arena=cleared(layout, saved.table)),
    )
    found, _, to = jax.lax.fori_loop(0, c.num_layers, one, start)
    gradients = {
        "norm": {"scale": to.norms.scale, "bias": to.norms.bias},
        "scale": to.scale,
        "shortcut": to.shortcut,
        "arena": to.arena,
    }
    lanes, first = saved.lanes, num_embeddings(c.num_fields, c.num_dense)
    found = found[: slope.size].reshape(slope.shape)
    to_x = _own(c, lanes.positions[:, 0], lanes.width, found)[:, :, :first]
    return jax.tree.map(lambda g, p: g.reshape(p.shape), gradients, params), to_x


class _Stages:
    """The stages of one layer in their order."""

    def __init__(self, layout: Layout, table: Array, layer: Array) -> None:
        self.layer = LayerRows(layout, table, layer[None])
        self._starts = ModuleStarts(layout, table, layer[None])
        self._ends = ModuleEnds(layout, table, layer[None])
        self._products = MatrixProducts(layout, table, layer[None])
        self._pulled = PulledProducts(layout, table, layer[None])

    def forward(self, params: Layers, x: Array, chain: Chain) -> Chain:
        """``chain`` with the modules' results, and what led to them."""
        inputs, results = self._starts.start(params, x, chain.inputs, chain.results)
        chain = chain._replace(inputs=inputs, results=results)
        if self._products.present:
            chain = self._products.run(params.arena, chain)
        return chain._replace(results=self._ends.end(params, x, chain.results))

    def backward(
        self, params: Layers, x: Array, chain: Chain, slope: Array, to: Layers
    ) -> tuple[Array, Layers]:
        """``slope`` with that of the layer's input (`LayerRows.join_pulled`), and the gradients, added to."""
        slope, to_results, to = self.layer.join_pulled(params, x, chain.results, slope, to)
        to_read, to_results, arena = self._ends.end_pulled(
            params, x, chain.results, to_results, to.arena
        )
        # Without products nobody reads the slopes of their inputs.
        to_inputs = chain.inputs
        if self._products.present:
            slopes = Chain(None, None, to_results)
            slopes, arena = self._pulled.pull(params.arena, chain, slopes, arena)
            to_inputs = slopes.inputs
        to_read, arena = self._starts.start_pulled(params, x, to_inputs, to_results, to_read, arena)
        slope, norms = self.layer.norm_pulled(params, x, to_read, slope, to.norms)
        return slope, to._replace(norms=norms, arena=arena)


def _halves(layout: Layout, slope: Array) -> Array:
    """Room for two layers' slopes, with that of what leaves the last one."""
    (room,) = empty(layout, 2 * slope.size)
    first = layout.capacity.num_layers % 2 * slope.size
    return jax.lax.dynamic_update_slice(room, slope, (first,))


def _own(c: Capacity, count: Array, width: Array, x: Float[Array, "p b m d"]) -> Array:
    """``x`` with zeros beyond each model's own: kernels leave there what was there."""
    inside = (jnp.arange(c.positions)[None] < count[:, None])[:, :, None]
    inside = inside & (jnp.arange(c.width)[None] < width[:, None])[:, None]
    return jnp.where(inside[:, None], x, 0)


def _flat(params: PyTree) -> Layers:
    norms: Any = params["norm"]
    flat = [norms["scale"], norms["bias"], params["scale"], params["shortcut"], params["arena"]]
    scale, bias, *rest = (a.reshape(-1) for a in flat)
    return Layers(Norms(scale, bias), *rest)
