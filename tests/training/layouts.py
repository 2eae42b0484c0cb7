"""A small step on any mesh: the batch, the shapes and the run that the layout tests compare."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model.attention import select
from model.config import LlamaConfig, LoraConfig
from model.llama import init_params
from model.lora import split
from tpu.config import MeshConfig
from tpu.mesh import BATCH, ROWS, make_mesh
from training.config import OptimizerConfig, TrainConfig
from training.optimizer import make_optimizer
from training.state import layout
from training.step import State, jit_step, make_train_step, make_value_and_grad

B, T, STREAMS, STEPS = 16, 32, 3, 20
CONFIG = LlamaConfig(
    vocab_size=94,
    vocab_multiple=8,
    embed_dim=32,
    mlp_dim=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=10,
)
SHAPES = {
    "plain": CONFIG,
    "tied": CONFIG.model_copy(update={"tied_head": True}),
    "biases": CONFIG.model_copy(update={"attention_bias": True, "mlp_bias": True}),
    # Over four devices the rank is split, over eight it is not.
    "adapters": CONFIG.model_copy(update={"lora": LoraConfig(rank=32, alpha=32)}),
}


def make_batch():
    """Ragged segments, padding, and rows with very different numbers of supervised tokens."""
    rng = np.random.default_rng(0)
    segment_ids = np.sort(rng.integers(1, 4, (B, T)), axis=1).astype(np.int32)
    segment_ids[3, 20:] = 0
    segment_ids[5] = 0
    first = np.diff(segment_ids, axis=1, prepend=-1) != 0
    loss_mask = (rng.random((B, T)) < rng.random((B, 1))) & ~first & (segment_ids > 0)
    return {
        "tokens": rng.integers(0, 94, (B, T)).astype(np.int32),
        "segment_ids": segment_ids,
        "loss_mask": loss_mask,
        "stream": rng.integers(0, STREAMS, B).astype(np.int32),
    }


def place(batch, mesh):
    def one(x):
        sharding = NamedSharding(mesh, BATCH if x.ndim == 2 else P(ROWS))
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return {name: one(x) for name, x in batch.items()}


def fetch(tree):
    """Whole arrays on this host, whichever processes hold their parts."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def train_config(**changes):
    fields = {"num_steps": STEPS, "seq_len": T, "global_batch_rows": B, "loss_chunk": 64}
    fields |= {"compute_dtype": "float32", "attention": "xla"}
    return TrainConfig(**(fields | changes))


def run(config, mesh, steps=STEPS, **changes):
    """First gradients, and loss and gradient norm of every step."""
    train = train_config(**changes)
    tx = make_optimizer(OptimizerConfig(peak_lr=1e-2, warmup_steps=3), STEPS)
    plan = layout(config, tx, mesh)
    init = jax.jit(lambda k: init_params(config, k), out_shardings=plan.shardings.params)
    params = init(jax.random.key(0))
    init_moments = jax.jit(tx.init, out_shardings=plan.shardings.opt_state)
    state = State(params, init_moments(split(params)[0]))
    batch = place(make_batch(), mesh)
    _, attend = select(train.attention, "cpu", jnp.dtype(train.compute_dtype), mesh)
    grad = make_value_and_grad(config, train, mesh, plan.specs, attend, num_streams=STREAMS)
    grads, _ = jax.jit(grad)(params, batch)
    step = make_train_step(config, train, tx, mesh, plan.specs, attend, num_streams=STREAMS)
    step = jit_step(step, plan.shardings, mesh)
    curve = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        curve.append((float(metrics["loss"]), float(metrics["grad_norm"])))
    return fetch(grads), np.array(curve), jax.device_get(metrics)


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def check_same(ours, theirs):
    """First-step gradients to 1e-5 of each leaf's largest entry; 20 losses and norms to 1e-5."""
    (grads, curve, metrics), (expected_grads, expected_curve, expected_metrics) = ours, theirs
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
    np.testing.assert_allclose(curve, expected_curve, rtol=1e-5)
    for name in ("tokens", "supervised", "stream_tokens", "stream_supervised"):
        np.testing.assert_array_equal(metrics[name], expected_metrics[name])
