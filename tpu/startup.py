"""What all hosts of a run must agree on before the first step, and how long that step was in coming.

`together` makes one host's trouble everybody's, by name, where it would otherwise leave the others waiting.
`check_hosts` compares code, recipe, data, versions and devices over all processes and makes sure that the
run directory is one place; every difference names host and value. Alone, a process has nothing to compare.
"""

import hashlib
import importlib.metadata
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from tpu.mesh import describe

Result = TypeVar("Result")

ROOT = Path(__file__).resolve().parent.parent
CODE = ("train.py", "configs", "data", "evaluation", "model", "tpu", "training")
KINDS = (".py", ".yaml", ".jinja", ".json", ".html")
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint")
SHOWN = 12  # differences that are listed
_HANDSHAKE = "hosts.json"  # in the run directory


@dataclass(frozen=True)
class Hosts:
    """Who takes part, when all agree."""

    names: tuple[str, ...]
    code: str
    versions: dict[str, str]

    def line(self, mesh: Mesh, rows: int, seq_len: int) -> str:
        """Hosts, devices, mesh and global batch in one line."""
        names = list(self.names)
        if len(names) > 4:
            names = [*names[:2], "...", names[-1]]
        device = mesh.devices.flat[0].device_kind
        several = "" if len(self.names) == 1 else "s"
        return (
            f"{len(self.names)} host{several} ({', '.join(names)}), {mesh.size} {device}, {describe(mesh)}; "
            f"a step is {rows} rows x {seq_len} tokens = {rows * seq_len:,}; code {self.code}, "
            + ", ".join(
                f"{name} {version}"
                for name, version in self.versions.items()
                if name in PACKAGES[:3]
            )
        )


def together(work: Callable[[], Result]) -> Result:
    """`work()` on every host; when it fails on one, all hear of it.

    Raises:
      ValueError: it did on this host, or (naming the hosts) on others.
    """
    if jax.process_count() == 1:
        return work()
    result, error = None, None
    try:
        result = work()
    except (ValueError, OSError) as mine:
        error = mine
    said = gather_text("" if error is None else f"{socket.gethostname()}: {error}")
    failed = [text for text in said if text]
    if failed:
        # Once, where all hosts say the same.
        alike = len(failed) == len(said) and len({text.partition(": ")[2] for text in failed}) == 1
        raise ValueError(failed[0].partition(": ")[2] if alike else _listed(failed)) from error
    return result  # type: ignore[return-value]


def check_hosts(recipe: Mapping[str, Any], data: Mapping[str, Any], run_dir: str) -> Hosts:
    """Compares all processes, and writes down who they are in the run directory.

    Args:
      recipe: as resolved, plain values.
      data: the fingerprint of the streams as this process finds them.
      run_dir: where all of them must find what the first one writes.

    Raises:
      ValueError: what differs, with host and value; on every process.
    """
    _check_counts()
    code = code_digests()
    facts = {
        "host": socket.gethostname(),
        "code": _digest(code),
        "said": _code_said(),
        "recipe": recipe,
        "data": data,
        "versions": _versions(),
        "devices": {"here": jax.local_device_count(), "kind": jax.local_devices()[0].device_kind},
        "nonce": None,
    }
    hosts = Hosts((facts["host"],), f"{facts['said']}{facts['code'][:8]}", facts["versions"])
    if jax.process_count() == 1:
        return hosts
    handshake, trouble = epath.Path(run_dir) / _HANDSHAKE, ""
    if jax.process_index() == 0:
        facts["nonce"] = secrets.token_hex(8)
        try:
            epath.Path(run_dir).mkdir(parents=True, exist_ok=True)
            handshake.write_text(json.dumps({"nonce": facts["nonce"]}))
        except OSError as error:
            trouble = f"run_dir: {run_dir} cannot be written: {error}"
    everyone = [json.loads(text) for text in gather_text(json.dumps(facts))]
    names = tuple(f"{each['host']}/{i}" for i, each in enumerate(everyone))
    if not trouble:
        trouble = _shared(handshake, everyone[0]["nonce"], run_dir)
    trouble = gather_text(trouble)
    wrong = [f"{name}: {text}" for name, text in zip(names, trouble, strict=True) if text]
    wrong += _differences(everyone, names)
    if len({each["code"] for each in everyone}) > 1:
        wrong += _different_files(code, names)
    if wrong:
        raise ValueError(_listed(wrong))
    if jax.process_index() == 0:
        record = {"nonce": everyone[0]["nonce"], "started": time.time(), "code": hosts.code}
        record |= {"versions": facts["versions"], "hosts": names}
        handshake.write_text(json.dumps(record, indent=1) + "\n")
    return Hosts(tuple(each["host"] for each in everyone), hosts.code, hosts.versions)


