"""Weights that are split over the FSDP axes, made whole for a layer, and what becomes of their gradients.

`gather` casts and all-gathers; its transpose is the reduce-scatter of the gradient, axis by axis, in the
precision that the recipe names. `lookup` finds the rows of the token table without making it whole.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model.llama import Gather, Lookup, Params
from tpu.mesh import FSDP


def make_gather(manual: Params, mesh: Mesh, compute_dtype: str, grad_reduce_dtype: str) -> Gather:
    """Makes a part of the weights whole: cast, then all-gathered over the FSDP axes that split it.

    Its transpose sums the gradient over those axes in `grad_reduce_dtype` and leaves each device its
    share, in the type of what was gathered. Norm scales stay float32.
    """
    live = tuple(axis for axis in FSDP if mesh.shape[axis] > 1)
    summed = live or mesh.shape["sequence"] > 1
    if summed and grad_reduce_dtype == "bfloat16" and mesh.devices.flat[0].platform == "cpu":
        # XLA's CPU compiler aborts the process on such a sum (jaxlib 0.10.2).
        raise ValueError(
            "train.grad_reduce_dtype: bfloat16 sums over several devices are for TPU and GPU; "
            "set float32 on CPU devices"
        )

    def gather(part: str, weights: Params) -> Params:
        def one(path: tuple[Any, ...], value: jax.Array, spec: P) -> jax.Array:
            dims = spec[1:] if part == "blocks" else spec  # the layer axis is already gone
            split = tuple(dim for dim, entry in enumerate(dims) if entry == FSDP)
            dtype = "float32" if path[-1].key == "scale" else compute_dtype
            steps = tuple((dim, axis) for dim in split for axis in reversed(live))
            return _whole(value, steps, dtype, grad_reduce_dtype)

        return jax.tree_util.tree_map_with_path(one, weights, manual[part])

    return gather


def make_lookup(mesh: Mesh, compute_dtype: str, grad_reduce_dtype: str) -> Lookup:
    """The tokens' rows of the split table, without making it whole.

    The outer FSDP axis keeps its share of every row: its devices exchange their tokens, find their share of
    the rows of all of them, and exchange what they found: as many bytes as the rows have, which are fewer
    than the table's while a device has fewer tokens than the vocabulary entries. Over the inner axis the
    table is gathered as all weights are.
    """
    outer, inner = (axis if mesh.shape[axis] > 1 else None for axis in FSDP)
    steps = ((1, inner),) if inner else ()

    def lookup(weights: Params, tokens: jax.Array) -> jax.Array:
        if outer:
            tokens = jax.lax.all_gather(tokens, outer, axis=0, tiled=True)
        rows: Any = _rows(weights["table"], tokens, steps, compute_dtype, grad_reduce_dtype)
        if outer:
            rows = jax.lax.all_to_all(rows, outer, split_axis=0, concat_axis=2, tiled=True)
        return rows

    return lookup


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _rows(
    table: jax.Array,
    tokens: jax.Array,
    steps: tuple[tuple[int, str], ...],
    dtype: str,
    grad_dtype: str,
) -> jax.Array:
    """Rows of a table that is whole over `steps`; their gradients are added up in float32."""
    return jnp.take(_whole(table, steps, dtype, grad_dtype), tokens, axis=0)


def _rows_forward(table, tokens, steps, dtype, grad_dtype):
    return _rows(table, tokens, steps, dtype, grad_dtype), (table, tokens)


def _rows_backward(steps, dtype, grad_dtype, saved, grad):
    table, tokens = saved
    whole = jnp.zeros((table.shape[0], grad.shape[-1]), jnp.float32)
    whole = whole.at[tokens].add(grad.astype(jnp.float32))
    (share,) = _whole_backward(steps, dtype, grad_dtype, table, whole)
    return share, None


_rows.defvjp(_rows_forward, _rows_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _whole(
    value: jax.Array, steps: tuple[tuple[int, str], ...], dtype: str, grad_dtype: str
) -> jax.Array:
    value = value.astype(dtype)
    for dim, axis in steps:
        value = jax.lax.all_gather(value, axis, axis=dim, tiled=True)
    return value


def _whole_forward(value, steps, dtype, grad_dtype):
    return _whole(value, steps, dtype, grad_dtype), jnp.zeros((), value.dtype)


def _whole_backward(steps, dtype, grad_dtype, given, grad):
    grad = grad.astype(grad_dtype if steps else given.dtype)
    for dim, axis in reversed(steps):
        grad = jax.lax.psum_scatter(grad, axis, scatter_dimension=dim, tiled=True)
    return (grad.astype(given.dtype),)


_whole.defvjp(_whole_forward, _whole_backward)
