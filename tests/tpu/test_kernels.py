"""Attention under the real compiler: every size of head on every generation, and rows over several chips."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
import yaml
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model.attention import select
from tpu import settings
from tpu.compile import flags_of
from tpu.config import MeshConfig
from tpu.mesh import make_mesh
from tpu.reading import Reading, read
from tpu.topology import described, generations

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is for Linux on x86-64"
)


def compiled(devices, mesh, *, length, heads, kv_heads, head_dim, tmp_path):
    """Forward and backward of a packed row in bfloat16, with the settings and flags of a training step."""
    kind = devices[0].device_kind
    table = yaml.safe_load(settings.FILE.read_text())
    blocks = tuple(table.get(kind, table["elsewhere"])["attention_blocks"])
    mesh = make_mesh(mesh, devices)
    _, attend = select("auto", "tpu", jnp.dtype(jnp.bfloat16), mesh, blocks)
    where = NamedSharding(mesh, P(None, "sequence", "tensor", None))
    q, k, v = (
        jax.ShapeDtypeStruct((1, length, n, head_dim), jnp.bfloat16, sharding=where)
        for n in (heads, kv_heads, kv_heads)
    )
    ids = jax.ShapeDtypeStruct(
        (1, length), jnp.int32, sharding=NamedSharding(mesh, P(None, "sequence"))
    )

    def total(q, k, v, segment_ids):
        return attend(q, k, v, segment_ids).astype(jnp.float32).sum()

    lowered = jax.jit(jax.grad(total, (0, 1, 2))).lower(q, k, v, ids)
    dump = {"xla_dump_to": str(tmp_path), "xla_dump_hlo_as_text": True}
    lowered.compile(compiler_options=flags_of(devices[0], dump))
    (text,) = tmp_path.glob("*.after_codegen.txt")
    return read(text.read_text())


CASES = [
    pytest.param(
        generation,
        head_dim,
        id=f"{generation.name} {head_dim}",
        marks=[] if (generation.name, head_dim) == ("v5e", 96) else [pytest.mark.slow],
    )
    for generation in generations().values()
    for head_dim in (64, 96, 128)
]


@needs_compiler
@pytest.mark.parametrize(("generation", "head_dim"), CASES)
def test_every_head_size_compiles_forward_and_backward(generation, head_dim, tmp_path):
    devices = described(f"{generation.name}:{generation.layouts[-1]}")[:1]
    reading = compiled(
        devices,
        MeshConfig(),
        length=4096,
        heads=4,
        kv_heads=2,
        head_dim=head_dim,
        tmp_path=tmp_path,
    )
    assert sum(reading.kernels.values()) == 2


@needs_compiler
@pytest.mark.slow
def test_a_row_over_four_chips_is_exchanged_and_never_gathered(tmp_path):
    """Heads and tokens change places: q, k and v, and their gradients back."""
    H, T, N, K = 128, 8192, 8, 4
    devices = described("v5p:2x2x1")
    reading: Reading = compiled(
        devices,
        MeshConfig(sequence=4),
        length=T,
        heads=N,
        kv_heads=K,
        head_dim=H,
        tmp_path=tmp_path,
    )
    assert sum(reading.kernels.values()) == 2
    exchanged = [c for c in reading.collectives if c.kind == "all-to-all"]
    assert {c.group for c in exchanged} == {(0, 1, 2, 3)}
    # The sum needs no output, and the gradient of a sum is the same for every token.
    share = 2 * T // 4 * H
    assert sum(c.payload * c.count for c in exchanged) == pytest.approx(
        share * (N + 2 * K) * 2, rel=0.01
    )
    rest = sum(c.payload * c.count for c in reading.collectives if c.kind != "all-to-all")
    assert rest <= 2 * 4 * T, "segment ids alone are gathered"