def share_folder(find: Callable[[], epath.Path], place: epath.Path) -> epath.Path:
    """A folder that the first process finds (downloads, say), copied once to where all can read it.

    Alone, the folder itself. Every process calls this.
    """
    if jax.process_count() == 1:
        return find()

    def copy() -> None:
        if jax.process_index() != 0 or (place / "complete").exists():
            return
        found = find()
        place.mkdir(parents=True, exist_ok=True)
        for file in found.iterdir():
            if file.is_file():
                file.copy(place / file.name, overwrite=True)
        (place / "complete").write_text(f"{found}\n")

    together(copy)
    return place


def first_step_line(seconds: Mapping[str, float], imported: float) -> str:
    """Where the time from the process's start to the end of its first step went.

    Args:
      seconds: the run's account of wall time by kind, from the process's start on.
      imported: those until the job began; they are counted as "other".
    """
    parts = {"import": imported} | {k: s for k, s in seconds.items() if k != "other"}
    parts["other"] = seconds.get("other", 0.0) - imported
    said = ", ".join(f"{kind} {value:.1f}" for kind, value in parts.items() if value >= 0.05)
    return f"first step after {sum(seconds.values()):.1f} s: {said}"


def gather_text(text: str) -> list[str]:
    """Every process's text, by process."""
    from jax.experimental import multihost_utils

    raw = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([raw.size], np.int32)).reshape(-1)
    padded = np.zeros(max(int(sizes.max()), 1), np.uint8)
    padded[: raw.size] = raw
    rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def code_digests(root: Path = ROOT) -> dict[str, str]:
    """A digest of every file that a run executes or reads as its own, by path."""
    files = (
        path
        for name in CODE
        for path in ([root / name] if (root / name).is_file() else (root / name).rglob("*"))
        if path.suffix in KINDS
    )
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(files)
    }


def _check_counts() -> None:
    """As many processes and devices as whoever started this one says there should be."""
    expected = {
        "LECTERN_PROCESSES": ("processes", jax.process_count()),
        "LECTERN_DEVICES": ("devices", jax.device_count()),
    }
    for variable, (what, found) in expected.items():
        told = os.environ.get(variable)
        if told and int(told) != found:
            raise ValueError(
                f"{socket.gethostname()} sees {found} {what}, {variable} says {told}; the command must run on "
                "every host of the slice, at the same time"
            )


def _shared(handshake: epath.Path, nonce: str, run_dir: str) -> str:
    """What is wrong with the run directory as this process sees it; nothing, if it is the first one's."""
    hint = "all hosts need one place, such as gs://BUCKET/RUN"
    try:
        found = json.loads(handshake.read_text())["nonce"]
    except (OSError, ValueError, KeyError):
        return f"run_dir: {run_dir} has not what process 0 has just written there; {hint}"
    if found != nonce:
        return f"run_dir: {run_dir} holds another run's {_HANDSHAKE} than process 0's; {hint}"
    return ""


def _differences(everyone: list[dict[str, Any]], names: tuple[str, ...]) -> list[str]:
    """Each value that is not the first process's: the key, both values, both hosts."""
    lines = []
    compared = ("recipe", "data", "versions", "devices")
    first = dict(_flat({key: everyone[0][key] for key in compared}))
    for name, each in zip(names[1:], everyone[1:], strict=True):
        other = dict(_flat({key: each[key] for key in compared}))
        lines += [
            f"{key}: {first.get(key)} on {names[0]}, {other.get(key)} on {name}"
            for key in sorted(first.keys() | other.keys())
            if first.get(key) != other.get(key)
        ]
    return lines


def _different_files(mine: dict[str, str], names: tuple[str, ...]) -> list[str]:
    """The files of code that are not the first process's."""
    everyone = [json.loads(text) for text in gather_text(json.dumps(mine))]
    lines = []
    for name, each in zip(names[1:], everyone[1:], strict=True):
        lines += [
            f"code: {path}: {everyone[0].get(path, 'not there')} on {names[0]}, "
            f"{each.get(path, 'not there')} on {name}"
            for path in sorted(everyone[0].keys() | each.keys())
            if everyone[0].get(path) != each.get(path)
        ]
    return lines


def _listed(wrong: list[str]) -> str:
    more = [f"... and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return "the hosts differ:\n  " + "\n  ".join([*wrong[:SHOWN], *more])


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _code_said() -> str:
    """What the copy of the code calls itself (`tpu.bundle`), for people; the digests decide."""
    note = ROOT / ".code"
    return f"{note.read_text().strip()}, files " if note.exists() else ""


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
