"""Corpora to documents: files, folders, globs, data sets, on disk or in object storage.

* `list_inputs` names the parts that processes can share out; `read` yields the documents of a share
  of them, in an order that depends on the names alone.
* A row that makes no document (broken, empty, binary, not UTF-8) is handed to `set_aside` with its
  place and the reason. A field that is not there is the recipe's mistake, and an error.
* A text file is one document, with the fields `text`, `name` and `path`. The columns of a CSV file
  without a header are named by number, from 0.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data import formats
from data.config import CorpusConfig
from data.document import Document
from data.fields import RowReader, UnusableRow, top_level

TFDS_ROWS = 4096  # rows of a TFDS data set that make one input, at least
MAX_SHARES = 64


@dataclass(frozen=True)
class SetAside:
    """What was not turned into a document: where it was (`file:line`) and why not."""

    source: str
    place: str
    reason: str
    excerpt: str

    @property
    def kind(self) -> str:
        """The reason, to be counted: what follows its colon is about the one document."""
        return self.reason.split(":", 1)[0].strip()


@dataclass(frozen=True)
class _Input:
    """A file, or one share of a data set."""

    path: str
    format: str
    share: int = 0
    num_shares: int = 1

    def __str__(self) -> str:
        return (
            self.path if self.num_shares == 1 else f"{self.path}#{self.share}-of-{self.num_shares}"
        )


def list_inputs(corpus: CorpusConfig) -> list[str]:
    """The inputs of a corpus by name, sorted: files, and shares of data sets (`PATH#1-of-8`).

    Raises:
        ValueError: nothing is there, or the format cannot be told.
    """
    return [str(input_) for input_ in _inputs(corpus, {})]


def read(
    corpus: CorpusConfig,
    name: str,
    *,
    set_aside: Callable[[SetAside], None],
    part: tuple[int, int] = (0, 1),
) -> Iterator[Document]:
    """The documents of a corpus, of every `part[1]`-th input from number `part[0]` on.

    `name` is the corpus' name in the recipe, for messages. `corpus.limit` counts the documents of
    this call.

    Raises:
        ValueError: a path is missing, or a field is not there (with file, line, and the fields
            there are).
    """
    opened: dict[str, Any] = {}
    columns = top_level(corpus.fields)
    count = 0
    for input_ in _inputs(corpus, opened)[part[0] :: part[1]]:
        reader = RowReader(corpus.fields, name)
        for place, row in _rows(input_, corpus, columns, opened):
            if isinstance(row, formats.Broken):
                set_aside(SetAside(name, place, row.reason, row.excerpt))
                continue
            try:
                document = reader.document(row, place)
            except UnusableRow as error:
                set_aside(SetAside(name, place, error.reason, str(row)[:200]))
                continue
            yield document
            count += 1
            if count == corpus.limit:
                reader.finish()
                return
        reader.finish()


def _rows(
    input_: _Input, corpus: CorpusConfig, columns: list[str], opened: dict[str, Any]
) -> Iterator[formats.Item]:
    path = input_.path
    if input_.format == "huggingface":
        yield from formats.dataset_rows(
            path, corpus.split, opened[path], input_.share, input_.num_shares
        )
    elif input_.format == "tfds":
        size = len(opened[path])
        start, stop = (size * k // input_.num_shares for k in (input_.share, input_.share + 1))
        yield from formats.tfds_rows(path, corpus.split, opened[path], start, stop)
    else:
        yield from formats.file_rows(path, input_.format, columns)


def _inputs(corpus: CorpusConfig, opened: dict[str, Any]) -> list[_Input]:
    """The inputs, sorted by path. Data sets that had to be opened for it are put into `opened`."""
    paths = (corpus.path,) if isinstance(corpus.path, str) else corpus.path
    inputs: set[_Input] = set()
    for path in paths:
        found = _find(path, corpus, opened)
        if not found:
            raise ValueError(f"path: {path} has no files to read (format {corpus.format})")
        inputs |= set(found)
    return sorted(inputs, key=lambda input_: (input_.path, input_.share))


def _find(path: str, corpus: CorpusConfig, opened: dict[str, Any]) -> list[_Input]:
    import fsspec

    format_ = corpus.format
    fs, plain = fsspec.core.url_to_fs(path)
    remote = "://" in path

    def full(found: str) -> str:
        return fs.unstrip_protocol(found) if remote else found

    if format_ == "tfds" or (format_ == "auto" and _is_tfds(fs, plain)):
        opened[path] = formats.open_tfds(path, corpus.name, corpus.split)
        shares = max(1, min(MAX_SHARES, len(opened[path]) // TFDS_ROWS))
        return [_Input(path, "tfds", share, shares) for share in range(shares)]
    if format_ in ("auto", "huggingface") and (arrow := _saved_dataset(fs, plain, path, corpus)):
        return [_Input(full(file), "arrow") for file in arrow]
    if format_ == "huggingface":
        opened[path] = formats.open_dataset(path, corpus.name, corpus.split, corpus.revision)
        shares = opened[path].num_shards
        return [_Input(path, "huggingface", share, shares) for share in range(shares)]
    if any(sign in path for sign in "*?[") and not fs.exists(plain):
        files = [file for file in fs.glob(plain) if not fs.isdir(file)]
        return [_file(full(file), format_) for file in files]
    if fs.isdir(plain):
        files = [file for file in fs.find(plain) if not _hidden(file[len(plain) :])]
        known = [
            file
            for file in files
            if (
                formats.format_of(file) if format_ == "auto" else formats.is_named_as(file, format_)
            )
        ]
        return [
            _file(full(file), format_) for file in known or (files if format_ != "auto" else [])
        ]
    if not fs.exists(plain):
        raise ValueError(
            f"path: {path} does not exist (for a Hugging Face hub id set format: huggingface, "
            "for a TFDS name format: tfds)"
        )
    return [_file(full(plain) if remote else path, format_)]


def _file(path: str, format_: str) -> _Input:
    found = formats.format_of(path) if format_ == "auto" else format_
    if found is None:
        known = ", ".join(suffix for suffixes in formats.SUFFIXES.values() for suffix in suffixes)
        raise ValueError(
            f"path: the name of {path} does not tell its format ({known}; .xml may be two); set format"
        )
    return _Input(path, found)


def _hidden(inside: str) -> bool:
    return any(part.startswith((".", "_")) for part in inside.split("/"))


def _is_tfds(fs: Any, path: str) -> bool:
    return (
        fs.isdir(path)
        and fs.exists(f"{path}/features.json")
        and fs.exists(f"{path}/dataset_info.json")
    )


def _saved_dataset(fs: Any, path: str, shown: str, corpus: CorpusConfig) -> list[str]:
    """The Arrow files of a folder written by `save_to_disk`; none where it is not such a folder."""
    path = path.rstrip("/")
    if fs.exists(f"{path}/dataset_dict.json"):
        splits = json.loads(fs.cat_file(f"{path}/dataset_dict.json"))["splits"]
        if corpus.split not in splits:
            raise ValueError(
                f"split: {shown} has no split {corpus.split!r}; there are: {', '.join(splits)}"
            )
        path = f"{path}/{corpus.split}"
    if not fs.exists(f"{path}/state.json"):
        return []
    return [
        f"{path}/{file['filename']}"
        for file in json.loads(fs.cat_file(f"{path}/state.json"))["_data_files"]
    ]
