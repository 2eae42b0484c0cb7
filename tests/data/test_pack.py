"""Packing: every token once, in order, and rows full."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.chat import Encoded
from data.pack import Row, pack


def make(lengths: list[int], seed: int = 0) -> list[Encoded]:
    """Documents whose token ids are unique over all of them."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(lengths) if lengths else np.array([], int)
    return [
        Encoded(np.arange(end - n, end, dtype=np.int32) + 1, rng.random(n) < 0.5)
        for n, end in zip(lengths, ends, strict=True)
    ]


def segments(rows: list[Row]) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for row in rows:
        used = int((row.segment_ids > 0).sum())
        assert not row.segment_ids[used:].any()
        assert not row.tokens[used:].any()
        assert not row.loss_mask[used:].any()
        ids = row.segment_ids[:used]
        assert ids[0] == 1
        assert set(np.diff(ids)) <= {0, 1}
        for k in range(1, ids[-1] + 1):
            found.append((row.tokens[:used][ids == k], row.loss_mask[:used][ids == k]))
    return found


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), max_size=60),
    seq_len=st.integers(2, 24),
    window=st.integers(1, 200),
)
def test_every_token_once_in_order_and_supervised_as_it_was(lengths, seq_len, window):
    docs = make(lengths)
    rows = list(pack(docs, seq_len, window_tokens=window))
    assert all(
        row.tokens.shape == row.segment_ids.shape == row.loss_mask.shape == (seq_len,)
        for row in rows
    )
    pieces = {int(tokens[0]): (tokens, mask) for tokens, mask in segments(rows)}
    for doc in docs:
        at = 0
        while at < len(doc.tokens):  # the pieces of a document: full rows, then what is left
            tokens, mask = pieces.pop(int(doc.tokens[at]))
            assert len(tokens) == min(seq_len, len(doc.tokens) - at)
            np.testing.assert_array_equal(tokens, doc.tokens[at : at + len(tokens)])
            assert not mask[0]
            np.testing.assert_array_equal(mask[1:], doc.supervised[at + 1 : at + len(tokens)])
            at += len(tokens)
    assert not pieces


def test_rows_are_at_least_half_full_whatever_the_window():
    """No two rows of a packing may fit into one: best fit would have joined them."""
    lengths = list(np.random.default_rng(1).integers(1, 100, 500))
    rows = list(pack(make(lengths), 100, window_tokens=10_000_000))
    used = sorted(int((row.segment_ids > 0).sum()) for row in rows)
    assert used[0] + used[1] > 100


def test_fill_of_lengths_as_text_has_them():
    rng = np.random.default_rng(2)
    lengths = np.maximum(rng.lognormal(5.5, 1.0, 4000).astype(int), 5).tolist()
    for seq_len, least in ((512, 0.98), (2048, 0.99)):
        rows = list(pack(make(lengths), seq_len))
        assert sum(lengths) / (len(rows) * seq_len) >= least
    # a window of 16 rows still fills: the emptiest rows stay open
    rows = list(pack(make(lengths), 2048, window_tokens=16 * 2048))
    assert sum(lengths) / (len(rows) * 2048) >= 0.98


def test_memory_is_bounded_by_the_window():
    """The packer must yield as it goes, and not hold what it already placed."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield Encoded(np.ones(10, np.int32), np.ones(10, np.bool_))

    next(pack(endless(), 32, window_tokens=1000))
    assert taken <= 200 + 256 * 3


def test_a_document_without_tokens_is_an_error():
    with pytest.raises(ValueError, match="no tokens"):
        list(pack([Encoded(np.array([], np.int32), np.array([], bool))], 8))
    with pytest.raises(ValueError, match="seq_len"):
        list(pack([], 1))
