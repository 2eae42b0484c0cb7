"""What a compiled decode step of the engine needs and moves on a TPU, with no TPU: needs the `plan` extra.

    python tests/benchmarks/decode_step.py [PRESET TOPOLOGY SLOTS WINDOW]

Default: Llama-3-8B in bfloat16 on v5e:2x4, 32 slots with its whole window of 8,192 tokens, the weights'
heads, mlp and vocabulary split over all devices. It compiles the program that the engine runs
(`model.slots.Program.run`), for one step a dispatch.

Bytes moved: operands and results of every top-level instruction, times the trips of the loops around it;
of a fusion's operand that is only sliced inside, the slices, and of one that is updated in place, the
update; of a Pallas kernel, the blocks of its block specs at a full cache. What the compiler keeps in
on-chip memory, layout `S(1)`, is shown apart. Compared with the least that a step can do: read the
weights (all but the rows of the token table that are not looked up) and the cache, once each.
"""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Compiles and prints."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from model.cache import Cache, cache_sharding, padded
    from model.config import ModelConfig, resolve
    from model.llama import abstract_params, param_names
    from model.slots import Program, choose_attention, empty_slots
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh, param_specs

    given = sys.argv[1:]
    preset, topology, slots, window = given + ["llama3_8b", "v5e:2x4", "32", "8192"][len(given) :]
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    devices = len(described.devices)
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=devices), described.devices)
    config = resolve(ModelConfig(preset=preset), tokenizer_vocab=None, base=None)
    dtype = jnp.dtype(jnp.bfloat16)

    def abstract(path, shape, spec):
        kept = jnp.float32 if path[-1].key == "scale" else dtype
        return jax.ShapeDtypeStruct(shape.shape, kept, sharding=NamedSharding(mesh, spec))

    shapes = abstract_params(config)
    specs = param_specs(param_names(config), shapes, mesh)
    params = jax.tree_util.tree_map_with_path(abstract, shapes, specs)
    whole = NamedSharding(mesh, P())
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        jax.eval_shape(lambda: empty_slots(int(slots), config)),
    )
    S = padded(int(window))
    shape = (config.num_layers, int(slots), config.num_kv_heads, S, config.head_dim)
    one = jax.ShapeDtypeStruct(shape, dtype, sharding=cache_sharding(config, mesh))
    cache = Cache(one, one)
    attend, access = choose_attention("tpu", dtype, mesh)
    program = Program(config, (128_001, 128_009), 1, False, attend, access)
    _, run = program.jit(mesh)
    kept = jax.ShapeDtypeStruct((int(slots),), jnp.bool_, sharding=whole)
    waiting = jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole)
    compiled = run.lower(params, cache=cache, slots=state, kept=kept, waiting=waiting).compile()
    if dump := os.environ.get("DUMP_HLO"):
        Path(dump).write_text(compiled.as_text())
    memory = compiled.memory_analysis()
    weights = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params)) / devices
    if not config.tied_head:
        weights -= params["embed"]["table"].size * dtype.itemsize / devices
    cached = 2 * one.size * dtype.itemsize / devices
    print(
        f"{preset} {topology}, {slots} slots x {S}: weights {weights / 2**30:.2f} GiB read of each device, "
        f"cache {cached / 2**30:.2f} GiB; peak {memory.peak_memory_in_bytes / 2**30:.2f} GiB, "
        f"temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB, "
        f"aliased {memory.alias_size_in_bytes / 2**30:.2f} GiB"
    )
    from tests.benchmarks.moved import moved

    # By block specs: every slot's query, own key and value, output, and its blocks of the cache; of the
    # writing kernel the tile around the new token, read and written.
    H, K = config.head_dim, config.num_kv_heads // devices
    tokens = int(slots) * H * dtype.itemsize * (2 * config.num_heads // devices + 2 * K)
    tiles = config.num_layers * int(slots) * K * (2 * 16 + 1) * H * dtype.itemsize
    kernels = {"flash_decode": cached / config.num_layers + tokens, "append": tiles}
    report = moved(compiled.as_text(), kernels)
    print(
        f"moved {report.total / 2**30:.2f} GiB a step = {report.total / (weights + cached):.3f} x "
        f"(weights + cache), on-chip {report.on_chip / 2**30:.2f} GiB of it"
    )
    for name, count in report.largest(25):
        print(f"  {count / 2**20:10.1f} MiB  {name}")


if __name__ == "__main__":
    main()
