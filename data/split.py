"""The held-out split: which documents are kept from training, decided once over all corpora.

A document belongs to one group, and a group is held out everywhere or nowhere. The choice hashes
the group alone, so it does not move when documents are added, and the same page is on the same side
in every recipe of the same fraction.

* Where a corpus names `fields.group`, its value is the group.
* Otherwise a document is grouped with its near duplicates in all corpora: documents that share a
  whole normalised text or a long turn (lower case, punctuation and spacing folded), or whose word
  3-grams are alike (MinHash, 8 bands of 8; a candidate is joined when at least 70 % of its 64
  minima agree with the first document of its bucket). A pair at Jaccard 0.9 is found 99 times in
  100, at 0.8 77 times. The smallest document id of a cluster names the group. A cluster that
  reaches into a corpus with groups goes where those groups went, and is held out if any of them is.
"""

import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from data.document import Document

NUM_BANDS = 8
BAND_ROWS = 8
NUM_MINIMA = NUM_BANDS * BAND_ROWS
SAME = 0.7
# Shorter turns ("Thank you!", an instruction) are shared by documents that have nothing else in
# common.
LONG_TURN_WORDS = 32
MAX_ROUNDS = 8

# What a signature says of its document's own group.
_NO_GROUP, _TRAINED_ON, _HELD_OUT = 0, 1, 2

# Words; a Chinese, Japanese or Korean character is one.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")

_SIGNATURE = np.dtype(
    [
        ("id", "S24"),
        ("group", "u1"),
        ("whole", "<u8"),
        ("bands", "<u8", (NUM_BANDS,)),
        ("minima", "<u2", (NUM_MINIMA,)),
    ]
)


@dataclass(frozen=True)
class Split:
    """Says of every document whether it is held out.

    Attributes:
        fraction: share of groups held out.
        clusters: for documents without a group that have near duplicates: id to the cluster's side.
    """

    fraction: float
    clusters: Mapping[str, bool] = field(default_factory=dict)

    def is_held_out(self, document: Document) -> bool:
        """Whether a document is kept from training."""
        if not self.fraction:
            return False
        group = document.meta.get("group")
        if group is not None:
            return is_held_out(str(group), self.fraction)
        side = self.clusters.get(document.id)
        return is_held_out(f"id:{document.id}", self.fraction) if side is None else side


