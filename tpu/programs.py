"""The programs of a recipe, traced for devices that are only described: nothing is read and nothing is run.

They are made of the functions that `train.py`, its evaluation and the generation engine call, with the
same shardings; only their arguments are shapes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

STEPS = ("train", "eval", "decode")


@dataclass(frozen=True)
class Program:
    """A step before it is compiled.

    Attributes:
        name: one of STEPS.
        traced: what `jax.jit(...).trace` gives.
        devices: in the order that its replica groups count.
        state_bytes: bytes that stay on a device between steps.
        tokens: tokens that go in at a step, over all devices.
        model_flops: FLOPs of a step as the field counts them, over all devices.
        settings: what of it the recipe or the table decided.
        kernel_bytes: what a call of a decode kernel reads and writes on a device.
        traced_whole: the same with everything kept, so that what is computed again can be told apart.
    """

    name: str
    traced: Any
    devices: list[Any]
    state_bytes: int
    tokens: int
    model_flops: float
    settings: dict[str, Any]
    kernel_bytes: Mapping[str, float] = field(default_factory=dict)
    traced_whole: Any = None


def model_of(recipe: Any) -> Any:
    """The shape of the recipe's model without its weights or its tokenizer.

    Raises:
        ValueError: the recipe names neither a preset nor a whole shape, or no vocabulary.
    """
    from model.config import resolve

    model = recipe.model
    if model.preset is None and model.init_from is not None and model.num_layers is None:
        raise ValueError(
            "model.preset: name the preset of these weights beside model.init_from "
            f"{model.init_from}; a plan reads no weights"
        )
    if model.vocab_size is None and model.preset is not None:
        from model.config import preset_fields

        if preset_fields(model.preset).get("vocab_size") is None:
            raise ValueError(
                f"model.vocab_size: preset {model.preset} takes its tokenizer's, and a plan reads "
                "none; set it, as in model.vocab_size=32000"
            )
    return resolve(model.model_copy(update={"init_from": None}), tokenizer_vocab=None, base=None)


def train_step(recipe: Any, train: Any, mesh: Any) -> Program:
    """The training step with settled settings `train`, as `train.py` calls it.

    Raises:
        ValueError: a dimension or the batch does not divide over the mesh.
    """
    from training.state import state_bytes
    from training.step import jit_step, make_train_step, model_flops

    config, tx, plan, attend, batch = _parts(recipe, train, mesh)

    def trace(train: Any) -> Any:
        step = make_train_step(
            config, train, tx, mesh, plan.specs, attend, num_streams=max(len(recipe.streams), 1)
        )
        jitted: Any = jit_step(step, plan.shardings, mesh)
        return jitted.trace(plan.abstract, batch)

    tokens = train.global_batch_rows * train.seq_len
    return Program(
        "train",
        trace(train),
        list(mesh.devices.flat),
        state_bytes(plan),
        tokens,
        model_flops(config, train.global_batch_rows, train.seq_len),
        {
            "remat": train.remat,
            "loss_chunk": train.loss_chunk,
            "attention_blocks": list(train.attention_blocks),
            "accumulate": train.accumulate,
            "global_batch_rows": train.global_batch_rows,
            "seq_len": train.seq_len,
            "grad_reduce_dtype": train.grad_reduce_dtype,
        },
        traced_whole=trace(train.model_copy(update={"remat": "none"})),
    )


def eval_step(recipe: Any, train: Any, mesh: Any) -> Program:
    """The step over held-out rows, as the evaluation within a run calls it."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from model.lora import without
    from training.step import make_eval_step, model_flops

    rows = recipe.eval.batch_rows or train.global_batch_rows // train.accumulate
    train = train.model_copy(update={"global_batch_rows": rows, "accumulate": 1})
    config, _, plan, attend, batch = _parts(recipe, train, mesh, field="eval.batch_rows")
    lengths = jax.ShapeDtypeStruct(
        (config.padded_vocab_size,), jnp.int32, sharding=NamedSharding(mesh, P())
    )
    step: Any = jax.jit(make_eval_step(config, train, mesh, plan.specs, attend))
    return Program(
        "eval",
        step.trace(plan.abstract.params, batch, lengths),
        list(mesh.devices.flat),
        _bytes(plan.abstract.params),
        rows * train.seq_len,
        model_flops(without(config), rows, train.seq_len) / 3,
        {"batch_rows": rows, "seq_len": train.seq_len, "loss_chunk": train.loss_chunk},
    )


