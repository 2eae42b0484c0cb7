"""Bytes that a compiled TPU program moves, read from its HLO text.

Operands and results of every top-level instruction, times the trips of the loops around it. What a
fusion only slices or gathers from counts with what is taken, what it updates in place with the update.
Of a conditional, the branch that moves most. A kernel moves what its block specs say, as given.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from tpu.hlo import Computations, Instruction, called, parse, parts, trips

_FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "while", "conditional"}
_FREE |= {"after-all", "partition-id", "replica-id", "iota", "call", "opt-barrier"}
_SLICES = {"dynamic-slice", "gather", "slice"}


@dataclass
class Moved:
    """Bytes in all, those of them in on-chip memory, and by instruction."""

    total: float = 0.0
    on_chip: float = 0.0
    by_name: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, other: "Moved", times: float = 1.0) -> None:
        """Takes in what another part moves, so many times."""
        self.total += times * other.total
        self.on_chip += times * other.on_chip
        for name, count in other.by_name.items():
            self.by_name[name] += times * count

    def largest(self, count: int) -> list[tuple[str, float]]:
        """The instructions that move most."""
        return sorted(self.by_name.items(), key=lambda item: -item[1])[:count]


def moved(text: str, kernels: Mapping[str, float]) -> Moved:
    """What the program of this HLO text moves; `kernels` has the bytes of one call of each kernel."""
    computations, entry = parse(text)
    return _walk(computations, entry, kernels)


def _walk(computations: Computations, name: str, kernels: Mapping[str, float]) -> Moved:
    out = Moved()
    body = {i.name: i for i in computations[name]}
    for i in body.values():
        if i.op == "while":
            inner = _walk(computations, called(i, "body"), kernels)
            times = trips(i, computations, body)
            if times is None:
                raise ValueError(f"no trip count of {i.name}")
            out.add(inner, times)
        elif i.op == "conditional":
            names = re.search(r"branch_computations=\{([^}]*)\}", i.line)
            listed = (
                names.group(1).split(",")
                if names
                else [called(i, "true_computation"), called(i, "false_computation")]
            )
            branches = [_walk(computations, b.strip().lstrip("%"), kernels) for b in listed]
            out.add(max(branches, key=lambda b: b.total))
        elif i.op == "call":
            out.add(_walk(computations, called(i, "to_apply"), kernels))
        elif i.op not in _FREE and not i.op.endswith("-done"):
            kernel = next((k for k in kernels if i.name.startswith(k)), None)
            if kernel is not None:
                size, on_chip = kernels[kernel], 0.0
            elif i.op == "custom-call" and "tpu_custom_call" in i.line:
                raise ValueError(f"a kernel whose block specs were not given: {i.name}")
            else:
                size, on_chip = _of(i, body, computations)
            out.total, out.on_chip = out.total + size, out.on_chip + on_chip
            out.by_name[f"{i.op} {i.name} {i.shape[:60]}"] += size
    return out


def _of(i: Instruction, body: dict, computations: Computations) -> tuple[float, float]:
    """Bytes of one instruction, and those on the chip."""
    operands = [_bytes(body[o].shape) if o in body else (0.0, 0.0) for o in i.operands]
    result = _bytes(i.shape)
    if i.op in _SLICES:
        operands[0] = result
    elif i.op == "dynamic-update-slice":
        operands[0], result = (0.0, 0.0), operands[1]
    elif i.op == "fusion":
        inside = called(i, "calls")
        for number, (whole, on_chip) in enumerate(operands):
            taken = min(_taken(computations, inside, number), whole)
            operands[number] = (taken, taken if on_chip else 0.0)
        written = _given(computations, inside)
        result = (written, written if result[1] else 0.0)
    elif i.op.endswith("-start"):
        result = operands[0]
    parts = [*operands, result]
    return sum(p[0] for p in parts), sum(p[1] for p in parts)


def _taken(computations: Computations, name: str, number: int) -> float:
    """Bytes that a fusion reads of its operand of that number."""
    inside = computations[name]
    parameter = next(i for i in inside if i.op == "parameter" and f"parameter({number})" in i.line)

    def uses(source: Instruction) -> float:
        taken = _bytes(source.shape)[0] if source.root else 0.0
        for i in inside:
            for place, operand in enumerate(i.operands):
                if operand != source.name:
                    continue
                if i.op == "bitcast":
                    taken += uses(i)
                elif i.op in _SLICES and place == 0:
                    taken += _bytes(i.shape)[0]
                elif i.op == "fusion":
                    taken += _taken(computations, called(i, "calls"), place)
                elif i.op != "dynamic-update-slice" or place > 0:
                    taken += _bytes(source.shape)[0]
        return taken

    return uses(parameter)


def _given(computations: Computations, name: str) -> float:
    """Bytes that a fusion writes: of an operand updated in place, the update."""
    inside = {i.name: i for i in computations[name]}

    def written(i: Instruction) -> float:
        if i.op in ("tuple", "bitcast"):
            return sum(written(inside[o]) for o in i.operands)
        if i.op == "dynamic-update-slice":
            return _bytes(inside[i.operands[1]].shape)[0]
        if i.op == "fusion":
            return _given(computations, called(i, "calls"))
        return _bytes(i.shape)[0]

    return written(next(i for i in inside.values() if i.root))


def _bytes(shape: str) -> tuple[float, float]:
    """Bytes of a shape, tuples summed, and those with an on-chip layout."""
    sizes = parts(shape)
    return sum(s for s, _ in sizes), sum(s for s, layout in sizes if "S(1)" in layout)
