"""Learning-rate schedules: warm-up, then cosine, warm-up-stable-decay or constant.

A base model that was annealed to a small rate is re-warmed: `warmup_from` is where its own schedule
ended, `peak_lr` how high it goes again (Ibrahim et al., arXiv 2403.08763).
"""

from collections.abc import Callable
from typing import Any

import optax

from training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, num_steps: int) -> Callable[[Any], Any]:
    """Step -> rate. Step 0 is the first update; the warm-up ends at step `warmup_steps`."""
    total = config.schedule_steps or max(num_steps, 1)
    warmup = config.warmup_steps
    if warmup > total:
        raise ValueError(
            f"optimizer.warmup_steps: {warmup} is more than the {total} steps of the schedule"
        )
    rest = max(total - warmup, 1)
    # The first update of a run with warm-up is not wasted on a rate of warmup_from exactly.
    rise = optax.linear_schedule(
        config.warmup_from + (config.peak_lr - config.warmup_from) / max(warmup, 1),
        config.peak_lr,
        max(warmup - 1, 1),
    )
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(
            config.peak_lr, rest, alpha=config.end_lr / config.peak_lr
        )
    elif config.schedule == "wsd":
        decay = min(config.decay_steps or max(total // 10, 1), rest)
        after = optax.join_schedules(
            [
                optax.constant_schedule(config.peak_lr),
                optax.linear_schedule(config.peak_lr, config.end_lr, decay),
            ],
            [rest - decay],
        )
    else:
        after = optax.constant_schedule(config.peak_lr)
    return optax.join_schedules([rise, after], [warmup]) if warmup else after
