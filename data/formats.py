"""The rows of one input: text, JSON Lines, JSON, CSV, XML, HTML, Parquet, Arrow, and data sets.

Files are streamed, compressed or not, from disk or object storage; what is held is one row, one
batch of a table, or one text file. What cannot be read comes as `Broken` in its place, and reading
goes on behind it where that is possible.
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

from data.articles import jats_rows, pubmed_rows
from data.broken import Broken, Item, Numbered
from data.compression import DECOMPRESSORS, open_file
from data.webpage import webpage_row

MAX_ROW_BYTES = 1 << 28
SUFFIXES = {
    "text": (".txt",),
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
    "html": (".html", ".htm", ".xhtml"),
    "jats": (".nxml", ".xml"),
    "pubmed": (".xml",),
}


def format_of(path: str) -> str | None:
    """The format that a file's name tells, None where it does not, or not alone (`.xml`)."""
    found = [name for name in SUFFIXES if is_named_as(path, name)]
    return found[0] if len(found) == 1 else None


def is_named_as(path: str, format_: str) -> bool:
    """Whether a file's name fits a format."""
    path = path.lower()
    for suffix in DECOMPRESSORS:
        path = path.removesuffix(suffix)
    return path.endswith(SUFFIXES.get(format_, ()))


def file_rows(path: str, format_: str, columns: list[str]) -> Iterator[Item]:
    """The rows of one file.

    `columns` are the field paths wanted: others may be left out where that saves reading.

    Raises:
        OSError: the file cannot be opened.
        ValueError: a table has none of the columns.
    """
    if format_ in ("parquet", "arrow"):
        yield from _table(path, format_, columns)
        return
    place = f"{path}:1"
    try:
        with open_file(path) as file:
            if b"\0" in file.peek(1 << 13)[: 1 << 13]:
                yield place, Broken("binary file: it has NUL bytes", repr(file.peek(64)[:64]))
                return
            lines = _LINES[format_]
            for line, row in lines(file, columns, path):
                place = f"{path}:{line}"
                yield place, row
    except EOFError as error:
        yield (
            place,
            Broken(f"broken compression: {error}; what comes behind this place is lost", ""),
        )


def open_dataset(path: str, name: str | None, split: str, revision: str | None) -> Any:
    """A Hugging Face data set (hub id or folder of data files), streaming."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"path: {path}: reading Hugging Face data sets needs `pip install datasets`"
        ) from error
    try:
        return datasets.load_dataset(path, name, split=split, revision=revision, streaming=True)
    except Exception as error:  # network, access and naming errors have no common class
        raise ValueError(
            f"path: {path} (name {name}, split {split}) cannot be read as a Hugging Face data set: "
            f"{error}"
        ) from error


def dataset_rows(
    path: str, split: str, dataset: Any, shard: int, num_shards: int
) -> Iterator[Item]:
    """The rows of one shard of an open Hugging Face data set."""
    if num_shards > 1:
        dataset = dataset.shard(num_shards=num_shards, index=shard)
    for number, row in enumerate(dataset, 1):
        yield f"{path}/{split}-{shard:05d}-of-{num_shards:05d}:{number}", row


def open_tfds(path: str, name: str | None, split: str) -> Any:
    """A TFDS data set as a random-access source: a prepared folder or a registered name.

    TensorFlow is not needed.
    """
    import tensorflow_datasets as tfds
    from etils import epath

    try:
        if epath.Path(path).exists():
            folder = epath.Path(path) / name if name else epath.Path(path)
            if not (folder / "features.json").exists():  # the folder above the versions
                folder = max((f.parent for f in folder.glob("*/features.json")), default=folder)
            builder: Any = tfds.builder_from_directory(folder)
        else:
            builder = tfds.builder(f"{path}/{name}" if name else path)
        return builder.as_data_source(split=split)
    except Exception as error:  # TFDS raises whatever its builders do
        raise ValueError(
            f"path: {path} (split {split}) cannot be read as a TFDS data set: "
            f"{(str(error) or repr(error)).splitlines()[0]} "
            "(it must be prepared with file_format=array_record)"
        ) from error


def tfds_rows(path: str, split: str, source: Any, start: int, stop: int) -> Iterator[Item]:
    """Rows `start` to `stop` of an open TFDS data set; a row's place counts from 1."""
    for first in range(start, stop, 256):
        numbers = list(range(first, min(first + 256, stop)))
        for number, row in zip(numbers, source.__getitems__(numbers), strict=True):
            yield f"{path}/{split}:{number + 1}", row


# --- line by line ---------------------------------------------------------------------------------


def _whole(file: io.BufferedReader) -> bytes | Broken:
    """The bytes of a file that is one document."""
    content = file.read(MAX_ROW_BYTES + 1)
    if len(content) > MAX_ROW_BYTES:
        return Broken(f"too long: over {MAX_ROW_BYTES} bytes in one file; make it JSON Lines", "")
    if b"\0" in content:
        return Broken("binary file: it has NUL bytes", repr(content[:64]))
    return content


def _text(file: io.BufferedReader, columns: list[str], path: str) -> Iterator[Numbered]:
    content = _whole(file)
    if isinstance(content, Broken):
        yield 1, content
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield line, Broken(f"not UTF-8: byte {error.start}", repr(content[error.start :][:64]))
        return
    name = path[path.rfind("/") + 1 :]
    yield (
        1,
        {
            "text": text.rstrip("\r\n"),
            "name": name[: name.find(".")] if "." in name else name,
            "path": path,
        },
    )


