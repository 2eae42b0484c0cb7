"""Contexts and their continuations as trees, and trees as rows: host side of `evaluation.options`.

The options of an item share its context, and often more: the first words of the options themselves, or
the text before a gap. A tree holds every shared token once. It is written into a row in depth-first
order, so that one number per token says who sees whom: token j is an ancestor of token i (or i itself)
when `j <= i < exits[j]`. Several trees lie in one row and do not see each other, by the same rule.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_BEGINNING = 16  # tokens that contexts must have in common to be looked at together
_OPEN_ROWS = 64  # rows that a tree may still be put into
_WORTH_JOINING = 8  # shared tokens from which two neighbours become one tree


@dataclass(frozen=True)
class Path:
    """One context with one continuation: where its score goes, and what it is.

    `tokens` is context and continuation together; those from `start` on are scored.
    """

    owner: tuple[int, int]  # (number of the context, number of its continuation)
    tokens: np.ndarray
    start: int


@dataclass(frozen=True)
class Tree:
    """Paths with everything shared held once.

    Attributes:
        tokens, depths, exits: int32[n], depth-first; a continuation's last token is not in it, as
            nothing is predicted from it.
        sources: int32[q], the node from which each scored token is predicted.
        targets: int32[q], the scored tokens.
        owners: which (context, continuation) the scored tokens from `bounds[k]` to `bounds[k + 1]`
            belong to.
    """

    tokens: np.ndarray
    depths: np.ndarray
    exits: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    owners: tuple[tuple[int, int], ...]
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class PackedRow:
    """Trees beside each other in a row of `capacity` tokens."""

    capacity: int
    trees: tuple[Tree, ...]


def shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences have in common from the start."""
    most = min(len(a), len(b))
    other = np.flatnonzero(a[:most] != b[:most])
    return int(other[0]) if len(other) else most


def by_beginning(
    groups: Sequence[list[Path]], worth: int
) -> Iterator[tuple[list[list[Path]], int]]:
    """Contexts that begin alike, and how many tokens are read once for all of them.

    Only where that saves `worth` tokens; all others come last, with 0. At least one token of every
    context is left, as its continuations are predicted from it.
    """
    alike: dict[bytes, list[list[Path]]] = defaultdict(list)
    for paths in groups:
        head = paths[0].tokens[: paths[0].start]
        known = len(head) > _BEGINNING
        alike[head[:_BEGINNING].tobytes() if known else b""].append(paths)
    alone = alike.pop(b"", [])
    for members in alike.values():
        first = members[0][0].tokens
        skip = min(
            min(shared(first, paths[0].tokens[: paths[0].start]), paths[0].start - 1)
            for paths in members
        )
        if (len(members) - 1) * skip >= worth:
            yield members, skip
        else:
            alone += members
    if alone:
        yield sorted(alone, key=lambda paths: paths[0].owner), 0


def families(groups: Sequence[Sequence[Path]], most: int) -> Iterator[list[Path]]:
    """Puts neighbours that share half a context together, up to `most` tokens a tree.

    A task whose candidates change the prompt asks them one after the other, so they are neighbours.
    """
    family: list[Path] = []
    size = 0
    for group in groups:
        first = group[0]
        length = first.start + sum(len(path.tokens) - path.start for path in group)
        if family:
            last = family[-1]
            common = shared(last.tokens[: last.start], first.tokens[: first.start])
            if (
                common >= max(_WORTH_JOINING, min(last.start, first.start) // 2)
                and size + length - common <= most
            ):
                family += group
                size += length - common
                continue
            yield family
        family, size = list(group), length
    if family:
        yield family


def grow(paths: Sequence[Path], skip: int = 0) -> Tree:
    """The tree of some paths, without their first `skip` tokens, which all of them share."""
    # Sorted, a path follows those it shares most with, and its own beginnings.
    ordered = sorted(paths, key=lambda path: path.tokens[skip:-1].tolist())
    tokens: list[np.ndarray] = []
    depths: list[np.ndarray] = []
    exits = np.zeros(sum(len(path.tokens) for path in paths), np.int32)
    count = 0
    before, line = np.zeros(0, np.int32), np.zeros(0, np.int32)  # its tokens, and their nodes
    scored: list[tuple[tuple[int, int], np.ndarray, np.ndarray]] = []
    for path in ordered:
        fed = path.tokens[skip:-1]
        common = shared(before, fed)
        exits[line[common:]] = count
        new = np.arange(count, count + len(fed) - common, dtype=np.int32)
        line = np.concatenate([line[:common], new])
        tokens.append(fed[common:])
        depths.append(np.arange(common, len(fed), dtype=np.int32) + skip)
        count += len(new)
        before = fed
        start = path.start - skip
        scored.append((path.owner, line[start - 1 :], path.tokens[path.start :]))
    exits[line] = count
    return Tree(
        np.concatenate(tokens).astype(np.int32),
        np.concatenate(depths),
        exits[:count],
        np.concatenate([sources for _, sources, _ in scored]),
        np.concatenate([targets for _, _, targets in scored]).astype(np.int32),
        tuple(owner for owner, _, _ in scored),
        np.cumsum([0, *(len(targets) for _, _, targets in scored)]),
    )


def rung(length: int, smallest: int) -> int:
    """The row length that holds `length` tokens: eight steps to the doubling, so few are compiled."""
    length = max(length, smallest)
    step = max(16, 1 << (length.bit_length() - 4))
    return -(-length // step) * step


def pack(trees: Sequence[Tree], smallest: int) -> list[PackedRow]:
    """Trees in rows, longest rows first; each goes where it leaves least room."""
    done: list[tuple[int, list[Tree]]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), in order
    for tree in sorted(trees, key=len, reverse=True):
        at = bisect.bisect_left(room, (len(tree), -1))
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row = rung(len(tree), smallest), len(done)
            done.append((left, []))
        done[row][1].append(tree)
        bisect.insort(room, (left - len(tree), row))
        if len(room) > _OPEN_ROWS:
            room.pop(0)
    return [PackedRow(capacity, tuple(trees)) for capacity, trees in done]