def decode_step(recipe: Any, devices: list[Any], *, slots: int, window: int) -> Program:
    """One token of every slot of the engine at a full cache, in bfloat16; adapters are merged by then.

    The weights' heads, mlp and vocabulary are split over as many devices as the kv heads allow; what
    more there are hold copies that do the same for texts of their own.
    """
    import math

    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from model.cache import Cache, cache_sharding, padded
    from model.llama import abstract_params, param_names
    from model.lora import without
    from model.slots import Program as Engine
    from model.slots import choose_attention, empty_slots
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh, param_specs

    config = without(model_of(recipe))
    tensor = math.gcd(config.num_kv_heads, len(devices))
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=tensor, data=len(devices) // tensor), devices)
    dtype = jnp.dtype(jnp.bfloat16)

    def abstract(path: Any, shape: Any, spec: P) -> jax.ShapeDtypeStruct:
        kept = jnp.float32 if path[-1].key == "scale" else dtype
        return jax.ShapeDtypeStruct(shape.shape, kept, sharding=NamedSharding(mesh, spec))

    shapes = abstract_params(config)
    specs = param_specs(param_names(config), shapes, mesh)
    params = jax.tree_util.tree_map_with_path(abstract, shapes, specs)
    whole = NamedSharding(mesh, P())
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        jax.eval_shape(lambda: empty_slots(slots, config)),
    )
    shape = (
        config.num_layers,
        slots,
        config.num_kv_heads,
        padded(window),
        config.head_dim,
    )
    one: Any = jax.ShapeDtypeStruct(shape, dtype, sharding=cache_sharding(config, mesh))
    attend, access = choose_attention("tpu", dtype, mesh)
    engine = Engine(config, (0,), 1, False, attend, access)
    _, run = engine.jit(mesh)
    kept = jax.ShapeDtypeStruct((slots,), jnp.bool_, sharding=whole)
    waiting = jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole)
    traced = run.trace(params, cache=Cache(one, one), slots=state, kept=kept, waiting=waiting)
    cached = 2 * _bytes(one)
    copies = mesh.size // tensor
    layers = config.num_layers
    heads = slots * config.head_dim * dtype.itemsize * 2
    return Program(
        "decode",
        traced,
        list(mesh.devices.flat),
        _bytes(params) + cached,
        slots * copies,
        2.0 * slots * copies * sum(x.size for x in jax.tree.leaves(shapes)),
        {"slots": slots, "window": padded(window), "tensor": tensor, "copies": copies},
        # The whole cache read once, with each token's query and output; the tile around a new token, twice.
        kernel_bytes={
            "flash_decode": cached / layers
            + heads * (config.num_heads + config.num_kv_heads) / tensor,
            "append": heads * layers * config.num_kv_heads / tensor * 17,
        },
    )


def _parts(
    recipe: Any, train: Any, mesh: Any, *, field: str = "train.global_batch_rows"
) -> tuple[Any, Any, Any, Callable, dict[str, Any]]:
    """Model, optimizer, layout, attention and batch."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from model.attention import select
    from tpu.mesh import BATCH, ROWS, check_rows
    from training.optimizer import make_optimizer
    from training.state import layout

    check_rows(train.global_batch_rows, train.accumulate, mesh, field=field)
    config = model_of(recipe)
    tx = make_optimizer(recipe.optimizer, train.num_steps)
    plan = layout(config, tx, mesh)
    platform = mesh.devices.flat[0].platform
    dtype = jnp.dtype(train.compute_dtype)
    _, attend = select(train.attention, platform, dtype, mesh, train.attention_blocks)
    shape = (train.global_batch_rows, train.seq_len)
    batch = {
        key: jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, BATCH))
        for key, dtype in (("tokens", "i4"), ("segment_ids", "i4"), ("loss_mask", "?"))
    }
    rows = NamedSharding(mesh, P(ROWS))
    batch["stream"] = jax.ShapeDtypeStruct(shape[:1], jnp.int32, sharding=rows)
    return config, tx, plan, attend, batch


def _bytes(tree: Any) -> int:
    """Bytes of arrays on one device."""
    import math

    import jax

    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
