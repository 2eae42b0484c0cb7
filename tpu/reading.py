"""Reads the text of a program that the TPU compiler has optimised, loop trips applied.

The program is cut into bodies: what runs once, and the body of every loop. A body holds its own
instructions and those of the fusions, calls and branches in it, but not of the loops in it; of a
branch all sides count. What is read:

- the compiler's own estimate of cycles, of every instruction that is not inside a fusion. Pallas
  kernels and collectives carry none
- collectives with the size and members of their first group. An asynchronous one is a `-start`
  operation, an `async-start` or (on a SparseCore) a `call-start` of a computation, or a chain (start,
  steps inside of fusions, done) that counts once. Between slices it is a `send` to the host, which
  names what becomes of it
- kernel calls by name
- bytes that go to or come from the host's memory
"""

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tpu.hlo import Computations, Instruction, called, group_of, num_bytes, parse, parts, trips

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

_HOST = "S(5)"  # the memory space of a layout that lies with the host
_COPIES = ("copy", "copy-start", "async-start", "dynamic-slice-start", "dynamic-update-slice-start")


@dataclass(frozen=True)
class Collective:
    """One collective, as often as it runs.

    Attributes:
        kind: one of KINDS.
        asynchronous: whether it runs beside what stands around it.
        payload: bytes of the whole operand or result within a group, a run.
        group: the members of its first group, as places in the program's device order.
        count: runs a step.
    """

    kind: str
    asynchronous: bool
    payload: float
    group: tuple[int, ...]
    count: float

    @property
    def ring_bytes(self) -> float:
        """Bytes a device sends in a run: payload x (g - 1)/g, twice for an all-reduce; a permute all of it."""
        if self.kind == "collective-permute":
            return self.payload
        size = len(self.group)
        share = (size - 1) / size if size else 1.0
        return self.payload * share * (2 if self.kind == "all-reduce" else 1)


@dataclass
class Body:
    """What runs `trips` times a step."""

    trips: float
    cycles: float = 0.0  # a trip
    kernels: Counter[str] = field(default_factory=Counter)  # calls a trip
    collectives: list[Collective] = field(default_factory=list)
    host_bytes: float = 0.0  # a trip


@dataclass
class Reading:
    """A whole program."""

    bodies: list[Body]

    @property
    def cycles(self) -> float:
        """The compiler's estimate of a run, kernels and collectives left out."""
        return sum(b.trips * b.cycles for b in self.bodies)

    @property
    def kernels(self) -> Counter[str]:
        """Calls of every Pallas kernel."""
        total: Counter[str] = Counter()
        for body in self.bodies:
            for name, calls in body.kernels.items():
                total[name] += round(body.trips * calls)
        return total

    @property
    def collectives(self) -> list[Collective]:
        """All of them."""
        return [c for body in self.bodies for c in body.collectives]

    @property
    def ring_bytes(self) -> float:
        """Bytes a device sends over the interconnect."""
        return sum(c.count * c.ring_bytes for c in self.collectives)

    @property
    def host_bytes(self) -> float:
        """Bytes between a device and its host's memory."""
        return sum(b.trips * b.host_bytes for b in self.bodies)

    def plain(self) -> list[dict[str, Any]]:
        """As JSON; `Reading.of` takes it back."""
        return [
            vars(body)
            | {
                "kernels": dict(body.kernels),
                "collectives": [vars(c) | {"group": list(c.group)} for c in body.collectives],
            }
            for body in self.bodies
        ]

    @classmethod
    def of(cls, plain: list[dict[str, Any]]) -> "Reading":
        """From what `plain` gave."""
        bodies = []
        for body in plain:
            inner = [Collective(**c | {"group": tuple(c["group"])}) for c in body["collectives"]]
            kernels = Counter(body["kernels"])
            bodies.append(Body(**body | {"collectives": inner, "kernels": kernels}))
        return cls(bodies)