def _jsonl(file: io.BufferedReader, columns: list[str], path: str) -> Iterator[Numbered]:
    number = 0
    while line := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_ROW_BYTES)
            yield number, Broken(f"too long: over {MAX_ROW_BYTES} bytes in one line", "")
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield number, _object(json.loads(line.decode()))
        except UnicodeDecodeError as error:
            yield (
                number,
                Broken(
                    f"not UTF-8: byte {error.start} of the line", repr(line[error.start :][:64])
                ),
            )
        except (ValueError, RecursionError) as error:
            yield (
                number,
                Broken(f"broken JSON: {error}", line[:200].decode(errors="replace").rstrip()),
            )


def _json(file: io.BufferedReader, columns: list[str], path: str) -> Iterator[Numbered]:
    """The entries of an array, or objects one after the other; whole lines are JSON Lines."""
    head = file.peek(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    if head[:1] != b"[":
        first, _, _ = head.partition(b"\n")
        try:
            json.loads(first)
        except ValueError:
            pass
        else:
            yield from _jsonl(file, columns, path)
            return
    # Invalid bytes become lone surrogates, by which the row that has them is known later.
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    scan = json.JSONDecoder().raw_decode
    buffer, position, line, size, more = "", 0, 1, 1 << 20, True
    inside = False  # the array
    while True:
        start = position
        while position < len(buffer) and (
            buffer[position] in " \t\r\n" or (inside and buffer[position] == ",")
        ):
            position += 1
        line += buffer.count("\n", start, position)
        if (
            position < len(buffer)
            and buffer[position] in "[]"
            and (buffer[position] == "]") == inside
        ):
            inside = not inside
            position += 1
            continue
        reason = "the file ends inside it"
        if position < len(buffer):
            try:
                row, end = scan(buffer, position)
            except (ValueError, RecursionError) as error:
                reason = str(error)
            else:
                yield line, _object(row)
                line += buffer.count("\n", position, end)
                position, size = end, 1 << 20
                continue
        if not more or len(buffer) - position > MAX_ROW_BYTES:
            if position < len(buffer) or inside:
                excerpt = buffer[position : position + 200]
                yield (
                    line,
                    Broken(f"broken JSON: {reason}; what comes behind this place is lost", excerpt),
                )
            return
        block = file.read(size)
        buffer, position, size, more = (
            buffer[position:] + decode(block, not block),
            0,
            2 * size,
            bool(block),
        )


def _csv(file: io.BufferedReader, columns: list[str], path: str) -> Iterator[Numbered]:
    """Rows under the names of the first line, which is not there if all `columns` are numbers."""
    csv.field_size_limit(MAX_ROW_BYTES)
    delimiter = "\t" if ".tsv" in path.lower() else ","
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(lines, delimiter=delimiter)
    header: list[str] | None = None
    if all(column.isdigit() for column in columns):
        header = []
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, Broken(f"broken CSV: {error}", "")
            continue
        if not values:
            continue
        if header is None:
            header = values
            continue
        names = header or [str(number) for number in range(len(values))]
        if len(values) != len(names):
            excerpt = delimiter.join(values)[:200]
            yield (
                line,
                Broken(f"broken CSV: {len(values)} fields, the header has {len(names)}", excerpt),
            )
            continue
        yield line, dict(zip(names, values, strict=True))


def _pubmed(file: io.BufferedReader, columns: list[str], path: str) -> Iterator[Numbered]:
    yield from pubmed_rows(file, MAX_ROW_BYTES)


def _jats(file: io.BufferedReader, columns: list[str], path: str) -> Iterator[Numbered]:
    yield from jats_rows(file, MAX_ROW_BYTES)


def _html(file: io.BufferedReader, columns: list[str], path: str) -> Iterator[Numbered]:
    content = _whole(file)
    yield 1, content if isinstance(content, Broken) else webpage_row(content, path)


_LINES: dict[str, Callable[..., Iterator[Numbered]]] = {
    "text": _text,
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "pubmed": _pubmed,
    "jats": _jats,
    "html": _html,
}


def _object(row: Any) -> dict[str, Any] | Broken:
    if isinstance(row, dict):
        return row
    if isinstance(row, str):
        return {"text": row}
    return Broken(
        f"broken JSON: a row is an object, this is a {type(row).__name__}", json.dumps(row)[:200]
    )


# --- tables ---------------------------------------------------------------------------------------


def _table(path: str, format_: str, columns: list[str]) -> Iterator[Item]:
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet

    opened: Any = fsspec.open(path, "rb")
    with opened.open() as file:
        number = 0
        try:
            if format_ == "parquet":
                parquet = pyarrow.parquet.ParquetFile(file)
                names = parquet.schema_arrow.names
                wanted = [n for n in names if any(c == n or c.startswith(f"{n}.") for c in columns)]
                # With none of them there, the error about the first row names all that there are.
                batches = parquet.iter_batches(
                    batch_size=1024, columns=wanted if len(wanted) else None
                )
            else:
                batches = iter(pa.ipc.open_stream(file))
            for batch in batches:
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
        except (pa.ArrowInvalid, OSError) as error:
            yield f"{path}:{number + 1}", Broken(f"broken {format_} file: {error}", "")
