"""The text of a program that the TPU compiler has optimised, taken apart: computations, shapes, groups."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1}
_SIZES |= {"s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_SIZES |= {"s64": 8, "u64": 8, "f64": 8}
_SHAPE = re.compile(r"\b([a-z]+[0-9]+[a-z0-9]*|pred)\[([0-9,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")


@dataclass(frozen=True)
class Instruction:
    """One line: its name, shape and operation, the names of its operands, and whether it is what its computation gives."""

    name: str
    shape: str
    op: str
    operands: list[str]
    root: bool
    line: str


Computations = dict[str, list[Instruction]]


def parse(text: str) -> tuple[Computations, str]:
    """The computations of a module, and the name of the one it begins with."""
    computations: Computations = {}
    current, entry = "", ""
    for line in text.splitlines():
        # A header begins in column 0. So may a bare "}" of a multi-line attribute: it closes nothing.
        header = line[:1] in ("%", "E") and re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
        if header:
            current = header.group(2)
            computations[current] = []
            entry = current if header.group(1) else entry
        elif current and (found := _INSTRUCTION.match(line)):
            shape, op, arguments = _split(found.group(3))
            operands = re.findall(r"%([\w.\-]+)", arguments)
            root = bool(found.group(1))
            computations[current].append(
                Instruction(found.group(2), shape, op, operands, root, line)
            )
    return computations, entry


def num_bytes(shape: str) -> float:
    """Bytes of a shape's text; of a tuple, all its parts."""
    return sum(size for size, _ in parts(shape))


def called(i: Instruction, key: str) -> str:
    """The computation that an instruction names as its `key`, such as `body` or `calls`.

    Raises:
        ValueError: it names none.
    """
    found = re.search(rf"\b{key}=%?([\w.\-]+)", i.line)
    if found is None:
        raise ValueError(f"{i.name} names no {key} in the compiler's text: {i.line[:200]}")
    return found[1]


def trips(
    loop: Instruction, computations: Computations, around: Mapping[str, Instruction]
) -> int | None:
    """How often a loop runs: its bound less where its counter begins, which a peeled loop moves.

    None where the text does not tell.

    Args:
        loop: the `while`.
        computations: of the module.
        around: the instructions beside it, by name.
    """
    known = re.search(r'known_trip_count"?:\s*\{"n":\s*"?(\d+)', loop.line)
    if known:
        return int(known[1])
    condition = computations.get(called(loop, "condition"), [])
    bounds = [int(c) for x in condition for c in re.findall(r"constant\((\d+)\)", x.line)]
    if not bounds:
        return None
    counters = [x for x in condition if x.op == "get-tuple-element"]
    state = around.get(loop.operands[0])
    if not (counters and state and state.op == "tuple"):
        return max(bounds)
    place = re.search(r"index=(\d+)", counters[0].line)
    begin = around.get(state.operands[int(place[1])]) if place else None
    while begin and begin.op in ("copy", "bitcast", "convert"):
        begin = around.get(begin.operands[0])
    start = re.search(r"constant\((\d+)\)", begin.line) if begin else None
    return max(bounds) - (int(start[1]) if start else 0)


def group_of(line: str) -> tuple[int, ...]:
    """The first replica group, or the first pair of a permute; empty where the line names none.

    Three forms: lists, iota (`[32,8]<=[16,16]T(1,0)`), and named axes (`mesh['a'=2,'b'=8] {'b'}`).
    """
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
        return int(pairs[1]), int(pairs[2])
    if listed := re.search(r"replica_groups=\{\{([0-9,]+)\}", line):
        return tuple(int(x) for x in listed[1].split(","))
    if iota := re.search(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?", line):
        shape, dims = (tuple(int(x) for x in iota[i].split(",")) for i in (1, 2))
        places = np.arange(math.prod(dims)).reshape(dims)
        if iota[3]:
            places = places.transpose(tuple(int(x) for x in iota[3].split(",")))
        return tuple(int(x) for x in places.reshape(-1, shape[-1])[0])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*(?:\{([^}]*)\})?", line):
        axes = {k: int(v) for k, v in re.findall(r"'([^']+)'=(\d+)", named[1])}
        used = re.findall(r"'([^']+)'", named[2] or "") or list(axes)
        places = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
        pick = tuple(slice(None) if name in used else 0 for name in axes)
        return tuple(int(x) for x in np.ravel(places[pick]))
    return ()


def parts(shape: str) -> list[tuple[float, str]]:
    """The arrays of a shape's text: bytes and layout."""
    return [
        (_SIZES[kind] * math.prod(int(d) for d in dims.split(",") if d), layout)
        for kind, dims, layout in _SHAPE.findall(shape)
        if kind in _SIZES
    ]


def _split(text: str) -> tuple[str, str, str]:
    """Shape, operation, and its arguments in brackets."""
    end = _closing(text) if text.startswith("(") else (text + " ").index(" ")
    rest = text[end:].strip()
    found = re.match(r"([\w\-]+)(?=\()", rest)
    if found is None:
        return text[:end], "", ""
    arguments = rest[found.end() :]
    return text[:end], found.group(1), arguments[: _closing(arguments)]


def _closing(text: str) -> int:
    """The place behind the bracket that closes the first one."""
    depth = 0
    for at, char in enumerate(text, 1):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return at
    return len(text)
