"""Rotary position embedding: plain, linearly interpolated, and scaled by wavelength as in Llama 3.1."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from model.config import LlamaConfig


def inverse_frequencies(config: LlamaConfig) -> np.ndarray:
    """Radians per position for each pair of a head's dims, float32[H / 2].

    `llama3` scaling keeps wavelengths under original_seq_len / high_freq_factor, divides those over
    original_seq_len / low_freq_factor by `factor`, and blends between (Llama 3.1).
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    inverse = (1.0 / config.rope_theta**exponents).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return inverse
    if scaling.kind == "linear":
        return inverse / np.float32(scaling.factor)
    wavelength = 2 * math.pi / inverse
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((scaling.original_seq_len / wavelength - low) / (high - low), 0.0, 1.0)
    return ((1 - smooth) * inverse / scaling.factor + smooth * inverse).astype(np.float32)


def rotations(positions: jax.Array, inverse: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines for every position: [B, T] -> two float32[B, T, H / 2]."""
    angles = positions[..., None].astype(jnp.float32) * inverse
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs (i, i + H / 2) of each head: [B, T, N, H], in float32, back in x's dtype."""
    cos, sin = (r[:, :, None, :] for r in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def positions_of(segment_ids: jax.Array) -> jax.Array:
    """Positions that start anew with every segment of a packed row: int32[B, T] -> int32[B, T]."""
    index = jax.lax.broadcasted_iota(jnp.int32, segment_ids.shape, 1)
    previous = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    starts = jnp.where(segment_ids != previous, index, 0)
    return index - jax.lax.cummax(starts, axis=1)
