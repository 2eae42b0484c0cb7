"""What the TPU compiler says of the training step's memory, with no TPU: needs the `plan` extra.

    python tests/benchmarks/compiled_step.py [PRESET TOPOLOGY ROWS_PER_DEVICE SEQ_LEN LOSS_CHUNK REMAT]
    python tests/benchmarks/compiled_step.py RECIPE.yaml TOPOLOGY [key.path=value ...]

Default: Llama-3-8B (vocabulary 128,256) on v5e:16x16, 1 row of 4,096 a device, the loss in chunks of
1,024 tokens; then the same with all logits at once, for comparison. A training recipe is compiled as it
stands, its mesh and batch included; its model must name a preset, since no weights are read.
The exit code is 1 where it does not fit.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Compiles and prints."""
    from configs.load import load_recipe, user_errors
    from configs.recipe import TrainRecipe
    from model.config import ModelConfig
    from tpu.config import MeshConfig
    from training.config import OptimizerConfig, TrainConfig

    given = sys.argv[1:]
    if given and given[0].endswith((".yaml", ".yml")):
        with user_errors():
            path, topology, *overrides = given
            recipe = load_recipe(TrainRecipe, path, overrides)
            model = recipe.model.model_copy(update={"init_from": None})
            if model.preset is None and model.num_layers is None:
                raise ValueError(f"{path}: model.preset: name one; no weights are read here")
            fits = compile_step(
                path,
                topology,
                model,
                recipe.train,
                recipe.optimizer,
                recipe.mesh,
                num_streams=len(recipe.streams),
            )
        sys.exit(0 if fits else 1)
    preset, topology, rows, seq_len, chunk, remat = (
        given + ["llama3_8b", "v5e:16x16", "1", "4096", "1024", "attention"][len(given) :]
    )
    for loss_chunk in (int(chunk), int(rows) * int(seq_len)):
        train: dict[str, Any] = {
            "num_steps": 1000,
            "global_batch_rows": int(rows) * devices(topology),
            "seq_len": int(seq_len),
            "loss_chunk": loss_chunk,
            "remat": remat,
            "grad_reduce_dtype": "bfloat16",
        }
        compile_step(
            preset,
            topology,
            ModelConfig(preset=preset),
            TrainConfig(**train),
            OptimizerConfig(),
            MeshConfig(),
            num_streams=2,
        )


def described(topology: str) -> Any:
    """The devices of a topology such as v5e:4x4, without having one."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def devices(topology: str) -> int:
    """How many devices it has."""
    return len(described(topology))


def compile_step(
    name: str,
    topology: str,
    model: Any,
    train: Any,
    optimizer: Any,
    mesh_config: Any,
    *,
    num_streams: int,
) -> bool:
    """Compiles one training step and prints its memory; False where it does not fit."""
    import functools

    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from model.attention import splash
    from model.config import resolve
    from model.llama import num_params
    from tpu.flags import compiler_options
    from tpu.mesh import BATCH, ROWS, check_rows, describe, make_mesh
    from training.optimizer import make_optimizer
    from training.state import layout, state_bytes
    from training.step import jit_step, make_train_step

    mesh = make_mesh(mesh_config, described(topology))
    check_rows(train.global_batch_rows, train.accumulate, mesh, field="train.global_batch_rows")
    config = resolve(model, tokenizer_vocab=None, base=None)
    shape = (train.global_batch_rows, train.seq_len)
    tx = make_optimizer(optimizer, train.num_steps)
    plan = layout(config, tx, mesh)
    batch = {
        key: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, BATCH))
        for key, dtype in (("tokens", "i4"), ("segment_ids", "i4"), ("loss_mask", "?"))
    }
    batch["stream"] = jax.ShapeDtypeStruct(
        shape[:1], jnp.int32, sharding=NamedSharding(mesh, P(ROWS))
    )
    attend = functools.partial(splash, mesh=mesh)
    step = make_train_step(config, train, tx, mesh, plan.specs, attend, num_streams=num_streams)
    step = jit_step(step, plan.shardings, mesh)
    what = (
        f"{name} {topology} ({describe(mesh)}): {num_params(config):,} parameters, "
        f"{shape[0]} x {shape[1]}, remat {train.remat}, loss_chunk {train.loss_chunk}"
    )
    try:
        memory = (
            step.lower(plan.abstract, batch)
            .compile(compiler_options(mesh.devices.flat[0]))
            .memory_analysis()
        )
    except jax.errors.JaxRuntimeError as error:
        print(f"{what}: does not fit: {' '.join(str(error).split())[:600]}")
        return False
    print(
        f"{what}: state {state_bytes(plan) / 2**30:.2f} GiB, "
        f"temporaries {memory.temp_size_in_bytes / 2**30:.2f} GiB, "
        f"peak {memory.peak_memory_in_bytes / 2**30:.2f} GiB per device"
    )
    return True


if __name__ == "__main__":
    main()
