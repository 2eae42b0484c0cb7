"""Sentences with several words of the domain, and those words."""

import functools
import re
from collections.abc import Iterator, Mapping

from data.comprehension.clauses import clauses_of
from data.comprehension.language import load_language
from data.comprehension.mined import Mined
from data.comprehension.reading import Reading, Sentence
from data.comprehension.vocabulary import Vocabulary


@functools.cache
def _words(code: str) -> re.Pattern[str]:
    rules = load_language(code).file.keywords
    # Latin, Greek, Cyrillic: a class of ranges is found three times as fast as `[^\W\d_]`.
    letters = "A-Za-zÀ-ÖØ-öø-ɏͰ-ϿЀ-ӿ"
    return re.compile(f"[{letters}]{{{rules.min_chars},}}")


def mine_keywords(
    reading: Reading, vocabulary: Vocabulary, opened: dict[int, int]
) -> Iterator[Mined]:
    """A task for every sentence that holds enough different keywords.

    Args:
        reading: the text.
        vocabulary: the keywords of its domain.
        opened: of sentences that a connective opens, where they go on behind it.
    """
    language, text = reading.language, reading.text
    rules, clauses = language.file.keywords, clauses_of(language.code)
    find = _spaced if language.file.sentences.spaced else _unspaced
    low, high = rules.sentence_chars
    words = vocabulary.words
    found: dict[int, list[tuple[str, int]]] = {}
    sentences, at, last = reading.sentences, 0, len(reading.sentences)
    for word, start in find(text, vocabulary, language.code):
        while at < last and sentences[at].stop <= start:
            at += 1
        if at == last:
            break
        if sentences[at].start <= start:
            found.setdefault(at, []).append((word, start))
    for index, hits in found.items():
        if len(hits) < rules.min_keywords:
            continue
        sentence = sentences[index]
        if not low <= sentence.stop - sentence.start <= high or not reading.is_statement(sentence):
            continue
        chosen = _choose(hits, words, rules.max_keywords)
        if len(chosen) < rules.min_keywords or sum(words[w] for w, _ in chosen) < rules.min_rank:
            continue
        start = opened.get(index, sentence.start)
        body = reading.quote(*_inner(text, start, sentence))
        if any(mark in body for mark in rules.not_sentence):
            continue
        if index == 0 and clauses.points_back(body):
            continue
        yield Mined(
            "keyword",
            "keyword",
            {
                "sentence": reading.as_sentence(body),
                "keywords": rules.join.join(text[i : i + len(word)] for word, i in chosen),
            },
            ((start, sentence.stop), *((i, i + len(word)) for word, i in chosen)),
            f"{start}:{sentence.stop}",
        )


def _inner(text: str, start: int, sentence: Sentence) -> tuple[int, int]:
    while start < sentence.stop and text[start] in " ,\n\t，":
        start += 1
    return start, sentence.stop


def _choose(
    hits: list[tuple[str, int]], ranks: Mapping[str, int], most: int
) -> list[tuple[str, int]]:
    """The keywords furthest from general text, one of each stem, in text order."""
    best: dict[str, tuple[int, int, int, str]] = {}
    for word, start in hits:
        stem = word.rstrip("s")[:7]  # "mutation" and "mutations" are one
        if stem not in best:
            best[stem] = (-ranks[word], -len(word), start, word)
    chosen = sorted(best.values())[:most]
    return sorted([(word, start) for _, _, start, word in chosen], key=_place)


def _place(hit: tuple[str, int]) -> int:
    return hit[1]


def _spaced(text: str, vocabulary: Vocabulary, code: str) -> Iterator[tuple[str, int]]:
    forms, size = vocabulary.forms, len(text)
    for match in _words(code).finditer(text):
        if (word := forms.get(match[0])) is not None:
            start, stop = match.span()
            # A part of a compound ("non-Hodgkin", "IL2receptor") is no word.
            if (not start or text[start - 1] not in _JOINED) and (
                stop == size or text[stop] not in _JOINED
            ):
                yield word, start


_JOINED = frozenset("-_@/0123456789’'")


def _unspaced(text: str, vocabulary: Vocabulary, code: str) -> Iterator[tuple[str, int]]:
    """The longest keyword at each place, from left to right."""
    lengths = vocabulary.lengths
    at, size = 0, len(text)
    while at < size:
        options = lengths.get(text[at : at + 2])
        if options:
            for length in options:
                if (word := text[at : at + length]) in vocabulary.words and len(word) == length:
                    yield word, at
                    at += length - 1
                    break
        at += 1
