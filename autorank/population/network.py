"""The models of all lanes as one function of their parameters: a layer loops over the modules that are in use.

For each group of modules (`families`), a loop runs over the (lane, slot) pairs that hold one of them (`pairs`), so a
step costs what its modules cost, whatever the architectures are. A module's output goes straight into its lane's sum.
The backward pass computes each module again: only the layers' inputs are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autorank.base.typing import Array, Bool, Float, Int, PyTree
from autorank.models.embedding import Embedding
from autorank.models.maps import mix
from autorank.models.parameters import call, prefix
from autorank.population.capacity import MAX_FLAT_WIDTH, Capacity, Lane
from autorank.population.chunks import Chunk, LaneLayer, PairAt, SlotParams
from autorank.population.families import Forms, Group, Slot, groups, normed
from autorank.population.kernels import layers
from autorank.population.kernels.layout import Layout
from autorank.population.pairs import Pairs
from autorank.population.storage import LAYERED, head_module, slot_params


@dataclass(frozen=True)
class Network:
    """All lanes of one program.

    Args:
        capacity: what the program can hold.
        chunk: pairs that a loop handles at a time, side by side: few for large batches, more for small ones.
        dtype: of activations and of the weights' copies in matrix products, whose sums are float32.
        flat: whether linear maps are products over the flattened embeddings (`maps.mix`).
        kernels: "gpu" for the kernels of `kernels.layers` where they hold the capacity, "interpret" for the same code
            anywhere, "" for the compiler alone.
    """

    capacity: Capacity
    chunk: int = 1
    dtype: Any = jnp.float32
    flat: bool = False
    kernels: str = ""

    def tuned(self, backend: str) -> "Network":
        """In the forms that are fastest on a backend (`jax.default_backend`); equal up to rounding."""
        return replace(
            self,
            flat=backend != "cpu" and self.capacity.width <= MAX_FLAT_WIDTH,
            kernels="gpu" if backend == "gpu" else "",
        )

    def apply(
        self,
        params: PyTree,
        x: Float[Array, "p b f d"],
        dense: Float[Array, "p b n"],
        lanes: Lane,
        pairs: Pairs,
    ) -> Float[Array, "p b t"]:
        """Logits of every lane from its looked-up rows, zero beyond its width, and dense features."""
        c = self.capacity
        embedding, head = Embedding(c.width), head_module(c)
        # Without a model, a lane's logits are arbitrary.
        x, dense = x.astype(self.dtype), dense.astype(self.dtype)
        cast = partial(jax.tree.map, lambda a: a.astype(self.dtype))
        with jax.named_scope("features"):
            x = jax.vmap(partial(call, embedding))(cast(params["embedding"]), x, dense)
        if self.layout(*x.shape[:2]) is None:
            x = jnp.pad(x, ((0, 0), (0, 0), (0, c.positions - x.shape[2]), (0, 0)))
        stack = {name: params[name] for name in LAYERED}
        x = run_layers(self, stack, x, lanes, pairs)
        with jax.named_scope("head"):
            return jax.vmap(partial(call, head))(cast(params["head"]), x, lanes.head_depth)

    def layout(self, lanes: int, batch: int) -> Layout | None:
        """What the kernels of a layer go by, for so many lanes and rows; None where the compiler does all."""
        if not layers.fits(self.kernels, self.capacity):
            return None
        found = Layout(self.capacity, lanes, batch, self.dtype, self.kernels)
        return found if found.is_addressable else None

    def before(self, norm: PyTree, x: Float[Array, "p b m d"], at: "LayerAt") -> Array:
        """What the modules of a layer read: its input, normed where the model does so first."""
        if not self.capacity.pre:
            return x
        chosen = at.lanes.pre & at.on
        return jax.vmap(self._normed)(norm, x, at.positions, at.lanes.width, chosen)

    def after(self, norm: PyTree, y: Float[Array, "p b m d"], at: "LayerAt") -> Array:
        """What a layer puts out from the sum of its parts."""
        if not self.capacity.post:
            return y
        chosen = at.lanes.post & at.on
        return jax.vmap(self._normed)(norm, y, at.outputs, at.lanes.width, chosen)

    def shortcut(self, weight: Float[Array, "p m l"], x: Array, at: "LayerAt") -> Array:
        """The input itself, or its linear map to another number of embeddings."""
        if not self.capacity.reshapes:
            return x
        changes = at.positions != at.outputs

        def mixed(x: Array) -> Array:
            return jax.vmap(self._mixed)(weight.astype(self.dtype), x, changes)

        return jax.lax.cond(jnp.any(changes), mixed, lambda x: x, x)

    def _mixed(self, weight: Array, x: Array, changes: Array) -> Array:
        return jnp.where(changes, mix(x, weight, flat=self.flat), x)

    def _normed(self, params: PyTree, x: Array, count: Array, width: Array, chosen: Array) -> Array:
        """Layer norm over the width, of the first ``count`` embeddings of one lane, where it is ``chosen``."""
        y = normed(x, params["scale"], params["bias"], width)
        y = jnp.where(prefix(x.shape[1], count)[None, :, None], y, 0).astype(self.dtype)
        return jnp.where(chosen, y, x)

    def contribution(
        self,
        group: Group,
        params: SlotParams,
        x: Float[Array, "b m d"],
        at: PairAt,
    ) -> Float[Array, "b m d"]:
        """What one module adds to its layer's output; ``x`` is its input, normed where its model does so first."""
        c, lane = self.capacity, at.lane
        own = slot_params(group, params.arena.astype(self.dtype))
        slot = Slot(at.kind, lane.positions, lane.width, lane.rank, lane.mlp_depth)
        with jax.named_scope(type(group).__name__):
            y = group.apply(own, x, slot, Forms(self.flat, self.kernels))
        # A norm puts its offset everywhere, also beyond the tokens of the model.
        y = jnp.where(prefix(y.shape[1], lane.num_tokens)[None, :, None], y, 0).astype(self.dtype)
        if c.weighted:
            y = y * jnp.where(lane.weighted, params.scale, 1.0).astype(self.dtype)
        placed = _fit(y, 0, c.positions)
        if c.concat:
            # A few static shifts and a choice between them: elementwise, where a dynamic shift would be a gather.
            for first, here in self._offsets(at):
                placed = jnp.where(here, _fit(y, first, c.positions), placed)
        return placed

    def _offsets(self, at: PairAt) -> list[tuple[int, Array]]:
        """First embeddings that a slot's tokens may go to besides 0, and whether they do."""
        found = []
        for s in range(1, self.capacity.slots):
            for tokens in self.capacity.tokens:
                if s * tokens < self.capacity.positions:
                    here = at.lane.concat & (at.slot == s) & (at.lane.num_tokens == tokens)
                    found.append((s * tokens, here))
        return found


