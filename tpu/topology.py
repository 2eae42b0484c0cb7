"""TPU slices by name, described by the compiler that libtpu brings: no TPU is needed.

A name is `<generation>:<AxB[xC]>`, such as v5e:16x16; what a generation can do stands in `generations.yaml`.
"""

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("generations.yaml")


@dataclass(frozen=True)
class Generation:
    """What a device of one TPU generation can do; units and sources are in `generations.yaml`."""

    name: str
    kind: str
    devices_per_chip: int
    clock_ghz: float
    peak_tflops: float
    hbm_gib: float
    hbm_gbps: float
    ici_gbps: float
    dcn_gbps: float
    host_gbps: float
    layouts: tuple[str, ...]
    attention_share: float
    needs_dump: bool = False
    chip_config: str | None = None

    @property
    def capacity(self) -> int:
        """Bytes of memory that a program may use on a device."""
        return int(self.hbm_gib * 2**30)


def generations() -> dict[str, Generation]:
    """All rows of the table, by name."""
    table = yaml.safe_load(FILE.read_text())
    return {
        name: Generation(
            name=name,
            attention_share=table["attention_share"],
            **{**row, "layouts": tuple(row["layouts"])},
        )
        for name, row in table["generations"].items()
    }


def generation_of(topology: str) -> Generation:
    """The generation of a topology's name.

    Raises:
        ValueError: no such generation.
    """
    table = generations()
    name = topology.partition(":")[0]
    if name not in table:
        raise ValueError(_unknown(topology, f"no generation {name!r}"))
    return table[name]


def capacity_of(kind: str) -> int | None:
    """Bytes of memory that a program may use on a device of a kind; None where no row names it."""
    rows = [row for row in generations().values() if row.kind == kind]
    return rows[0].capacity if rows else None


def described(topology: str, *, slices: int = 1) -> list[Any]:
    """The devices of so many slices of a topology, as the compiler knows them.

    Raises:
        ValueError: libtpu is not installed, or the compiler does not know the name.
    """
    generation = generation_of(topology)
    require_compiler()
    import jax
    from jax.experimental import topologies

    options: dict[str, Any] = {} if slices == 1 else {"num_slices": slices}
    if generation.chip_config:
        options["chip_config_name"] = generation.chip_config
    if topology.partition(":")[2] in ("1x1", "1x1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        ).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise ValueError(_unknown(topology, str(error).splitlines()[0])) from error
    assert all(d.device_kind == generation.kind for d in found), "generations.yaml names its kind"
    return list(found)


def without_tpu() -> None:
    """Makes this process compile for TPUs without looking for one; call before JAX starts."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def require_compiler() -> None:
    """Raises ValueError where the TPU compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "tpu.plan: libtpu, the TPU compiler, is not installed here; "
            "pip install -c constraints.txt -e '.[plan]' (Linux on x86-64; no TPU is needed)"
        )


def versions() -> dict[str, str]:
    """The installed versions that decide what is compiled."""
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "libtpu")}


def _unknown(topology: str, reason: str) -> str:
    known = "; ".join(
        f"{name}: {' '.join(row.layouts)}" for name, row in sorted(generations().items())
    )
    return f"--topology: {topology!r} is not one that the compiler knows ({reason}); take {known}"
