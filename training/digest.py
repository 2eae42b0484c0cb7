"""Array digests that do not depend on how an array is laid out over devices.

An Orbax file with a flipped bit restores without a word, so every checkpoint carries a digest per array and every
restore compares it. A digest is two 32-bit sums over h(bits, index), where `index` is an element's place in the
whole array (row-major, modulo 2^32) and `h` a mixing that is one-to-one in `bits`:

    h = mix(bits ^ index * 0x9E3779B1)      a = sum(h)      b = sum(h * (2 * index + 1))      all modulo 2^32

One changed element always changes `a`; any other change escapes both sums once in about 2^63. Integer sums do not
care for the order of their terms, so the same two numbers come out on any mesh, on one device, and in NumPy slice by
slice. 64-bit elements count as two 32-bit ones, low word first.

On devices both sums are one variadic reduction: the program reads each array once and materialises nothing (144 bytes
of scratch and 23 GB/s on two CPU cores, where two separate sums hold a copy of the array and run at 1.5 GB/s).
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

Digest = list[int]  # [a, b], each below 2^32

_WEYL = 0x9E3779B1
_MIX = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))
_BLOCK = 1 << 15  # elements mixed at once in NumPy: the scratch stays in the second-level cache


def flat_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by flat key: the path joined by "/", whatever the containers are."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(_part(entry) for entry in path): leaf for path, leaf in leaves}


def device_digests(arrays: Mapping[str, jax.Array]) -> dict[str, Digest]:
    """Digests of arrays where they lie, one jitted program per set of devices (as a rule, one).

    Every process must call it, with the same keys; every process gets all digests.

    Raises:
        ValueError: An array's type has no digest (complex, sub-byte, or a typed PRNG key).
    """
    groups: dict[Any, list[str]] = {}
    for key, array in arrays.items():
        _check_type(key, array.dtype)
        sharding = array.sharding
        place = None
        if len(sharding.device_set) > 1:
            # The sums must end on every device, or another process could not read them.
            mesh = getattr(sharding, "mesh", None)
            if mesh is None:
                raise ValueError(f"{key}: an array over several devices needs a NamedSharding")
            place = NamedSharding(mesh, PartitionSpec())
        groups.setdefault((frozenset(sharding.device_set), place), []).append(key)
    pending = {
        tuple(keys): _program(place)([arrays[key] for key in keys])
        for (_, place), keys in groups.items()
    }
    digests = {}
    for keys, sums in pending.items():
        host = np.asarray(sums)
        digests.update({key: [int(a), int(b)] for key, (a, b) in zip(keys, host, strict=True)})
    return {key: digests[key] for key in arrays}


class HostDigest:
    """The same digest in NumPy, over slices that may come in any order.

    Runs at about 4 GB/s on one core and holds 256 KiB.
    """

    def __init__(self) -> None:
        index = np.arange(_BLOCK, dtype=np.uint32)
        self._weyl = index * np.uint32(_WEYL)
        self._odd = index * np.uint32(2) + np.uint32(1)
        self._h = np.empty(_BLOCK, np.uint32)
        self._scratch = np.empty(_BLOCK, np.uint32)

    def sums(self, part: np.ndarray, start: int = 0) -> Digest:
        """The two sums of a contiguous part of an array.

        Args:
            part: The elements, row-major.
            start: Index of the part's first element in the whole array.
        """
        _check_type("array", part.dtype)
        words, width = _words(part)
        start *= width
        total_a = total_b = 0
        for begin in range(0, words.size, _BLOCK):
            block = words[begin : begin + _BLOCK]
            first = start + begin
            h, scratch = self._h[: block.size], self._scratch[: block.size]
            np.add(self._weyl[: block.size], np.uint32(first * _WEYL % 2**32), out=h)
            np.bitwise_xor(h, block, out=h)
            for shift, factor in _MIX:
                np.right_shift(h, shift, out=scratch)
                np.bitwise_xor(h, scratch, out=h)
                np.multiply(h, np.uint32(factor), out=h)
            np.right_shift(h, 16, out=scratch)
            np.bitwise_xor(h, scratch, out=h)
            a = int(np.add.reduce(h, dtype=np.uint32))
            np.multiply(h, self._odd[: block.size], out=scratch)
            total_a += a
            total_b += int(np.add.reduce(scratch, dtype=np.uint32)) + 2 * first * a
        return [total_a % 2**32, total_b % 2**32]


def add(left: Digest, right: Digest) -> Digest:
    """The digest of two parts of one array, from theirs."""
    return [(a + b) % 2**32 for a, b in zip(left, right, strict=True)]


@functools.lru_cache(maxsize=8)
def _program(place: NamedSharding | None) -> Any:
    def sums(arrays: list[jax.Array]) -> jax.Array:
        return jnp.stack([_device_sums(array) for array in arrays])

    return jax.jit(sums, out_shardings=place) if place else jax.jit(sums)


def _device_sums(array: jax.Array) -> jax.Array:
    """uint32[2] of one array."""
    u32 = jnp.uint32
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, u32)
    # A 64-bit type gains a last dim of two words, which the index below then counts.
    bits = jax.lax.bitcast_convert_type(array, width).astype(u32)
    if bits.ndim == 0:
        bits = bits[None]
    index, stride = jnp.zeros(bits.shape, u32), 1
    for dim in reversed(range(bits.ndim)):
        place = jax.lax.broadcasted_iota(u32, bits.shape, dim)
        index += place * u32(stride % 2**32)
        stride *= bits.shape[dim]
    h = bits ^ (index * u32(_WEYL))
    for shift, factor in _MIX:
        h ^= h >> shift
        h *= u32(factor)
    h ^= h >> 16
    sums = jax.lax.reduce(
        (h, h * (u32(2) * index + u32(1))),
        (u32(0), u32(0)),
        lambda left, right: (left[0] + right[0], left[1] + right[1]),
        tuple(range(bits.ndim)),
    )
    return jnp.stack(sums)


def _words(part: np.ndarray) -> tuple[np.ndarray, int]:
    """The elements' bits as flat unsigned words, and how many words an element has."""
    flat = np.ascontiguousarray(part).reshape(-1)
    size = flat.dtype.itemsize
    if size == 8:
        return flat.view(np.uint32), 2
    return flat.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[size]), 1


def _check_type(key: str, dtype: Any) -> None:
    if not isinstance(dtype, np.dtype) or dtype.kind == "c" or dtype.itemsize not in (1, 2, 4, 8):
        raise ValueError(f"{key}: no digest for type {dtype}; save real numbers of 8 to 64 bits")
    if "int4" in dtype.name or "int2" in dtype.name or dtype.name.startswith("float4"):
        raise ValueError(f"{key}: no digest for type {dtype}; save real numbers of 8 to 64 bits")


def _part(entry: Any) -> str:
    for name in ("key", "idx", "name"):
        if hasattr(entry, name):
            return str(getattr(entry, name))
    raise TypeError(f"{entry!r}: a tree path of unknown kind")