def read(text: str) -> Reading:
    """Reads an optimised module: `compiled.as_text()`, or the compiler's dump `*.after_codegen.txt`.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations, entry = parse(text)
    if not entry:
        raise ValueError("no ENTRY computation in the compiler's text")
    reader = _Reader(computations)
    start = Body(1.0)
    reader.bodies.append(start)
    reader.walk(entry, start, 1.0, fused=False)
    return Reading(reader.bodies)


class _Reader:
    """Walks the computations as they are called, once for every place that calls them."""

    def __init__(self, computations: Computations) -> None:
        self.bodies: list[Body] = []
        self._computations = computations
        self._chains: dict[tuple[str, str], str] = {}
        self._scattering: set[str] = set()

    def walk(
        self, name: str, body: Body, times: float, *, fused: bool, asynchronous: bool = False
    ) -> None:
        """Adds a computation to the body that it runs in, `times` times a trip."""
        instructions = self._computations.get(name, [])
        named = {i.name: i for i in instructions}
        for i in instructions:
            if i.op == "while":
                known = trips(i, self._computations, named)
                inner = Body(body.trips * times * (1 if known is None else known))
                self.bodies.append(inner)
                self.walk(called(i, "body"), inner, 1.0, fused=fused)
                continue
            if not fused:
                body.cycles += times * _estimate(i)
                body.host_bytes += times * _host_bytes(i)
            if i.op == "custom-call" and 'custom_call_target="tpu_custom_call"' in i.line:
                body.kernels[re.sub(r"(\.\d+|\.clone)+$", "", i.name)] += round(times)
            found = self._collective(i, name, named, asynchronous)
            if found is not None:
                count = body.trips * times
                body.collectives.append(dataclasses.replace(found, count=count))
            if "AllReduceScatterFusion" in i.line:
                self._scattering.update(re.findall(r"calls=%?([\w.\-]+)", i.line))
            for inner in _calls(i):
                self.walk(
                    inner,
                    body,
                    times,
                    fused=fused or i.op == "fusion",
                    asynchronous=asynchronous or i.op in ("async-start", "call-start"),
                )

    def _collective(
        self,
        i: Instruction,
        computation: str,
        named: dict[str, Instruction],
        asynchronous: bool,
    ) -> Collective | None:
        if i.op == "send" and (between := re.search(r'megascale_transfer_type="(\w+)"', i.line)):
            kind = between[1].lower().replace("_", "-")
            payload = max(size for size, _ in parts(i.shape))
            kind = kind if kind in KINDS else "collective-permute"
            return Collective(kind, False, payload, _across(i.line), 0.0)
        started = i.op.endswith("-start")
        kind = i.op.removesuffix("-start")
        if kind not in KINDS:
            return None
        if kind == "all-reduce" and (
            "reduce-scatter" in computation
            or computation in self._scattering
            or "AllReduceScatterFusion" in i.line
        ):
            kind = "reduce-scatter"
        chained = "chain_id=" in i.line
        channel = re.search(r"channel_id=(\d+)", i.line)
        if chained and channel:
            # Start, steps and done of one chain are written as three collectives of one channel.
            first = self._chains.setdefault((channel[1], kind), i.name)
            if first != i.name:
                return None
        operands = sum(num_bytes(named[a].shape) for a in i.operands if a in named)
        result = num_bytes(i.shape)
        if started:
            result = max(result - operands, 0)  # a start gives its operands back beside the result
        return Collective(
            kind,
            started or chained or asynchronous,
            max(operands, result),
            group_of(i.line),
            0.0,
        )


def _across(line: str) -> tuple[int, ...]:
    """The first device's peers in the other slices, from `_xla_megascale_target="{1,2}x{0:15}"`."""
    target = re.search(r'megascale_target="\{([\d,:]+)\}x\{0:(\d+)\}"', line)
    if target is None:
        raise ValueError(f"a transfer between slices without a target: {line[:200]}")
    first, *_, last = map(int, re.findall(r"\d+", target[1]))
    chips = int(target[2]) + 1
    return tuple(range(0, (last - first + 1) * chips, chips))


def _estimate(i: Instruction) -> int:
    found = re.search(r'"estimated_cycles":"(\d+)"', i.line)
    return int(found[1]) if found else 0


def _calls(i: Instruction) -> list[str]:
    """Computations that an instruction runs in its own place."""
    names = re.findall(r"(?:calls|true_computation|false_computation)=%?([\w.\-]+)", i.line)
    if i.op in ("call", "call-start"):
        names += re.findall(r"to_apply=%?([\w.\-]+)", i.line)
    listed = re.search(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}", i.line)
    if listed:
        names += [name.strip().lstrip("%") for name in listed[1].split(",")]
    return names


def _host_bytes(i: Instruction) -> float:
    """Bytes of a copy to or from the host's memory, or of a slice that is copied to its place there."""
    if _HOST not in i.line or i.op not in _COPIES:
        return 0.0
    return max((size for size, layout in parts(i.shape) if _HOST not in layout), default=0.0)
