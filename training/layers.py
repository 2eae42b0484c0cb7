"""Reading a checkpoint's arrays straight from its files: whole, in slices, or one layer at a time.

A stacked array `blocks/...` is stored in chunks of one layer, so a layer costs its own bytes and no others. Errors of
the store come out as `CorruptCheckpoint` with the step, the array, and the file where the store names one; errors
that are not damage (no permission, a network that is down) pass through unchanged.
"""

import functools
import logging
import re
from collections import deque
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from training.digest import Digest, HostDigest, add
from training.steps import CorruptCheckpoint, bad_steps, checkpoints_dir, read_meta, record_bad

# What TensorStore calls it when the bytes are not there or not what they should be.
_DAMAGE = ("DATA_LOSS", "OUT_OF_RANGE", "NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION")
_QUOTED = re.compile(r'"([^"\s]+)"')
_log = logging.getLogger(__name__)


class StoredArrays:
    """The arrays of one item ("params", "opt_state") of one step, by flat key."""

    def __init__(self, run_dir: str, step: int, item: str) -> None:
        self._run_dir, self._step, self._item = run_dir, step, item
        self._folder = str(checkpoints_dir(run_dir) / str(step) / item) + "/"
        # One context: the index of the files is read once, not once an array.
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 64 * 2**20}})

    def open(self, key: str) -> ts.TensorStore:
        """The array of a flat key, for `[index].read()`."""
        base: Any = self._folder
        if "://" not in base:
            base = {"driver": "file", "path": base}
        name = key.replace("/", ".") + "/"
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": base, "path": name},
            # A chunk that is not there is damage, never zeros. Data is read once and not cached; a
            # committed step does not change, so nothing known of it is asked for again.
            "fill_missing_data_reads": False,
            "cache_pool": {"total_bytes_limit": 0},
            "recheck_cached_data": False,
            "recheck_cached_metadata": False,
        }
        try:
            return ts.open(spec, context=self._context, open=True, read=True).result()
        except ValueError as error:
            raise self.damage(key, error) from error

    def damage(self, key: str, error: Exception) -> Exception:
        """The error to raise for an array whose reading failed."""
        text = str(error)
        if not text.startswith(_DAMAGE):
            return error
        files = [f for f in _QUOTED.findall(text) if "/d/" in f or f.endswith("manifest.ocdbt")]
        where = f"array {self._item}/{key}" + (f", file {files[-1]}" if files else "")
        said = text.split(" [tensorstore_spec")[0].split(" [source locations")[0]
        return CorruptCheckpoint(self._run_dir, self._step, f"{where}: {said[:500]}")

    def read_sharded(
        self, wanted: dict[str, jax.ShapeDtypeStruct], *, in_flight_bytes: int
    ) -> dict[str, jax.Array]:
        """Arrays on devices, each device's part read from the files for itself.

        Args:
            wanted: Shape, type and sharding by flat key; shapes and types as stored.
            in_flight_bytes: Host memory for parts being read. A single part may exceed it.
        """
        pieces: dict[str, dict[Any, jax.Array]] = {key: {} for key in wanted}
        reading: deque[_Part] = deque()
        held = 0

        def place(part: _Part) -> int:
            try:
                host = part.reading.result()
            except ValueError as error:
                raise self.damage(part.key, error) from error
            for device in part.devices:
                pieces[part.key][device] = jax.device_put(host, device)
            return host.nbytes

        for key, struct in wanted.items():
            stored = self.open(key)
            if tuple(stored.shape) != tuple(struct.shape):
                reason = f"array {self._item}/{key} has shape {tuple(stored.shape)} in the files"
                raise CorruptCheckpoint(self._run_dir, self._step, f"{reason}, not {struct.shape}")
            for index, devices in _local_parts(struct):
                part = stored[index]
                num_bytes = int(part.size) * part.dtype.numpy_dtype.itemsize
                while reading and held + num_bytes > in_flight_bytes:
                    held -= place(reading.popleft())
                reading.append(_Part(key, devices, _Reading(part)))
                held += num_bytes
        while reading:
            place(reading.popleft())
        return {
            key: jax.make_array_from_single_device_arrays(
                struct.shape,
                struct.sharding,
                [
                    pieces[key][d]
                    for d in struct.sharding.addressable_devices_indices_map(struct.shape)
                ],
            )
            for key, struct in wanted.items()
        }


