"""Attention whose rows are spread over the mesh's `sequence` axis, and its heads over `tensor`.

Everything but attention works on each token alone, so a long row's tokens can lie on several devices.
For attention they change places (all-to-all; Jacobs et al., DeepSpeed Ulysses, 2023): every device
gives its tokens' heads away and gets all tokens of its own heads, attends to them with whatever kernel
one device would use, and sends the output back. So it is exact, segments need no care at the
borders of chunks, and the causal mask costs every device the same. A ring of keys and values would
need neither heads enough nor whole rows, but a kernel that merges partial softmaxes, and leaves the
devices with the early tokens idle.

What limits it are the query heads: `sequence` must divide those that `tensor` leaves a device. Fewer
kv heads than that are sent several times. Llama-3-8B (32 heads, 8 of keys) goes up to tensor x sequence = 32.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

_AXIS = "sequence"

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def spread(attend: Attend, mesh: Mesh) -> Attend:
    """`attend` for arrays whose tokens lie along `sequence` and whose heads lie along `tensor`.

    `attend` sees whole rows and a part of the heads, and no axis that a compiler would have to split it
    over. Works inside the training step, which is manual over `sequence` and the axes that share out rows (q, k
    and v are then a device's own tokens, segment_ids whole), and outside, where these split the rows.

    Raises:
      ValueError: when it is traced, for heads or tokens that the mesh does not divide.
    """
    tensor, ways = mesh.shape["tensor"], mesh.shape[_AXIS]

    def local(
        q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array
    ) -> jax.Array:  # [B, T / ways, N / tensor, H], whole segment_ids
        if ways == 1:
            return attend(q, k, v, segment_ids)
        # Heads n of q go with n // (N / K) of k, so equal parts of both belong together.
        copies = ways // math.gcd(k.shape[2], ways)
        k, v = (jnp.repeat(x, copies, axis=2) for x in (k, v))
        q, k, v = (jax.lax.all_to_all(x, _AXIS, 2, 1, tiled=True) for x in (q, k, v))
        return jax.lax.all_to_all(attend(q, k, v, segment_ids), _AXIS, 1, 2, tiled=True)

    def whole(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        _, T, N, _ = q.shape
        if N % (tensor * ways):
            raise ValueError(
                f"mesh.sequence: {ways} x mesh.tensor {tensor} does not divide num_heads {N}; "
                f"every device needs as many of the heads: take divisors of {N}"
            )
        # A kernel is never partitioned by the compiler: every axis must be manual, of size 1 too.
        around = jax.sharding.get_abstract_mesh()
        free = [axis for axis in mesh.axis_names if axis not in around.manual_axes]
        if _AXIS in free and T % ways:
            raise ValueError(f"mesh.sequence: {ways} does not divide train.seq_len {T}")
        rows = tuple(axis for axis in free if axis not in ("tensor", _AXIS))
        heads = P(rows or None, _AXIS if _AXIS in free else None, "tensor", None)
        return jax.shard_map(
            local,
            mesh=around if around.manual_axes else mesh,
            in_specs=(heads, heads, heads, P(rows or None)),
            out_specs=heads,
            axis_names=set(free),
            check_vma=False,
        )(q, k, v, segment_ids)

    return whole
