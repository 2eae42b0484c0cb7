"""A text under mining: its sentences, where one looks for what, how a span is quoted."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from data.comprehension.finders import inner_finders, label_of
from data.comprehension.language import Language
from data.comprehension.sentences import paragraphs, split_paragraph

_SHORT = 10_000  # characters of a text that is searched for a term
_SPACES = re.compile(r"\s+")
_LOWER_WORD = re.compile(r"(?:a|[^\W\d_A-Z]{2,})(?:-[^\W\d_A-Z]+)*(?=[\s,.]|$)")


class Sentence(NamedTuple):  # made for every sentence: a dataclass takes four times as long
    """One sentence: its characters `start:stop`, its place among all, its paragraph's number."""

    start: int
    stop: int
    index: int
    paragraph: int


@dataclass(frozen=True)
class Reading:
    """A text, its sentences and its paragraphs, in text order."""

    text: str
    language: Language
    sentences: list[Sentence]
    paragraphs: list[tuple[int, int]]

    def hits(self, pattern: re.Pattern[str]) -> Iterator[tuple[Sentence, re.Match[str]]]:
        """Matches of `pattern` in the text, each with the sentence that its last character is in.

        One pass over the text finds the few sentences worth a closer look.
        """
        sentences, at, last = self.sentences, 0, len(self.sentences)
        for match in pattern.finditer(self.text):
            end = match.end() - 1
            while at < last and sentences[at].stop <= end:
                at += 1
            if at == last:
                return
            if sentences[at].start <= end:
                yield sentences[at], match

    @functools.cached_property
    def found(self) -> list[tuple[Sentence, re.Match[str], str]]:
        """Connectives and verbs inside sentences, in text order, as `inner_finders` finds them."""
        patterns = inner_finders(self.language.code)
        found = [
            (sentence, match, match[0].replace("\n", " "))
            for pattern in patterns
            for sentence, match in self.hits(pattern)
        ]
        if len(patterns) > 1:
            found.sort(key=_start)
        return found

    @functools.cached_property
    def words(self) -> frozenset[str]:
        """What stands between white space."""
        return frozenset(self.text.split())

    def quote(self, start: int, stop: int) -> str:
        """The characters `start:stop` on one line."""
        text = self.text[start:stop]
        if "\n" in text or "  " in text or "\t" in text:
            # Between characters of a language without spaces, a line break stands for nothing.
            text = _SPACES.sub(" " if self.language.file.sentences.spaced else "", text)
        return text

    def is_statement(self, sentence: Sentence) -> bool:
        """Whether a sentence ends as a statement does and is short enough to be matched."""
        rules = self.language.file
        stop = sentence.stop
        while stop > sentence.start and self.text[stop - 1] in CLOSERS:
            stop -= 1
        return (
            stop > sentence.start
            and self.text[stop - 1] in rules.sentences.statements
            and rules.clauses.min_chars <= stop - sentence.start <= rules.clauses.max_chars
        )

    def as_sentence(self, text: str) -> str:
        """A clause or phrase as a sentence: with a capital and a stop."""
        rules = self.language.file.sentences
        if text[:1].islower() and _LOWER_WORD.match(text):  # "mRNA" and "p53" stay as they are
            text = text[0].upper() + text[1:]
        return text if text.rstrip("\"')]”’»」』")[-1:] in rules.terminators else text + rules.stop


def _start(hit: tuple[Sentence, re.Match[str], str]) -> int:
    return hit[1].start()


CLOSERS = "\"')]”’»」』"


def read(text: str, language: Language) -> Reading:
    """A text made ready for mining."""
    sentences: list[Sentence] = []
    spans: list[tuple[int, int]] = []
    item = re.compile(language.shape(language.file.sentences.item))
    label = label_of(language.code)
    blocks = paragraphs(text, language)
    short = language.file.clauses.min_chars
    for number, (start, stop) in enumerate(blocks):
        if stop - start < short:  # nothing can be mined from it
            sentences.append(Sentence(start, stop, len(sentences), number))
            continue
        spans.clear()
        # "METHODS:" and the mark of a list's item are no part of the sentence behind them.
        for mark in (item, label):
            if match := mark.match(text, start, min(stop, start + 80)):
                start = match.end()
        split_paragraph(text, start, stop, language, spans)
        for low, high in spans:
            sentences.append(Sentence(low, high, len(sentences), number))
    return Reading(text, language, sentences, blocks)


def common(term: str, reading: Reading) -> str:
    """A term as it stands inside a sentence: "Asthma" is "asthma" if the text has it so."""
    first, *others = term.split()
    # "Genetic Testing Registry" is a name.
    if first in reading.language.file.sentences.articles:
        return term[0].lower() + term[1:]
    if first[1:].islower() and first[:1].isupper() and not any(w[0].isupper() for w in others):
        lower = first.lower()
        if len(reading.text) < _SHORT:
            known = f" {lower}" in reading.text
        else:  # searching a long text for every term would be quadratic
            known = lower in reading.words
        if known:
            return term[0].lower() + term[1:]
    return term


def balanced(text: str) -> bool:
    """Whether every bracket and double quote that opens in a short text closes in it."""
    if (
        text.count("(") != text.count(")")
        or text.count("[") != text.count("]")
        or text.count('"') % 2
    ):
        return False
    return text.isascii() or (
        text.count("“") == text.count("”")
        and text.count("「") == text.count("」")
        and text.count("（") == text.count("）")
    )
