"""Rows of trees as the arrays of a call: what every device reads, and what is read out of it."""

from collections.abc import Iterator, Sequence

import numpy as np

from evaluation.branches import PackedRow

ARRAYS = ("tokens", "exits", "positions", "read", "num_read", "slots", "targets")


def calls(rows: Sequence[PackedRow], tokens: int, ways: int) -> Iterator[list[PackedRow]]:
    """Rows in calls of about `tokens` per device; they come longest first, so lengths are near."""
    start = 0
    while start < len(rows):
        each = 1 << max(0, (tokens // rows[start].capacity).bit_length() - 1)
        yield list(rows[start : start + each * ways])
        start += each * ways


def row_arrays(shares: Sequence[Sequence[PackedRow]]) -> dict[str, np.ndarray]:
    """The rows of one call, a share for every device, filled up to a power of two each.

    Returns:
        `ARRAYS`: int32[rows, T] tokens, exits and positions; by device, `read` lists the positions
        with logits (int32[devices * R]), `num_read` how many of them count, `slots` and `targets`
        (int32[devices * Q]) from which of them which token is predicted, tree by tree.
    """
    ways = len(shares)
    rows_each = _power(len(shares[0]))
    T = max(row.capacity for share in shares for row in share)
    tokens = np.zeros((ways * rows_each, T), np.int32)
    exits = np.broadcast_to(np.arange(1, T + 1, dtype=np.int32), tokens.shape).copy()
    positions = np.zeros_like(tokens)
    read = np.zeros((ways, rows_each * T), np.int32)
    num_read = np.zeros(ways, np.int32)
    slots: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    for way, share in enumerate(shares):
        nodes = [np.zeros(0, np.int32)]
        predicted = [np.zeros(0, np.int32)]
        for number, row in enumerate(share):
            start, at = 0, way * rows_each + number
            for tree in row.trees:
                end = start + len(tree)
                tokens[at, start:end] = tree.tokens
                exits[at, start:end] = tree.exits + start
                positions[at, start:end] = tree.depths
                nodes.append(tree.sources + start + number * T)
                predicted.append(tree.targets)
                start = end
        distinct, slot = np.unique(np.concatenate(nodes), return_inverse=True)
        read[way, : len(distinct)] = distinct
        num_read[way] = len(distinct)
        slots.append(slot)
        targets.append(np.concatenate(predicted))
    width = _power(max(64, *(len(t) for t in targets)))
    return {
        "tokens": tokens,
        "exits": exits,
        "positions": positions,
        "read": read.reshape(-1),
        "num_read": num_read,
        "slots": np.concatenate([_padded(s, width) for s in slots]),
        "targets": np.concatenate([_padded(t, width) for t in targets]),
    }


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    return np.pad(array.astype(np.int32), (0, length - len(array)))


def _power(count: int) -> int:
    """The next power of two, so that few shapes are compiled."""
    return 1 << max(0, count - 1).bit_length()
