"""Attention over the cache: against one softmax over everything, and as the TPU kernel has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import flash_decode as kernels
from model.cache import Cache, attend_in_blocks, padded, read_blocks, write_prompt
from model.config import LlamaConfig

from model.cache import make_cache  # isort: skip

L, B, K, S, H, N = 3, 4, 2, 384, 32, 6
LENGTH = np.array([0, 5, 128, 383], np.int32)


@pytest.fixture(scope="module")
def given():
    """A full cache, and the query, key and value of a token of every slot."""
    keys = jax.random.split(jax.random.key(0), 5)
    cache = Cache(*(jax.random.normal(k, (L, B, K, S, H)) for k in keys[:2]))
    q = jax.random.normal(keys[2], (B, N, H))
    k, v = (jax.random.normal(key, (B, K, H)) for key in keys[3:])
    return cache, q, k, v


def plainly(cache, layer, q, k, v, length):
    """A softmax over the prefix and the token itself, slot by slot."""
    out = np.zeros(q.shape)
    for b in range(B):
        for n in range(N):
            head = n // (N // K)
            keys = np.concatenate([cache.keys[layer, b, head, : length[b]], k[b, head][None]])
            values = np.concatenate([cache.values[layer, b, head, : length[b]], v[b, head][None]])
            logits = keys.astype(np.float64) @ np.asarray(q[b, n], np.float64) * H**-0.5
            weights = np.exp(logits - logits.max())
            out[b, n] = weights @ values / weights.sum()
    return out


def test_blocks_give_one_softmax(given):
    for layer in range(L):
        out = read_blocks(given[0], layer, *given[1:], jnp.asarray(LENGTH))
        np.testing.assert_allclose(out, plainly(given[0], layer, *given[1:], LENGTH), atol=2e-6)


def test_how_far_the_others_are_is_not_seen(given):
    cache, *token = given
    short = jnp.array([40, 40, 40, 40])
    read = jax.jit(read_blocks)
    for others in (3, 200, 383):
        long = jnp.full(B, others).at[1].set(40)
        alone, together = (read(cache, 1, *token, n) for n in (short, long))
        np.testing.assert_array_equal(alone[1], together[1])


def test_what_an_earlier_sequence_left_is_not_seen(given):
    cache, *token = given
    left = Cache(*(x.at[:, 1, :, 5:].set(jnp.nan) for x in cache))
    clean = read_blocks(cache, 0, *token, jnp.asarray(LENGTH))
    np.testing.assert_array_equal(clean, read_blocks(left, 0, *token, jnp.asarray(LENGTH)))
    run = jax.jit(lambda c: kernels.flash_decode(*c, 0, *token, LENGTH, interpret=True))
    np.testing.assert_array_equal(run(cache), run(left))


def test_the_kernels_do_the_same(given, monkeypatch):
    monkeypatch.setattr(kernels, "BLOCK", 128)
    cache, *token = given
    for layer in (0, 2):
        out = kernels.flash_decode(
            *cache, jnp.int32(layer), *token, jnp.asarray(LENGTH), interpret=True
        )
        np.testing.assert_allclose(out, plainly(cache, layer, *token, LENGTH), atol=2e-6)
    new = jax.random.normal(jax.random.key(9), (L, B, K, H))
    written = kernels.append(cache.keys, new, jnp.asarray(LENGTH), interpret=True)
    expected = np.array(cache.keys)
    for b in range(B):
        expected[:, b, :, LENGTH[b]] = new[:, b]
    np.testing.assert_array_equal(written, expected)


def test_a_token_is_written_at_the_end_of_its_slot(given):
    cache, q, k, v = given
    _, after = attend_in_blocks(cache, 1, q, k, v, jnp.asarray(LENGTH))
    for was, new, token in zip(cache, after, (k, v), strict=True):
        expected = np.array(was)
        for b in range(B):
            expected[1, b, :, LENGTH[b]] = token[b]
        np.testing.assert_array_equal(new, expected)


def test_a_prompt_is_written_at_the_start_of_its_slot():
    config = LlamaConfig(
        vocab_size=8, embed_dim=8, mlp_dim=8, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=4
    )
    cache = make_cache(config, 3, 100, jnp.dtype("float32"))
    assert cache.keys.shape == (2, 3, 2, padded(100), 4) == (2, 3, 2, 128, 4)
    prompt = jnp.ones((2, 1, 2, 16, 4))
    after = write_prompt(cache, jnp.int32(1), prompt, 2 * prompt)
    assert float(after.keys.sum()) == prompt.size
    assert float(after.values[:, 1, :, :16].sum()) == 2 * prompt.size


@pytest.mark.parametrize("window", [128, 384, 1024, 8192])
def test_blocks_of_the_kernel_divide_the_window(window):
    block = kernels.block_of(window)
    assert window % block == 0
    assert block <= kernels.BLOCK
