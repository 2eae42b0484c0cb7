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
    """Cosines and sines for every position and head dim: [B, T] -> two float32[B, T, H]."""
    angles = positions[..., None].astype(jnp.float32) * np.concatenate([inverse, inverse])
    return jnp.cos(angles), jnp.sin(angles)


@jax.custom_vjp
def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pairs (i, i + H / 2) of each head: [B, T, N, H], in float32, back in x's dtype.

    The partners are fetched by a product with a signed permutation, which is exact: on a TPU the
    halves of a row cannot be swapped without copies, while behind a product the rest is free. The
    gradient is the rotation backwards.
    """
    cos, sin = (r[:, :, None, :] for r in rotation)
    partner = jnp.einsum(
        "BTNH,HI->BTNI",
        x,
        _partners(x.shape[-1]).astype(x.dtype),
        precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    return (x * cos + partner * sin).astype(x.dtype)


def _rotate_forward(x, rotation):
    return rotate(x, rotation), rotation


def _rotate_backward(rotation, grad):
    cos, sin = rotation
    return rotate(grad, (cos, -sin)), None


rotate.defvjp(_rotate_forward, _rotate_backward)


def _partners(head_dim: int) -> np.ndarray:
    """X @ this is (-second half, first half): float32[H, H]."""
    half = np.eye(head_dim // 2, dtype=np.float32)
    zero = np.zeros_like(half)
    return np.block([[zero, half], [-half, zero]])


def positions_of(segment_ids: jax.Array) -> jax.Array:
    """Positions that start anew with every segment of a packed row: int32[B, T] -> int32[B, T]."""
    index = jax.lax.broadcasted_iota(jnp.int32, segment_ids.shape, 1)
    previous = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    starts = jnp.where(segment_ids != previous, index, 0)
    return index - jax.lax.cummax(starts, axis=1)