class LayerAt(NamedTuple):
    """One layer of all lanes, as numbers."""

    positions: Int[Array, " p"]  # embeddings coming in
    outputs: Int[Array, " p"]
    on: Bool[Array, " p"]  # whether the model has the layer
    lanes: Lane

    def of_pairs(self) -> LaneLayer:
        """What a module needs to know of its lane."""
        r = self.lanes
        return LaneLayer(
            self.positions, r.width, r.num_tokens, r.rank, r.mlp_depth, r.concat, r.weighted
        )


def layer_at(lanes: Lane, layer: Array) -> LayerAt:
    """A layer of the lanes."""
    positions = lanes.positions.T
    return LayerAt(positions[layer], positions[layer + 1], layer < lanes.num_layers, lanes)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def run_layers(
    network: Network, params: PyTree, x: Float[Array, "p b m d"], lanes: Lane, pairs: Pairs
) -> Float[Array, "p b m d"]:
    """What comes out of the last layer of every lane; ``params`` are those of `LAYERED`.

    A loop over the layers that any lane has. The backward pass is written out: it keeps every layer's input and sum of
    parts, reads the parameters in place and writes their gradients in place.
    """
    return _run_layers_fwd(network, params, x, lanes, pairs)[0]


def _run_layers_fwd(
    network: Network, params: PyTree, x: Array, lanes: Lane, pairs: Pairs
) -> tuple[Array, Any]:
    if layout := network.layout(*x.shape[:2]):
        y, saved = layers.run(layout, params, x, lanes)
        return y, (params, saved, lanes, pairs)
    slots = SlotParams(params["arena"], params["scale"])

    def one(layer: Array, found: Any) -> Any:
        x, inputs, sums = found
        at = layer_at(lanes, layer)
        inputs = inputs.at[layer].set(x)
        before = network.before(_at(params["norm"], layer), x, at)
        y = network.shortcut(params["shortcut"][layer], x, at)
        for g, group in enumerate(groups(network.capacity)):
            y = _add_group(network, group, g, slots, before, y, at, pairs, layer)
        if network.capacity.post:
            sums = sums.at[layer].set(y)
        return network.after(_at(params["norm"], layer), y, at), inputs, sums

    kept = jnp.zeros((network.capacity.num_layers, *x.shape), x.dtype)
    sums = kept if network.capacity.post else jnp.zeros(0)
    depth = jnp.max(lanes.num_layers)
    y, inputs, sums = jax.lax.fori_loop(0, depth, one, (x, kept, sums))
    return y, (params, inputs, sums, lanes, pairs)


