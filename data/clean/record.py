"""The records of a survey: what is kept of every document while copies are looked for.

A record has three parts:

* a `HEAD` of the document, with its signature, and for a conversation one of each of its long
  turns besides (the held-out split joins pages to the conversations that quote them);
* the hashes of its words, by which candidates are compared exactly (4 bytes a word, on disk);
* its `HIT`s: what it has in common with test items.

Records travel as bytes and are kept in `SurveyFile`s, one to a process. `Table` is all of them
together in an order that depends on the documents alone.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data.clean.signature import NUM_MINIMA

# What a head is for, and what it says of its document. Dropped: by the cleaners.
SPLIT, COPIES, CONVERSATION, DROPPED = 1, 2, 4, 8
# What a head says of its document's own group.
NO_GROUP, TRAINED_ON, HELD_OUT = 0, 1, 2

HEAD = np.dtype(
    [
        ("id", "S24"),
        ("corpus", "<u2"),  # its rank: copies in corpora of lower rank are kept
        ("flags", "u1"),
        ("group", "u1"),
        ("exact", "<u8"),  # of the turns, spacing and case folded
        ("whole", "<u8"),  # of the words
        ("minima", "<u4", (NUM_MINIMA,)),
        ("num_words", "<u4"),  # kept with this head
        ("prompt_words", "<u4"),  # those of them that are not the assistant's; they come first
        ("file", "<u2"),  # where the words are,
        ("start", "<u8"),  # from which one on
    ]
)
HIT = np.dtype(
    [("id", "S24"), ("corpus", "<u2"), ("exact", "<u8"), ("group", "u1"), ("key", "<u4")]
)
_SIZES = np.dtype([("heads", "<u4"), ("words", "<u4"), ("hits", "<u4")])
_BATCH_BYTES = 1 << 22
_ROWS = 1 << 16


def pack_record(heads: np.ndarray, words: np.ndarray, hits: np.ndarray) -> bytes:
    """A record as bytes."""
    sizes = np.array([(len(heads), len(words), len(hits))], _SIZES)
    return sizes.tobytes() + heads.tobytes() + words.tobytes() + hits.tobytes()


def unpack_record(record: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heads, words and hits of a record."""
    sizes = np.frombuffer(record, _SIZES, 1)[0]
    at = _SIZES.itemsize
    heads = np.frombuffer(record, HEAD, sizes["heads"], at)
    at += heads.nbytes
    words = np.frombuffer(record, "<u4", sizes["words"], at)
    return heads, words, np.frombuffer(record, HIT, sizes["hits"], at + words.nbytes)


class SurveyFile:
    """The records of the documents that one process has seen, in a local folder."""

    def __init__(self, folder: str | os.PathLike):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files = {
            part: open(self._folder / part, "wb")  # noqa: SIM115  (closed by close)
            for part in ("heads", "words", "hits")
        }
        self._parts: dict[str, list[bytes]] = {part: [] for part in self._files}
        self._held = 0
        self._num_words = 0

    def add(self, record: bytes) -> None:
        """Appends what `Surveyor.survey` gave for one document."""
        heads, words, hits = unpack_record(record)
        heads = heads.copy()
        heads["start"] = self._num_words
        self._num_words += len(words)
        for part, array in zip(self._parts.values(), (heads, words, hits), strict=True):
            part.append(array.tobytes())
        self._held += len(record)
        if self._held >= _BATCH_BYTES:
            self._flush()

    def close(self) -> None:
        """Completes the folder."""
        self._flush()
        for file in self._files.values():
            file.close()

    def _flush(self) -> None:
        for part, file in self._files.items():
            file.write(b"".join(self._parts[part]))
            self._parts[part] = []
        self._held = 0


class Table:
    """All records of some survey files, the heads sorted by what they say.

    Heads and words stay on disk; making the table takes about 60 bytes of memory a document.

    Attributes:
        heads: HEAD[N], sorted by id, corpus and content.
        hits: HIT[H], as they come.
    """

    def __init__(self, folders: Iterable[str | os.PathLike], work: str | os.PathLike):
        folders = sorted(map(Path, folders))
        self._words = [_read(folder / "words", np.dtype("<u4")) for folder in folders]
        parts = [_read(folder / "heads", HEAD) for folder in folders]
        hits = [_read(folder / "hits", HIT) for folder in folders]
        self.hits = np.concatenate([np.zeros(0, HIT), *hits])
        self.heads = _sorted(parts, Path(work) / "heads.sorted")

    def words(self, row: int) -> np.ndarray:
        """uint32: the words of one head, as hashes."""
        head = self.heads[row]
        start = int(head["start"])
        return np.asarray(self._words[head["file"]][start : start + int(head["num_words"])])

    def column(self, name: str, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """One field of some rows, in memory."""
        return np.ascontiguousarray(self.heads[name][rows])


def _read(path: Path, dtype: np.dtype) -> np.ndarray:
    # As a plain array: indexing a memmap takes five times as long.
    size = path.stat().st_size
    return np.asarray(np.memmap(path, dtype, "r")) if size else np.zeros(0, dtype)


def _sorted(parts: Sequence[np.ndarray], path: Path) -> np.ndarray:
    """The rows of all parts in one file, in an order that does not tell which part they are from."""
    total = sum(map(len, parts))
    if not total:
        return np.zeros(0, HEAD)
    keys = [np.concatenate([part[name] for part in parts]) for name in ("whole", "exact")]
    keys += [
        np.concatenate([part[name] for part in parts]) for name in ("flags", "group", "corpus")
    ]
    order = np.lexsort((*keys, np.concatenate([part["id"] for part in parts])))
    del keys
    starts = np.cumsum([0, *map(len, parts)])
    table = np.memmap(path, HEAD, "w+", shape=(total,))
    for at in range(0, total, _ROWS):
        rows = order[at : at + _ROWS]
        which = np.searchsorted(starts, rows, "right") - 1
        block = np.zeros(len(rows), HEAD)
        for k in np.unique(which):
            mine = which == k
            block[mine] = parts[k][rows[mine] - starts[k]]
        block["file"] = which
        table[at : at + len(rows)] = block
    return np.asarray(table)
