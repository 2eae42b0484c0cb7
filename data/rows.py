"""The packed stream on disk: a TFDS dataset of array_record shards, described by `stream.json`.

A row is a `tf.train.Example` of three features (`tokens`, `segment_ids`, `loss_mask`). Its bytes
are written here and not by protobuf, whose map order follows the hash seed: two runs would differ.
TFDS reads them as its own.
"""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path as LocalPath
from typing import Any

import numpy as np
import zstandard
from etils import epath

from data.pack import Row

FORMAT = 1
# Ends the name of a file that is being written; a killed process leaves it.
PARTIAL = ".partial"


def shard_name(shard: int, num_shards: int) -> str:
    """File name of a shard, as TFDS spells it."""
    return f"rows-train.array_record-{shard:05d}-of-{num_shards:05d}"


def features(seq_len: int) -> Any:
    """The `tfds.features.FeaturesDict` of a row of `seq_len` tokens."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "tokens": tfds.features.Tensor(shape=(seq_len,), dtype=np.int32),
            "segment_ids": tfds.features.Tensor(shape=(seq_len,), dtype=np.int32),
            "loss_mask": tfds.features.Tensor(shape=(seq_len,), dtype=np.bool_),
        }
    )


def serialize(row: Row) -> bytes:
    """A row as a `tf.train.Example`, its features in alphabetical order."""
    entries = b"".join(
        _field(1, _field(1, name) + _field(2, _field(3, _field(1, _varints(values)))))
        for name, values in (
            (b"loss_mask", row.loss_mask),
            (b"segment_ids", row.segment_ids),
            (b"tokens", row.tokens),
        )
    )
    return _field(1, entries)


def write_shard(path: str | os.PathLike, rows: Iterable[Row]) -> int:
    """Writes one shard and returns its number of rows.

    It is written under a local name and put in place whole, so a shard that has its name is
    complete. Object storage, where array_record cannot write, gets the finished file.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    count = 0
    with whole_file(path) as local:
        writer = ArrayRecordWriter(str(local), "group_size:1")
        for row in rows:
            writer.write(serialize(row))
            count += 1
        writer.close()
    return count


class whole_file:
    """Gives a local file to write, and puts it at `path` when the block ends without an error."""

    def __init__(self, path: str | os.PathLike):
        self._path = epath.Path(path)

    def __enter__(self) -> LocalPath:
        folder, prefix = _partials(self._path.parent)
        folder.mkdir(parents=True, exist_ok=True)
        self._local = folder / f"{prefix}{self._path.name}.{os.getpid()}{PARTIAL}"
        return self._local

    def __exit__(self, error_type: type | None, *_: object) -> None:
        try:
            if error_type is None:
                if is_remote(self._path):
                    epath.Path(self._local).copy(self._path, overwrite=True)
                else:
                    os.replace(self._local, self._path)
        finally:
            self._local.unlink(missing_ok=True)


