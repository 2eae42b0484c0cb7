"""The training step and the evaluation step: one jitted pure function each.

The step is manual (`jax.shard_map`) over the mesh axes that share out rows and over `sequence`, and
automatic over `tensor`. Weights arrive split over the FSDP axes; each layer is made whole by `gather`
inside the scan, and the transpose of `gather` is the reduce-scatter of its gradient. On one device
`gather` only casts. Where `sequence` spreads a row's tokens, every device has the ids and masks of whole
rows, which are small, and works on its own chunk of them.

The loss is the sum over the supervised tokens of the whole global batch, all devices and all
accumulation passes, divided by their number: never a mean of means.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.attention import Attend
from model.config import LlamaConfig
from model.llama import Params, cast_matrices, head_matrix, hidden_states
from model.lora import join, num_trained, split
from model.rope import positions_of
from tpu.mesh import BATCH, FSDP, ROWS, manual_part
from training.config import TrainConfig
from training.gather import make_gather, make_lookup
from training.loss import cross_entropy

Metrics = dict[str, jax.Array]
Batch = Mapping[str, Any]  # tokens, segment_ids int32[B, T]; loss_mask bool[B, T]; stream int32[B]


class State(NamedTuple):
    """What a step changes: float32 weights and the optimizer's moments.

    Of `params` a step changes what is trained (`model.lora.split`), and the moments are of that alone.
    """

    params: Params
    opt_state: Any


def make_train_step(
    config: LlamaConfig,
    train: TrainConfig,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    specs: Params,
    attend: Attend,
    *,
    num_streams: int,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """`step(state, batch) -> (state, metrics)`; jit it with `jit_step`.

    Metrics: `loss` (mean -log p over the supervised tokens), `grad_norm` (before clipping), `tokens`
    (all but padding), `supervised`, and per stream `stream_loss` (sum of -log p), `stream_supervised`
    and `stream_tokens`, each [num_streams].
    """
    value_and_grad = make_value_and_grad(
        config, train, mesh, specs, attend, num_streams=num_streams
    )

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        grads, metrics = value_and_grad(state.params, batch)
        metrics["grad_norm"] = optax.global_norm(grads)
        trained, frozen = split(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, trained)
        trained: Any = optax.apply_updates(trained, updates)
        return State(join(trained, frozen), opt_state), metrics

    return step


def make_value_and_grad(
    config: LlamaConfig,
    train: TrainConfig,
    mesh: Mesh,
    specs: Params,
    attend: Attend,
    *,
    num_streams: int,
) -> Callable[[Params, Batch], tuple[Params, Metrics]]:
    """`(params, batch) -> (gradients, metrics)` of the global batch.

    The gradients are of what is trained (`model.lora.split`), and sharded like it.
    """
    manual = jax.tree.map(manual_part, specs, is_leaf=_is_spec)
    token_losses = _make_token_losses(config, train, mesh, manual, attend)

    def local(params: Params, batch: Batch) -> tuple[Params, Metrics]:
        supervised = jax.lax.psum(jnp.sum(_target_mask(batch)), ROWS)
        scale = 1.0 / jnp.maximum(supervised, 1).astype(jnp.float32)

        trained, frozen = split(params)

        def loss(trained: Params, part: Batch) -> tuple[jax.Array, jax.Array]:
            mask = _target_mask(part)
            total, nll = token_losses(join(trained, frozen), part, mask * scale)
            return total, jnp.sum(nll * mask, axis=1)

        grad = jax.grad(loss, has_aux=True)
        # Gradients come in the type of what they are of. Summed in bfloat16, they wait in it too.
        lean = train.compute_dtype == train.grad_reduce_dtype == "bfloat16"
        given = cast_matrices(trained, jnp.bfloat16) if lean else trained
        if train.accumulate == 1:
            grads, row_losses = grad(given, batch)
        else:
            parts = jax.tree.map(functools.partial(_split_rows, passes=train.accumulate), batch)

            def accumulate(total: Params, part: Batch) -> tuple[Params, jax.Array]:
                grads, row_losses = grad(given, part)
                return jax.tree.map(jnp.add, total, grads), row_losses

            grads, row_losses = jax.lax.scan(
                accumulate, jax.tree.map(jnp.zeros_like, trained), parts
            )
            row_losses = row_losses.reshape(-1)
        finish = functools.partial(_finish_sum, mesh=mesh)
        grads = jax.tree.map(finish, grads, split(manual)[0])
        return grads, _metrics(batch, row_losses, supervised, num_streams)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(manual, _batch_specs()),
        out_specs=(split(manual)[0], P()),
        axis_names=set(_manual_axes(mesh)),
        check_vma=False,
    )


def make_eval_step(
    config: LlamaConfig,
    train: TrainConfig,
    mesh: Mesh,
    specs: Params,
    attend: Attend,
) -> Callable[[Params, Batch, jax.Array], Metrics]:
    """`(params, batch, byte_lengths) -> sums` over a held-out batch.

    `byte_lengths` int32[Vpad] says how many bytes of text each vocabulary entry stands for; entries
    without text (BOS, EOS, padding) are left out of both sums, so loss and bytes speak of text alone.
    Sums: `nll` (nats), `tokens`, `bytes`, and per row `row_nll`, `row_bytes` [B].
    """
    manual = jax.tree.map(manual_part, specs, is_leaf=_is_spec)
    token_losses = _make_token_losses(config, train, mesh, manual, attend)

    def local(params: Params, batch: Batch, byte_lengths: jax.Array) -> Metrics:
        sizes = byte_lengths[jnp.roll(batch["tokens"], -1, axis=1)]
        mask = _target_mask(batch) & (sizes > 0)
        _, nll = token_losses(params, batch, mask.astype(jnp.float32))
        row_nll = jnp.sum(nll * mask, axis=1)
        row_bytes = jnp.sum(sizes * mask, axis=1)
        sums = {"nll": jnp.sum(row_nll), "tokens": jnp.sum(mask), "bytes": jnp.sum(row_bytes)}
        rows = {"row_nll": row_nll, "row_bytes": row_bytes}
        return jax.lax.psum(sums, ROWS) | jax.lax.all_gather(rows, ROWS, tiled=True)

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(manual, _batch_specs(), P()),
        out_specs=P(),
        axis_names=set(_manual_axes(mesh)),
        check_vma=False,
    )


def jit_step(
    step: Callable[[State, Batch], tuple[State, Metrics]], shardings: State, mesh: Mesh
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """The step compiled for the state's layout; the old state's memory is given to the new one."""
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, NamedSharding(mesh, P())))


def _finish_sum(grad: jax.Array, spec: P, *, mesh: Mesh) -> jax.Array:
    """What `gather`'s transpose left undone: replicas, chunks, and the axes of weights that are not split."""
    axes = _manual_axes(mesh)
    grad = grad.astype(jnp.float32)
    return jax.lax.psum(grad, tuple(a for a in axes if a not in FSDP) if FSDP in spec else axes)


