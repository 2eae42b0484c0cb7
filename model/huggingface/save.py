"""Safetensors files written as a stream, tensor by tensor.

The format is a length, a JSON header and the tensors' bytes, so a file is planned first and then filled
in order: one thread reads layers from the checkpoint, another turns them into the written layout and
dtype, and this one writes. A few tensors are in memory at a time, however large the model or the file.
"""

import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal, cast

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
_BLOCK = 64  # rows cast and turned at a time, small enough for a core's cache
_AHEAD = 2  # tensors waiting between two threads


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


def as_written(tensor: Tensor, layer: np.ndarray, dtype: DType) -> np.ndarray:
    """One tensor of theirs in the written dtype, from a layer of ours (its vocabulary padded or not).

    Float32 is rounded to the nearest bfloat16, ties to even, as everywhere.

    Raises:
        ValueError: a weight is not finite.
    """
    if tensor.key in names.VOCAB_DIMS:
        layer = layer[tuple(slice(0, n) for n in tensor.ours)]
    theirs = names.to_theirs(layer, tensor.layout)
    if theirs.dtype != np.float32:
        raise ValueError(f"{tensor.key}: {theirs.dtype}; float32 masters are expected")
    out = np.empty(theirs.shape, np.uint16 if dtype == "bf16" else np.float32)
    turned = theirs.ndim == 2 and not theirs.flags.c_contiguous
    rows, target = (theirs.T, out.T) if turned else (theirs, out)
    step = _BLOCK if theirs.ndim == 2 else len(theirs)
    for i in range(0, len(rows), step):
        block = rows[i : i + step]
        target[i : i + step] = _round(block, tensor) if dtype == "bf16" else _finite(block, tensor)
    return out.view(NUMPY[dtype])


def _round(block: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The upper halves of float32 numbers, rounded to nearest even: several times ml_dtypes' speed."""
    bits = np.ascontiguousarray(_finite(block, tensor)).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += bits
    rounded += np.uint32(0x7FFF)
    rounded >>= 16
    return rounded.astype(np.uint16)


def _finite(block: np.ndarray, tensor: Tensor) -> np.ndarray:
    # The sum of finite numbers is finite, but for an overflow; then each is looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not np.isfinite(block.sum())
    if suspect and not np.isfinite(block).all():
        place = tensor.key if tensor.layer is None else f"{tensor.key}, layer {tensor.layer}"
        raise ValueError(f"{place}: holds NaN or infinity; this checkpoint is not worth exporting")
    return block


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
    """The tensors as they are written, two threads ahead: one reads, one converts."""
    stop = threading.Event()
    layers: queue.Queue = queue.Queue(_AHEAD)
    ready: queue.Queue = queue.Queue(_AHEAD)

    def put(target: queue.Queue, item: object) -> None:
        while not stop.is_set():
            try:
                return target.put(item, timeout=0.1)
            except queue.Full:
                continue

    def get(source: queue.Queue) -> object:
        while not stop.is_set():
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                continue
        return None

    def reader() -> None:
        for tensor in order:
            if stop.is_set():
                return
            try:
                item: object = read(tensor.key, tensor.layer)
            except BaseException as error:  # handed over and raised where the caller sees it
                item = error
            put(layers, item)
            if isinstance(item, BaseException):
                return

    def converter() -> None:
        for tensor in order:
            item = get(layers)
            if not isinstance(item, BaseException):
                try:
                    item = as_written(tensor, cast(np.ndarray, item), dtype)
                except BaseException as error:
                    item = error
            put(ready, item)
            if isinstance(item, BaseException) or stop.is_set():
                return

    threads = [threading.Thread(target=run, daemon=True) for run in (reader, converter)]
    for thread in threads:
        thread.start()
    try:
        for _ in order:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _write_all(out: FileIO, array: np.ndarray) -> None:
    view = array.view(np.uint8).reshape(-1).data
    while view:
        view = view[out.write(view) :]