def remove_partials(folder: str | os.PathLike) -> None:
    """Removes what killed processes of this machine had begun to write for a folder."""
    place, prefix = _partials(epath.Path(folder))
    for partial in place.glob(f"{prefix}*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def _partials(folder: epath.Path) -> tuple[LocalPath, str]:
    """Where files are written before they are put into `folder`, and how their names begin."""
    if is_remote(folder):
        key = hashlib.sha256(os.fspath(folder).encode()).hexdigest()[:12]
        return LocalPath(tempfile.gettempdir()), f"lectern-{key}-"
    return LocalPath(folder), "."


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is in object storage, where there is no append and no rename."""
    return "://" in os.fspath(path)


def write_metadata(folder: str | os.PathLike, seq_len: int, shard_rows: Sequence[int]) -> None:
    """Completes a folder of shards as a TFDS dataset; until then it is unfinished."""
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=epath.Path(folder),
        dataset_name="rows",
        split="train",
        filetype_suffix="array_record",
    )
    split = tfds.core.SplitInfo(
        name="train", shard_lengths=list(shard_rows), num_bytes=0, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=os.fspath(folder),
        features=features(seq_len),
        split_infos=[split],
        check_data=False,
    )


def write_stream(
    folder: str | os.PathLike,
    stream: Mapping[str, Any],
    shard_rows: Sequence[int],
    card: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the metadata and, last, `stream.json`: the stream is finished and may be opened.

    Args:
        folder: the stream's folder, all its shards in place.
        stream: name, seq_len, tokens, supervised, documents, tokenizer, vocab_size, add_bos,
            add_eos.
        shard_rows: rows of each shard.
        card: what `card.json` says; it is part of the fingerprint.

    Returns:
        What was written.
    """
    path = epath.Path(folder)
    write_metadata(path, stream["seq_len"], shard_rows)
    shards = []
    for i, num_rows in enumerate(shard_rows):
        name = shard_name(i, len(shard_rows))
        shards.append({"file": name, "bytes": (path / name).stat().length, "rows": num_rows})
    info = {"format": FORMAT, **stream, "num_rows": sum(shard_rows), "shards": shards}
    info["fingerprint"] = fingerprint(info, card)
    write_json(path / "stream.json", info)
    return info


def fingerprint(stream: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """sha256 over a stream's description (with its shards' names, sizes and rows) and its card."""
    told = {key: value for key, value in stream.items() if key != "fingerprint"}
    return hashlib.sha256(to_json([told, card]).encode()).hexdigest()


def read_stream(folder: str | os.PathLike) -> dict[str, Any] | None:
    """`stream.json` of a finished stream, None where there is none."""
    path = epath.Path(folder) / "stream.json"
    return json.loads(path.read_text()) if path.exists() else None


def read_rows(folder: str | os.PathLike, start: int = 0, stop: int | None = None) -> Iterator[Row]:
    """Rows `start` to `stop` of a finished stream, in the order of its shards."""
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(os.fspath(folder)).as_data_source("train")  # pyright: ignore[reportCallIssue]
    for i in range(start, len(source) if stop is None else min(stop, len(source))):
        row = source[i]
        yield Row(row["tokens"], row["segment_ids"], row["loss_mask"])


def to_json(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces to choose."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes readable JSON, whole, keys in the order given."""
    with whole_file(path) as local:
        local.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path: str | os.PathLike, lines: Iterable[str]) -> None:
    """Writes a `.zst` file of lines, whole."""
    with whole_file(path) as local, zstandard.open(local, "wb") as file:
        for line in lines:
            file.write(line.encode() + b"\n")


def read_lines(path: str | os.PathLike) -> Iterator[str]:
    """The lines of a `.zst` file, without their newlines."""
    with (
        epath.Path(path).open("rb") as raw,
        zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as file,
    ):
        for line in io.TextIOWrapper(file, encoding="utf-8", newline="\n"):
            yield line.rstrip("\n")


def _varints(values: np.ndarray) -> bytes:
    """Non-negative integers as protobuf varints.

    7 bits a byte, low bits first, the high bit set on all but the last byte.
    """
    if values.dtype == np.bool_:
        return values.tobytes()
    values = values.astype(np.uint32)
    largest = int(values.max(initial=0))
    if largest < 1 << 7:
        return values.astype(np.uint8).tobytes()
    width = -(-largest.bit_length() // 7)
    shifts = np.arange(0, 7 * width, 7, dtype=np.uint32)
    rest = values[:, None] >> shifts  # (n, width): what is left from this byte on
    more = np.zeros(rest.shape, np.bool_)
    more[:, :-1] = rest[:, 1:] != 0
    digits = (rest & 127).astype(np.uint8) | (more.astype(np.uint8) << 7)
    used = rest != 0
    used[:, 0] = True
    return digits[used].tobytes()


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _length(len(payload)) + payload


def _length(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
