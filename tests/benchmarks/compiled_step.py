"""What the TPU compiler says of the training step's memory, with no TPU: needs the `plan` extra.

    python tests/benchmarks/compiled_step.py [PRESET TOPOLOGY ROWS_PER_DEVICE SEQ_LEN LOSS_CHUNK REMAT]

Default: Llama-3-8B (vocabulary 128,256) on v5e:16x16, 1 row of 4,096 a device, the loss in chunks of
1,024 tokens; then the same with all logits at once, for comparison.
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
    import functools

    import jax
    import jax.numpy as jnp
    from jax.experimental import topologies
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from model.attention import splash
    from model.config import ModelConfig, resolve
    from tpu.config import MeshConfig
    from tpu.mesh import BATCH, ROWS, make_mesh
    from training.config import OptimizerConfig, TrainConfig
    from training.optimizer import make_optimizer
    from training.state import layout, state_bytes
    from training.step import jit_step, make_train_step

    given = sys.argv[1:]
    preset, topology, rows, seq_len, chunk, remat = (
        given + ["llama3_8b", "v5e:16x16", "1", "4096", "1024", "attention"][len(given) :]
    )
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    mesh = make_mesh(MeshConfig(), described.devices)
    config = resolve(ModelConfig(preset=preset), tokenizer_vocab=None, base=None)
    shape = (int(rows) * mesh.size, int(seq_len))
    tx = make_optimizer(OptimizerConfig(), 1000)
    plan = layout(config, tx, mesh)
    batch = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, BATCH))
        for name, dtype in (("tokens", "i4"), ("segment_ids", "i4"), ("loss_mask", "?"))
    }
    batch["stream"] = jax.ShapeDtypeStruct(
        shape[:1], jnp.int32, sharding=NamedSharding(mesh, P(ROWS))
    )
    for loss_chunk in (int(chunk), int(rows) * int(seq_len)):
        train = TrainConfig(
            num_steps=1,
            global_batch_rows=shape[0],
            seq_len=shape[1],
            loss_chunk=loss_chunk,
            remat=remat,
            grad_reduce_dtype="bfloat16",
        )
        attend = functools.partial(splash, mesh=mesh)
        step = make_train_step(config, train, tx, mesh, plan.specs, attend, num_streams=2)
        step = jit_step(step, plan.shardings, mesh)
        try:
            memory = step.lower(plan.abstract, batch).compile().memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            print(f"loss_chunk {loss_chunk}: {str(error).splitlines()[0][:200]}")
            continue
        print(
            f"{preset} {topology} {rows} x {seq_len}, remat {remat}, loss_chunk {loss_chunk}: "
            f"state {state_bytes(plan) / 2**30:.2f} GiB, "
            f"temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB, "
            f"peak {memory.peak_memory_in_bytes / 2**30:.2f} GiB per device"
        )


if __name__ == "__main__":
    main()
