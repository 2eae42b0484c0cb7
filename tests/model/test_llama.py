"""The network: packing leaks nothing, shapes and names agree, initial weights are sane."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model import attention
from model.config import LlamaConfig
from model.llama import abstract_params, forward, init_params, num_params, param_names
from model.rope import positions_of

CONFIG = LlamaConfig(
    vocab_size=61,
    vocab_multiple=16,
    embed_dim=32,
    mlp_dim=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    init_std=0.2,  # large, so that attention matters to the loss
)
LENGTHS = (7, 1, 12, 20)


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(1)
    return [rng.integers(0, CONFIG.vocab_size, n).astype(np.int32) for n in LENGTHS]


def packed(documents, width=48):
    tokens, segment_ids = np.zeros((2, 1, width), np.int32)
    at = 0
    for i, document in enumerate(documents, 1):
        tokens[0, at : at + len(document)] = document
        segment_ids[0, at : at + len(document)] = i
        at += len(document)
    return tokens, segment_ids


def document_losses(logits, documents):
    """The summed loss of each document, from the logits of a packed row."""
    losses, at = [], 0
    for document in documents:
        inside = logits[0, at : at + len(document) - 1]
        nll = optax.softmax_cross_entropy_with_integer_labels(inside, document[1:])
        losses.append(float(nll.sum()))
        at += len(document)
    return np.array(losses)


def test_a_packed_row_gives_each_document_the_loss_it_has_alone(params, documents):
    alone = [document_losses(forward(params, CONFIG, d[None]), [d])[0] for d in documents]
    tokens, segment_ids = packed(documents)
    together = forward(params, CONFIG, tokens, segment_ids=segment_ids)
    np.testing.assert_allclose(document_losses(together, documents), alone, atol=1e-5)


@pytest.mark.parametrize("broken", ["segments", "positions", "causality"])
def test_the_leak_test_above_can_fail(params, documents, broken, monkeypatch):
    """Without the segment mask, without position resets, or without causality it is far off."""
    alone = [document_losses(forward(params, CONFIG, d[None]), [d])[0] for d in documents]
    tokens, segment_ids = packed(documents)
    positions = positions_of(segment_ids)
    if broken == "segments":
        segment_ids = np.ones_like(segment_ids)
    elif broken == "positions":
        # Rotary attention sees only distances, so a shift is no leak; a stretch is one.
        positions = jnp.arange(tokens.shape[1])[None] * 2
    else:
        monkeypatch.setattr(attention, "visible", lambda s: s[:, :, None] == s[:, None, :])
    together = forward(params, CONFIG, tokens, segment_ids=segment_ids, positions=positions)
    off = np.abs(document_losses(together, documents) - alone)
    assert off[[0, 2, 3]].max() > 1e-2


def test_positions_start_anew_with_every_segment():
    segment_ids = jnp.array([[1, 1, 1, 2, 2, 0, 0], [4, 4, 4, 4, 4, 4, 4]])
    expected = [[0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(positions_of(segment_ids), expected)


def test_every_parameter_has_a_name_for_every_dim():
    config = CONFIG.model_copy(update={"attention_bias": True, "mlp_bias": True})
    shapes, names = abstract_params(config), param_names(config)
    checked = jax.tree.map(lambda s, n: len(s.shape) == len(n), shapes, names)
    assert all(jax.tree.leaves(checked))
    assert shapes["blocks"]["attn"]["q"].shape == (2, 32, 4, 12)
    assert names["blocks"]["attn"]["q"] == ("layers", "embed", "heads", "head_dim")


def test_padding_of_the_vocabulary_is_no_parameter_and_no_logit(params):
    assert CONFIG.padded_vocab_size == 64
    assert not np.any(params["embed"]["table"][61:])
    assert not np.any(params["head"]["kernel"][:, 61:])
    assert forward(params, CONFIG, np.zeros((1, 3), np.int32)).shape == (1, 3, 61)
    tied = CONFIG.model_copy(update={"tied_head": True})
    assert num_params(CONFIG) - num_params(tied) == 61 * 32


def test_published_sizes():
    """LLaMA-2-7B has 6,738,415,616 parameters."""
    config = LlamaConfig(
        vocab_size=32_000,
        embed_dim=4096,
        mlp_dim=11_008,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
    )
    assert num_params(config) == 6_738_415_616


def test_bfloat16_compute_is_close_to_float32(params, documents):
    tokens, segment_ids = packed(documents)
    exact = forward(params, CONFIG, tokens, segment_ids=segment_ids)
    rough = forward(params, CONFIG, tokens, segment_ids=segment_ids, compute_dtype=jnp.bfloat16)
    assert rough.dtype == jnp.float32
    real = segment_ids[0] > 0
    assert np.abs(exact - rough)[0, real].max() < 0.1 * np.abs(exact).max()
