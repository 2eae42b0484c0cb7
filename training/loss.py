"""Next-token cross-entropy that never holds the logits of more than a chunk of tokens.

Loss and gradients come from one pass: while the logits of a chunk are there, their gradient and the
two products that need it are formed too. Three matrix products, nothing computed twice.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def cross_entropy(
    hidden: jax.Array,
    kernel: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    z_loss: float,
    chunk: int,
    vocab_size: int,
) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of token losses, and the loss of every token.

    Args:
      hidden: [B, T, D] in the compute dtype.
      kernel: [D, Vpad], the output matrix.
      targets: int32[B, T].
      weights: float32[B, T]; zero where a token is not supervised. They carry no gradient.
      z_loss: weight of the squared log-sum-exp (PaLM, section 5).
      chunk: tokens whose logits are held at once.
      vocab_size: columns from here on are padding and take no probability.

    Returns:
      sum(weights * (-log p + z_loss * lse ** 2)), and -log p as float32[B, T], through which no
      gradient flows.
    """

    def body(total: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        h, target, weight = part
        _, lse, nll = _chunk_loss(h, kernel, target, vocab_size)
        return total + jnp.sum(weight * (nll + z_loss * lse**2)), nll

    parts = _chunks(hidden, targets, weights, chunk)
    total, nll = jax.lax.scan(body, jnp.zeros((), jnp.float32), parts)
    return total, _unchunk(nll, targets.shape)


def _forward(hidden, kernel, targets, weights, z_loss, chunk, vocab_size):
    def gradients(part):
        h, target, weight = part
        logits, lse, nll = _chunk_loss(h, kernel, target, vocab_size)
        probabilities = jnp.exp(logits - lse[:, None])
        hit = target[:, None] == jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        scale = (weight * (1 + 2 * z_loss * lse))[:, None]
        logits_grad = (scale * probabilities - jnp.where(hit, weight[:, None], 0)).astype(h.dtype)
        hidden_grad = jnp.einsum("CV,DV->CD", logits_grad, kernel)
        kernel_grad = jnp.einsum("CD,CV->DV", h, logits_grad, preferred_element_type=jnp.float32)
        total = jnp.sum(weight * (nll + z_loss * lse**2))
        return (total, kernel_grad), (nll, hidden_grad)

    def body(sums, part):
        more, found = gradients(part)
        return jax.tree.map(jnp.add, sums, more), found

    parts = _chunks(hidden, targets, weights, chunk)
    start = (jnp.zeros((), jnp.float32), jnp.zeros(kernel.shape, jnp.float32))
    # The last chunk stands behind the loop, so that its sum leaves in the kernel's dtype at once.
    sums, first = jax.lax.scan(body, start, jax.tree.map(lambda x: x[:-1], parts))
    (total, kernel_grad), last = body(sums, jax.tree.map(lambda x: x[-1], parts))
    nll, hidden_grad = jax.tree.map(
        lambda some, one: _unchunk(jnp.concatenate([some, one[None]]), hidden.shape[:2]),
        first,
        last,
    )
    return (total, nll), (hidden_grad, kernel_grad.astype(kernel.dtype))


def _backward(z_loss, chunk, vocab_size, saved, cotangents):
    hidden_grad, kernel_grad = saved
    scale = cotangents[0]
    return (
        (scale * hidden_grad).astype(hidden_grad.dtype),
        (scale * kernel_grad).astype(kernel_grad.dtype),
        None,
        None,
    )


cross_entropy.defvjp(_forward, _backward)


def _chunk_loss(
    hidden: jax.Array, kernel: jax.Array, targets: jax.Array, vocab_size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Float32 logits [C, Vpad], their log-sum-exp [C] and -log p of the targets [C]."""
    logits = jnp.einsum("CD,DV->CV", hidden, kernel, preferred_element_type=jnp.float32)
    column = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    if kernel.shape[1] != vocab_size:
        logits = jnp.where(column < vocab_size, logits, -1e30)
    lse = jax.nn.logsumexp(logits, axis=-1)
    # A sum over a comparison, not a gather: it stays local when the vocabulary is split.
    hit = jnp.sum(jnp.where(column == targets[:, None], logits, 0), axis=-1)
    return logits, lse, lse - hit


def _chunks(
    hidden: jax.Array, targets: jax.Array, weights: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All tokens in chunks, the last filled up with unsupervised ones: [chunks, C, ...]."""
    count = targets.size
    chunk = min(chunk, count)
    pad = -count % chunk

    def split(x: jax.Array) -> jax.Array:
        flat = x.reshape(count, *x.shape[2:])
        flat = jnp.pad(flat, ((0, pad), *((0, 0) for _ in flat.shape[1:])))
        return flat.reshape(-1, chunk, *flat.shape[1:])

    return split(hidden), split(targets), split(weights)


def _unchunk(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    flat = x.reshape(-1, *x.shape[2:])[: shape[0] * shape[1]]
    return flat.reshape(*shape, *flat.shape[1:])
