"""Texts as words: what is folded and what is not; hashes of runs."""

import random

import numpy as np
import pytest

from data.clean import words as words_lib
from data.clean.words import (
    jaccard,
    ngrams,
    runs_at,
    shingles,
    spread,
    word_hashes,
    words_of,
)


def test_case_spacing_and_punctuation_are_folded():
    assert words_of("The  CELL-wall,\n(β2)") == ["the", "cell", "wall", "β2"]
    assert words_of("血压 high") == ["血", "压", "high"]
    assert words_of("Ｆｕｌｌ ﬁne mito\u00adchondria") == ["full", "fine", "mitochondria"]


@pytest.mark.parametrize(
    ("a", "b"),
    [("3 + 4", "3 - 4"), ("3 * 4", "3 / 4"), ("$ 5", "5"), ("x = 3", "x < 3"), ("-4 °", "4 °")],
)
def test_signs_that_calculate_are_words(a, b):
    assert words_of(a) != words_of(b)


def test_a_hyphen_in_a_name_is_no_sign():
    assert words_of("covid-19 and/or IL-2") == ["covid", "19", "and", "or", "il", "2"]


def test_ascii_and_other_texts_are_folded_alike():
    plain = "Take 2 - 3 tablets (500 mg) daily; don't exceed 1,000 mg. A-1 $5 and/or x = 3*4"
    assert [*words_of(plain), "é"] == words_of(plain + " é")


def test_hashes_follow_the_words_and_long_texts_are_folded_piece_by_piece(monkeypatch):
    rng = random.Random(0)
    text = " ".join(f"w{rng.randrange(500)}" for _ in range(2000))
    whole = word_hashes(text)
    assert len(whole) == 2000
    monkeypatch.setattr(words_lib, "BLOCK", 100)
    np.testing.assert_array_equal(word_hashes(text), whole)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13, 50])
def test_a_run_has_the_same_hash_wherever_it_is(length):
    rng = np.random.default_rng(length)
    words = rng.integers(0, 2**32, 50, dtype=np.uint32)
    run = words[:length]
    inside = np.concatenate([words[::-1], run, words])
    (expected,) = ngrams(run, length)
    assert ngrams(inside, length)[50] == expected
    found = {
        n: (p.tolist(), h.tolist()) for n, p, h in runs_at(spread(inside), np.array([50]), length)
    }
    assert found[length] == ([50], [int(expected)])
    assert len(set(ngrams(inside, length).tolist())) >= 50  # and others have others


def test_runs_that_do_not_fit_are_left_out():
    words = np.arange(5, dtype=np.uint32)
    assert [(n, p.tolist()) for n, p, _ in runs_at(spread(words), np.array([0, 3]), 3)] == [
        (1, [0, 3]),
        (2, [0, 3]),
        (3, [0]),
    ]
    assert not len(ngrams(words, 6))


def test_jaccard_is_that_of_the_sets_of_word_3_grams():
    rng = random.Random(1)
    for _ in range(50):
        a = [f"w{rng.randrange(40)}" for _ in range(rng.randrange(3, 80))]
        b = [w if rng.random() < 0.8 else "new" for w in a]
        sets = [{tuple(x[i : i + 3]) for i in range(len(x) - 2)} for x in (a, b)]
        expected = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        assert jaccard(word_hashes(" ".join(a)), word_hashes(" ".join(b))) == expected


def test_texts_of_one_or_two_words_are_one_shingle():
    assert [len(shingles(word_hashes(t))) for t in ("", "a", "a b", "a b c", "a b c d")] == [
        0, 1, 1, 1, 2,
    ]  # fmt: skip
    assert jaccard(word_hashes("yes"), word_hashes("Yes!")) == 1
    assert jaccard(word_hashes("yes"), word_hashes("no")) == 0
