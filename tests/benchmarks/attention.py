"""Attention on a CPU, forward and backward: blockwise against plain einsums, turn by turn on one core.

    taskset -c 0 python tests/benchmarks/attention.py [ROWS SEQ_LEN HEADS HEAD_DIM]

Packed rows, float32. Processor time is what to compare on a machine that others use.
"""

import functools
import os
import statistics
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import jax.numpy as jnp
import numpy as np

from model.attention import xla
from model.blockwise import blockwise

TURNS = 5


def main() -> None:
    """Prints the median of both, and the largest difference."""
    B, T, N, H = map(int, sys.argv[1:] or (8, 512, 8, 32))
    rng = np.random.default_rng(0)
    q, k, v, grad = (jnp.asarray(rng.normal(size=(B, T, N, H)), jnp.float32) for _ in range(4))
    segment_ids = jnp.asarray(np.sort(rng.integers(1, 5, (B, T)), axis=1), jnp.int32)

    def total(attend, q, k, v):
        return jnp.sum(attend(q, k, v, segment_ids) * grad)

    kinds = {"plain": xla, "blockwise": functools.partial(blockwise, name="attention")}
    steps = {
        name: jax.jit(jax.grad(functools.partial(total, attend), argnums=(0, 1, 2)))
        for name, attend in kinds.items()
    }
    found = {name: jax.block_until_ready(step(q, k, v)) for name, step in steps.items()}
    difference = max(
        float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b)))
        for a, b in zip(found["blockwise"], found["plain"], strict=True)
    )
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TURNS):
        for name, step in steps.items():
            begin = time.process_time()
            jax.block_until_ready(step(q, k, v))
            spent[name].append(time.process_time() - begin)
    middle = {name: statistics.median(each) for name, each in spent.items()}
    for name, seconds in middle.items():
        print(f"{name:<10}{seconds:.3f} s of the processor (best {min(spent[name]):.3f})")
    print(
        f"blockwise is {middle['plain'] / middle['blockwise']:.2f} times as fast; "
        f"gradients differ by {difference:.1e} of their largest entry"
    )


if __name__ == "__main__":
    main()
