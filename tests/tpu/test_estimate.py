"""The time model, the count of arithmetic and the rough memory, against sums done by hand."""

from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model.config import REMAT_SETS, ModelConfig, resolve
from tpu.arithmetic import Asked, count
from tpu.estimate import bandwidth, step_time
from tpu.memory import need
from tpu.reading import Body, Collective, Reading
from tpu.topology import generations
from training.config import TrainConfig

V5E = generations()["v5e"]
GRID = [SimpleNamespace(coords=(x, y, 0), slice_index=0) for x in range(4) for y in range(4)]


def collective(kind, asynchronous, payload, group, count=1.0):
    return Collective(kind, asynchronous, payload, tuple(group), count)


def test_links_follow_the_axes_that_a_group_spans():
    assert bandwidth((0, 1, 2, 3), V5E, GRID) == 2 * 45e9  # along y
    assert bandwidth((0, 4, 8, 12), V5E, GRID) == 2 * 45e9  # along x
    assert bandwidth(range(16), V5E, GRID) == 4 * 45e9
    far = [*GRID, SimpleNamespace(coords=(0, 0, 0), slice_index=1)]
    assert bandwidth((0, 16), V5E, far) == V5E.dcn_gbps * 1e9


def test_a_step_is_the_sum_of_its_parts():
    loop = Body(2.0, cycles=1.5e9, kernels=Counter({"splash_fwd": 1, "own": 1}))
    loop.collectives = [
        # 4.5 s of asynchronous gathers beside 2 x (1 + kernels) s of computing
        collective("all-gather", True, 270e9, range(4), 2.0),
        collective("reduce-scatter", False, 120e9, range(4), 2.0),
    ]
    reading = Reading([Body(1.0, cycles=3e9, host_bytes=32e9), loop])
    # Dots at 98.5 TFLOP/s: half the peak; four seconds of cycles on 16 devices.
    asked = Asked(dots=4 * 98.5e12 * 16, kernels={})
    asked.kernels = {"splash_fwd": (32.0, 32 * 19.7e12), "own": (32.0, 32 * 9.85e12)}
    time = step_time(reading, asked, V5E, GRID)
    assert time.compute == pytest.approx(2 + 2)
    assert time.attention == pytest.approx(2 * 19.7 / 2 / (197 * 0.5))
    assert time.other_kernels == pytest.approx(2 * 0.1)
    hidden = 2 * 270e9 * 3 / 4 / 90e9
    beside = 2 * (1 + 0.1 + 0.1)
    assert time.collectives == pytest.approx(2 * 1.0 + hidden - beside)
    assert time.offload == pytest.approx(2.0)
    assert time.total == pytest.approx(4 + 0.2 + 0.2 + 2 + hidden - beside + 2)


def test_what_is_asynchronous_costs_nothing_beside_enough_computing():
    body = Body(1.0, cycles=1.5e9, collectives=[collective("all-gather", True, 60e9, range(4))])
    assert step_time(Reading([body]), Asked(), V5E, GRID).total == pytest.approx(1.0)


def test_decode_kernels_run_at_the_memory():
    body = Body(10.0, cycles=1.5e6, kernels=Counter({"flash_decode": 1}))
    found = step_time(Reading([body]), Asked(), V5E, GRID, kernel_bytes={"flash_decode": 81.9e9})
    assert found.attention == pytest.approx(1.0)


def test_a_kernel_that_was_not_traced_is_an_error():
    body = Body(1.0, cycles=1.0, kernels=Counter({"mystery": 1}))
    with pytest.raises(ValueError, match="mystery"):
        step_time(Reading([body]), Asked(dots=1.0), V5E, GRID)


def test_dots_are_counted_through_scans_and_manual_axes():
    mesh = Mesh(np.array(jax.devices()[:8]), ("x",))

    def local(w, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("x")), out_specs=P("x"))
    w, x = jnp.zeros((3, 16, 16)), jnp.zeros((32, 16))
    # Three products of [4, 16] x [16, 16] on each of eight devices.
    assert count(jax.make_jaxpr(mapped)(w, x)).dots == 8 * 3 * 2 * 4 * 16 * 16
    assert count(jax.make_jaxpr(local)(w, x)).dots == 3 * 2 * 32 * 16 * 16


def test_kernels_are_counted_by_their_whole_grid():
    from model.attention import splash

    B, T, N, H = 1, 256, 2, 128
    q, segment_ids = jnp.zeros((B, T, N, H)), jnp.ones((B, T), jnp.int32)

    def loss(q):
        return splash(q, q, q, segment_ids, block=128, interpret=True).sum()

    asked = count(jax.make_jaxpr(jax.grad(loss))(q))
    product = 2 * B * N * T * T * H
    calls = {name: (calls, flops / product) for name, (calls, flops) in asked.kernels.items()}
    # Two products forward; five in the fused backward kernel.
    assert sorted(calls.values()) == [(1.0, 2.0), (1.0, 5.0)]
    # Outside of them only the products of outputs and their gradients, element by element.
    assert asked.dots == 2 * B * T * N * H


def train(**fields):
    fields = {
        "num_steps": 1,
        "global_batch_rows": 512,
        "seq_len": 4096,
        "loss_chunk": 1024,
    } | fields
    return TrainConfig(**fields)


SIZES = {"slices": 1, "data": 1, "fsdp": 256, "tensor": 1, "sequence": 1}


def test_memory_grows_with_what_is_kept_and_falls_with_passes():
    config = resolve(ModelConfig(preset="llama3_8b"), tokenizer_vocab=None, base=None)
    needs = [need(config, train(remat=remat), SIZES) for remat in REMAT_SETS]
    assert needs == sorted(needs)
    # A row of 4,096 and 32 layers in bfloat16: the residual stream once more for two rows.
    assert needs[3] - needs[2] == 2 * 32 * 2 * 4096 * 4096
    halved = need(config, train(remat="residual", accumulate=2), SIZES)
    assert halved < needs[3] - 2e9


def test_what_waits_with_the_host_takes_no_memory_of_the_device():
    config = resolve(ModelConfig(preset="llama3_8b"), tokenizer_vocab=None, base=None)
    kept = need(config, train(remat="qkv"), SIZES)
    per_head = 2 * 32 * 2 * 4096 * 128  # bytes of all layers' two rows, in bfloat16
    away = [need(config, train(remat="qkv", offload=name), SIZES) for name in REMAT_SETS[:3]]
    assert [kept - left for left in away] == [heads * per_head for heads in (32, 32 + 16, 64 + 16)]


@pytest.mark.parametrize(
    ("remat", "offload", "said"),
    [
        ("kv", "qkv", "offload: qkv is more than a layer keeps; at most kv"),
        ("auto", "none", "at most mlp"),
        ("none", "attention", "train.remat=none keeps everything on the device"),
    ],
)
def test_only_what_is_kept_can_wait_with_the_host(remat, offload, said):
    with pytest.raises(ValueError, match=said):
        train(remat=remat, offload=offload)
