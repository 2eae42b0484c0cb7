"""Long texts in pieces: none too long in real tokens, nothing lost, cut where a reader would."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.synthesis.cut import cut
from tests.data import made_tokenizers
from tests.data.synthesis import made


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return made.tokenizer(tmp_path_factory.mktemp("tokenizer"))


WORDS = [
    "Aspirin",
    "reduces",
    "fever.",
    "pain!",
    "\n",
    "\n\n",
    " ",
    "  ",
    "日本語の文。",
    "1234",
    "x",
]


def check(text, tokenizer, limit):
    spans = cut(text, tokenizer, limit)
    last = 0
    for start, stop in spans:
        piece = text[start:stop]
        assert piece == piece.strip() != ""
        assert not text[last:start].strip()  # only white space is left out
        assert len(tokenizer.encode(piece)) <= limit
        last = stop
    assert not text[last:].strip()
    return [text[start:stop] for start, stop in spans]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), max_size=150).map(" ".join) | st.text(max_size=200),
    st.integers(8, 60),
)
def test_no_piece_is_too_long_and_nothing_is_lost(tokenizer, text, limit):
    check(text, tokenizer, limit)


def test_tokens_that_a_cut_adds_are_counted(tmp_path):
    """A piece alone is encoded anew: here its first word costs a token more than inside the text."""
    from data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(made_tokenizers.llama2(tmp_path, prefix="every"))
    text = "xAspirin" * 400
    pieces = check(text, tokenizer, 20)
    longer = [len(tokenizer.encode(piece)) for piece in pieces]
    assert max(longer) == 20


def test_paragraphs_come_before_sentences(tokenizer):
    paragraphs = [made.text_of(n) for n in range(8)]
    size = max(len(tokenizer.encode(text)) for text in paragraphs)
    assert check("\n\n".join(paragraphs), tokenizer, size + 4) == paragraphs
    pieces = check(" ".join(paragraphs), tokenizer, size + 4)
    assert all(re.search(r"[.]$", piece) for piece in pieces)


def test_a_text_that_fits_is_one_piece(tokenizer):
    text = made.text_of(1)
    assert cut(text, tokenizer, 10_000) == [(0, len(text))]
    assert cut("  " + text + "\n", tokenizer, 10_000) == [(2, 2 + len(text))]
    assert cut(" \n ", tokenizer, 10) == []
