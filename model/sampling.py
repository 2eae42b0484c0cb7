"""From logits to the next token: greedy, or drawn with temperature, top-k, top-p and min-p.

- one compiled program serves rows with different settings; a row's token depends on its own logits,
  settings, seed and token index, never on the other rows or on the row's number
- cuts keep every token that ties with the last one kept, so they need no sorting: the threshold is
  found by bisection over the bits of the logits, with sums that also run over a split vocabulary
- order as in transformers: repetition penalty, temperature, top-k, top-p, min-p

Shapes: B rows, V vocabulary.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data.generator import Sampling

_NEVER = np.finfo(np.float32).min  # a logit that is never taken


class Settings(NamedTuple):
    """`data.generator.Sampling` of every row, as arrays [B] (`seed`: uint32[B, 2])."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    penalty: jax.Array
    seed: jax.Array


def check(sampling: Sampling) -> None:
    """Raises ValueError where a number is outside its range; names the field."""
    ranges = (
        ("temperature", sampling.temperature >= 0, "0 (greedy) or more"),
        ("top_k", sampling.top_k >= 0, "0 (all) or more"),
        ("top_p", 0 < sampling.top_p <= 1, "above 0, at most 1"),
        ("min_p", 0 <= sampling.min_p <= 1, "between 0 and 1"),
        ("repetition_penalty", sampling.repetition_penalty > 0, "above 0 (1 is none)"),
        ("max_new_tokens", sampling.max_new_tokens >= 1, "1 or more"),
    )
    for name, good, need in ranges:
        if not good:
            raise ValueError(f"{name}: {getattr(sampling, name)!r} is not {need}")
    if any(not stop for stop in sampling.stop):
        raise ValueError("stop: an empty string would end every text before it began")


def settings_of(sampling: Sampling) -> Settings:
    """One row of settings, in scalars; a seed of any size becomes the two words of a key."""
    numbers: tuple[Any, ...] = (
        np.float32(sampling.temperature),
        np.int32(sampling.top_k),
        np.float32(sampling.top_p),
        np.float32(sampling.min_p),
        np.float32(sampling.repetition_penalty),
        np.array([(sampling.seed >> 32) & 0xFFFFFFFF, sampling.seed & 0xFFFFFFFF], np.uint32),
    )
    return Settings(*numbers)


def next_tokens(
    logits: jax.Array, settings: Settings, seen: jax.Array, index: jax.Array, active: jax.Array
) -> jax.Array:
    """The next token of every row, int32[B].

    Args:
        logits: float32[B, V]; entries that are no tokens hold -inf.
        settings: of every row.
        seen: bool[B, V], tokens of the prompt and of the text so far, for the penalty.
        index: int32[B], how many tokens the row has already written: with the seed it makes the
            draw.
        active: bool[B]; work that only other rows would need is left out.
    """
    penalty = settings.penalty[:, None]

    def penalised(logits: jax.Array) -> jax.Array:
        return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)

    logits = jax.lax.cond(
        jnp.any(active & (settings.penalty != 1)), penalised, lambda logits: logits, logits
    )
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    drawn = active & (settings.temperature > 0)
    return jax.lax.cond(
        jnp.any(drawn),
        lambda: jnp.where(drawn, _draw(logits, settings, index, drawn), greedy),
        lambda: greedy,
    )


def _draw(logits: jax.Array, settings: Settings, index: jax.Array, drawn: jax.Array) -> jax.Array:
    """One token of each row by the Gumbel trick, after the cuts."""
    temperature = jnp.where(settings.temperature > 0, settings.temperature, 1.0)
    logits = jnp.maximum(logits / temperature[:, None], _NEVER)
    size = logits.shape[-1]

    def top_k(logits: jax.Array) -> jax.Array:
        k = jnp.where(settings.top_k > 0, jnp.minimum(settings.top_k, size), size)
        return _keep(logits, jnp.ones_like(logits), k.astype(jnp.float32))

    def top_p(logits: jax.Array) -> jax.Array:
        weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        # A mass that is never reached keeps all: so p = 1 cuts nothing, whatever rounding says.
        share = jnp.where(settings.top_p < 1, settings.top_p, jnp.inf)
        return _keep(logits, weights, share * jnp.sum(weights, axis=-1))

    def min_p(logits: jax.Array) -> jax.Array:
        least = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(settings.min_p)[:, None]
        return jnp.where(logits >= least, logits, _NEVER)

    for cut, wanted in (
        (top_k, settings.top_k > 0),
        (top_p, settings.top_p < 1),
        (min_p, settings.min_p > 0),
    ):
        logits = jax.lax.cond(jnp.any(drawn & wanted), cut, lambda logits: logits, logits)

    def noise(seed: jax.Array, index: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")
        return jax.random.gumbel(jax.random.fold_in(key, index), (size,))

    return jnp.argmax(logits + jax.vmap(noise)(settings.seed, index), axis=-1).astype(jnp.int32)


def _keep(logits: jax.Array, weights: jax.Array, target: jax.Array) -> jax.Array:
    """The likeliest tokens whose weights reach `target` [B], the others never taken.

    The least logit kept is the largest t with sum(weights where logits >= t) >= target: bit by bit
    from the top, over integers that order as the floats do.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.int32)
    order = jnp.where(bits < 0, ~bits, bits | jnp.int32(-(2**31))).astype(jnp.uint32)

    def try_bit(i: Any, least: jax.Array) -> jax.Array:
        higher = least | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        mass = jnp.sum(jnp.where(order >= higher[:, None], weights, 0.0), axis=-1)
        return jnp.where(mass >= target, higher, least)

    least = jax.lax.fori_loop(0, 32, try_bit, jnp.zeros(logits.shape[:1], jnp.uint32))
    return jnp.where(order >= least[:, None], logits, _NEVER)
