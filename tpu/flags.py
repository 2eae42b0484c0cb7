"""The compiler flags that a training step is compiled with on each TPU generation: `flags.yaml`."""

from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("flags.yaml")


def compiler_options(device: Any) -> dict[str, Any]:
    """Options for `jax.jit(...).lower(...).compile`; none for devices that the table does not name."""
    table = yaml.safe_load(FILE.read_text())
    return dict(table.get(device.device_kind, {}))
