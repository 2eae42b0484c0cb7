"""The network over rows of trees: every token sees its ancestors, and a prefix that all of them share.

`evaluation.branches` says what a tree is: token i sees token j when `j <= i < exits[j]`. The layers
are `model.llama`'s own; what differs is who sees whom, which is what their `attend` argument is for.

Shapes: B rows, T tokens, P prefix, D embed, N query heads, K kv heads, G = N / K, H head dim, L layers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import LlamaConfig
from model.llama import Block, Gather, Params, RMSNorm, embed
from model.rope import inverse_frequencies, rotations

_BLOCK = 256  # queries at a time; a block does not look at the keys behind it


class Prefix(NamedTuple):
    """Keys (already rotated) and values of tokens before every row, [L, P, K, H], and how many count."""

    keys: jax.Array
    values: jax.Array
    length: jax.Array


def tree_pass(
    params: Params,
    config: LlamaConfig,
    tokens: jax.Array,
    exits: jax.Array,
    positions: jax.Array,
    gather: Gather,
    prefix: Prefix | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The network up to and with the final norm: int32[B, T] -> [B, T, D] in the compute dtype.

    Also keys and values, [L, B, T, K, H], for a prefix of other rows; unused, they cost nothing.
    """
    x = embed(gather("embed", params["embed"]), tokens)
    rotation = rotations(positions, inverse_frequencies(config))
    graph, _ = nnx.split(nnx.eval_shape(lambda: Block(config, nnx.Rngs(params=jax.random.key(0)))))

    def layer(
        x: jax.Array, given: tuple[Params, tuple[jax.Array, jax.Array] | None]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        weights, before = given
        kept = []

        def look(q: jax.Array, k: jax.Array, v: jax.Array, exits: jax.Array) -> jax.Array:
            kept.append((k, v))
            length = prefix.length if prefix is not None else 0
            return attend(q, k, v, exits, before, length)

        x = nnx.merge(graph, gather("blocks", weights))(x, rotation, exits, look)
        return x, kept[0]

    before = None if prefix is None else (prefix.keys, prefix.values)
    x, (keys, values) = jax.lax.scan(layer, x, (params["blocks"], before))
    norm = RMSNorm(config.embed_dim, config.norm_eps)
    norm.scale = nnx.Param(params["final_norm"]["scale"])
    return norm(x), keys, values


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    exits: jax.Array,
    before: tuple[jax.Array, jax.Array] | None = None,
    length: jax.Array | int = 0,
) -> jax.Array:
    """Attention of q [B, T, N, H] to its ancestors among k, v [B, T, K, H], and to what is `before`.

    `before` are keys and values [P, K, H] that all rows see, the first `length` of them.
    """
    B, T, N, H = q.shape
    K = k.shape[2]
    q = q.reshape(B, T, K, N // K, H)
    outs = []
    for start in range(0, T, _BLOCK):
        end = min(T, start + _BLOCK)
        mine, keys, values = q[:, start:end], k[:, :end], v[:, :end]
        i, j = jnp.arange(start, end)[:, None], jnp.arange(end)[None, :]
        seen = (j <= i) & (i < exits[:, None, :end])
        logits = jnp.einsum("BTKGH,BSKH->BKGTS", mine, keys, preferred_element_type=jnp.float32)
        logits = jnp.where(seen[:, None, None], logits * H**-0.5, -1e30)
        if before is not None:
            far = jnp.einsum(
                "BTKGH,PKH->BKGTP", mine, before[0], preferred_element_type=jnp.float32
            )
            inside = jnp.arange(before[0].shape[0]) < length
            logits = jnp.concatenate([jnp.where(inside, far * H**-0.5, -1e30), logits], axis=-1)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        near = weights if before is None else weights[..., before[0].shape[0] :]
        out = jnp.einsum("BKGTS,BSKH->BTKGH", near, values)
        if before is not None:
            far = weights[..., : before[0].shape[0]]
            out += jnp.einsum("BKGTP,PKH->BTKGH", far, before[1])
        outs.append(out)
    return jnp.concatenate(outs, axis=1).reshape(B, T, N, H)
