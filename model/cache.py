"""The keys and values that a model has already computed, and attention over them.

- one slot per sequence, a fixed window of positions each: `[L, B, K, S, H]`, so that reading a slot's
  prefix is one contiguous piece per layer and head
- attention goes block by block over the prefix in use, with a running maximum and sum. A block that
  lies behind a slot's end adds exactly nothing, so how far the other slots have come is never seen
  in a slot's numbers, bit for bit

Shapes: L layers, B slots, K kv heads, S window, H head dim, N query heads, G = N / K.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.config import LlamaConfig

BLOCK = 128  # positions read at a time; a window is whole blocks


class Cache(NamedTuple):
    """Keys (already rotated) and values, both [L, B, K, S, H] in the compute dtype."""

    keys: jax.Array
    values: jax.Array


class Access(NamedTuple):
    """How a step uses a cache.

    Attributes:
        attend: (cache, layer, q [B, N, H], k and v of the new token [B, K, H], length int32[B]) ->
            (attention [B, N, H] over the first `length` positions of each slot and the new token,
            the cache, with the new token in it or not).
        finish: (cache, keys and values of the new token [L, B, K, H], length) -> the cache with the
            new token in it, after all layers.
    """

    attend: Callable[
        [Cache, Any, jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, Cache]
    ]
    finish: Callable[[Cache, jax.Array, jax.Array, jax.Array], Cache]


def make_cache(
    config: LlamaConfig, slots: int, window: int, dtype: jnp.dtype, mesh: Mesh | None = None
) -> Cache:
    """An empty cache, its kv heads split over the mesh's `tensor` axis."""
    shape = (config.num_layers, slots, config.num_kv_heads, padded(window), config.head_dim)
    sharding = None if mesh is None else cache_sharding(config, mesh)
    zeros = jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)
    return Cache(zeros(), zeros())


def cache_sharding(config: LlamaConfig, mesh: Mesh) -> NamedSharding:
    """How keys and values lie on a mesh.

    Raises:
        ValueError: the tensor axis does not divide the kv heads.
    """
    ways = mesh.shape.get("tensor", 1)
    if config.num_kv_heads % ways:
        raise ValueError(
            f"tensor: {ways} does not divide the model's {config.num_kv_heads} kv heads; take a "
            "divisor"
        )
    return NamedSharding(mesh, P(None, None, "tensor" if ways > 1 else None, None, None))


def padded(window: int) -> int:
    """Positions that a window takes in the cache: whole blocks."""
    return -(-window // BLOCK) * BLOCK


def write_prompt(cache: Cache, slot: jax.Array, keys: jax.Array, values: jax.Array) -> Cache:
    """Puts the keys and values of a prompt, [L, 1, K, T, H], at the start of a slot."""
    at = (0, slot, 0, 0, 0)
    return Cache(
        jax.lax.dynamic_update_slice(cache.keys, keys.astype(cache.keys.dtype), at),
        jax.lax.dynamic_update_slice(cache.values, values.astype(cache.values.dtype), at),
    )


def attend_in_blocks(
    cache: Cache, layer: Any, q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array
) -> tuple[jax.Array, Cache]:
    """Writes one token per slot and attends to its prefix and itself, in plain XLA."""
    slots = jnp.arange(length.shape[0])

    def write(whole: jax.Array, new: jax.Array) -> jax.Array:
        at = whole.at[layer, slots, :, length]
        return at.set(new.astype(whole.dtype), mode="drop", unique_indices=True)

    # Written first, read afterwards: each waits for the other, so the cache is never copied.
    cache = Cache(write(cache.keys, k), write(cache.values, v))
    return read_blocks(cache, layer, q, k, v, length), cache


IN_BLOCKS = Access(attend_in_blocks, lambda cache, keys, values, length: cache)


def read_blocks(
    cache: Cache,
    layer: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """Attention of one new token per slot over its prefix and itself: [B, N, H], in plain XLA."""
    B, N, H = q.shape
    K = k.shape[1]
    q = q.reshape(B, K, N // K, H) * H**-0.5
    logit = jnp.einsum("BKGH,BKH->BKG", q, k, preferred_element_type=jnp.float32)
    weighted = jnp.broadcast_to(v[:, :, None].astype(jnp.float32), (B, K, N // K, H))

    def block(i: jax.Array, carry: tuple) -> tuple:
        top, total, weighted = carry
        at, size = (layer, 0, 0, i * BLOCK, 0), (1, B, K, BLOCK, H)
        keys = jax.lax.dynamic_slice(cache.keys, at, size)[0]
        values = jax.lax.dynamic_slice(cache.values, at, size)[0]
        inside = (i * BLOCK + jnp.arange(BLOCK))[None, :] < length[:, None]  # [B, S]
        # What an earlier sequence left behind may be anything, NaN too: it is not multiplied by 0.
        values = jnp.where(inside[:, None, :, None], values, 0)
        logits = jnp.einsum("BKGH,BKSH->BKGS", q, keys, preferred_element_type=jnp.float32)
        logits = jnp.where(inside[:, None, None], logits, -1e30)
        higher = jnp.maximum(top, jnp.max(logits, axis=-1))
        weights = jnp.exp(logits - higher[..., None])
        shrink = jnp.exp(top - higher)
        new = jnp.einsum(
            "BKGS,BKSH->BKGH",
            weights.astype(values.dtype),
            values,
            preferred_element_type=jnp.float32,
        )
        return (
            higher,
            total * shrink + jnp.sum(weights, axis=-1),
            weighted * shrink[..., None] + new,
        )

    blocks = (jnp.max(length) + BLOCK - 1) // BLOCK
    start = (logit, jnp.ones_like(logit), weighted)
    _, total, weighted = jax.lax.fori_loop(0, blocks, block, start)
    return (weighted / total[..., None]).astype(v.dtype).reshape(B, N, H)
