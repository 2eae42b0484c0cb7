"""Causal attention that keeps the documents of a packed row apart.

One signature for every implementation: `attend(q, k, v, segment_ids) -> out` with
q [B, T, N, H], k and v [B, T, K, H], segment_ids int32 [B, T] (0 is padding), out [B, T, N, H].
A token sees itself and the earlier tokens of its own segment. Softmax is float32 throughout.

- `xla`: plain einsums, everywhere.
- `blockwise`: the same on CPUs, without the masked half and the memory traffic (model/blockwise.py).
- `cudnn`: the fused kernel of NVIDIA GPUs, bfloat16 or float16; the segments go in as a mask.
- `splash`: the Pallas flash kernel of TPUs, which skips blocks that the mask leaves empty.

Each names what the backward pass needs of its output, so that rematerialisation can keep it.
"""

import functools
import logging
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh

from model.blockwise import blockwise
from model.context import Attend, spread

Kind = Literal["auto", "xla", "blockwise", "cudnn", "splash"]

SAVED = "attention"  # what rematerialisation may keep of a layer: the output of attention
_LANES = 128  # a TPU kernel's rows are multiples of this


def select(
    kind: Kind,
    platform: str,
    compute_dtype: jnp.dtype,
    mesh: Mesh | None = None,
    blocks: tuple[int, int] | None = None,
) -> tuple[str, Attend]:
    """The implementation for a platform ("cpu", "gpu", "tpu"); `auto` takes the best that works there.

    `blocks` are splash's.
    """
    if kind == "auto":
        kind = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "blockwise")  # type: ignore[assignment]
        if kind == "cudnn" and (reason := _why_not_cudnn(compute_dtype)):
            logging.getLogger("lectern").warning(
                "attention: cudnn not used (%s); using xla", reason
            )
            kind = "xla"
    elif kind == "cudnn" and (reason := _why_not_cudnn(compute_dtype)):
        raise ValueError(
            f"train.attention: cudnn does not work here ({reason}); set train.attention=auto or xla"
        )
    kernel = functools.partial(splash, interpret=platform != "tpu")
    attend: Attend = {
        "xla": xla,
        "blockwise": functools.partial(blockwise, name=SAVED),
        "cudnn": cudnn,
        "splash": functools.partial(kernel, blocks=blocks) if blocks else kernel,
    }[kind]
    if mesh is not None and (kind == "splash" or mesh.shape["sequence"] > 1):
        attend = spread(attend, mesh)
    return kind, attend


def visible(segment_ids: jax.Array) -> jax.Array:
    """Who sees whom: bool [B, T, S], causal and inside one segment."""
    length = segment_ids.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    return causal & (segment_ids[:, :, None] == segment_ids[:, None, :])


def xla(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Plain attention with grouped query heads."""
    B, T, N, H = q.shape
    K = k.shape[2]
    q = q.reshape(B, T, K, N // K, H)
    logits = jnp.einsum("BTKGH,BSKH->BKGTS", q, k, preferred_element_type=jnp.float32)
    logits = jnp.where(visible(segment_ids)[:, None, None], logits * H**-0.5, -1e30)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights, v).reshape(B, T, N, H)
    return checkpoint_name(out, SAVED)


def cudnn(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """CuDNN's flash attention; grouped heads are its own."""
    mask = visible(segment_ids)[:, None]
    out = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
    return checkpoint_name(out, SAVED)


def splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    block: int | None = None,
    blocks: tuple[int, int] = (1024, 2048),
    interpret: bool = False,
) -> jax.Array:
    """Pallas splash attention of what lies on one device (`model.context` spreads it over a mesh).

    Rows are padded to whole blocks (128 to 512 tokens, by their length); the padding is a segment
    of its own, so no token sees it. `block` sets the queries and keys of a block for tests; by
    default the kernel works on as many queries and keys at a time as `blocks` allows, whatever
    divides the row. The fused backward kernel writes a partial gradient of the queries for every block of
    keys, and those are added up outside: the fewer blocks of keys, the better.
    """
    length = q.shape[1]
    unit = block or min(512, -(-length // _LANES) * _LANES)
    pad = -length % unit
    if pad:
        q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, pad)), constant_values=-1)
    block_q, block_kv = (
        next(s for s in (most, 1024, 512, 256, unit) if s <= most and not (length + pad) % s)
        for most in ((block, block) if block else (max(size, unit) for size in blocks))
    )
    out = _splash(q, k, v, segment_ids, block_q=block_q, block_kv=block_kv, interpret=interpret)
    return out[:, :length]


def _splash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    block_q: int,
    block_kv: int,
    interpret: bool,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as sa

    B, T, N, H = q.shape
    K = k.shape[2]
    sizes = sa.BlockSizes(
        block_q=block_q,
        block_kv=min(block_kv, block_q),
        block_kv_compute=min(block_kv, block_q),
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_kv_dkv_compute=min(block_kv, block_q),
        use_fused_bwd_kernel=True,
    )
    mask = sa.MultiHeadMask([_causal(T)] * (N // K))
    kernel: Any = sa.make_splash_mqa(
        mask,
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
        residual_checkpoint_name=SAVED,
    )
    q = (q * H**-0.5).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    over_heads = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    out = jax.vmap(over_heads)(q, k, v, sa.SegmentIds(segment_ids, segment_ids))
    return out.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


@functools.cache
def _causal(tokens: int) -> Any:
    """The causal mask of rows of that length: always the same object.

    The kernel's library keeps what it made of equal masks. With a new one at every call a program's constants, and so
    its digest, would depend on what the process has traced before.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as sa

    return sa.CausalMask((tokens, tokens))


def _why_not_cudnn(compute_dtype: jnp.dtype) -> str | None:
    """None when the kernel works here, forward and backward; else the reason it does not."""
    if compute_dtype not in (jnp.bfloat16, jnp.float16):
        return f"it does not compute in {jnp.dtype(compute_dtype).name}"
    x = jnp.ones((1, 128, 2, 64), compute_dtype)
    segments = jnp.ones((1, 128), jnp.int32)
    try:
        jax.block_until_ready(
            jax.grad(lambda q: cudnn(q, x, x, segments).astype(jnp.float32).sum())(x)
        )
    except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
        return str(error).splitlines()[0]
    return None
