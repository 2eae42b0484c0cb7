"""How long a step should take: one fixed model for every plan, with its constants in `generations.yaml`.

- the compiler's cycles at the clock
- attention kernels at `attention_share` of the peak, on their FLOPs that the causal mask leaves (half
  of the grid's); decode kernels at the memory's speed, on the cache that they read; any other kernel at
  the rate that the program's own matrix products reach
- a collective's ring bytes over the links of its axis in both directions: two for a group along one axis of
  the torus, four along two; over the data-centre network where the group has devices of several slices
- synchronous collectives in full; asynchronous ones for what exceeds the rest of their loop body
- what goes to the host's memory and back, at the stated bandwidth

It ranks programs on one kind of chip. It was never held against hardware: it is no claim of speed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tpu.arithmetic import Asked
from tpu.reading import Body, Collective, Reading
from tpu.topology import Generation

ATTENTION = ("splash",)  # beginnings of kernel names
DECODE = ("flash_decode", "append")


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step on every device, and what they are made of."""

    compute: float
    attention: float
    other_kernels: float
    collectives: float  # what is not hidden behind computing
    offload: float

    @property
    def total(self) -> float:
        """Seconds of a step."""
        parts = (self.compute, self.attention, self.other_kernels, self.collectives, self.offload)
        return sum(parts)


def step_time(
    reading: Reading,
    asked: Asked,
    generation: Generation,
    devices: Sequence[Any],
    *,
    kernel_bytes: Mapping[str, float] | None = None,
) -> StepTime:
    """Seconds of a step.

    Args:
        reading: the optimised program.
        asked: the arithmetic of the traced one.
        generation: the chip.
        devices: in the program's order, for the links of a group.
        kernel_bytes: bytes that a call of each decode kernel reads and writes.

    Raises:
        ValueError: a kernel of the program that was not traced.
    """
    peak, clock = generation.peak_tflops * 1e12, generation.clock_ghz * 1e9
    compute = reading.cycles / clock
    # The rate of the program's own products, for kernels that are neither attention nor decoding.
    rate = min(peak, asked.dots / len(devices) / compute) if compute and asked.dots else peak

    def seconds(kernel: str) -> tuple[float, float]:
        """Of a call: as attention, as another kernel."""
        if kernel.startswith(DECODE):
            return (kernel_bytes or {}).get(kernel, 0.0) / (generation.hbm_gbps * 1e9), 0.0
        if kernel not in asked.kernels:
            raise ValueError(
                f"the compiler's program calls a kernel {kernel!r} that was not traced"
            )
        flops = asked.a_call(kernel)
        if kernel.startswith(ATTENTION):
            return flops / 2 / (peak * generation.attention_share), 0.0
        return 0.0, flops / rate

    totals = dict.fromkeys(("attention", "other_kernels", "collectives"), 0.0)
    for body in reading.bodies:
        calls = [(seconds(kernel), number) for kernel, number in body.kernels.items()]
        attention = sum(a * n for (a, _), n in calls)
        other = sum(o * n for (_, o), n in calls)
        beside = body.trips * (body.cycles / clock + attention + other)
        totals["attention"] += body.trips * attention
        totals["other_kernels"] += body.trips * other
        totals["collectives"] += _exposed(body, beside, generation, devices)
    offload = reading.host_bytes / (generation.host_gbps * 1e9)
    return StepTime(compute=compute, offload=offload, **totals)


def link_seconds(one: Collective, generation: Generation, devices: Sequence[Any]) -> float:
    """Seconds of all runs of a collective, nothing else in its way."""
    return one.count * one.ring_bytes / bandwidth(one.group, generation, devices)


def bandwidth(group: Sequence[int], generation: Generation, devices: Sequence[Any]) -> float:
    """Bytes a second that a device of a group can send to the others."""
    members = [devices[i] for i in group] or list(devices)
    if len({getattr(d, "slice_index", None) for d in members}) > 1:
        return generation.dcn_gbps * 1e9
    axes = sum(len(set(along)) > 1 for along in zip(*(d.coords for d in members), strict=True))
    return 2 * max(axes, 1) * generation.ici_gbps * 1e9


def _exposed(body: Body, beside: float, generation: Generation, devices: Sequence[Any]) -> float:
    hidden = shown = 0.0
    for one in body.collectives:
        seconds = link_seconds(one, generation, devices)
        if one.asynchronous:
            hidden += seconds
        else:
            shown += seconds
    return shown + max(hidden - beside, 0.0)
