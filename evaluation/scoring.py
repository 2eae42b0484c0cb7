"""Loss and bits per byte on held-out text."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from evaluation.bootstrap import DRAWS, FEW
from model.config import LlamaConfig


@dataclass(frozen=True)
class HeldOut:
    """Sums over a held-out stream; rows apart, for bootstrap intervals."""

    nats: float
    tokens: int
    num_bytes: int
    row_nats: np.ndarray
    row_bytes: np.ndarray

    @property
    def loss(self) -> float:
        """Nats per token of text."""
        return self.nats / max(self.tokens, 1)

    @property
    def bits_per_byte(self) -> float:
        """Loss per byte of text."""
        return bits_per_byte(self.nats, max(self.num_bytes, 1))

    def interval(self, *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float] | None:
        """The middle 95 % of bits per byte over rows drawn with replacement.

        Rows that only fill up a batch are none of them. None: there are too few for an interval.
        """
        full = self.row_bytes > 0
        nats, sizes = self.row_nats[full], self.row_bytes[full]
        if len(nats) < FEW:
            return None
        drawn = np.random.default_rng(seed).integers(0, len(nats), (draws, len(nats)))
        nats, sizes = nats[drawn].sum(1), sizes[drawn].sum(1)
        low, high = np.quantile(nats / (math.log(2) * sizes), [0.025, 0.975])
        return float(low), float(high)


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Loss per byte of text, so that models with different tokenizers compare.

    Special and masked tokens carry no bytes and are left out of both sums.
    """
    return nats / (math.log(2) * num_bytes)


def score_heldout(
    eval_step: Callable[..., dict[str, jax.Array]],
    params: dict,
    batches: Iterable[Any],
    byte_lengths: jax.Array,
) -> HeldOut:
    """Adds up an evaluation step (`training.step.make_eval_step`, jitted) over held-out batches.

    Every process of a run calls it with the same batches and gets the same sums. They are added in
    float64 on the host, in the order of the rows.
    """
    sums = [eval_step(params, batch, byte_lengths) for batch in batches]
    if not sums:
        return HeldOut(0.0, 0, 0, np.zeros(0), np.zeros(0, np.int64))
    rows = [jax.device_get((s["row_nll"], s["row_bytes"], s["tokens"])) for s in sums]
    row_nats = np.concatenate([np.asarray(r[0], np.float64) for r in rows])
    row_bytes = np.concatenate([np.asarray(r[1], np.int64) for r in rows])
    tokens = sum(int(r[2]) for r in rows)
    return HeldOut(float(row_nats.sum()), tokens, int(row_bytes.sum()), row_nats, row_bytes)


def spread_byte_lengths(byte_lengths: np.ndarray, config: LlamaConfig, mesh: Mesh) -> jax.Array:
    """A tokenizer's byte lengths on every device, the vocabulary's padding standing for no text."""
    padded = np.zeros(config.padded_vocab_size, np.int32)
    padded[: len(byte_lengths)] = byte_lengths
    return jax.device_put(padded, NamedSharding(mesh, P()))
