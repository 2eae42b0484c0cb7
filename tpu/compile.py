"""Compiles a described program with the TPU compiler and reads what came out into plain figures.

Figures are kept in a folder by what decides them: the lowered module, the flags, the versions of jax
and libtpu. What was compiled once is not compiled again.
"""

import glob
import hashlib
import json
import re
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpu.arithmetic import count
from tpu.estimate import step_time
from tpu.flags import compiler_options
from tpu.programs import Program
from tpu.reading import KINDS, Reading, read
from tpu.settings import out_of_memory
from tpu.topology import Generation, versions

CACHE = Path("build/plans")
Figures = dict[str, Any]
Flags = Mapping[str, Any]


class DoesNotFit(ValueError):
    """A program that needs more memory than a device has.

    Attributes:
        needed: bytes it needs, as the compiler says; 0 where it does not say.
        capacity: bytes there are.
    """

    def __init__(self, needed: float, capacity: float, said: str) -> None:
        gib = 2.0**30
        over = f"{needed / gib:.2f} GiB of {capacity / gib:.2f}" if needed else said[:300]
        super().__init__(
            f"does not fit: {over}"
            + (f" a device, {(needed - capacity) / gib:.2f} too many" if needed else "")
        )
        self.needed, self.capacity, self.said = needed, capacity, said


def flags_of(device: Any, given: Flags) -> dict[str, Any]:
    """The table's flags for a device, the recipe's own over them."""
    return compiler_options(device) | dict(given)


def figures(
    program: Program, generation: Generation, flags: Flags, *, cache: Path | None = CACHE
) -> Figures:
    """Compiles, or finds what was compiled before, and gives the figures of a step on every device.

    Args:
        program: what to compile.
        generation: the chip, for its capacity and the time model.
        flags: of the compiler.
        cache: folder of earlier figures; None neither reads nor writes one.

    Raises:
        DoesNotFit: by so much.
        ValueError: the compiler refuses a flag.
    """
    lowered = program.traced.lower()
    digest = digest_of(lowered.as_text(), flags)
    kept = None if cache is None else cache / f"{digest}-{_reader()}.json"
    found = json.loads(kept.read_text()) if kept is not None and kept.exists() else None
    if found is None:
        found = _compile(lowered, generation, flags)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(found))
    if "does_not_fit" in found:
        raise DoesNotFit(found["does_not_fit"], generation.capacity, found["said"])
    # The text is small once read; times are worked out anew, so that a changed constant is seen at once.
    return _account(program, generation, read_back(found), found) | {
        "digest": digest,
        "flags": dict(flags),
        "settings": program.settings,
    }


def digest_of(text: str, flags: Flags) -> str:
    """Names a lowered module with the flags and versions it is compiled with."""
    parts = [text, json.dumps(dict(flags), sort_keys=True), json.dumps(versions(), sort_keys=True)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _reader() -> str:
    """Names what reads a program's text, so that what an older one read is not taken from the cache."""
    sources = [Path(__file__).with_name(name).read_bytes() for name in ("hlo.py", "reading.py")]
    return hashlib.sha256(b"".join(sources)).hexdigest()[:8]


def _compile(lowered: Any, generation: Generation, flags: Flags) -> dict[str, Any]:
    import jax

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        # `as_text()` fails on some modules of jaxlib 0.10.2; what the compiler wrote down itself does not.
        dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            options = dict(flags) | (dump if generation.needs_dump else {})
            compiled = lowered.compile(compiler_options=options or None)
        except jax.errors.JaxRuntimeError as error:
            if out_of_memory(error):
                return {"does_not_fit": _needed(str(error)), "said": _short(str(error))}
            if refused := _refused(str(error), flags):
                raise ValueError(refused) from error
            raise
        seconds = time.monotonic() - start
        memory = compiled.memory_analysis()
        try:
            reading = read(compiled.as_text())
        except jax.errors.JaxRuntimeError:
            if not generation.needs_dump:
                raise
            reading = _read_dump(folder)
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "peak_bytes": memory.peak_memory_in_bytes,
        "compile_seconds": round(seconds, 1),
        "host_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "bodies": reading.plain(),
    }


def _account(
    program: Program, generation: Generation, reading: Reading, found: dict[str, Any]
) -> Figures:
    asked = count(program.traced.jaxpr)
    whole = count(program.traced_whole.jaxpr) if program.traced_whole is not None else asked
    devices = len(program.devices)
    seconds = step_time(
        reading, asked, generation, program.devices, kernel_bytes=program.kernel_bytes
    )
    collectives = {}
    for kind in KINDS:
        those = [c for c in reading.collectives if c.kind == kind]
        if those:
            collectives[kind] = {
                "count": round(sum(c.count for c in those)),
                "ring_bytes": sum(c.count * c.ring_bytes for c in those),
                "asynchronous_ring_bytes": sum(
                    c.count * c.ring_bytes for c in those if c.asynchronous
                ),
            }
    per_second = program.tokens / seconds.total
    return {
        "estimated_cycles": reading.cycles,
        "peak_bytes": found["peak_bytes"],
        "capacity_bytes": generation.capacity,
        "state_bytes": program.state_bytes,
        "activation_bytes": found["peak_bytes"] - program.state_bytes,
        "matmul_flops": asked.dots / devices,
        "remat_flops": (asked.dots - whole.dots) / devices,
        "model_flops": program.model_flops / devices,
        "kernel_calls": sum(reading.kernels.values()),
        "kernels": dict(reading.kernels),
        "collectives": collectives,
        "ring_bytes": reading.ring_bytes,
        "host_bytes": reading.host_bytes,
        "step_seconds": seconds.total,
        "seconds": {
            "cycles": seconds.compute,
            "attention": seconds.attention,
            "other_kernels": seconds.other_kernels,
            "collectives_not_hidden": seconds.collectives,
            "offload": seconds.offload,
        },
        "tokens_per_second": per_second,
        "tokens_per_second_per_chip": per_second / (devices / generation.devices_per_chip),
        "argument_bytes": found["argument_bytes"],
        "temp_bytes": found["temp_bytes"],
        "compile_seconds": found["compile_seconds"],
        "host_rss_bytes": found["host_rss_bytes"],
    }


def read_back(found: dict[str, Any]) -> Reading:
    """What the cache holds of a program."""
    return Reading.of(found["bodies"])


def _read_dump(folder: str) -> Reading:
    """The program from what the compiler itself wrote down: of its stages, the one that has the cycles."""
    texts = glob.glob(f"{folder}/*.after_codegen.txt")
    return read(Path(max(texts, key=lambda f: Path(f).stat().st_size)).read_text())


def _needed(said: str) -> float:
    """Bytes that the compiler says it would use, from "Used 18.23G of 15.75G hbm"."""
    found = re.search(r"[Uu]sed ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", said)
    if found is None:
        return 0.0
    return float(found[1]) * 1024 ** " KMG".index(found[2])


def _refused(said: str, flags: Flags) -> str | None:
    """What to say when the compiler does not take a flag."""
    named = [name for name in flags if name in said]
    if named or "compile option" in said.lower() or "While setting option" in said:
        return (
            f"compiler flags: {', '.join(named) or 'one of ' + ', '.join(flags)} is refused: "
            f"{_short(said)}; take it out of train.compiler_flags or tpu/flags.yaml"
        )
    return None


def _short(said: str) -> str:
    return " ".join(said.split())[:500]
