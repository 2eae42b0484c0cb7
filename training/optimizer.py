"""AdamW over float32 masters: clipped, warmed up, decayed where decay makes sense."""

from typing import Any

import jax
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from training.config import OptimizerConfig
from training.schedule import learning_rate


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clip by global norm, Adam, decoupled weight decay, the scheduled rate."""
    parts = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    parts.append(
        optax.adamw(
            learning_rate(config, num_steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: decay_mask(params, embeddings=config.decay_embeddings),
        )
    )
    return optax.chain(*parts)


def decay_mask(params: Any, *, embeddings: bool) -> Any:
    """True for the matrices: norms and biases are never decayed, the token table if asked."""

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        name = path[-1].key
        return name != "scale" and not name.endswith("_bias") and (embeddings or name != "table")

    return jax.tree_util.tree_map_with_path(decays, params)


def state_shardings(tx: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
    """Shardings of the optimizer state, derived from the parameters'.

    (`jax.jit(tx.init)` left alone would put every moment whole on every device.)
    """
    mesh = jax.tree.leaves(shardings)[0].mesh
    return optax.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        jax.eval_shape(tx.init, params),
        shardings,
        transform_non_params=lambda _: NamedSharding(mesh, P()),
    )
