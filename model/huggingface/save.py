"""Safetensors files written as a stream, tensor by tensor.

The format is a length, a JSON header and the tensors' bytes, so a file is planned first and then filled
in order: one thread reads layers from the checkpoint, another turns them into the written layout and
dtype, and this one writes. A few tensors are in memory at a time, however large the model or the file.
"""

import json
import os
import queue
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from model.config import LlamaConfig
from model.huggingface import names
from model.huggingface.names import Tensor

DType = Literal["bf16", "f32"]
Read = Callable[[str, int | None], np.ndarray]  # (flat key, layer) -> one layer of ours

NUMPY = {"bf16": np.dtype(ml_dtypes.bfloat16), "f32": np.dtype(np.float32)}
WORDS = {"bf16": "bfloat16", "f32": "float32"}  # config.json's
_HEADER_WORDS = {"bf16": "BF16", "f32": "F32"}
_INDEX = "model.safetensors.index.json"
_ROWS, _COLUMNS = 16, 2048  # cast and turned at a time: a block and its copy fit a core's cache
_UPPER = 1 if sys.byteorder == "little" else 0  # where a 32-bit word has its upper half
_AHEAD = 1  # tensors waiting between two threads
_BUFFER = 64 * 2**20  # bytes; larger tensors have memory of their own


@dataclass(frozen=True)
class Plan:
    """Which file holds which tensors, in the order of their bytes."""

    dtype: DType
    files: dict[str, list[Tensor]]
    num_params: int
    num_bytes: int


def parse_size(text: str) -> int:
    """Bytes of a size such as 500MB or 5GB (powers of ten, as transformers counts them).

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])B", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"max_shard_size: {text!r} is no size; write it as 500MB or 5GB")
    return int(float(match[1]) * 10 ** (3 * (1 + "KMGT".index(match[2]))))


def plan(config: LlamaConfig, *, dtype: DType, max_shard_size: int) -> Plan:
    """Deal the tensors over files as transformers does: in order, a new file where one would be too large.

    A tensor larger than max_shard_size (bytes) has a file of its own.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    size = NUMPY[dtype].itemsize
    tensors = {t.name: t for t in names.tensors(config)}
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: int(np.prod(tensor.shape)) * size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    files = {
        file: [tensors[n] for n in listed] for file, listed in split.filename_to_tensors.items()
    }
    num_params = sum(int(np.prod(t.shape)) for t in tensors.values())
    return Plan(dtype, files, num_params, split.metadata["total_size"])


