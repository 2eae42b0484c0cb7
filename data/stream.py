"""A finished packed stream: its description, checked against its files and the run."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etils import epath

from data.config import StreamConfig

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer

METADATA = ("dataset_info.json", "features.json")


@dataclass(frozen=True)
class Stream:
    """A finished packed stream.

    Attributes:
        name: its name in the recipe.
        path: the folder written by data.prepare.
        info: its `stream.json`.
    """

    name: str
    path: str
    info: dict[str, Any]

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return self.info["num_rows"]

    @property
    def tokens_per_row(self) -> float:
        """Non-padding tokens in a row, on average."""
        return self.info["tokens"] / self.info["num_rows"]


def open_stream(name: str, path: str) -> Stream:
    """Reads the description of a stream and checks that the folder holds what it says.

    Raises:
        ValueError: the folder is missing or unfinished, a shard is missing or of another size,
            there are no rows; with the stream's name, the path and what to do.
    """
    where = f"stream {name}: {path}"
    folder = epath.Path(path)
    described = folder / "stream.json"
    if not described.exists():
        state = "is unfinished, stream.json is not there" if folder.exists() else "does not exist"
        raise ValueError(f"{where} {state}; run data.prepare to the end, or correct the path")
    try:
        info = json.loads(described.read_text())
    except ValueError as error:
        raise ValueError(f"{where}/stream.json is not JSON: {error}") from error
    if info.get("format") != 1:
        raise ValueError(f"{where}/stream.json has format {info.get('format')}, known is 1")
    missing = [file for file in METADATA if not (folder / file).exists()]
    if missing:
        raise ValueError(
            f"{where} is unfinished, {', '.join(missing)} is not there; run data.prepare again"
        )
    if info["num_rows"] < 1 or info["tokens"] < 1:
        raise ValueError(
            f"{where} has {info['num_rows']} rows with {info['tokens']} tokens; "
            "leave the stream out"
        )
    shards = info["shards"]
    if sum(shard["rows"] for shard in shards) != info["num_rows"]:
        raise ValueError(
            f"{where}/stream.json: num_rows is {info['num_rows']}, its shards' rows sum to another"
        )
    # A missing file opens as an empty one on object storage, so sizes are compared before anything
    # is read.
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(lambda shard: _size(folder / shard["file"]), shards))
    for shard, size in zip(shards, sizes, strict=True):
        if size is None:
            raise ValueError(f"{where}: shard {shard['file']} is missing; run data.prepare again")
        if size != shard["bytes"]:
            raise ValueError(
                f"{where}: shard {shard['file']} has {size} bytes, "
                f"stream.json says {shard['bytes']}; copy the folder again, "
                "or run data.prepare again"
            )
    return Stream(name, path, info)


def open_streams(
    configs: Mapping[str, StreamConfig], *, seq_len: int, tokenizer: "Tokenizer | None"
) -> list[Stream]:
    """Opens the streams of a run, in the recipe's order.

    Args:
        configs: the recipe's streams by name.
        seq_len: tokens per row that the run asks for.
        tokenizer: the run's; its fingerprint must be the one the streams were packed with. None:
            not compared.

    Raises:
        ValueError: as `open_stream`, or a stream was packed with another seq_len or tokenizer.
    """
    streams = [open_stream(name, config.path) for name, config in configs.items()]
    for stream in streams:
        where = f"stream {stream.name}: {stream.path}"
        if stream.info["seq_len"] != seq_len:
            raise ValueError(
                f"{where} has rows of {stream.info['seq_len']} tokens, train.seq_len is {seq_len}; "
                "set it to that, or prepare the stream with this seq_len"
            )
        if tokenizer is not None and stream.info["tokenizer"] != tokenizer.fingerprint:
            raise ValueError(
                f"{where} was packed with the tokenizer {stream.info['tokenizer']}, "
                f"this run's ({tokenizer.path}) is {tokenizer.fingerprint}; "
                "name the tokenizer beside the stream, or prepare it with this one"
            )
    return streams


def _size(path: epath.Path) -> int | None:
    """Bytes of a file, None when it is not there."""
    try:
        return path.stat().length
    except FileNotFoundError:
        return None
