"""Whole clauses and whole phrases: what may stand on either side of a connective."""

import functools
import re

from data.comprehension.finders import alternatives
from data.comprehension.language import Language, load_language
from data.comprehension.reading import balanced

_WORD = re.compile(r"[^\W\d_]+(?:['’][a-z]+)?")
_TAIL = 60  # characters before a connective that are looked at
_TRIM = " \t\n,;:，；：、-–—"


class Clauses:
    """The clause rules of one language, compiled; made by `clauses_of`."""

    def __init__(self, language: Language) -> None:
        rules = language.file.clauses
        self.rules = rules
        self.finite = language.finite
        self.auxiliaries = frozenset(rules.auxiliaries)
        self.verbs = language.finite | frozenset(rules.verbs)
        self.relatives = frozenset(rules.relatives)
        self.spaced = language.file.sentences.spaced
        self.forbidden = language.compile(rules.forbidden)
        self.not_start = language.compile(rules.not_start)
        self.not_in_phrase = language.compile(rules.not_in_phrase)
        self.phrase_ends = language.compile(rules.phrase_ends)
        self.hedges = language.compile(rules.hedges)
        self.ends = language.compile(rules.ends)
        self.missing = language.compile(rules.missing)
        if self.spaced:
            self.not_first = re.compile(f"(?:{alternatives(rules.not_first)})(?![\\w’'])", re.I)
            self.last = frozenset(rules.not_last)
        else:
            self.not_first = re.compile(alternatives(rules.not_first) or "(?!)")
            self.last = tuple(rules.not_last)

    def is_clause(self, text: str, *, begins: bool = False, sentence: bool = False) -> bool:
        """Whether `text`, quoted on one line and without its stop, is a whole clause.

        Args:
            text: the clause.
            begins: it begins inside a sentence, so that the verb has to come before a comma or
                among its first words.
            sentence: it is a sentence of its own, so that there is less doubt that it is whole.
        """
        rules = self.rules
        if not rules.min_chars <= len(text) <= rules.max_chars or not balanced(text):
            return False
        if self.breaks_off(text) or (begins and self.not_first.match(text)):
            return False
        if self.finite and not self._has_verb(text, begins, sentence):
            return False
        return not self.is_forbidden(text)

    def is_forbidden(self, text: str) -> bool:
        """Whether there is something in it that no task can quote."""
        return bool(
            (self.not_start and self.not_start.match(text))
            or (self.forbidden and self.forbidden.search(text))
        )

    def breaks_off(self, text: str) -> bool:
        """Whether it ends with a word that no clause or phrase ends with."""
        if isinstance(self.last, tuple):
            return text.endswith(self.last)
        return text[-16:].rsplit(" ", 1)[-1].lower() in self.last

    def cut_hedge(self, text: str) -> str:
        """`text` without the adverbs before a connective ("partly", "most often")."""
        if self.hedges and (hedge := self.hedges.search(text, max(0, len(text) - _TAIL))):
            return text[: hedge.start()]
        return text

    def _has_verb(self, text: str, begins: bool, sentence: bool) -> bool:
        if begins:
            text = text.split(",", 1)[0]
        words = _WORD.findall(text.replace("’", "'"))
        if not words:
            return False
        # A clause has a subject before its verb; "reduced levels were seen" begins with none.
        if words[0] in (self.auxiliaries if sentence else self.finite):
            return False
        if not begins:
            verbs = self.verbs if sentence else self.finite
            return any(word in verbs for word in words[1:])
        # "Features that are not shared" has a verb, but not of its own.
        verbs = sum(word in self.finite for word in words[1:16])
        return verbs > sum(word in self.relatives for word in words[1:16])

    def names_action(self, text: str) -> bool:
        """Whether a name has a verb of its own in it, so that it is none."""
        words = _WORD.findall(text)
        verbs = sum(word in self.finite for word in words)
        return verbs > sum(word in self.relatives for word in words)

    def is_phrase(self, text: str) -> bool:
        """Whether `text` is a whole phrase without a verb of its own."""
        rules = self.rules
        if not rules.min_phrase_chars <= len(text) <= rules.max_chars or not balanced(text):
            return False
        if self.breaks_off(text) or (self.not_in_phrase and self.not_in_phrase.search(text)):
            return False
        return not self.is_forbidden(text)

    def cut_right(self, text: str, *, phrase: bool = False) -> str:
        """`text` up to where its first clause (or phrase) ends."""
        pattern = self.phrase_ends if phrase and self.phrase_ends else self.ends
        if pattern and (match := pattern.search(text, 8)):
            text = text[: match.start()]
        return text

    def cut_left(self, text: str) -> int:
        """Where the last clause of `text` begins."""
        at = 0
        if self.ends:
            for match in self.ends.finditer(text):
                at = match.end()
        return at

    def points_back(self, text: str) -> bool:
        """Whether `text` speaks of something that only a sentence before it can name."""
        return bool(self.missing and self.missing.search(text))


def trimmed(text: str, start: int, stop: int, extra: str = "") -> tuple[int, int]:
    """The span without spaces, commas and `extra` at its ends."""
    edge = _TRIM + extra
    while stop > start and text[stop - 1] in edge:
        stop -= 1
    while start < stop and text[start] in edge:
        start += 1
    return start, stop


@functools.cache
def clauses_of(code: str) -> Clauses:
    """The clause rules of a language."""
    return Clauses(load_language(code))
