"""What a recipe leaves open about its training step, taken from the table `settings.yaml`.

Settings that differ in memory are given as a list, in the order of the table; the first that compiles
is the one. Those that by `need` have no chance, or would fill the memory to the brim, are left out before.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tpu.memory import need
from tpu.mesh import axis_sizes
from tpu.topology import capacity_of

FILE = Path(__file__).with_name("settings.yaml")
# Of the memory, by the rough sum. Close to the brim the compiler makes room by gathering weights once more,
# which costs more than what is kept saves: row N of docs/plan.md kept keys and values at 96 % and sent 19 % more.
_FULL = 0.93

Train = TypeVar("Train", bound=Any)  # training.config.TrainConfig
Compiled = TypeVar("Compiled")


def choices(train: Train, model: Any, mesh_config: Any, mesh: Any) -> list[Train]:
    """What a recipe's `train` may mean on a mesh, best first.

    Args:
        train: as the recipe says it.
        model: `model.config.LlamaConfig`.
        mesh_config: the recipe's.
        mesh: of devices, present or described.
    """
    kind, sizes = mesh.devices.flat[0].device_kind, axis_sizes(mesh_config, mesh.size)
    return settle(train, kind, need=lambda one: need(model, one, sizes), capacity=capacity_of(kind))


def settle(
    train: Train, device_kind: str, *, need: Callable[[Train], float], capacity: float | None
) -> list[Train]:
    """The recipe's `train` with everything filled in, best first; at least one.

    Args:
        train: as the recipe says it.
        device_kind: of the machine, as JAX names it.
        need: bytes that a setting takes on a device, roughly.
        capacity: bytes that there are; None where nobody knows.
    """
    table = yaml.safe_load(FILE.read_text())
    best = table.get(device_kind, table["elsewhere"])
    filled = train.model_copy(
        update={
            "loss_chunk": train.loss_chunk or best["loss_chunk"],
            "attention_blocks": train.attention_blocks or tuple(best["attention_blocks"]),
        }
    )
    if train.remat != "auto":
        return [filled]
    choices = [filled.model_copy(update={"remat": remat}) for remat in best["remat"]]
    if capacity is None:
        return choices
    return [c for c in choices if need(c) <= _FULL * capacity] or choices[-1:]


def first_that_fits(
    choices: Sequence[Train], build: Callable[[Train], Compiled]
) -> tuple[Compiled, Train]:
    """Compiles the settings one after the other until one fits, and says which.

    Raises:
        Exception: what the compiler says of the last one.
    """
    for train in choices[:-1]:
        try:
            return build(train), train
        except Exception as error:
            if not out_of_memory(error):
                raise
    return build(choices[-1]), choices[-1]


def out_of_memory(error: Exception) -> bool:
    """Whether the compiler refuses a program because it does not fit."""
    return "RESOURCE_EXHAUSTED" in str(error)
