"""The cache on TPUs as two Pallas kernels: attention of one new token per slot, and writing it down.

The cache stays where it is and as it is, all layers in one array: the kernel is told the layer, and
reads of each slot the blocks that hold its prefix. A block behind the prefix's end is not read: its
index is that of the last one inside, and the pipeline does not fetch a block twice in a row. The new
token's own key and value are not in the cache yet; they start the running maximum and sum.

(jax.experimental.pallas.ops.tpu.paged_attention wants pages of one layer, so that a scan over layers
would first cut the layer's pages out of the stack; and pages of a fixed-window slot buy nothing. A scatter of
XLA's would want the cache in a layout of its own, and copy all of it there and back at every dispatch.)

Shapes: L layers, B slots, K kv heads, S window, H head dim, N query heads, G = N / K.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

_TILE_BYTES = 32  # of a column of a tile in memory: 8 rows of float32, 16 of bfloat16
BLOCK = 1024  # positions read at a time: large enough to hide what a grid step costs


def flash_decode(
    keys: jax.Array,
    values: jax.Array,
    layer: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """[B, N, H] from keys and values [L, B, K, S, H], q [B, N, H], k and v [B, K, H], length [B]."""
    B, N, H = q.shape
    _, _, K, S, _ = keys.shape
    block = block_of(S)

    def of_slot(b: Any, j: Any, layer: Any, length: Any) -> tuple[Any, ...]:
        return b, 0, 0, 0

    def of_cache(b: Any, j: Any, layer: Any, length: Any) -> tuple[Any, ...]:
        last = jnp.maximum(length[b] - 1, 0) // block
        return layer[0], b, 0, jnp.minimum(j, last), 0

    cached = pl.BlockSpec((1, 1, K, block, H), of_cache)
    single = pl.BlockSpec((1, K, 1, H), of_slot)
    group = pl.BlockSpec((1, K, N // K, H), of_slot)
    out = pl.pallas_call(
        functools.partial(_kernel, block=block, scale=H**-0.5),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(B, S // block),
            in_specs=[group, single, single, cached, cached],
            out_specs=group,
            scratch_shapes=[
                pltpu.VMEM((K, N // K, 1), jnp.float32),
                pltpu.VMEM((K, N // K, 1), jnp.float32),
                pltpu.VMEM((K, N // K, H), jnp.float32),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct((B, K, N // K, H), q.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="flash_decode",
    )(
        jnp.reshape(layer, (1,)).astype(jnp.int32),
        length,
        q.reshape(B, K, N // K, H),
        k[:, :, None],
        v[:, :, None],
        keys,
        values,
    )
    return out.reshape(B, N, H)


def append(
    cache: jax.Array, new: jax.Array, length: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """Puts one token per slot, [L, B, K, H], at position `length` [B] of [L, B, K, S, H], in place."""
    L, B, K, S, H = cache.shape
    rows = _TILE_BYTES // cache.dtype.itemsize  # what a row cannot be written without

    def tile(b: Any, length: Any) -> tuple[Any, ...]:
        return 0, b, 0, jnp.minimum(length[b] // rows, S // rows - 1), 0

    def token(b: Any, length: Any) -> tuple[Any, ...]:
        return 0, b, 0, 0, 0

    def kernel(length: Any, new: Any, old: Any, out: Any) -> None:
        row = length[pl.program_id(0)] % rows
        here = jax.lax.broadcasted_iota(jnp.int32, out.shape, 3) == row
        out[...] = jnp.where(here, new[...], old[...])

    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B,),
            in_specs=[
                pl.BlockSpec((L, 1, K, 1, H), token),
                pl.BlockSpec((L, 1, K, rows, H), tile),
            ],
            out_specs=pl.BlockSpec((L, 1, K, rows, H), tile),
        ),
        out_shape=jax.ShapeDtypeStruct(cache.shape, cache.dtype),
        input_output_aliases={2: 0},
        interpret=interpret,
        name="append",
    )(length, new[:, :, :, None].astype(cache.dtype), cache)


def block_of(window: int) -> int:
    """Positions a grid step reads: the largest divisor of the window that is not over BLOCK."""
    return next(size for size in range(min(BLOCK, window), 0, -1) if window % size == 0)


def _kernel(
    layer: Any,
    length: Any,
    q: Any,
    k: Any,
    v: Any,
    keys: Any,
    values: Any,
    out: Any,
    top: Any,
    total: Any,
    weighted: Any,
    *,
    block: int,
    scale: float,
) -> None:
    """One block of one slot, all its heads."""
    b, j = pl.program_id(0), pl.program_id(1)
    wide = q[0].astype(jnp.float32) * scale  # [K, G, H]

    @pl.when(j == 0)
    def _own() -> None:
        top[...] = jnp.sum(wide * k[0].astype(jnp.float32), axis=-1, keepdims=True)
        total[...] = jnp.ones_like(total)
        weighted[...] = jnp.broadcast_to(v[0].astype(jnp.float32), weighted.shape)

    @pl.when(j * block < length[b])
    def _block() -> None:
        logits = jnp.einsum(
            "KGH,KSH->KGS",
            wide.astype(keys.dtype),
            keys[0, 0],
            preferred_element_type=jnp.float32,
        )
        at = j * block + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
        logits = jnp.where(at < length[b], logits, -1e30)
        rows = j * block + jax.lax.broadcasted_iota(jnp.int32, values.shape[2:], 1)
        # What an earlier sequence left behind the end may be anything, NaN too.
        inside = jnp.where(rows < length[b], values[0, 0], jnp.zeros_like(values[0, 0]))
        higher = jnp.maximum(top[...], jnp.max(logits, axis=-1, keepdims=True))
        weights = jnp.exp(logits - higher)
        shrink = jnp.exp(top[...] - higher)
        total[...] = total[...] * shrink + jnp.sum(weights, axis=-1, keepdims=True)
        weighted[...] = weighted[...] * shrink + jnp.einsum(
            "KGS,KSH->KGH",
            weights.astype(values.dtype),
            inside,
            preferred_element_type=jnp.float32,
        )
        top[...] = higher

    @pl.when(j == pl.num_programs(1) - 1)
    def _finish() -> None:
        out[0] = (weighted[...] / total[...]).astype(out.dtype)
