"""Packing: documents of any length into rows of one length, best fit first.

A document longer than a row gives full rows and one remainder; every piece that is shorter than a
row is put where it leaves the least space. Every token of every document lands in exactly one
place, and nothing is cut off.

Pieces are placed a window at a time, longest first (best-fit decreasing), so memory is bounded by
the window and not by the corpus. The emptiest rows of a window stay open for the next one. The
result is a pure function of the documents and their order.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from data.chat import Encoded

WINDOW_TOKENS = 1 << 22
WINDOW_ROWS = 128
OPEN_ROWS = 256
# A row is closed at the end of its window once less than 1/64 of it is free.
NEARLY_FULL = 64


@dataclass(frozen=True)
class Row:
    """One packed row of `T` tokens.

    Attributes:
        tokens: int32[T], 0 in the padding.
        segment_ids: int32[T], 1, 2, ... in the order of the row, 0 = padding.
        loss_mask: bool[T]; token t is supervised as a target, predicted at t - 1 of the same
            segment. A segment's first token never is: nothing predicts it.
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    loss_mask: np.ndarray


def pack(
    documents: Iterable[Encoded], seq_len: int, *, window_tokens: int | None = None
) -> Iterator[Row]:
    """Packs `documents` into rows of `seq_len` tokens.

    Args:
        documents: tokens int32[n] and supervised bool[n] of each, n >= 1.
        seq_len: T, the length of a row.
        window_tokens: tokens held before they are placed; more fills rows better and takes 5 bytes
            a token. Default: 4 M tokens, and at least 128 rows.

    Yields:
        Rows; their order is that in which they were opened.

    Raises:
        ValueError: a document without tokens.
    """
    if seq_len < 2:
        raise ValueError(
            f"seq_len: {seq_len} is too short: a row needs 2 tokens to predict one of them."
        )
    window_tokens = window_tokens or max(WINDOW_TOKENS, WINDOW_ROWS * seq_len)
    open_rows: list[_OpenRow] = []
    pieces: list[_Piece] = []
    held = 0
    for document in documents:
        num_tokens = len(document.tokens)
        if num_tokens == 0:
            raise ValueError("documents: one has no tokens; leave it out before packing.")
        whole = num_tokens - num_tokens % seq_len
        for start in range(0, whole, seq_len):
            row = _OpenRow(seq_len)
            row.add(
                _Piece(
                    document.tokens[start : start + seq_len],
                    document.supervised[start : start + seq_len],
                )
            )
            yield row.close(seq_len)
        if whole < num_tokens:
            pieces.append(_Piece(document.tokens[whole:], document.supervised[whole:]))
            held += num_tokens - whole
        if held >= window_tokens:
            closed, open_rows = _place(pieces, open_rows, seq_len)
            yield from (row.close(seq_len) for row in closed)
            pieces, held = [], 0
    closed, open_rows = _place(pieces, open_rows, seq_len)
    yield from (row.close(seq_len) for row in closed)
    yield from (row.close(seq_len) for row in open_rows)


@dataclass(frozen=True)
class _Piece:
    tokens: np.ndarray
    supervised: np.ndarray


@dataclass
class _OpenRow:
    free: int
    pieces: list[_Piece] = field(default_factory=list)

    def add(self, piece: _Piece) -> None:
        self.pieces.append(piece)
        self.free -= len(piece.tokens)

    def close(self, seq_len: int) -> Row:
        lengths = [len(piece.tokens) for piece in self.pieces]
        used = seq_len - self.free
        tokens = np.zeros(seq_len, np.int32)
        segment_ids = np.zeros(seq_len, np.int32)
        loss_mask = np.zeros(seq_len, np.bool_)
        np.concatenate([piece.tokens for piece in self.pieces], out=tokens[:used])
        np.concatenate([piece.supervised for piece in self.pieces], out=loss_mask[:used])
        segment_ids[:used] = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)
        loss_mask[np.cumsum([0, *lengths[:-1]])] = False
        return Row(tokens, segment_ids, loss_mask)

    def own(self) -> None:
        """Copies the pieces, so that an open row does not keep a whole window's arrays alive."""
        self.pieces = [
            _Piece(piece.tokens.copy(), piece.supervised.copy()) for piece in self.pieces
        ]


def _place(
    pieces: list[_Piece], open_rows: list[_OpenRow], seq_len: int
) -> tuple[list[_OpenRow], list[_OpenRow]]:
    """Puts every piece into the row it fills best. Returns (rows to close, rows to keep open)."""
    rows = list(open_rows)
    by_free: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_free.setdefault(row.free, []).append(i)
    spaces = sorted(by_free)  # the distinct free spaces, at most seq_len of them
    # sorted() is stable: pieces of one length stay in the order of the documents.
    for piece in sorted(pieces, key=lambda piece: -len(piece.tokens)):
        length = len(piece.tokens)
        at = bisect_left(spaces, length)
        if at == len(spaces):
            rows.append(_OpenRow(seq_len))
            i = len(rows) - 1
        else:
            space = spaces[at]
            i = by_free[space].pop()
            if not by_free[space]:
                del by_free[space], spaces[at]
        rows[i].add(piece)
        free = rows[i].free
        if free:
            if free not in by_free:
                by_free[free] = []
                insort(spaces, free)
            by_free[free].append(i)
    emptiest = sorted(range(len(rows)), key=lambda i: (-rows[i].free, i))[:OPEN_ROWS]
    keep = {i for i in emptiest if rows[i].free * NEARLY_FULL > seq_len}
    for i in keep:
        rows[i].own()
    return (
        [row for i, row in enumerate(rows) if i not in keep],
        [row for i, row in enumerate(rows) if i in keep],
    )