def _add_group(
    network: Network,
    group: Group,
    g: int,
    params: SlotParams,
    x: Array,
    y: Array,
    at: LayerAt,
    pairs: Pairs,
    layer: Array,
) -> Array:
    """``y`` with the outputs of one group's modules on ``x`` added."""

    def body(first: Array, y: Array) -> Array:
        chunk = Chunk(group, network.chunk, pairs, layer, g, first)
        parts = jax.vmap(partial(network.contribution, group))(
            chunk.params(params), chunk.of_lanes(x), chunk.at(at.of_pairs())
        )
        return chunk.add(y, parts)

    return _loop(network, pairs.count[layer, g], body, y)


def _run_layers_bwd(network: Network, saved: Any, slope: Array) -> tuple[Any, ...]:
    none = partial(jax.tree.map, lambda a: np.zeros(a.shape, jax.dtypes.float0))
    if layout := network.layout(*slope.shape[:2]):
        params, own, lanes, pairs = saved
        return *layers.pull(layout, own, params, slope), none(lanes), none(pairs)
    params, inputs, sums, lanes, pairs = saved
    depth = jnp.max(lanes.num_layers)

    def one(i: Array, found: Any) -> Any:
        slope, to = found
        layer = depth - 1 - i
        at, norm = layer_at(lanes, layer), _at(params["norm"], layer)
        if network.capacity.post:
            _, pull = jax.vjp(partial(network.after, at=at), norm, sums[layer])
            to_norm, slope = pull(slope)
            to = to | {"norm": _added(to["norm"], layer, to_norm)}
        before, pull = jax.vjp(partial(network.before, at=at), norm, inputs[layer])
        slots = SlotParams(params["arena"], params["scale"])
        found = jnp.zeros_like(slope), SlotParams(to["arena"], to["scale"])
        for g, group in enumerate(groups(network.capacity)):
            found = _pull_group(network, group, g, slots, before, slope, found, at, pairs, layer)
        to_before, to_slots = found
        to = to | to_slots._asdict()
        to_norm, to_x = pull(to_before)
        if network.capacity.pre:
            to = to | {"norm": _added(to["norm"], layer, to_norm)}
        if not network.capacity.reshapes:
            return to_x + slope, to
        shortcut = partial(network.shortcut, at=at)
        _, pull = jax.vjp(shortcut, params["shortcut"][layer], inputs[layer])
        to_shortcut, direct = pull(slope)
        to = to | {"shortcut": to["shortcut"].at[layer].set(to_shortcut)}
        return to_x + direct, to

    to = jax.tree.map(jnp.zeros_like, params)
    slope, to = jax.lax.fori_loop(0, depth, one, (slope, to))
    return to, slope, none(lanes), none(pairs)


run_layers.defvjp(_run_layers_fwd, _run_layers_bwd)


def _pull_group(
    network: Network,
    group: Group,
    g: int,
    params: SlotParams,
    x: Array,
    slope: Array,
    found: tuple[Array, SlotParams],
    at: LayerAt,
    pairs: Pairs,
    layer: Array,
) -> tuple[Array, SlotParams]:
    """Gradients of ``x`` and of the slots' parameters, those of one group's modules added; they are computed again."""

    def body(first: Array, found: tuple[Array, SlotParams]) -> tuple[Array, SlotParams]:
        chunk = Chunk(group, network.chunk, pairs, layer, g, first)
        here = chunk.at(at.of_pairs())

        def run(params: SlotParams, x: Array) -> Array:
            return jax.vmap(partial(network.contribution, group))(params, x, here)

        _, pull = jax.vjp(run, chunk.params(params), chunk.of_lanes(x))
        to_params, to_x = pull(chunk.of_lanes(slope))
        return chunk.add(found[0], to_x), chunk.set_params(found[1], to_params)

    return _loop(network, pairs.count[layer, g], body, found)


def _loop(network: Network, count: Array, body: Callable[[Array, Any], Any], start: Any) -> Any:
    """``body`` for the first pair of each chunk."""
    chunks = (count + network.chunk - 1) // network.chunk
    return jax.lax.fori_loop(0, chunks, lambda i, found: body(i * network.chunk, found), start)


def _at(tree: PyTree, layer: Array) -> PyTree:
    return jax.tree.map(lambda a: a[layer], tree)


def _added(whole: PyTree, layer: Array, part: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a.at[layer].add(b), whole, part)


def _fit(y: Float[Array, "b l d"], first: int, positions: int) -> Float[Array, "b m d"]:
    """``y`` from position ``first`` on, among zeros; what lies beyond is inactive."""
    y = y[:, : positions - first]
    return jnp.pad(y, ((0, 0), (first, positions - first - y.shape[1]), (0, 0)))
