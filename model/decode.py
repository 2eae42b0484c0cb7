"""The network over a cache: a prompt read in one pass, then one token per slot and step.

The layers are `model.llama`'s own; what differs is where attention finds keys and values, which is
what their `attend` argument is for. Layers stacked on a leading axis are scanned; a tuple of layers
(`unstacked`) is unrolled, which spares a CPU the copy of each layer's weights out of the stack.

Shapes: B slots, T prompt bucket, D embed, K kv heads, H head dim, L layers, V padded vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.attention import Attend
from model.cache import Access, Cache
from model.config import LlamaConfig
from model.llama import Block, Params, RMSNorm, cast_only, embed, head_matrix
from model.rope import inverse_frequencies, rotations

# (what goes through the layers, one layer's weights, its number) -> (that, what the layer gives)
Layer = Callable[[Any, Params, Any], tuple[Any, Any]]


def prompt_pass(
    params: Params, config: LlamaConfig, tokens: jax.Array, attend: Attend
) -> tuple[jax.Array, jax.Array]:
    """Keys and values of a prompt, both [L, B, K, T, H]: int32[B, T] at positions 0, 1, ...

    What stands behind a prompt's end is computed too, and seen by nothing before it.
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    segment_ids = jnp.ones_like(tokens)
    graph = _graph(config)
    rotation = rotations(positions, inverse_frequencies(config))

    def layer(x: jax.Array, weights: Params, index: Any) -> tuple[jax.Array, Any]:
        kept = []

        def keep(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
            kept.append((k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)))
            return attend(q, k, v, segment_ids)

        x = nnx.merge(graph, weights)(x, rotation, segment_ids, keep)
        return x, kept[0]

    _, kept = _through(embed(params["embed"], tokens), params["blocks"], layer)
    return kept


def token_pass(
    params: Params,
    config: LlamaConfig,
    cache: Cache,
    tokens: jax.Array,
    length: jax.Array,
    access: Access,
) -> tuple[jax.Array, Cache]:
    """One token of every slot, int32[B], at position `length` [B].

    Returns:
        The logits of the token after it, float32[B, V] (-inf where the vocabulary is padded), and
        the cache with the token in it.
    """
    graph = _graph(config)
    rotation = rotations(length[:, None], inverse_frequencies(config))
    segment_ids = jnp.ones_like(tokens)[:, None]

    def layer(carry: tuple, weights: Params, index: Any) -> tuple[tuple, Any]:
        x, cache = carry
        kept = []

        def look(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
            out, after = access.attend(cache, index, q[:, 0], k[:, 0], v[:, 0], length)
            kept.append((after, (k[:, 0], v[:, 0])))
            return out[:, None]

        x = nnx.merge(graph, weights)(x, rotation, segment_ids, look)
        cache, new = kept[0]
        return (x, cache), new

    start = embed(params["embed"], tokens[:, None]), cache
    (x, cache), (keys, values) = _through(start, params["blocks"], layer)
    norm = RMSNorm(config.embed_dim, config.norm_eps)
    norm.scale = nnx.Param(params["final_norm"]["scale"])
    head = head_matrix(params, config, cast_only(x.dtype))
    logits = jnp.einsum("BD,DV->BV", norm(x)[:, 0], head, preferred_element_type=jnp.float32)
    if config.padded_vocab_size > config.vocab_size:
        real = jnp.arange(config.padded_vocab_size) < config.vocab_size
        logits = jnp.where(real, logits, -jnp.inf)
    return logits, access.finish(cache, keys, values, length)


def cast(params: Params, dtype: jnp.dtype) -> Params:
    """The weights as decoding reads them: matrices in the compute dtype, norm scales in float32."""
    gather = cast_only(dtype)
    shardings = jax.tree.map(lambda x: x.sharding, params)
    return jax.jit(lambda params: gather("params", params), out_shardings=shardings)(params)


def unstacked(params: Params) -> Params:
    """The weights with a tuple of layers in place of the stack."""
    blocks = params["blocks"]
    layers = jax.tree.leaves(blocks)[0].shape[0]
    split = jax.jit(lambda x: tuple(x[i] for i in range(layers)))
    parts = jax.tree.map(split, blocks)
    is_parts = lambda x: isinstance(x, tuple)  # noqa: E731
    of = lambda i: jax.tree.map(lambda p: p[i], parts, is_leaf=is_parts)  # noqa: E731
    return {**params, "blocks": tuple(of(i) for i in range(layers))}


def _through(x: Any, blocks: Any, layer: Layer) -> tuple[Any, Any]:
    """All layers one after the other; what each gives is stacked."""
    if isinstance(blocks, tuple):
        given = []
        for index, weights in enumerate(blocks):
            x, part = layer(x, weights, index)
            given.append(part)
        return x, jax.tree.map(lambda *parts: jnp.stack(parts), *given)
    count = jax.tree.leaves(blocks)[0].shape[0]
    return jax.lax.scan(lambda x, at: layer(x, *at), x, (blocks, jnp.arange(count)))


def _graph(config: LlamaConfig) -> Any:
    """The structure of a layer, to be filled with one layer's weights."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: Block(config, nnx.Rngs(params=jax.random.key(0)))))
    return graph
