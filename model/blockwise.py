"""Exact attention a block of queries at a time, for CPUs.

Plain attention forms [T, T] numbers per head, most of a step's memory traffic on a CPU, and half of them only
to mask them out. Here a block of queries meets the keys up to its own end and no later ones, and the
backward pass forms a block's weights again from the row's log-sum-exp (Dao et al., FlashAttention, 2022),
so what is in hand fits a cache. Shapes and meaning are those of `model.attention.xla`.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

_MASKED = -1e30
_LEAST = 128  # queries of a block
_BLOCKS = 8  # at most: each is code of its own, and costs compilation

Saved = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]


def blockwise(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, name: str
) -> jax.Array:
    """Attention of q [B, T, N, H] to k, v [B, T, K, H] -> [B, T, N, H].

    `name` is what rematerialisation knows the output by, and the log-sum-exp kept with it.
    """

    @jax.custom_vjp
    def attend(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        return forward(q, k, v, segment_ids)[0]

    def forward(
        q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array
    ) -> tuple[jax.Array, Saved]:
        out, lse = _forward(q, k, v, segment_ids)
        out, lse = checkpoint_name(out, name), checkpoint_name(lse, name)
        return out, (q, k, v, segment_ids, out, lse)

    attend.defvjp(forward, _backward)
    return attend(q, k, v, segment_ids)


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Output, and float32 log-sum-exp of every row [B, K, G, T, 1]."""
    heads, keys, values = _by_head(q, k.shape[2]), _turned(k), _turned(v)
    outs, sums = [], []
    for start, stop in _blocks(q.shape[1]):
        logits = _logits(heads, keys, segment_ids, start, stop)
        largest = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        out = jnp.einsum("BKGTS,BKSH->BKGTH", weights.astype(v.dtype), values[:, :, :stop])
        outs.append((out / total).astype(q.dtype))
        sums.append(largest + jnp.log(total))
    return _by_token(jnp.concatenate(outs, axis=3)), jnp.concatenate(sums, axis=3)


def _backward(saved: Saved, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, segment_ids, out, lse = saved
    K = k.shape[2]
    heads, keys, values = _by_head(q, K), _turned(k), _turned(v)
    out_grad, out = _by_head(grad, K), _by_head(out, K)
    wide = jnp.float32
    # The softmax's own gradient takes from every row its mean under the weights.
    mean = jnp.sum(out_grad.astype(wide) * out.astype(wide), axis=-1, keepdims=True)
    q_grads = []
    k_grad, v_grad = jnp.zeros(keys.shape, wide), jnp.zeros(values.shape, wide)
    for start, stop in _blocks(q.shape[1]):
        mine, theirs = heads[:, :, :, start:stop], out_grad[:, :, :, start:stop]
        logits = _logits(heads, keys, segment_ids, start, stop)
        weights = jnp.exp(logits - lse[:, :, :, start:stop])
        pulled = jnp.einsum(
            "BKGTH,BKSH->BKGTS", theirs, values[:, :, :stop], preferred_element_type=wide
        )
        inner = (weights * (pulled - mean[:, :, :, start:stop])).astype(q.dtype)
        weights = weights.astype(q.dtype)
        q_grads.append(jnp.einsum("BKGTS,BKSH->BKGTH", inner, keys[:, :, :stop]))
        k_part = jnp.einsum("BKGTS,BKGTH->BKSH", inner, mine, preferred_element_type=wide)
        v_part = jnp.einsum("BKGTS,BKGTH->BKSH", weights, theirs, preferred_element_type=wide)
        k_grad = k_grad.at[:, :, :stop].add(k_part)
        v_grad = v_grad.at[:, :, :stop].add(v_part)
    scale = q.shape[-1] ** -0.5
    q_grad = _by_token(jnp.concatenate(q_grads, axis=3)) * scale
    k_grad = _turned(k_grad) * scale
    return q_grad.astype(q.dtype), k_grad.astype(k.dtype), _turned(v_grad).astype(v.dtype), None


def _logits(
    heads: jax.Array, keys: jax.Array, segment_ids: jax.Array, start: int, stop: int
) -> jax.Array:
    """Masked float32 logits of the queries start to stop against the keys up to stop: [B, K, G, t, s]."""
    logits = jnp.einsum(
        "BKGTH,BKSH->BKGTS",
        heads[:, :, :, start:stop] * heads.shape[-1] ** -0.5,
        keys[:, :, :stop],
        preferred_element_type=jnp.float32,
    )
    earlier = jnp.arange(start, stop)[:, None] >= jnp.arange(stop)[None, :]
    same = segment_ids[:, start:stop, None] == segment_ids[:, None, :stop]
    return jnp.where((earlier & same)[:, None, None], logits, _MASKED)


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    size = max(_LEAST, -(-length // _BLOCKS))
    return ((start, min(start + size, length)) for start in range(0, length, size))


def _turned(x: jax.Array) -> jax.Array:
    """[B, T, K, H] -> [B, K, T, H], and back."""
    return x.transpose(0, 2, 1, 3)


def _by_head(x: jax.Array, K: int) -> jax.Array:
    """[B, T, N, H] -> [B, K, N / K, T, H]."""
    B, T, N, H = x.shape
    return x.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)


def _by_token(x: jax.Array) -> jax.Array:
    """[B, K, G, T, H] -> [B, T, K * G, H]."""
    B, K, G, T, H = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(B, T, K * G, H)
