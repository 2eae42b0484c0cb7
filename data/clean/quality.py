"""Rules that tell text from debris, after Gopher (arXiv 2112.11446, table A1) and C4.

Every rule is a threshold of `QualityConfig`; the reason under which a document is counted is that of
the first rule it breaks. The defaults are far more lenient than the published ones, which were made
for the open web: abstracts, opinions, lists, tables and answers of one line pass.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from data.clean.config import QualityConfig
from data.clean.words import CJK, ngrams, word_hashes, words_of
from data.document import Document

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
# Letters of a text longer than so many for every word it must have are judged, even in few words.
_LETTERS = 40
_TOP_GRAMS = (2, 3, 4)
_REPEATED_GRAM = 10

# Scripts without spaces between words.
_UNSPACED = re.compile(f"[{CJK}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_WORD_CHARACTER = re.compile(r"[^\W_]")
_BULLETS = ("•", "-", "*", "‣", "◦", "▪", "●", "·", "–")
_ENDS = (".", "!", "?", '"', "”", "。", "！", "？", "」", "”", ":", "：", ")", "）")
_ASCII_LETTERS = np.zeros(256, np.bool_)
_ASCII_LETTERS[[*range(65, 91), *range(97, 123)]] = True
_ASCII_SPACES = np.zeros(256, np.bool_)
_ASCII_SPACES[[9, 10, 11, 12, 13, 28, 29, 30, 31, 32]] = True


def judge(config: QualityConfig) -> Callable[[Document], str | None]:
    """A function that gives the reason why a document goes, or None if it stays."""

    def reason(document: Document) -> str | None:
        text = "\n".join(turn.text for turn in document.turns if turn.role != "system")
        unspaced = 0 if text.isascii() else len(_UNSPACED.findall(text))
        words = text.split()
        characters = sum(map(len, words))
        number = len(words) + unspaced
        if config.min_words and (number < config.min_words or not _WORD_CHARACTER.search(text)):
            return f"too few words: {number}"
        if config.max_words is not None and number > config.max_words:
            return f"too many words: {number}"
        lower = text.lower() if config.forbidden else ""
        for phrase in config.forbidden:
            if phrase.lower() in lower:
                return f"forbidden phrase: {phrase}"
        if number < config.judge_from_words and characters < _LETTERS * config.judge_from_words:
            return None
        if not unspaced or unspaced < 0.2 * characters:
            if broken := _word_length(config, characters / max(len(words), 1)):
                return broken
        elif len(words) < number:
            words = words_of(text)
        return (
            _letters(config, text)
            or _symbols(config, text, number)
            or _lines(config, text)
            or _repetition(config, text, words)
            or _stop_words(config, words)
        )

    return reason


def _word_length(config: QualityConfig, mean: float) -> str | None:
    if config.min_word_length is not None and mean < config.min_word_length:
        return f"words too short: {mean:.2f}"
    if config.max_word_length is not None and mean > config.max_word_length:
        return f"words too long: {mean:.2f}"
    return None


def _letters(config: QualityConfig, text: str) -> str | None:
    if config.min_letters is None:
        return None
    if text.isascii():
        counts = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=256)
        letters, shown = counts[_ASCII_LETTERS].sum(), counts[~_ASCII_SPACES].sum()
    else:
        letters, shown = sum(map(str.isalpha, text)), len(text) - sum(map(str.isspace, text))
    share = letters / max(shown, 1)
    return f"few letters: {share:.2f}" if share < config.min_letters else None


def _symbols(config: QualityConfig, text: str, number: int) -> str | None:
    if config.max_symbols is None:
        return None
    symbols = max(text.count("#"), text.count("...") + text.count("…"))
    share = symbols / max(number, 1)
    return f"many symbols: {share:.2f}" if share > config.max_symbols else None


def _lines(config: QualityConfig, text: str) -> str | None:
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    if not lines:
        return None
    shares: list[tuple[str, float | None, Callable[[], float]]] = [
        (
            "bullet lists",
            config.max_bullets,
            lambda: _share(lines, lambda x: x.startswith(_BULLETS)),
        ),
        (
            "unfinished lines",
            config.max_ellipses,
            lambda: _share(lines, lambda x: x.endswith(("...", "…"))),
        ),
        ("repeated lines", config.max_duplicate_lines, lambda: _repeated(lines)),
        (
            "repeated paragraphs",
            config.max_duplicate_paragraphs,
            lambda: _repeated([part.strip() for part in text.split("\n\n")]),
        ),
    ]
    for name, most, share in shares:
        if most is not None and (found := share()) > most:
            return f"{name}: {found:.2f}"
    if config.min_end_marks is not None:
        ended = _share(lines, lambda x: x.endswith(_ENDS))
        if ended < config.min_end_marks:
            return f"few sentence ends: {ended:.2f}"
    return None


def _repetition(config: QualityConfig, text: str, words: Sequence[str]) -> str | None:
    counts = Counter(words)
    if not counts:
        return None
    hashes = None
    # The most frequent sequence is made of frequent words, and repeated passages of few words: most
    # texts are done with after this.
    top = config.max_top_gram
    if top is not None and max(counts.values()) > top * len(words) / max(_TOP_GRAMS):
        hashes = word_hashes(text)
        for length in _TOP_GRAMS:
            grams = ngrams(hashes, length)
            unique, found = np.unique(grams, return_counts=True)
            if not len(unique) or found.max() < 3:
                break
            share = _covered(grams == unique[found.argmax()], length)
            if share > top:
                return f"one repeated phrase: {share:.2f}"
    most = config.max_repeated_grams
    if most is not None and len(counts) < 1.2 * (1 - most) * len(words) + _REPEATED_GRAM:
        hashes = word_hashes(text) if hashes is None else hashes
        share = _covered(_seen_before(ngrams(hashes, _REPEATED_GRAM)), _REPEATED_GRAM)
        if share > most:
            return f"repeated passages: {share:.2f}"
    return None


def _stop_words(config: QualityConfig, words: Sequence[str]) -> str | None:
    if config.min_stop_words is None:
        return None
    found = len(STOP_WORDS & set(map(str.lower, words)))
    return f"few stop words: {found}" if found < config.min_stop_words else None


def _share(lines: Sequence[str], has: Callable[[str], bool]) -> float:
    return sum(map(has, lines)) / len(lines)


def _repeated(parts: Sequence[str]) -> float:
    """The share of the characters that are in a part seen before."""
    total = sum(map(len, parts))
    return 1 - sum(map(len, set(parts))) / total if total else 0.0


def _seen_before(grams: np.ndarray) -> np.ndarray:
    """bool: for each sequence, whether it stands further up too."""
    again = np.ones(len(grams), np.bool_)
    again[np.unique(grams, return_index=True)[1]] = False
    return again


def _covered(here: np.ndarray, length: int) -> float:
    """The share of the words that are in sequences of a length which begin `here` (bool)."""
    if not len(here):
        return 0.0
    change = np.zeros(len(here) + length, np.int64)
    change[:-length] += here
    change[length:] -= here
    return float((np.cumsum(change)[:-1] > 0).mean())