def is_held_out(group: str, fraction: float) -> bool:
    """Whether a group is held out: a function of its name alone."""
    digest = blake2b(f"heldout\0{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def words_of(text: str) -> list[str]:
    """The words of a text, lower case; spacing and punctuation are gone."""
    return _WORD.findall(text.lower())


def signatures(document: Document, fraction: float) -> np.ndarray:
    """What near duplicates are found by: a record of the document, or one of each long turn."""
    texts = [words_of(turn.text) for turn in document.turns if turn.role != "system"]
    long_turns = [words for words in texts if len(words) >= LONG_TURN_WORDS]
    parts = long_turns or [[word for words in texts for word in words]]
    group = document.meta.get("group")
    records = np.zeros(len(parts), _SIGNATURE)
    records["id"] = document.id.encode()
    if group is not None:
        records["group"] = _HELD_OUT if is_held_out(str(group), fraction) else _TRAINED_ON
    for record, words in zip(records, parts, strict=True):
        minima = _minima(words)
        record["whole"] = int.from_bytes(
            blake2b(" ".join(words).encode(), digest_size=8).digest(), "little"
        )
        bands = minima.reshape(NUM_BANDS, BAND_ROWS).astype(np.uint64)
        mixed = np.zeros(NUM_BANDS, np.uint64)
        for row in bands.T:
            mixed = (mixed ^ row) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        record["bands"] = mixed
        record["minima"] = minima.astype(np.uint16)
    return records


class SignatureFile:
    """Signatures of the documents that one reader has seen, appended to a local file."""

    def __init__(self, path: str | os.PathLike):
        self._file = open(path, "wb")  # noqa: SIM115  (closed by close)
        self._records: list[np.ndarray] = []

    def add(self, document: Document, fraction: float) -> None:
        """Appends the signatures of one document."""
        self._records.append(signatures(document, fraction))
        if len(self._records) >= 4096:
            self._flush()

    def close(self) -> None:
        """Completes the file."""
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._records:
            self._file.write(np.concatenate(self._records).tobytes())
            self._records = []


def decide(paths: Iterable[str | os.PathLike], fraction: float) -> Split:
    """Joins near duplicates over all signature files and decides every cluster.

    Signatures stay on disk, beside the first file; memory is about 50 bytes a document, and a
    dictionary of the documents that have a near duplicate.
    """
    paths = [path for path in sorted(map(Path, paths)) if path.stat().st_size]
    if not fraction or not paths:
        return Split(fraction)
    table = _sorted_table(paths)
    joined = _Joined()
    for column, verify in [(table["id"], False), (table["whole"], False)] + [
        (table["bands"][:, band], True) for band in range(NUM_BANDS)
    ]:
        for a, b in _pairs(np.ascontiguousarray(column), table["minima"] if verify else None):
            joined.join(a, b)
    return Split(fraction, _decide_clusters(table, joined, fraction))


def _sorted_table(paths: list[Path]) -> np.ndarray:
    """All signatures by id and content: which file a document came from does not matter."""
    parts = [np.memmap(path, _SIGNATURE, "r") for path in paths]
    ids = np.concatenate([part["id"] for part in parts])
    order = np.lexsort((np.concatenate([part["whole"] for part in parts]), ids))
    starts = np.cumsum([0, *map(len, parts)])
    path = paths[0].with_name("signatures.sorted")
    table = np.memmap(path, _SIGNATURE, "w+", shape=(len(order),))
    for at in range(0, len(order), 1 << 16):
        rows = order[at : at + (1 << 16)]
        which = np.searchsorted(starts, rows, "right") - 1
        for k in np.unique(which):
            mine = which == k
            table[at : at + len(rows)][mine] = parts[k][rows[mine] - starts[k]]
    return table


def _decide_clusters(table: np.ndarray, joined: "_Joined", fraction: float) -> dict[str, bool]:
    members: dict[int, list[int]] = {}
    for i in joined.members():
        members.setdefault(joined.root(i), []).append(i)
    sides: dict[str, bool] = {}
    for cluster in members.values():
        groups = {int(group) for group in table["group"][cluster]}
        ids = sorted({bytes(id_).decode() for id_ in table["id"][cluster]})
        if _HELD_OUT in groups:
            held = True
        elif _TRAINED_ON in groups:
            held = False
        else:
            held = is_held_out(f"id:{ids[0]}", fraction)
        if len(ids) > 1 or len(groups) > 1:
            sides.update(dict.fromkeys(ids, held))
    return sides


def _pairs(keys: np.ndarray, minima: np.ndarray | None) -> Iterable[tuple[int, int]]:
    """Pairs (first of a bucket, another that is like it), in rounds, for buckets of equal keys."""
    order = np.argsort(keys, kind="stable")
    for _ in range(MAX_ROUNDS):
        if len(order) < 2:
            return
        sorted_keys = keys[order]
        is_first = np.r_[True, sorted_keys[1:] != sorted_keys[:-1]]
        firsts = order[is_first][np.cumsum(is_first) - 1]
        others = ~is_first
        a, b = firsts[others], order[others]
        if minima is None:
            yield from zip(a.tolist(), b.tolist(), strict=True)
            return
        alike = np.zeros(len(a), np.bool_)
        for start in range(0, len(a), 1 << 16):
            part = slice(start, start + (1 << 16))
            alike[part] = (minima[a[part]] == minima[b[part]]).mean(axis=1) >= SAME
        yield from zip(a[alike].tolist(), b[alike].tolist(), strict=True)
        order = b[~alike]  # those unlike their first are compared among themselves


class _Joined:
    """Union-find over the documents that were joined to another; the rest take no room."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def root(self, i: int) -> int:
        while (parent := self._parent.get(i, i)) != i:
            self._parent[i] = self._parent.get(parent, parent)
            i = parent
        return i

    def join(self, a: int, b: int) -> None:
        low, high = sorted((self.root(a), self.root(b)))
        self._parent.setdefault(low, low)
        self._parent[high] = low

    def members(self) -> list[int]:
        return sorted(self._parent)


def _minima(words: list[str]) -> np.ndarray:
    """uint32[NUM_MINIMA]: the smallest value of each of 64 hash functions over the word 3-grams."""
    hashes = np.fromiter((zlib.crc32(word.encode()) for word in words), np.uint32, len(words))
    if len(hashes) > 2:
        grams = (hashes[:-2] * np.uint32(0x9E3779B1) ^ hashes[1:-1]) * np.uint32(
            0x85EBCA77
        ) ^ hashes[2:]
    else:
        grams = np.array([np.bitwise_xor.reduce(hashes)], np.uint32)
    grams = _mix(grams)
    minima = np.full(NUM_MINIMA, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(grams), 2048):  # in the cache, whatever the length of the document
        part = grams[start : start + 2048]
        np.minimum(minima, (part * _FACTORS[:, None] ^ _OFFSETS[:, None]).min(axis=1), out=minima)
    return minima


def _mix(values: np.ndarray) -> np.ndarray:
    values = values ^ (values >> np.uint32(16))
    values = values * np.uint32(0x85EBCA6B)
    values = values ^ (values >> np.uint32(13))
    values = values * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


_FACTORS = _mix(np.arange(1, NUM_MINIMA + 1, dtype=np.uint32)) | np.uint32(1)
_OFFSETS = _mix(np.arange(1001, NUM_MINIMA + 1001, dtype=np.uint32))
