"""The device mesh, and the one table that says how arrays lie on it.

Axes, outermost first: `slice` (joined by the data-centre network), `data` (copies of the weights),
`fsdp_x` and `fsdp_y` (weights and optimizer state split, gathered layer by layer), `tensor` (heads,
mlp, vocabulary), `sequence` (a row's tokens). A recipe's `fsdp` is one number; on a TPU slice it is
laid over two axes along the torus, because the compiler turns gradient sums into reduce-scatters only
over axes that do not cover the whole slice.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tpu.config import MeshConfig

AXES = ("slice", "data", "fsdp_x", "fsdp_y", "tensor", "sequence")
FSDP = ("fsdp_x", "fsdp_y")
REPLICAS = ("slice", "data")
ROWS = (
    REPLICAS + FSDP
)  # the axes that share out a batch's rows; the training step is manual over them
BATCH = P(ROWS, "sequence")  # of [B, T]

# Logical axis name of a parameter -> mesh axes. A name that is not here is an error.
RULES: dict[str, Any] = {
    "layers": None,
    "norm": None,
    "head_dim": None,
    "rank": FSDP,  # of an adapter's half without an embed dim, where `splits_rank`
    "embed": FSDP,
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
}


def axis_sizes(config: MeshConfig, num_devices: int) -> dict[str, int]:
    """Sizes of slice, data, fsdp, tensor, sequence for so many devices.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    sizes = {
        name: getattr(config, name) for name in ("slices", "data", "fsdp", "tensor", "sequence")
    }
    if config.fsdp == 0:
        raise ValueError("mesh.fsdp: 0 is no size; -1 takes the devices that the other axes leave")
    others = math.prod(size for name, size in sizes.items() if name != "fsdp")
    if config.fsdp == -1:
        if num_devices % others:
            raise ValueError(
                f"mesh: slices x data x tensor x sequence = {others} does not divide "
                f"{num_devices} devices; {_not_one(sizes)} must multiply to a divisor of {num_devices}"
            )
        sizes["fsdp"] = num_devices // others
    elif others * config.fsdp != num_devices:
        raise ValueError(
            f"mesh: {sizes} multiplies to {others * config.fsdp}, but there are {num_devices} "
            "devices; set mesh.fsdp=-1 to take all that the others leave"
        )
    return sizes


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices (or the given ones, e.g. of a described TPU topology)."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = axis_sizes(config, len(devices))
    fsdp = config.fsdp_axes or _fsdp_shape(sizes, devices)
    if math.prod(fsdp) != sizes["fsdp"]:
        raise ValueError(f"mesh.fsdp_axes: {fsdp} does not multiply to fsdp {sizes['fsdp']}")
    inner = (sizes["data"], *fsdp, sizes["tensor"], sizes["sequence"])
    grid = _arrange(devices, sizes["slices"], inner)
    return Mesh(grid, AXES)


def param_specs(names: dict[str, Any], shapes: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """A PartitionSpec for every parameter, from its logical names and RULES.

    Raises:
      ValueError: a name without a rule, or a dim that its mesh axes do not divide.
    """

    def spec(path: tuple[Any, ...], shape: Any, dims: tuple[str, ...]) -> P:
        key = "/".join(p.key for p in path)
        rules = RULES if _has_split_rank(dims, shape.shape, mesh) else RULES | {"rank": None}
        for dim, size in zip(dims, shape.shape, strict=True):
            if dim not in rules:
                raise ValueError(f"parameter {key}: no sharding rule for its dim {dim!r}")
            ways = _ways(mesh, rules[dim])
            if size % ways:
                axis = "fsdp" if rules[dim] == FSDP else rules[dim]
                raise ValueError(
                    f"mesh.{axis}: {ways} does not divide {dim}={size} of parameter {key}"
                    + (
                        f"; set model.vocab_multiple={ways}"
                        if dim == "vocab"
                        else f"; take a divisor of {size}"
                    )
                )
        return P(*(rules[dim] for dim in dims))

    return jax.tree_util.tree_map_with_path(spec, shapes, names)


def manual_part(spec: P) -> P:
    """What is left of a spec inside the step: what shares out rows and weights, not `tensor` or `sequence`."""
    return P(*(entry if entry in (FSDP, ROWS) else None for entry in spec))


def check_rows(rows: int, accumulate: int, mesh: Mesh, *, field: str) -> None:
    """Every device must hold the same whole number of rows in every accumulation pass."""
    ways = _ways(mesh, ROWS)
    if rows % (ways * accumulate):
        raise ValueError(
            f"{field}: {rows} rows do not divide over {ways} devices that share out rows"
            f" x train.accumulate={accumulate}; take a multiple of {ways * accumulate}"
        )


def splits_rank(rank: int, fsdp: int) -> bool:
    """Whether each device's share of an adapter's rank is worth a gather: whole eights of rows."""
    return rank % (8 * fsdp) == 0


def describe(mesh: Mesh) -> str:
    """The axes that are larger than one, e.g. "fsdp 4 x tensor 2"."""
    sizes = {"fsdp": _ways(mesh, FSDP)} | {a: mesh.shape[a] for a in AXES if a not in FSDP}
    named = [f"{name} {size}" for name, size in sizes.items() if size > 1]
    return " x ".join(named) or "one device"


def _has_split_rank(dims: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> bool:
    """Of an adapter's half: its embed dim, where it has one, takes the FSDP axes already."""
    alone = "rank" in dims and "embed" not in dims
    return alone and splits_rank(shape[dims.index("rank")], _ways(mesh, FSDP))


def _not_one(sizes: dict[str, int]) -> str:
    return ", ".join(f"mesh.{n}={s}" for n, s in sizes.items() if n != "fsdp" and s != 1)


def _ways(mesh: Mesh, axes: str | tuple[str, ...] | None) -> int:
    if axes is None:
        return 1
    return math.prod(mesh.shape[a] for a in ((axes,) if isinstance(axes, str) else axes))


def _fsdp_shape(sizes: dict[str, int], devices: Sequence[Any]) -> tuple[int, int]:
    """(x, y) for fsdp: two axes along a TPU torus when it covers the slice, else one."""
    fsdp = sizes["fsdp"]
    coords = [d.coords for d in devices if getattr(d, "coords", None) is not None]
    alone = sizes["data"] == sizes["tensor"] == sizes["sequence"] == 1
    if not alone or len(coords) < len(devices):
        return fsdp, 1
    first = max(c[0] for c in coords) - min(c[0] for c in coords) + 1
    if 1 < first < fsdp and fsdp % first == 0:
        return first, fsdp // first
    return fsdp, 1


def _arrange(devices: Sequence[Any], slices: int, inner: tuple[int, ...]) -> np.ndarray:
    """Devices as an array [slice, *inner], neighbours on the torus next to each other."""
    from jax.experimental import mesh_utils

    if any(d.platform == "tpu" for d in devices):
        if slices > 1:
            return mesh_utils.create_hybrid_device_mesh(
                (1, *inner), (slices, *(1 for _ in inner)), devices, allow_split_physical_axes=True
            )
        grid = mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)
        return grid.reshape(1, *inner)
    return np.asarray(devices, dtype=object).reshape(slices, *inner)
