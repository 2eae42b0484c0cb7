"""Rows spread over eight devices: the same attention as on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.attention import select, splash, xla
from model.blockwise import blockwise
from model.context import spread
from tpu.config import MeshConfig
from tpu.mesh import make_mesh

# 64 tokens in up to eight chunks: segments that cross one border, several and none, and end on one.
SEGMENTS = np.array(
    [
        [1] * 13 + [2] * 19 + [3] * 1 + [4] * 23 + [0] * 8,
        [1] * 64,
        [0] * 64,
        [1] * 8 + [2] * 24 + [3] * 32,
    ],
    np.int32,
)
KINDS = {
    "xla": xla,
    "blockwise": functools.partial(blockwise, name="attention"),
    "splash": functools.partial(splash, block=128, interpret=True),
}


def inputs(num_heads, num_kv_heads, head_dim=16):
    rng = np.random.default_rng(0)
    B, T = SEGMENTS.shape
    q = rng.normal(size=(B, T, num_heads, head_dim)).astype(np.float32)
    k, v = rng.normal(size=(2, B, T, num_kv_heads, head_dim)).astype(np.float32)
    return q, k, v


def out_and_gradients(attend, q, k, v, segment_ids):
    def total(q, k, v):
        out = attend(q, k, v, segment_ids)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))), out

    (_, out), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return jax.device_get((out, *grads))


@pytest.mark.parametrize(
    ("kind", "heads", "kv_heads", "tensor", "sequence"),
    [
        ("xla", 8, 8, 1, 8),
        ("xla", 8, 2, 1, 8),  # a kv head goes to four devices
        ("xla", 12, 4, 1, 6),  # each device has parts of two groups' heads, and both kv heads
        ("xla", 8, 4, 2, 4),
        ("blockwise", 8, 4, 2, 2),
        ("splash", 8, 2, 2, 4),
    ],
)
def test_tokens_on_several_devices_change_nothing(kind, heads, kv_heads, tensor, sequence):
    devices = jax.devices()[: tensor * sequence]
    mesh = make_mesh(MeshConfig(tensor=tensor, sequence=sequence), devices)
    T = 64 // sequence * sequence
    arrays = [x[:, :T] for x in (*inputs(heads, kv_heads), SEGMENTS)]
    ours = out_and_gradients(spread(KINDS[kind], mesh), *arrays)
    plain = out_and_gradients(xla, *arrays)
    for name, a, b in zip(("out", "q", "k", "v"), ours, plain, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6 * np.abs(b).max(), err_msg=name)


def test_every_device_holds_its_tokens_and_attends_with_its_heads():
    """What a kernel is called with, and what goes over the wire: four all-to-alls, no gathers."""
    mesh = make_mesh(MeshConfig(tensor=2, sequence=4))
    seen = []

    def attend(q, k, v, segment_ids):
        seen.append((q.shape, k.shape, segment_ids.shape))
        return xla(q, k, v, segment_ids)

    arrays = [jnp.asarray(x) for x in inputs(8, 8)]
    lowered = jax.jit(spread(attend, mesh)).lower(*arrays, SEGMENTS)
    assert seen == [((4, 64, 1, 16), (4, 64, 1, 16), (4, 64))]
    text = lowered.as_text()
    assert text.count("all_to_all") == 4
    assert "all_gather" not in text


def test_select_spreads_whatever_attends():
    mesh = make_mesh(MeshConfig(fsdp=4, sequence=2))
    q, k, v = inputs(4, 2)
    plain = xla(q, k, v, SEGMENTS)
    for kind in ("auto", "xla", "blockwise", "splash"):
        _, attend = select(kind, "cpu", jnp.dtype("float32"), mesh)
        np.testing.assert_allclose(jax.jit(attend)(q, k, v, SEGMENTS), plain, atol=5e-6)


def test_heads_and_tokens_that_do_not_divide_are_refused():
    attend = spread(xla, make_mesh(MeshConfig(tensor=2, sequence=4)))
    with pytest.raises(
        ValueError, match=r"mesh.sequence: 4 x mesh.tensor 2 does not divide num_heads 12"
    ):
        attend(*inputs(12, 4), SEGMENTS)
    q, k, v = (x[:, :63] for x in inputs(8, 4))
    with pytest.raises(ValueError, match=r"mesh.sequence: 4 does not divide train.seq_len 63"):
        attend(q, k, v, SEGMENTS[:, :63])
