"""The chunked loss against a plain statement of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.loss import cross_entropy

B, T, D, V, PADDED = 3, 7, 8, 11, 16


def plain(hidden, kernel, targets, weights, z_loss):
    logits = (hidden @ kernel)[..., :V].astype(jnp.float32)
    lse = jax.nn.logsumexp(logits, axis=-1)
    nll = lse - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jnp.sum(weights * (nll + z_loss * lse**2)), nll


def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = jax.random.normal(keys[0], (B, T, D))
    kernel = jax.random.normal(keys[1], (D, PADDED))
    targets = jax.random.randint(keys[2], (B, T), 0, V)
    weights = jax.random.uniform(keys[3], (B, T)) * (jnp.arange(T) != 2)
    return hidden, kernel, targets, weights


@pytest.mark.parametrize("chunk", [1, 4, 5, 21, 1000])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_value_and_gradients_equal_the_plain_loss(chunk, z_loss):
    hidden, kernel, targets, weights = inputs()

    def ours(hidden, kernel):
        total, nll = cross_entropy(hidden, kernel, targets, weights, z_loss, chunk, V)
        return 3 * total, nll

    def theirs(hidden, kernel):
        total, nll = plain(hidden, kernel, targets, weights, z_loss)
        return 3 * total, nll

    (a, a_nll), a_grads = jax.value_and_grad(ours, (0, 1), has_aux=True)(hidden, kernel)
    (b, b_nll), b_grads = jax.value_and_grad(theirs, (0, 1), has_aux=True)(hidden, kernel)
    np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(a_nll, b_nll, rtol=1e-5, atol=1e-5)
    for x, y in zip(a_grads, b_grads, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    assert not np.any(a_grads[1][:, V:]), "the vocabulary's padding takes no gradient"


def test_loss_without_gradient_is_the_same_number():
    hidden, kernel, targets, weights = inputs()
    alone, nll = cross_entropy(hidden, kernel, targets, weights, 0.0, 4, V)
    (with_grad, nll_again), _ = jax.value_and_grad(
        lambda h: cross_entropy(h, kernel, targets, weights, 0.0, 4, V), has_aux=True
    )(hidden)
    assert alone == with_grad
    np.testing.assert_array_equal(nll, nll_again)


def test_all_logits_are_never_held():
    """The compiler's own figure: memory grows with the chunk, not with the tokens."""
    tokens, dim, vocab = 8192, 64, 32_768
    shapes = (
        jax.ShapeDtypeStruct((1, tokens, dim), jnp.float32),
        jax.ShapeDtypeStruct((dim, vocab), jnp.float32),
        jax.ShapeDtypeStruct((1, tokens), jnp.int32),
        jax.ShapeDtypeStruct((1, tokens), jnp.float32),
    )

    def temporary_bytes(chunk):
        def loss(hidden, kernel, targets, weights):
            return cross_entropy(hidden, kernel, targets, weights, 0.0, chunk, vocab)[0]

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole_logits = 4 * tokens * vocab
    assert temporary_bytes(tokens) >= whole_logits, "this is what chunks are there to avoid"
    assert temporary_bytes(256) < whole_logits / 8
