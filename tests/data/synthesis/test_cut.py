"""Long texts in pieces: none too long in real tokens, nothing lost, cut where a reader would."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.synthesis.cut import cut
from data.tokenizer import load_tokenizer
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


def test_a_text_without_spaces_is_cut_all_the_same(tmp_path):
    tokenizer = load_tokenizer(made_tokenizers.llama2(tmp_path, prefix="every"))
    pieces = check("xAspirin" * 400, tokenizer, 20)
    assert max(len(tokenizer.encode(piece)) for piece in pieces) == 20


def test_an_early_line_break_does_not_make_a_tiny_piece(tokenizer):
    text = "A title\n\n" + " ".join(made.text_of(n) for n in range(6))
    limit = len(tokenizer.encode(made.text_of(0)))
    pieces = check(text, tokenizer, limit)
    assert len(tokenizer.encode(pieces[0])) > limit / 2


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