def _manual_axes(mesh: Mesh) -> tuple[str, ...]:
    return (*ROWS, "sequence") if mesh.shape["sequence"] > 1 else ROWS


def _make_token_losses(
    config: LlamaConfig, train: TrainConfig, mesh: Mesh, manual: Params, attend: Attend
) -> Callable[[Params, Batch, jax.Array], tuple[jax.Array, jax.Array]]:
    """`(params, batch, weights) -> (total, nll)`: this device's weighted sum, its rows' token losses."""
    gather = make_gather(manual, mesh, train.compute_dtype, train.grad_reduce_dtype)
    lookup = make_lookup(mesh, train.compute_dtype, train.grad_reduce_dtype)
    chunks = mesh.shape["sequence"]

    def own(x: jax.Array) -> jax.Array:
        if chunks == 1:
            return x
        size = x.shape[1] // chunks
        start = jax.lax.axis_index("sequence") * size
        return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)

    def token_losses(
        params: Params, batch: Batch, weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        hidden = hidden_states(
            params,
            config,
            own(batch["tokens"]),
            batch["segment_ids"],
            own(positions_of(batch["segment_ids"])),
            gather=gather,
            lookup=lookup,
            attend=attend,
            remat="attention" if train.remat == "auto" else train.remat,
            offload=train.offload,
        )
        losses: Any = cross_entropy(
            hidden,
            head_matrix(params, config, gather),
            own(jnp.roll(batch["tokens"], -1, axis=1)),
            own(weights),
            train.z_loss,
            train.loss_chunk or 1024,
            config.vocab_size,
        )
        total, nll = losses
        if chunks > 1:
            nll = jax.lax.all_gather(nll, "sequence", axis=1, tiled=True)
        return total, nll

    return token_losses


def _target_mask(batch: Batch) -> jax.Array:
    """bool[B, T]: whether the token after this one is supervised; never across a row's end."""
    return jnp.roll(batch["loss_mask"], -1, axis=1).at[:, -1].set(False)


def _metrics(
    batch: Batch, row_losses: jax.Array, supervised: jax.Array, num_streams: int
) -> Metrics:
    rows = {
        "stream_loss": row_losses,
        "stream_supervised": jnp.sum(_target_mask(batch), axis=1),
        "stream_tokens": jnp.sum(batch["segment_ids"] > 0, axis=1),
    }
    per_stream = {
        name: jax.ops.segment_sum(value, batch["stream"], num_streams)
        for name, value in rows.items()
    }
    per_stream = jax.lax.psum(per_stream, ROWS)
    return per_stream | {
        "loss": jnp.sum(per_stream["stream_loss"]) / jnp.maximum(supervised, 1),
        "tokens": jnp.sum(per_stream["stream_tokens"]),
        "supervised": supervised,
    }


def _split_rows(x: jax.Array, *, passes: int) -> jax.Array:
    return x.reshape(passes, x.shape[0] // passes, *x.shape[1:])


def _batch_specs() -> dict[str, P]:
    rows = manual_part(BATCH)
    return {"tokens": rows, "segment_ids": rows, "loss_mask": rows, "stream": P(ROWS)}


def _is_spec(x: Any) -> bool:
    return isinstance(x, P)


def model_flops(config: LlamaConfig, rows: int, seq_len: int) -> float:
    """FLOPs of one training step as the field counts them: causal attention halved, remat left out.

    Frozen matrices are passed forwards and backwards and have no gradient of their own.
    """
    S, D, F, L = seq_len, config.embed_dim, config.mlp_dim, config.num_layers
    N, K, H, V = config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size
    tokens = rows * S
    layer = 6 * tokens * D * F + 2 * tokens * D * (N + 2 * K) * H + 2 * tokens * D * N * H
    attention = 2 * rows * S * S * N * H
    matrices = L * layer + 2 * tokens * D * V
    own = 3.0 if config.lora is None else 2.0
    return own * matrices + 3.0 * L * attention + 6.0 * tokens * num_trained(config)
