import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.digest import HostDigest, add, device_digests, flat_leaves


def plain(array: np.ndarray) -> list[int]:
    """The definition, element by element in Python's own integers."""
    words = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}[array.dtype.itemsize]
    a = b = 0
    for index, bits in enumerate(np.ascontiguousarray(array).reshape(-1).view(words).tolist()):
        h = bits ^ (index * 0x9E3779B1 % 2**32)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            h = (h ^ (h >> shift)) * factor % 2**32
        h ^= h >> 16
        a, b = a + h, b + h * (2 * index + 1)
    return [a % 2**32, b % 2**32]


def sample(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=shape) * 50
    return np.asarray(values).astype(jnp.dtype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "int8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4, 5)])
def test_device_and_host_equal_the_definition(dtype: str, shape: tuple[int, ...]) -> None:
    array = sample(dtype, shape)
    assert device_digests({"x": jnp.asarray(array)})["x"] == plain(array)
    assert HostDigest().sums(array) == plain(array)


def test_host_parts_in_any_order_add_up() -> None:
    array = sample("float32", (5, 40_000))  # more than one block a row
    host, whole = HostDigest(), device_digests({"x": jnp.asarray(array)})["x"]
    assert host.sums(array) == whole
    total = [0, 0]
    for row in (3, 0, 4, 2, 1):
        total = add(total, host.sums(array[row], row * 40_000))
    assert total == whole


def test_index_wraps_like_the_devices() -> None:
    """Elements beyond 2^32 of one array: place and weight are taken modulo 2^32."""
    part = sample("float32", (1000,))
    start = 2**32 + 17
    index = (start + np.arange(1000)) % 2**32
    h = part.view(np.uint32).astype(object) ^ (index.astype(object) * 0x9E3779B1 % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        h = np.array([(v ^ (v >> shift)) * factor % 2**32 for v in h], dtype=object)
    h = np.array([v ^ (v >> 16) for v in h], dtype=object)
    weights = 2 * index.astype(object) + 1
    assert HostDigest().sums(part, start) == [
        int(h.sum()) % 2**32,
        int((h * weights).sum()) % 2**32,
    ]


def test_every_changed_bit_and_every_swap_shows() -> None:
    array = sample("float32", (64,))
    clean = HostDigest().sums(array)
    for place in range(64):
        for bit in range(32):
            bits = array.view(np.uint32).copy()
            bits[place] ^= np.uint32(1 << bit)
            assert HostDigest().sums(bits.view(np.float32))[0] != clean[0]
    swapped = array.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert HostDigest().sums(swapped) != clean


def test_types_without_a_digest_are_named() -> None:
    for bad in (jnp.ones(3, jnp.complex64), jnp.ones(3, jnp.int4), jax.random.key(0)):
        with pytest.raises(ValueError, match="opt/rng: no digest"):
            device_digests({"opt/rng": bad})


def test_flat_keys_join_any_path() -> None:
    tree = {"mu": {"blocks": {"q": 1}}, "more": [2, (3,)]}
    assert flat_leaves(tree) == {"mu/blocks/q": 1, "more/0": 2, "more/1/0": 3}


LAYOUTS = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from training.digest import HostDigest, device_digests
x = np.random.default_rng(0).normal(size=(8, 16, 24)).astype(np.float32)
want = HostDigest().sums(x)
assert jax.device_count() == 8
for shape in ((8, 1), (4, 2), (2, 4)):
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("a", "b"))
    for spec in (P(), P("a"), P(None, "b", "a"), P(("a", "b")), P(None, ("b", "a"))):
        put = jax.device_put(x, NamedSharding(mesh, spec))
        alone = jax.device_put(x, jax.devices()[3])
        got = device_digests({"put": put, "alone": alone})
        assert got == {"put": want, "alone": want}, (shape, spec, got, want)
print("same everywhere")
"""


def test_no_layout_changes_a_digest(root) -> None:
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", LAYOUTS], cwd=root, env=flags, capture_output=True, text=True
    )
    assert done.stdout.strip() == "same everywhere", done.stderr


def test_nothing_is_materialised() -> None:
    from training.digest import _program

    array = jax.ShapeDtypeStruct((256, 1024), jnp.float32)
    memory = _program(None).lower([array, array]).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * 1024  # the arrays are 1 MiB each
