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
    low, high = rules.sentence_chars
    glued = language.compile(rules.glued)
    words = vocabulary.words
    find = _spaced if language.file.sentences.spaced else _unspaced
    sentences = reading.sentences
    for index, hits in _by_sentence(find(text, vocabulary, language.code), sentences):
        if len(hits) < rules.min_keywords:
            continue
        sentence = sentences[index]
        if not low <= sentence.stop - sentence.start <= high or not reading.is_statement(sentence):
            continue
        chosen = _choose(hits, words, rules.max_keywords)
        if (
            len(chosen) < rules.min_keywords
            or sum(words[word] for _, word in chosen) < rules.min_rank
        ):
            continue
        start, stop = opened.get(index, sentence.start), sentence.stop
        while text[start] in " ,\n\t，":
            start += 1
        body = reading.quote(start, stop)
        if any(map(body.__contains__, rules.not_sentence)) or (glued and glued.search(body)):
            continue
        if index == 0 and clauses.points_back(body):
            continue
        slots = {
            "sentence": reading.as_sentence(body) if start != sentence.start else body,
            "keywords": rules.join.join([text[i : i + len(word)] for i, word in chosen]),
        }
        spans = ((start, stop), *[(i, i + len(word)) for i, word in chosen])
        yield Mined("keyword", "keyword", slots, spans, f"{start}:{stop}")


def _by_sentence(
    hits: list[tuple[int, str]], sentences: list[Sentence]
) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """(number of a sentence, hits in it), for sentences with two hits or more."""
    at, last, size = 0, 0, len(hits)
    for index, sentence in enumerate(sentences):
        stop = sentence.stop
        while at < size and hits[at][0] < stop:
            at += 1
        if at - last > 1:
            yield index, hits[last:at]
        last = at
        if at == size:
            return


def _choose(
    hits: list[tuple[int, str]], ranks: Mapping[str, int], most: int
) -> list[tuple[int, str]]:
    """The keywords furthest from general text, one of each stem, in text order."""
    best: dict[str, tuple[int, int, int, str]] = {}
    for start, word in hits:
        stem = word.rstrip("s")[:7]  # "mutation" and "mutations" are one
        if stem not in best:
            best[stem] = (-ranks[word], -len(word), start, word)
    chosen = list(best.values())
    if len(chosen) > most:
        chosen = sorted(chosen)[:most]
    return sorted([(start, word) for _, _, start, word in chosen])


def _spaced(text: str, vocabulary: Vocabulary, code: str) -> list[tuple[int, str]]:
    known = vocabulary.forms.get
    found = [
        (match.start(), word)
        for match in _words(code).finditer(text)
        if (word := known(match[0])) is not None
    ]
    return [
        (start, word)
        for start, word in found
        # A part of a compound ("non-Hodgkin", "IL2receptor") is no word.
        if text[start - 1 : start] not in _JOINED
        and text[(stop := start + len(word)) : stop + 1] not in _JOINED
    ]


_JOINED = frozenset("-_@/0123456789’'")


def _unspaced(text: str, vocabulary: Vocabulary, code: str) -> list[tuple[int, str]]:
    """The longest keyword at each place, from left to right."""
    found: list[tuple[int, str]] = []
    lengths = vocabulary.lengths
    at, size = 0, len(text)
    while at < size:
        options = lengths.get(text[at : at + 2])
        if options:
            for length in options:
                if (word := text[at : at + length]) in vocabulary.words and len(word) == length:
                    found.append((at, word))
                    at += length - 1
                    break
        at += 1
    return found
