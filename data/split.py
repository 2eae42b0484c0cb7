"""The held-out split: which documents are kept from training, decided once over all corpora.

A document belongs to one group, and a group is held out everywhere or nowhere. The choice hashes
the group alone, so it does not move when documents are added, and the same page is on the same side
in every recipe of the same fraction.

* Where a corpus names `fields.group`, its value is the group.
* Otherwise a document is grouped with its near duplicates in all corpora: documents that share a
  whole text or a long turn (lower case, punctuation and spacing folded), or whose word 3-grams are
  alike. The signatures are those by which copies are removed (`clean/signature.py`); a candidate is
  joined when at least 70 % of its 128 minima agree with the first document of its bucket. The
  smallest document id of a cluster names the group. A cluster that reaches into a corpus with
  groups goes where those groups went, and is held out if any of them is.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from data.clean.record import HELD_OUT, SPLIT, TRAINED_ON
from data.clean.signature import agreement, band_keys, band_rows
from data.document import Document

SAME = 0.7
MAX_ROUNDS = 8
_ROWS = 1 << 14


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
        return self.is_id_held_out(document.id)

    def is_id_held_out(self, document_id: str) -> bool:
        """Whether the document of an id is kept from training, if it has no group."""
        side = self.clusters.get(document_id)
        return is_held_out(f"id:{document_id}", self.fraction) if side is None else side


def is_held_out(group: str, fraction: float) -> bool:
    """Whether a group is held out: a function of its name alone."""
    digest = blake2b(f"heldout\0{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def decide(heads: np.ndarray, fraction: float) -> Split:
    """Joins near duplicates over all corpora and decides every cluster.

    Memory is about 50 bytes a document, and a dictionary of the documents that have a near
    duplicate.

    Args:
        heads: the sorted heads of a survey (`clean.record.Table`); those not for the split are
            passed over.
        fraction: share of groups held out.
    """
    rows = np.flatnonzero(np.ascontiguousarray(heads["flags"]) & SPLIT)
    if not fraction or not len(rows):
        return Split(fraction)
    joined = _Joined()
    for name in ("id", "whole"):
        for a, b in _pairs(np.ascontiguousarray(heads[name][rows]), None):
            joined.join(a, b)
    for keys in _bands(heads, rows):
        for a, b in _pairs(keys, lambda places: heads["minima"][rows[places]]):
            joined.join(a, b)
    return Split(fraction, _decide_clusters(heads, rows, joined, fraction))


def _bands(heads: np.ndarray, rows: np.ndarray) -> Iterable[np.ndarray]:
    """The keys of one band after the other."""
    size = band_rows(SAME)
    bands = band_keys(heads["minima"][rows[:1]], size).shape[1]
    for band in range(bands):
        keys = np.empty(len(rows), np.uint64)
        part = slice(band * size, (band + 1) * size)
        for at in range(0, len(rows), _ROWS):
            minima = heads["minima"][rows[at : at + _ROWS], part]
            keys[at : at + _ROWS] = band_keys(minima, size)[:, 0]
        yield keys


def _decide_clusters(
    heads: np.ndarray, rows: np.ndarray, joined: "_Joined", fraction: float
) -> dict[str, bool]:
    members: dict[int, list[int]] = {}
    for i in joined.members():
        members.setdefault(joined.root(i), []).append(i)
    sides: dict[str, bool] = {}
    for cluster in members.values():
        groups = {int(group) for group in heads["group"][rows[cluster]]}
        ids = sorted({bytes(id_).decode() for id_ in heads["id"][rows[cluster]]})
        if HELD_OUT in groups:
            held = True
        elif TRAINED_ON in groups:
            held = False
        else:
            held = is_held_out(f"id:{ids[0]}", fraction)
        if len(ids) > 1 or len(groups) > 1:
            sides.update(dict.fromkeys(ids, held))
    return sides


def _pairs(
    keys: np.ndarray, minima: Callable[[np.ndarray], np.ndarray] | None
) -> Iterable[tuple[int, int]]:
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
        for start in range(0, len(a), 1 << 14):
            part = slice(start, start + (1 << 14))
            alike[part] = agreement(minima(a[part]), minima(b[part])) >= SAME
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