class LayerReader:
    """The weights of one step on the host, an array or a layer at a time, for export.

    Everything read is summed into the arrays' digests on the way; `verify` compares them once all has been read, so
    a conversion is checked without reading twice.

    Attributes:
        meta: What the step says of itself.
    """

    def __init__(self, run_dir: str, step: int) -> None:
        bad = bad_steps(run_dir)
        if step in bad:
            raise CorruptCheckpoint(run_dir, step, f"recorded before as: {bad[step]}")
        self.meta = read_meta(run_dir, step)
        self._run_dir, self._step = run_dir, step
        self._stored = StoredArrays(run_dir, step, "params")
        self._open: dict[str, ts.TensorStore] = {}
        self._digest = HostDigest()
        self._sums: dict[str, dict[int | None, Digest]] = {}

    def keys(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of every array, by flat key."""
        return {
            key.removeprefix("params/"): (tuple(shape), jax.numpy.dtype(dtype))
            for key, (shape, dtype) in self.meta["arrays"].items()
            if key.startswith("params/")
        }

    def read(self, key: str, layer: int | None = None) -> np.ndarray:
        """An array, or `array[layer]` with the bytes of that layer alone.

        Raises:
            ValueError: No such array, or no such layer in it.
            CorruptCheckpoint: Its bytes are not there.
        """
        arrays = self.keys()
        if key not in arrays:
            raise ValueError(f"{key!r} is not an array of step {self._step}; see keys()")
        shape, _ = arrays[key]
        if layer is not None and not (shape and 0 <= layer < shape[0]):
            raise ValueError(f"{key}: layer {layer} of an array of shape {shape}")
        if key not in self._open:
            try:
                self._open[key] = self._stored.open(key)
            except CorruptCheckpoint as error:
                raise self._condemn(error) from error
        stored = self._open[key]
        try:
            value = _Reading(stored if layer is None else stored[layer]).result()
        except ValueError as error:
            raise self._condemn(self._stored.damage(key, error)) from error
        parts = self._sums.setdefault(key, {})
        if layer not in parts:
            parts[layer] = self._digest.sums(value, (layer or 0) * value.size)
        return value

    def verify(self) -> None:
        """Compares what was read with the digests taken on the devices before the save.

        Raises:
            ValueError: Something was not read, so nothing can be said of it.
            CorruptCheckpoint: An array differs; the step is recorded as damaged.
        """
        unread = [
            key for key, (shape, _) in self.keys().items() if not self._is_complete(key, shape)
        ]
        if unread:
            raise ValueError(f"verify() before everything was read; missing: {', '.join(unread)}")
        for key in self.keys():
            parts = self._sums[key]
            pieces = [parts[None]] if None in parts else parts.values()
            found = functools.reduce(add, pieces)
            if found != self.meta["digests"][f"params/{key}"]:
                reason = (
                    f"array params/{key}: its digest differs from the one taken before the save"
                )
                raise self._condemn(CorruptCheckpoint(self._run_dir, self._step, reason))

    def _is_complete(self, key: str, shape: tuple[int, ...]) -> bool:
        parts = self._sums.get(key, {})
        return None in parts or (bool(shape) and len(parts) == shape[0])

    def _condemn(self, error: Exception) -> Exception:
        if isinstance(error, CorruptCheckpoint):
            try:
                record_bad(self._run_dir, self._step, error.reason)
            except OSError as refused:
                _log.error("step %d could not be recorded as damaged: %s", self._step, refused)
        return error


class _Reading:
    """A read under way, layer by layer into our own memory: two to four times as fast as one read of it all."""

    def __init__(self, stored: ts.TensorStore) -> None:
        self._host = np.empty(stored.shape, stored.dtype.numpy_dtype)
        target = ts.array(self._host)
        stored = stored[ts.d[:].translate_to[0]] if stored.rank else stored
        chunk = stored.chunk_layout.read_chunk.shape or (0,)
        by_layer = stored.rank > 1 and chunk[0] == 1
        self._futures = (
            [target[i].write(stored[i]) for i in range(stored.shape[0])]
            if by_layer
            else [target.write(stored)]
        )

    def result(self) -> np.ndarray:
        for future in self._futures:
            future.result()
        return self._host


@dataclass(frozen=True)
class _Part:
    key: str
    devices: list[Any]
    reading: _Reading


def _local_parts(struct: jax.ShapeDtypeStruct) -> list[tuple[Any, list[Any]]]:
    """The distinct parts that this process's devices hold, and which devices hold each."""
    parts: dict[tuple, tuple[Any, list[Any]]] = {}
    indices = struct.sharding.addressable_devices_indices_map(struct.shape)
    for device, index in indices.items():
        place = tuple((s.start, s.stop) for s in index or ())
        parts.setdefault(place, (index, []))[1].append(device)
    return list(parts.values())
