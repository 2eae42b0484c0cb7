"""Cycles from the compiler's dumped proto (`HloProto`), for programs that cannot be printed.

Only what is needed is read of the wire format (protobuf.dev/programming-guides/encoding): the fields
that lead from the module to an instruction's name and backend configuration (xla/service/hlo.proto).
"""

import re
from collections.abc import Iterator

_MODULE = 1  # HloProto.hlo_module
_COMPUTATIONS = 3  # HloModuleProto.computations
_INSTRUCTIONS = 2  # HloComputationProto.instructions
_NAME, _BACKEND_CONFIG = 1, 43  # of HloInstructionProto
_CYCLES = re.compile(rb'"estimated_cycles":\s*"?(\d+)')


def estimates(proto: bytes) -> dict[str, int]:
    """Estimated cycles by instruction name; instructions without an estimate are left out."""
    found = {}
    for module in _fields(proto, _MODULE):
        for computation in _fields(module, _COMPUTATIONS):
            for instruction in _fields(computation, _INSTRUCTIONS):
                for config in _fields(instruction, _BACKEND_CONFIG):
                    cycles = _CYCLES.search(config)
                    if cycles:
                        name = next(_fields(instruction, _NAME)).decode()
                        found[name] = int(cycles[1])
    return found


def _fields(message: bytes, wanted: int) -> Iterator[bytes]:
    """The length-delimited fields of a number."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        elif kind == 2:
            size, at = _varint(message, at)
            if number == wanted:
                yield message[at : at + size]
            at += size
        else:
            raise ValueError(f"the compiler's dump has a field of wire type {kind}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
