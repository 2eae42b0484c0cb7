"""Texts as words, with case, spacing and punctuation folded: how copies are told from each other.

Near duplicates, the held-out split and decontamination all compare texts as sequences of these
words, so a copy that was re-cased, re-wrapped or split over lines is the same text. A Chinese,
Japanese or Korean character is a word. Signs that calculate or name a currency are words too:
"3 + 4" is not "3 - 4".
"""

import re
import unicodedata
import zlib
from collections.abc import Iterator

import numpy as np

# Words of one shingle: what near duplicates have in common is counted in runs of so many words.
SHINGLE = 3
# A longer text is folded piece by piece, so that memory stays small whatever comes.
BLOCK = 1 << 20

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f"
# A hyphen, an asterisk, a slash are signs only before a number and not after a letter: "2 - 1",
# "-4 degrees"; not "covid-19".
_ASCII = re.compile(r"[0-9a-z_]+|[+=<>^%$]|[-*/](?=\s*\d)(?<![a-z_].)")
_WORD = re.compile(f"[^\\W{CJK}]+|[{CJK}]|[+=<>^%$€£¥×÷±≤≥≠√∑∫−]" + r"|[-*/](?=\s*\d)(?<![^\W\d].)")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")

_A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def words_of(text: str) -> list[str]:
    """The words of a text, lower case; spacing and punctuation are gone."""
    if text.isascii():
        return _ASCII.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).lower())


def word_hashes(text: str) -> np.ndarray:
    """uint32[number of words]: the words of a text, each as a hash."""
    parts = []
    for block in _blocks(text):
        words = words_of(block)
        parts.append(np.fromiter(map(zlib.crc32, map(str.encode, words)), np.uint32, len(words)))
    return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.zeros(0, np.uint32)])


def ngrams(hashes: np.ndarray, length: int) -> np.ndarray:
    """uint64[max(number of words - length + 1, 0)]: a hash of every run of `length` words."""
    return runs(spread(hashes), length)


def spread(hashes: np.ndarray) -> np.ndarray:
    """uint64: word hashes, ready for `runs` and `runs_at`."""
    return mix(hashes.astype(np.uint64))


def runs(words: np.ndarray, length: int) -> np.ndarray:
    """What `ngrams` gives, of spread word hashes."""
    if len(words) < length:
        return np.zeros(0, np.uint64)
    # A polynomial in the words' hashes, put together from runs of 1, 2, 4, ... words.
    power, part, factor = 1, words, _A
    total, done = None, 0
    while done < length:
        if length & power:
            here = part[done : done + len(words) - length + 1]
            total = here if total is None else total * factor + here
            done += power
        if done < length:
            part = part[:-power] * factor + part[power:]
            factor = np.uint64(int(factor) ** 2 % 2**64)
            power *= 2
    assert total is not None
    return mix(total)


def runs_at(
    words: np.ndarray, places: np.ndarray, longest: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Length by length, from 1 to `longest`: the places where a run fits, and what `runs` gives."""
    total = np.zeros(len(places), np.uint64)
    for length in range(1, longest + 1):
        fits = places + length <= len(words)
        if not fits.all():
            places, total = places[fits], total[fits]
        total = total * _A + words[places + length - 1]
        yield length, places, mix(total)


def shingles(hashes: np.ndarray) -> np.ndarray:
    """uint64: a hash of every word 3-gram, in order; of the whole where there are fewer words."""
    return ngrams(hashes, min(SHINGLE, max(len(hashes), 1)))


def shingle_set(hashes: np.ndarray) -> np.ndarray:
    """uint64, sorted: the word 3-grams of a text, each once."""
    return distinct(shingles(hashes))


def distinct(values: np.ndarray) -> np.ndarray:
    """The values, sorted, each once: faster than `np.unique`, which hashes integers first."""
    values = np.sort(values)
    if not len(values):
        return values
    first = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return values[first]


def jaccard_of(a: np.ndarray, b: np.ndarray) -> float:
    """The share of two sets, sorted and without repeats, that is in both of them."""
    both = np.concatenate((a, b))
    if not len(both):
        return 1.0
    both.sort()
    common = int(np.count_nonzero(both[1:] == both[:-1]))
    return common / (len(both) - common)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """The share of word 3-grams that two texts (as word hashes) have in common, exactly."""
    return jaccard_of(shingle_set(a), shingle_set(b))


def mix(values: np.ndarray) -> np.ndarray:
    """Spreads uint64 values over all bits, one to one."""
    values = (values ^ (values >> np.uint64(33))) * _B
    values = (values ^ (values >> np.uint64(29))) * _A
    return values ^ (values >> np.uint64(32))


def _blocks(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > BLOCK:
        stop = text.rfind(" ", start, start + BLOCK) + 1
        stop = stop if stop > start else start + BLOCK
        yield text[start:stop]
        start = stop
    yield text[start:]
