"""One device, eight devices, any accumulation: the same loss, gradient norm and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.attention import xla
from model.config import LlamaConfig
from model.llama import forward, init_params
from tests.training.layouts import (
    CONFIG,
    SHAPES,
    STEPS,
    STREAMS,
    check_same,
    make_batch,
    one_device,
    place,
    run,
    train_config,
)
from tpu.config import MeshConfig
from tpu.mesh import AXES, check_rows, make_mesh
from training.config import OptimizerConfig
from training.optimizer import decay_mask, make_optimizer
from training.state import layout, state_bytes
from training.step import (
    State,
    make_eval_step,
    make_train_step,
    model_flops,
)


@functools.cache
def reference(name):
    return run(SHAPES[name], one_device())


def two_axes(*fsdp, sequence=1):
    """fsdp laid over two mesh axes, as on a TPU torus."""
    return Mesh(np.array(jax.devices()).reshape(1, 1, *fsdp, 1, sequence), AXES)


MESHES = {
    "fsdp 8": lambda: make_mesh(MeshConfig()),
    "fsdp 4x2": lambda: two_axes(4, 2),
    "fsdp 4, tensor 2": lambda: make_mesh(MeshConfig(fsdp=4, tensor=2)),
    "data 2, fsdp 2, tensor 2": lambda: make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)),
    "slices 2, fsdp 4": lambda: make_mesh(MeshConfig(slices=2, fsdp=4)),
    "fsdp 2, tensor 2, sequence 2": lambda: make_mesh(MeshConfig(fsdp=2, tensor=2, sequence=2)),
    "fsdp 2x2, sequence 2": lambda: two_axes(2, 2, sequence=2),
    "fsdp 2, sequence 4": lambda: make_mesh(MeshConfig(fsdp=2, sequence=4)),
    "slices 2, fsdp 2, sequence 2": lambda: make_mesh(MeshConfig(slices=2, fsdp=2, sequence=2)),
}
QUICK = [  # every mesh and shape, and accumulation, once
    ("fsdp 8", "plain", 1),
    ("fsdp 4x2", "tied", 2),
    ("fsdp 4, tensor 2", "biases", 4),
    ("data 2, fsdp 2, tensor 2", "plain", 1),
    ("slices 2, fsdp 4", "plain", 1),
    ("fsdp 2, tensor 2, sequence 2", "plain", 4),
    ("fsdp 2x2, sequence 2", "plain", 4),
    ("fsdp 4, tensor 2", "adapters", 2),
]
SLOW = [
    ("fsdp 8", "plain", 2),
    ("fsdp 4x2", "plain", 1),
    ("fsdp 4, tensor 2", "plain", 1),
    ("fsdp 4, tensor 2", "plain", 4),
    ("data 2, fsdp 2, tensor 2", "plain", 4),
    ("fsdp 2, tensor 2, sequence 2", "plain", 1),
    ("fsdp 2, sequence 4", "plain", 4),
    ("slices 2, fsdp 2, sequence 2", "plain", 4),
    ("fsdp 4x2", "adapters", 1),
    ("fsdp 2, tensor 2, sequence 2", "adapters", 1),
]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.mark.parametrize(("mesh", "shape", "accumulate"), CASES)
def test_any_layout_matches_one_device(mesh, shape, accumulate):
    check_same(run(SHAPES[shape], MESHES[mesh](), accumulate=accumulate), reference(shape))


def test_loss_is_the_mean_over_the_supervised_tokens_of_the_whole_batch():
    batch = make_batch()
    params = init_params(CONFIG, jax.random.key(0))
    logits = forward(params, CONFIG, batch["tokens"], segment_ids=batch["segment_ids"])
    nll = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], batch["tokens"][:, 1:])
    mask = batch["loss_mask"][:, 1:]
    expected = np.sum(nll * mask) / mask.sum()
    _, curve, metrics = run(CONFIG, one_device(), steps=1)
    np.testing.assert_allclose(curve[0, 0], expected, rtol=1e-6)
    per_stream = [np.sum((nll * mask)[batch["stream"] == k]) for k in range(STREAMS)]
    np.testing.assert_allclose(metrics["stream_loss"], per_stream, rtol=1e-5)
    assert metrics["tokens"] == (batch["segment_ids"] > 0).sum()


@pytest.mark.parametrize(
    ("remat", "offload"),
    [("attention", None), ("qkv", "attention"), ("none", None)]
    + [
        pytest.param(remat, offload, marks=pytest.mark.slow)
        for remat, offload in (
            ("kv", "kv"),
            ("kv", None),
            ("qkv", None),
            ("residual", None),
            ("mlp", None),
        )
    ],
)
def test_rematerialisation_changes_nothing(remat, offload):
    grads, _, _ = run(CONFIG, one_device(), steps=1, remat=remat, offload=offload)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(reference("plain")[0]), strict=True):
        assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max()


@pytest.mark.parametrize(
    "fields", [{"fsdp": 4, "tensor": 2}, {"fsdp": 4, "sequence": 2}], ids=["heads", "tokens"]
)
def test_splash_inside_the_step_matches_with_split_heads_or_tokens(fields):
    """The nested shard_map inside the manual step, kernel in interpret mode."""
    config = CONFIG.model_copy(update={"head_dim": 64, "num_layers": 1})
    ours, theirs = (
        run(config, mesh, steps=1, attention=kind)
        for mesh, kind in ((make_mesh(MeshConfig(**fields)), "splash"), (one_device(), "xla"))
    )
    check_same(ours, theirs)


def test_bfloat16_reduction_on_cpu_devices_is_refused():
    with pytest.raises(ValueError, match=r"train.grad_reduce_dtype: bfloat16 .* set float32"):
        run(CONFIG, make_mesh(MeshConfig()), steps=1, grad_reduce_dtype="bfloat16")


def test_evaluation_counts_text_only():
    """Special tokens carry no bytes and no loss; sums agree over layouts."""
    batch = make_batch()
    lengths = np.arange(CONFIG.padded_vocab_size, dtype=np.int32) % 5
    results = []
    for mesh in (one_device(), make_mesh(MeshConfig(fsdp=4, tensor=2))):
        plan = layout(CONFIG, optax.sgd(0.1), mesh)
        init = jax.jit(lambda k: init_params(CONFIG, k), out_shardings=plan.shardings.params)
        step = jax.jit(make_eval_step(CONFIG, train_config(), mesh, plan.specs, xla))
        replicated = jax.device_put(lengths, NamedSharding(mesh, P()))
        results.append(
            jax.device_get(step(init(jax.random.key(0)), place(batch, mesh), replicated))
        )
    sizes = lengths[batch["tokens"][:, 1:]]
    counted = batch["loss_mask"][:, 1:] & (sizes > 0)
    assert results[0]["tokens"] == counted.sum() > 0
    assert results[0]["bytes"] == sizes[counted].sum()
    np.testing.assert_array_equal(results[0]["row_bytes"], (sizes * counted).sum(1))
    np.testing.assert_allclose(results[1]["row_nll"], results[0]["row_nll"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(results[1]["row_bytes"], results[0]["row_bytes"])


def test_optimizer_state_is_split_like_the_parameters():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    tx = make_optimizer(OptimizerConfig(), STEPS)
    whole = layout(CONFIG, tx, one_device())
    split = layout(CONFIG, tx, mesh)
    assert (
        state_bytes(whole) == 12 * sum(x.size for x in jax.tree.leaves(whole.abstract.params)) + 8
    )
    assert state_bytes(split) < state_bytes(whole) / 6


def test_decay_leaves_norms_and_biases_alone():
    params = jax.eval_shape(lambda: init_params(SHAPES["biases"], jax.random.key(0)))
    mask = decay_mask(params, embeddings=False)
    assert mask["blocks"]["attn"]["q"]
    assert mask["head"]["kernel"]
    assert not mask["blocks"]["attn"]["q_bias"]
    assert not mask["blocks"]["mlp_norm"]["scale"]
    assert not mask["embed"]["table"]
    assert decay_mask(params, embeddings=True)["embed"]["table"]


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"train.global_batch_rows: 12 .* multiple of 16"):
        check_rows(12, 2, make_mesh(MeshConfig()), field="train.global_batch_rows")


def test_model_flops_of_llama2_7b():
    config = LlamaConfig(
        vocab_size=32_000,
        embed_dim=4096,
        mlp_dim=11_008,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
    )
    assert model_flops(config, 4, 2048) == pytest.approx(337.95e12, rel=1e-4)


def test_bfloat16_compute_keeps_float32_masters():
    mesh = one_device()
    train = train_config(compute_dtype="bfloat16")
    tx = make_optimizer(OptimizerConfig(peak_lr=1e-2), STEPS)
    plan = layout(CONFIG, tx, mesh)
    params = init_params(CONFIG, jax.random.key(0))
    state = State(params, tx.init(params))
    step = make_train_step(CONFIG, train, tx, mesh, plan.specs, xla, num_streams=STREAMS)
    state, metrics = jax.jit(step)(state, place(make_batch(), mesh))
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert float(metrics["loss"]) == pytest.approx(reference("plain")[1][0, 0], rel=1e-2)
