"""Exact and near duplicates: which documents are copies of which, out of core.

Documents are taken in the order in which they are kept: held-out ones first, then by the rank of
their corpus, then by id. A document goes if an earlier one **that stays** is a copy of it: equal but
for case and spacing, or with at least `threshold` of their word 3-grams in common (exact Jaccard).
So the choice does not depend on arrival, every document that goes has a copy that stays, and of a
chain A ~ B ~ C with A unlike C only B goes.

Texts are compared with texts, conversations with conversations; the answers of two conversations must
share half of their words besides (the same page with two questions is two conversations).

`candidates`, `alike` and `settle` are pure: Beam finds the same pairs by grouping heads by
`signature.band_keys`, and settles them in the same order.
"""

import functools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.clean.record import CONVERSATION, COPIES, DROPPED, Table
from data.clean.signature import MARGIN, agreement, band_keys, band_rows
from data.clean.words import distinct, jaccard_of, shingle_set

# In a bucket of more members the first ones are compared with all, the others with their
# neighbours only: else a million pages from one template would make 10^12 pairs.
WHOLE_BUCKET = 64
NEIGHBOURS = 8
# Documents whose bands are put on disk, and whose pairs are settled, at a time.
_ROWS = 1 << 16
_SETTLED = 1 << 13
_PAIRS = 1 << 14
# Answers of two conversations that are copies share at least so many of their words.
SAME_ANSWER = 0.5


# (table, rows in the order of keeping) to sorted pairs (later, earlier) of places in `rows` that
# are copies: what `alike` says, found by other machines.
FindPairs = Callable[[Table, np.ndarray], Iterable[tuple[int, int]]]


@dataclass(frozen=True)
class Copies:
    """What was found, by rows of the table.

    Attributes:
        row: documents that go.
        partner: for each, one that stays and that it is a copy of.
        near: for each, whether it is a near duplicate; else it is equal.
    """

    row: np.ndarray
    partner: np.ndarray
    near: np.ndarray


