"""Every attention implementation that runs here, against ten lines of numpy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import select, splash, xla
from model.blockwise import blockwise

SEGMENTS = {
    "ragged": [[1] * 40 + [2] * 70 + [3] * 10 + [0] * 20, [1] * 3 + [2] * 130 + [0] * 7],
    "one segment": [[1] * 140, [1] * 140],
    "all padding": [[0] * 140, [1] * 140],
    "ends on a block's edge": [[1] * 128 + [2] * 12, [1] * 64 + [2] * 64 + [3] * 12],
    "shorter than a block": [[1] * 5 + [2] * 9, [1] * 12 + [0] * 2],
}


def numpy_attention(q, k, v, segment_ids):
    B, T, N, H = q.shape
    out = np.zeros_like(q)
    for b in range(B):
        for n in range(N):
            kv = n // (N // k.shape[2])
            logits = q[b, :, n] @ k[b, :, kv].T / np.sqrt(H)
            same = segment_ids[b][:, None] == segment_ids[b][None, :]
            logits = np.where(same & np.tri(T, dtype=bool), logits, -np.inf)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ v[b, :, kv]
    return out


def inputs(segments, head_dim, num_heads=4, num_kv_heads=2):
    segment_ids = np.array(SEGMENTS[segments], np.int32)
    rng = np.random.default_rng(0)
    B, T = segment_ids.shape
    q = rng.normal(size=(B, T, num_heads, head_dim)).astype(np.float32)
    k, v = rng.normal(size=(2, B, T, num_kv_heads, head_dim)).astype(np.float32)
    return q, k, v, segment_ids


@pytest.mark.parametrize("segments", SEGMENTS)
def test_xla(segments):
    q, k, v, segment_ids = inputs(segments, 16)
    np.testing.assert_allclose(
        xla(q, k, v, segment_ids), numpy_attention(q, k, v, segment_ids), atol=2e-6
    )


@pytest.mark.parametrize("segments", SEGMENTS)
def test_blockwise_forward_and_gradients(segments):
    """140 tokens are a whole block of 128 and a part of one; grouped heads."""
    q, k, v, segment_ids = inputs(segments, 16)
    attend = functools.partial(blockwise, name="attention")
    np.testing.assert_allclose(
        attend(q, k, v, segment_ids), numpy_attention(q, k, v, segment_ids), atol=2e-6
    )

    def total(attend, q, k, v):
        out = attend(q, k, v, segment_ids)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape)))

    ours, plain = (
        jax.jit(jax.grad(functools.partial(total, f), argnums=(0, 1, 2)))(q, k, v)
        for f in (attend, xla)
    )
    for name, a, b in zip("qkv", ours, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6 * np.abs(b).max(), err_msg=name)


def test_blockwise_keeps_what_the_backward_pass_needs():
    """Under rematerialisation the output and the log-sum-exp are kept, so no block is formed a third time."""
    q, k, v, segment_ids = inputs("one segment", 16)
    policy = jax.checkpoint_policies.save_only_these_names("attention")
    attend = functools.partial(blockwise, name="attention")

    def products(f):
        def total(q, k, v):
            return jnp.sum(f(q, k, v, segment_ids) ** 2)

        return str(jax.make_jaxpr(jax.grad(total, argnums=(0, 1, 2)))(q, k, v)).count("dot_general")

    assert products(jax.checkpoint(attend, policy=policy)) == products(attend)


def test_blockwise_in_bfloat16_is_as_good_as_plain_attention():
    q, k, v, segment_ids = inputs("ragged", 32)
    exact = numpy_attention(q, k, v, segment_ids)
    low = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    errors = [
        np.abs(np.asarray(f(*low, segment_ids), np.float32) - exact).max()
        for f in (functools.partial(blockwise, name="attention"), xla)
    ]
    assert errors[0] <= 1.5 * errors[1]


@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_splash_forward_and_gradients(segments, head_dim):
    """The TPU kernel in interpret mode, rows padded to its blocks."""
    q, k, v, segment_ids = inputs(segments, head_dim)
    kernel = functools.partial(splash, block=128, interpret=True)

    def total(attend, q, k, v):
        out = attend(q, k, v, segment_ids)
        return jnp.sum(jnp.sin(out)), out

    (_, out), grads = jax.value_and_grad(functools.partial(total, kernel), (0, 1, 2), has_aux=True)(
        q, k, v
    )
    (_, expected), expected_grads = jax.value_and_grad(
        functools.partial(total, xla), (0, 1, 2), has_aux=True
    )(q, k, v)
    np.testing.assert_allclose(out, expected, atol=5e-6)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_select_says_which():
    assert select("auto", "cpu", jnp.dtype("float32"))[0] == "blockwise"
    assert select("auto", "tpu", jnp.dtype("bfloat16"))[0] == "splash"
    assert select("auto", "gpu", jnp.dtype("float32"))[0] == "xla"


def test_splashs_constants_do_not_depend_on_what_was_traced_before():
    """A kernel with the same forward blocks first, so that the library already knows an equal mask."""
    T = 2048
    q = jax.ShapeDtypeStruct((1, T, 2, 64), jnp.float32)
    segment_ids = jax.ShapeDtypeStruct((1, T), jnp.int32)
    for blocks in ((512, 1024), (512, 512)):

        def loss(q, segment_ids, blocks=blocks):
            return splash(q, q, q, segment_ids, blocks=blocks, interpret=True).sum()

        text = jax.jit(jax.grad(loss)).lower(q, segment_ids).as_text()
        assert len(re.findall(rf'dense<"0x[0-9A-F]+"> : tensor<{T}xi32>', text)) == 1
