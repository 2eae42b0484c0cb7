"""What `--dry-run` prints: the resolved recipe, and what the run would take of data, arithmetic and memory."""

from typing import TYPE_CHECKING, Any

from etils import epath

from configs.load import recipe_yaml
from configs.recipe import TrainRecipe
from configs.resolve import find_model, find_tokenizer
from model.presets import PRESETS

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer


def report(recipe: TrainRecipe, *, num_devices: int | None = None) -> str:
    """The whole text of a dry run.

    Nothing is computed on a device and nothing is written. Streams that are not prepared yet are named, and
    their figures left out.

    Args:
        recipe: the training recipe.
        num_devices: devices to lay the state out on; default: the mesh's, and with mesh.fsdp -1 this machine's.

    Raises:
        ValueError: what a run would refuse as well: a stream packed with another tokenizer or length, a
            dimension that the mesh does not divide, an unknown preset.
    """
    tokenizer = find_tokenizer(recipe)
    parts = [
        recipe_yaml(recipe).rstrip(),
        _data(recipe, tokenizer),
        _model(recipe, tokenizer, num_devices),
    ]
    return "\n\n".join(parts)


def _data(recipe: TrainRecipe, tokenizer: "Tokenizer | None") -> str:
    """Steps, and what each stream gives over the run."""
    from data.mixture import Deal
    from data.stream import open_streams

    train = recipe.train
    rows = train.num_steps * train.global_batch_rows
    lines = [
        f"steps      {train.num_steps:,} of {train.global_batch_rows:,} rows x {train.seq_len:,} tokens",
        f"rows       {rows:,} ({rows * train.seq_len:,} tokens with padding)",
    ]
    absent = [
        name
        for name, s in recipe.streams.items()
        if not (epath.Path(s.path) / "stream.json").exists()
    ]
    if absent:
        how = f"python -m data.prepare {recipe.prepare}" if recipe.prepare else "data.prepare"
        lines.append(
            f"streams    not prepared yet: {', '.join(absent)} ({how}); no figures for data"
        )
    elif recipe.streams:
        streams = open_streams(recipe.streams, seq_len=train.seq_len, tokenizer=tokenizer)
        summary = Deal(streams, recipe.streams, recipe.mixture, rows).summary()
        lines += ["", *_table(summary)]
    return "\n".join(lines)


def _table(summary: list[dict[str, Any]]) -> list[str]:
    """One line a stream and one for all of them."""
    sums = {
        key: sum(s[key] for s in summary) for key in ("rows", "tokens", "supervised", "padding")
    }
    total = max(sums["tokens"], 1)
    cells = [["stream", "share", "rows", "tokens", "supervised", "padding", "epochs"]]
    for s in [*summary, {"name": "all", **sums}]:
        counts = [f"{s[key]:,}" for key in ("rows", "tokens", "supervised", "padding")]
        epochs = f"{s['epochs']:.2f}" if "epochs" in s else ""
        cells.append([s["name"], f"{s['tokens'] / total:.1%}", *counts, epochs])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in cells
    ]


def _model(recipe: TrainRecipe, tokenizer: "Tokenizer | None", num_devices: int | None) -> str:
    """Parameters, FLOPs and the bytes of state on each device."""
    named = recipe.model.vocab_size or PRESETS.get(recipe.model.preset or "", {}).get("vocab_size")
    if tokenizer is None and recipe.model.init_from is None and named is None:
        return "model      its vocabulary is that of the tokenizer, which is not there yet"
    config = find_model(recipe, tokenizer)

    from model.llama import num_params
    from model.lora import note
    from training.optimizer import make_optimizer
    from training.state import layout, state_bytes
    from training.step import model_flops

    mesh, devices = _mesh(recipe, num_devices)
    tx = make_optimizer(recipe.optimizer, recipe.train.num_steps)
    state = state_bytes(layout(config, tx, mesh))
    step_flops = model_flops(config, recipe.train.global_batch_rows, recipe.train.seq_len)
    shape = ", ".join(
        f"{name} {getattr(config, name):,}"
        for name in ("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
    )
    held = "float32 weights and two moments"
    if config.lora is not None:
        held = f"{config.lora.base_dtype} weights, and {held} of the adapters"
    # The table's own padding rows are memory, not parameters.
    tables = 1 if config.tied_head else 2
    padding = (config.padded_vocab_size - config.vocab_size) * config.embed_dim * tables
    return "\n".join(
        [
            f"model      {shape}, vocabulary {config.vocab_size:,}",
            f"parameters {num_params(config):,}{note(config)}"
            + (f" (and {padding:,} of vocabulary padding)" if padding else ""),
            f"FLOPs      {step_flops:.4g} a step, {step_flops * recipe.train.num_steps:.4g} the run "
            "(forward and backward, causal attention halved, recomputation not counted)",
            f"state      {_bytes(state)} per device: {held} over "
            f"{devices} device{'s' if devices > 1 else ''}",
        ]
    )


def _mesh(recipe: TrainRecipe, num_devices: int | None) -> tuple[Any, int]:
    """The recipe's mesh without its devices. The two fsdp axes are one here: the bytes are the same."""
    import jax

    from tpu.mesh import AXES, FSDP, axis_sizes

    config = recipe.mesh
    if num_devices is None:
        others = config.slices * config.data * config.tensor * config.sequence
        num_devices = jax.device_count() if config.fsdp == -1 else others * config.fsdp
    sizes = axis_sizes(config, num_devices)
    along = {"slice": sizes["slices"], FSDP[0]: sizes["fsdp"], FSDP[1]: 1, **sizes}
    return jax.sharding.AbstractMesh(tuple(along[axis] for axis in AXES), AXES), num_devices


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:,.4g} GiB"