def find_copies(
    table: Table,
    held: np.ndarray,
    out: np.ndarray,
    threshold: float,
    work: Path,
    find_pairs: FindPairs | None = None,
) -> Copies:
    """The documents that are copies of one that stays.

    Args:
        table: what was noted.
        held: bool[N], rows of held-out documents; they stay whatever they are copies of.
        out: bool[N], rows of documents that go for another reason; they keep nobody away.
        threshold: exact Jaccard from which on documents are near duplicates; at 1 only equal
            documents are looked for.
        work: a local folder for what does not fit into memory.
        find_pairs: finds and compares the pairs elsewhere; by default here.
    """
    flags = table.column("flags")
    there = (flags & COPIES != 0) & (held | ((flags & DROPPED == 0) & ~out))
    found = [
        _find_copies_of_kind(
            table,
            np.flatnonzero(there & (flags & CONVERSATION == kind)),
            held,
            threshold,
            work,
            find_pairs,
        )
        for kind in (0, CONVERSATION)
    ]
    return Copies(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def candidates(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (earlier, later) of places with equal keys, `keys` being in the order of keeping."""
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.argsort(keys, kind="stable")
    in_order = keys[order]
    first = np.r_[True, in_order[1:] != in_order[:-1]]
    starts = np.flatnonzero(first)
    sizes = np.diff(np.r_[starts, len(keys)])
    size = np.repeat(sizes, sizes)
    place = np.arange(len(keys)) - np.repeat(starts, sizes)
    pairs = []
    for step in range(1, int(min(sizes.max(initial=1), WHOLE_BUCKET))):
        reach = (place + step < size) & ((size <= WHOLE_BUCKET) | (step <= NEIGHBOURS))
        at = np.flatnonzero(reach)
        pairs.append((order[at], order[at + step]))
    for start, number in zip(
        starts[sizes > WHOLE_BUCKET], sizes[sizes > WHOLE_BUCKET], strict=True
    ):
        for leader in range(WHOLE_BUCKET):
            later = order[start + leader + 1 : start + number]
            pairs.append((np.full(len(later), order[start + leader]), later))
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def alike(
    a: tuple[np.ndarray, int], b: tuple[np.ndarray, int], conversation: bool, threshold: float
) -> bool:
    """Whether two documents, as (word hashes, number of prompt words), are near duplicates."""
    return _alike(_Seen.of(*a, conversation), _Seen.of(*b, conversation), threshold)


def settle(
    number: int,
    pairs: Iterable[tuple[int, int]],
    stays: Callable[[int], bool],
    alike: Callable[[int, int], bool],
) -> np.ndarray:
    """int64[number]: for each document one that stays and that it is a copy of, or -1.

    Args:
        number: of documents; they are named by their places in the order of keeping.
        pairs: (later, earlier) places, sorted.
        stays: whether a document stays in any case.
        alike: whether two of them (earlier, later) are copies; asked only where it matters.
    """
    keeper = array("q", [-1]) * number
    for later, earlier in pairs:
        open_ = keeper[later] < 0 and keeper[earlier] < 0 and not stays(later)
        if open_ and alike(earlier, later):
            keeper[later] = earlier
    return np.frombuffer(keeper, np.int64) if number else np.zeros(0, np.int64)


@dataclass(frozen=True)
class _Seen:
    """What two documents are compared by."""

    shingles: np.ndarray
    answer: np.ndarray

    @classmethod
    def of(cls, words: np.ndarray, prompt_words: int, conversation: bool) -> "_Seen":
        answer = np.unique(words[prompt_words:]) if conversation else words[:0]
        return cls(shingle_set(words), answer)


def _alike(a: _Seen, b: _Seen, threshold: float) -> bool:
    fewer, more = sorted((len(a.shingles), len(b.shingles)))
    if fewer < threshold * more:
        return False
    if jaccard_of(a.shingles, b.shingles) < threshold:
        return False
    return not (len(a.answer) or len(b.answer)) or jaccard_of(a.answer, b.answer) >= SAME_ANSWER


def _find_copies_of_kind(
    table: Table,
    rows: np.ndarray,
    held: np.ndarray,
    threshold: float,
    work: Path,
    find_pairs: FindPairs | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # From here on documents are counted in the order of keeping. The table is sorted by id.
    rows = rows[np.lexsort((table.column("corpus", rows), ~held[rows]))]
    exact = table.column("exact", rows)
    order = np.argsort(exact, kind="stable")
    new = np.r_[True, exact[order][1:] != exact[order][:-1]] if len(rows) else np.zeros(0, bool)
    first = np.empty(len(rows), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    distinct = np.flatnonzero(
        (first == np.arange(len(rows))) & (table.column("num_words", rows) > 0)
    )
    keeper = first.copy()
    if threshold < 1:
        near_to = _near(table, rows[distinct], held, threshold, work, find_pairs)
        gone = near_to >= 0
        keeper[distinct[gone]] = distinct[near_to[gone]]
        keeper = keeper[first]  # what equals one that goes is a copy of the same
    near = keeper != first
    goes = (keeper != np.arange(len(rows))) & ~held[rows]
    return rows[goes], rows[keeper[goes]], near[goes]


def _near(
    table: Table,
    rows: np.ndarray,
    held: np.ndarray,
    threshold: float,
    work: Path,
    find_pairs: FindPairs | None,
) -> np.ndarray:
    """`settle` for rows in the order of keeping, by places in `rows`."""
    if find_pairs is not None:
        pairs = find_pairs(table, rows)
        return settle(len(rows), pairs, lambda place: bool(held[rows[place]]), lambda a, b: True)
    conversation = bool(len(rows)) and bool(table.heads["flags"][rows[0]] & CONVERSATION)

    @functools.lru_cache(256)
    def seen(place: int) -> _Seen:
        row = int(rows[place])
        return _Seen.of(table.words(row), int(table.heads["prompt_words"][row]), conversation)

    return settle(
        len(rows),
        _pairs(table, rows, threshold, work),
        stays=lambda place: bool(held[rows[place]]),
        alike=lambda a, b: _alike(seen(a), seen(b), threshold),
    )


def _pairs(
    table: Table, rows: np.ndarray, threshold: float, work: Path
) -> Iterator[tuple[int, int]]:
    """Pairs (later, earlier) whose signatures are nearly as alike as the threshold, sorted."""
    if len(rows) < 2:
        return
    size = band_rows(threshold)
    keys = _band_columns(table, rows, size, work / "bands")
    found = []
    for band, column in enumerate(keys):
        earlier, later = candidates(np.array(column))
        pairs = np.sort(later.astype(np.uint64) << np.uint64(32) | earlier.astype(np.uint64))
        path = work / f"pairs-{band}"
        pairs.tofile(path)
        found.append(np.memmap(path, np.uint64, "r") if len(pairs) else pairs)
    for start in range(0, len(rows), _SETTLED):
        low, high = np.uint64(start << 32), np.uint64((start + _SETTLED) << 32)
        pairs = distinct(
            np.concatenate([p[np.searchsorted(p, low) : np.searchsorted(p, high)] for p in found])
        )
        for at in range(0, len(pairs), _PAIRS):
            later = (pairs[at : at + _PAIRS] >> np.uint64(32)).astype(np.int64)
            earlier = (pairs[at : at + _PAIRS] & np.uint64(0xFFFFFFFF)).astype(np.int64)
            near = agreement(
                table.column("minima", rows[later]), table.column("minima", rows[earlier])
            )
            likely = near >= threshold - MARGIN
            yield from zip(later[likely].tolist(), earlier[likely].tolist(), strict=True)
    for path in (work / "bands", *(work / f"pairs-{band}" for band in range(len(keys)))):
        path.unlink()


def _band_columns(table: Table, rows: np.ndarray, size: int, path: Path) -> np.ndarray:
    """uint64[bands, N] on disk: the key of every band of every row."""
    bands = band_keys(table.column("minima", rows[:1]), size).shape[1]
    columns = np.memmap(path, np.uint64, "w+", shape=(bands, len(rows)))
    for at in range(0, len(rows), _ROWS):
        minima = table.column("minima", rows[at : at + _ROWS])
        columns[:, at : at + _ROWS] = band_keys(minima, size).T
    return columns