def write_weights(read: Read, planned: Plan, folder: str | os.PathLike[str]) -> None:
    """Write the planned files, and the index where there are several.

    Args:
        read: one layer of an array of ours, in float32; called from one other thread, in order.
        planned: by `plan`.
        folder: local, and there.

    Raises:
        ValueError: a weight is not finite; the message names it.
    """
    folder = Path(folder)
    order = [tensor for tensors in planned.files.values() for tensor in tensors]
    arrays = _pipeline(order, read, planned.dtype)
    for file, tensors in planned.files.items():
        with open(folder / file, "wb", buffering=0) as out:
            out.write(_header(tensors, planned.dtype))
            for _ in tensors:
                _write_all(out, next(arrays))
    if len(planned.files) > 1:
        index = {
            "metadata": {"total_parameters": planned.num_params, "total_size": planned.num_bytes},
            "weight_map": {t.name: file for file, ts in planned.files.items() for t in ts},
        }
        (folder / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def as_written(
    tensor: Tensor, layer: np.ndarray, dtype: DType, out: np.ndarray | None = None
) -> np.ndarray:
    """One tensor of theirs in the written dtype, from a layer of ours (its vocabulary padded or not).

    Float32 is rounded to the nearest bfloat16, ties to even, as everywhere. The work is done in blocks that stay in a
    core's cache, which is several times the speed of casting and turning whole arrays.

    Args:
        tensor: which one.
        layer: float32.
        dtype: to write.
        out: bytes to put it in, uint8, at least as many as it has; default: new ones.

    Raises:
        ValueError: a weight is not finite.
    """
    if tensor.key in names.VOCAB_DIMS:
        layer = layer[tuple(slice(0, n) for n in tensor.ours)]
    if layer.dtype != np.float32:
        raise ValueError(f"{tensor.key}: {layer.dtype}; float32 masters are expected")
    theirs = names.to_theirs(layer, tensor.layout)
    stored = np.dtype(np.uint16) if dtype == "bf16" else NUMPY["f32"]
    num_bytes = theirs.size * stored.itemsize
    raw = np.empty(num_bytes, np.uint8) if out is None else out[:num_bytes]
    written = raw.view(stored).reshape(theirs.shape)
    source, target = np.atleast_2d(theirs), np.atleast_2d(written)
    if not source.flags.c_contiguous:
        source, target = source.T, target.T
    scratch = _Scratch()
    for i in range(0, source.shape[0], _ROWS):
        for j in range(0, source.shape[1], _COLUMNS):
            block = source[i : i + _ROWS, j : j + _COLUMNS]
            if not scratch.is_finite(block):
                place = (
                    tensor.key if tensor.layer is None else f"{tensor.key}, layer {tensor.layer}"
                )
                raise ValueError(f"{place}: holds NaN or infinity; not worth exporting")
            target[i : i + _ROWS, j : j + _COLUMNS] = (
                scratch.rounded(block) if dtype == "bf16" else block
            )
    return written.view(NUMPY[dtype])


class _Scratch:
    """Memory for the work on a block, allocated once a tensor."""

    def __init__(self) -> None:
        self._bits = np.empty(_ROWS * _COLUMNS, np.uint32)
        self._flags = np.empty(_ROWS * _COLUMNS, np.bool_)

    def is_finite(self, block: np.ndarray) -> bool:
        flags = self._flags[: block.size].reshape(block.shape)
        return bool(np.isfinite(block, out=flags).all())

    def rounded(self, block: np.ndarray) -> np.ndarray:
        """The upper halves of finite float32 numbers, rounded to nearest even."""
        bits = block.view(np.uint32)
        out = self._bits[: block.size].reshape(block.shape)
        np.right_shift(bits, 16, out=out)
        np.bitwise_and(out, np.uint32(1), out=out)
        np.add(out, bits, out=out)
        np.add(out, np.uint32(0x7FFF), out=out)
        return out.view(np.uint16)[:, _UPPER::2]


def _header(tensors: list[Tensor], dtype: DType) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + int(np.prod(tensor.shape)) * NUMPY[dtype].itemsize
        entries[tensor.name] = {
            "dtype": _HEADER_WORDS[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin aligned
    return len(header).to_bytes(8, "little") + header


def _pipeline(order: list[Tensor], read: Read, dtype: DType) -> Iterator[np.ndarray]:
    """The tensors as they are written, made by two threads: one reads, one converts.

    An array given out is valid until the next is asked for: small tensors share a few buffers, because fresh memory
    costs as much as the work on it.
    """
    layers: _Channel = _Channel(_AHEAD)
    ready: _Channel = _Channel(_AHEAD)
    buffers: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    for _ in range(_AHEAD + 3):  # waiting, given out, being made, and one to spare
        buffers.put(np.empty(_BUFFER, np.uint8))

    def reader() -> None:
        for tensor in order:
            layers.put(read(tensor.key, tensor.layer))

    def converter() -> None:
        for tensor in order:
            size = int(np.prod(tensor.shape)) * NUMPY[dtype].itemsize
            buffer = buffers.get() if size <= _BUFFER else None
            ready.put((as_written(tensor, layers.get(), dtype, buffer), buffer))

    threads = [
        threading.Thread(target=_guarded, args=(work, channels), daemon=True)
        for work, channels in ((reader, (layers, ready)), (converter, (ready, layers)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in order:
            array, buffer = ready.get()
            yield array
            del array
            if buffer is not None:
                buffers.put(buffer)
    finally:
        for channel in (layers, ready):
            channel.close(None)
        for thread in threads:
            thread.join()


class _Closed(Exception):
    """A channel was closed; `cause` is what went wrong on the other side, if anything."""


class _Channel:
    """A bounded queue that either side can close, with the error that the other is to raise."""

    def __init__(self, size: int) -> None:
        self._items: deque[Any] = deque()
        self._size, self._closed, self._cause = size, False, None
        self._change = threading.Condition()

    def put(self, item: Any) -> None:
        with self._change:
            self._change.wait_for(lambda: len(self._items) < self._size or self._closed)
            self._raise_if_closed()
            self._items.append(item)
            self._change.notify_all()

    def get(self) -> Any:
        with self._change:
            self._change.wait_for(lambda: bool(self._items) or self._closed)
            if not self._items:
                self._raise_if_closed()
            item = self._items.popleft()
            self._change.notify_all()
            return item

    def close(self, cause: BaseException | None) -> None:
        with self._change:
            self._closed, self._cause = True, self._cause or cause
            if cause is None:
                self._items.clear()
            self._change.notify_all()

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise self._cause or _Closed


def _guarded(work: Callable[[], None], channels: tuple[_Channel, ...]) -> None:
    """Runs a thread's work; its error goes to whoever waits at its channels."""
    try:
        work()
    except BaseException as error:
        for channel in channels:
            channel.close(error)


def _write_all(out: FileIO, array: np.ndarray) -> None:
    view = array.view(np.uint8).reshape(-1).data
    while view:
        view = view[out.write(view) :]
