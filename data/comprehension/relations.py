"""Inference, contrast, addition, restatement, cause: two clauses and the connective between them.

A connective that opens a sentence relates it to the sentence before, in the same paragraph; one
inside a sentence relates its clauses, where both sides are whole. The same two spans may make two
tasks (a "therefore" is an inference and a cause); those share their `pair`.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data.comprehension.clauses import Clauses, clauses_of, trimmed
from data.comprehension.finders import relation_words, trie
from data.comprehension.language import RelationRules, load_language
from data.comprehension.mined import Mined
from data.comprehension.reading import Reading, Sentence, common

_SLOTS = {
    "nli": ("premise", "hypothesis"),
    "cause": ("cause", "effect"),
    "paraphrase": ("first", "second"),
}
_TAIL = 40  # characters before a connective that `not_before` is looked for in
Span = tuple[int, int]


@dataclass(frozen=True)
class _Relation:
    rules: RelationRules
    not_before: re.Pattern[str] | None
    not_left: re.Pattern[str] | None
    not_after: re.Pattern[str] | None
    not_right: re.Pattern[str] | None
    not_asked: re.Pattern[str] | None

    @property
    def backward(self) -> bool:
        """Whether the effect comes first where a connective stands between the two."""
        return self.rules.tasks.get("cause") == "effect_cause"


@dataclass(frozen=True)
class _Connectives:
    """The connectives of a language in expressions that find them in one pass each."""

    openings: re.Pattern[str]  # at the start of a sentence
    kinds: dict[str, tuple[str, _Relation]]  # (kind, relation) of a connective inside a sentence
    first: dict[str, tuple[str, _Relation]]  # the same of one that opens a sentence


_OPENING = ("openings", "heads", "phrase_heads", "answers", "phrase_answers")


@functools.cache
def _connectives(code: str) -> _Connectives:
    language = load_language(code)
    first: dict[str, tuple[str, _Relation]] = {}
    relations: dict[str, _Relation] = {}
    for name, rules in language.file.relations.items():
        relations[name] = relation = _Relation(
            rules,
            language.compile(rules.not_before),
            language.compile(rules.not_left),
            language.compile(rules.not_after),
            language.compile(rules.not_right),
            language.compile(rules.not_asked),
        )
        for kind in _OPENING:
            words = getattr(rules, kind)
            first |= {word[0].lower() + word[1:]: (kind, relation) for word in words}
    kinds = {word: (kind, relations[name]) for word, kind, name in relation_words(language)}
    spaced = language.file.sentences.spaced
    # Either case of the first letter; the longest that fits, which may end with a comma.
    opening = trie({form for word in first for form in (word, word[0].upper() + word[1:])})
    boundary = r"(?![\w-])" if spaced else ""
    return _Connectives(
        re.compile(f"(?:{opening or '(?!)'}){boundary}"),
        kinds,
        first,
    )


def mine_relations(reading: Reading, opened: dict[int, int]) -> Iterator[Mined]:
    """Every related pair of clauses of a text.

    `opened` is filled: of sentences that a connective opens, where they go on behind it.
    """
    connectives = _connectives(reading.language.code)
    miner = _Miner(reading, clauses_of(reading.language.code), opened)
    text = reading.text
    openings = connectives.openings
    for sentence in reading.sentences:
        if match := openings.match(text, sentence.start, sentence.stop):
            word = _plain(match[0])
            kind, relation = connectives.first[word[0].lower() + word[1:]]
            if kind == "openings":
                opened[sentence.index] = match.end()
            if reading.is_statement(sentence):
                yield from miner.opening(sentence, match, kind, relation)
    for sentence, match, word in reading.found:
        if (
            (known := connectives.kinds.get(word))
            and match.start() > sentence.start
            and reading.is_statement(sentence)
        ):
            yield from miner.inner(sentence, match, *known)


def _plain(connective: str) -> str:
    return connective.replace("\n", " ")


class _Miner:
    def __init__(self, reading: Reading, clauses: Clauses, opened: dict[int, int]) -> None:
        self.reading, self.clauses, self.opened = reading, clauses, opened

    def opening(
        self, sentence: Sentence, match: re.Match[str], kind: str, relation: _Relation
    ) -> Iterator[Mined]:
        """The pairs of a sentence that a connective opens."""
        body = self._body(match.end(), sentence.stop)
        if kind in ("heads", "phrase_heads"):
            yield from self._head(sentence, match, body, kind == "phrase_heads", relation)
            return
        before = self._before(sentence)
        if before is None:
            return
        phrase = kind == "phrase_answers"
        if phrase:
            body = self._cut(body, phrase=True)
        yield from self._pair(before, body, match[0], relation, right_phrase=phrase)

    def _before(self, sentence: Sentence) -> Span | None:
        """The clause that the sentence before makes, in the same paragraph."""
        if not sentence.index:
            return None
        before = self.reading.sentences[sentence.index - 1]
        if before.paragraph != sentence.paragraph or not self.reading.is_statement(before):
            return None
        return self._body(self.opened.get(before.index, before.start), before.stop)

    def _head(
        self,
        sentence: Sentence,
        match: re.Match[str],
        body: Span,
        phrase: bool,
        relation: _Relation,
    ) -> Iterator[Mined]:
        """The pair of "Although A, B": a whole clause begins behind its first comma that can be it."""
        text, rules = self.reading.text, self.clauses.rules
        comma, least = rules.comma, rules.min_phrase_chars if phrase else rules.min_chars
        at = body[0]
        for _ in range(6):
            at = text.find(comma, at, body[1])
            if at < 0:
                return
            left, right = (body[0], at), self._body(at + len(comma), body[1])
            at += len(comma)
            if left[1] - left[0] < least:  # as `_pair` would say after more work
                continue
            for second in rules.seconds:
                if text.startswith(second, right[0]):
                    right = self._body(right[0] + len(second), right[1])
                    break
            quoted = self.reading.quote(*right)
            if not self.clauses.is_clause(quoted, begins=True):
                continue
            whole, right = right, self._cut(right)
            pairs = list(
                self._pair(
                    left,
                    right,
                    match[0],
                    relation,
                    left_phrase=phrase,
                    head=True,
                    checked=right == whole,
                )
            )
            if pairs:
                yield from pairs
                return

    def inner(
        self, sentence: Sentence, match: re.Match[str], kind: str, relation: _Relation
    ) -> Iterator[Mined]:
        """The pairs that a connective inside a sentence makes."""
        text = self.reading.text
        start = self.opened.get(sentence.index, sentence.start)
        if start > match.start():
            return
        if kind != "inserted":
            cut = start + self.clauses.cut_left(text[start : match.start()])
            left = self._body(cut, match.start())
            kept = self.clauses.cut_hedge(text[slice(*left)])
            left = trimmed(text, left[0], left[0] + len(kept))
            phrase = kind in ("phrases", "subjects")
            right = self._cut(self._body(match.end(), sentence.stop), phrase=phrase)
            whole = cut == start or kind != "subjects"
            pairs = (
                []
                if not whole
                else list(
                    self._pair(
                        left,
                        right,
                        match[0],
                        relation,
                        left_phrase=kind == "subjects",
                        right_phrase=phrase,
                        joint=True,
                        cut=cut > start,
                    )
                )
            )
            yield from pairs
            plain = _plain(match[0]).strip(" ,;，；")
            if pairs or plain not in relation.rules.inserted:
                return
        yield from self._inserted(sentence, match, start, relation)

    def _inserted(
        self, sentence: Sentence, match: re.Match[str], start: int, relation: _Relation
    ) -> Iterator[Mined]:
        """The pair of "In most people, however, B": that without its "however", and the one before."""
        reading = self.reading
        if (
            not match[0].startswith(self.clauses.rules.comma)
            or not match[0].endswith(self.clauses.rules.comma)
            or start != sentence.start
            or (before := self._before(sentence)) is None
        ):
            return
        left, right = self._body(start, match.start()), self._body(match.end(), sentence.stop)
        head, rest = reading.quote(*left), reading.quote(*right)
        verb = (
            rest.split(" ", 1)[0] in self.clauses.finite
            or head.rsplit(" ", 1)[-1] in self.clauses.finite
        )
        join = " " if verb and reading.language.file.sentences.spaced else ", "
        if not reading.language.file.sentences.spaced:
            join = "" if verb else "，"
        text = head + join + rest
        first = reading.quote(*before)
        if not (
            len(head) < 80
            and self.clauses.is_clause(first, sentence=True)
            and self.clauses.is_clause(text)
            and not self._dangling(before, first)
        ):
            return
        yield from _tasks(
            relation,
            match[0],
            reading.as_sentence(first),
            reading.as_sentence(text),
            (before, left, right),
        )

    def _body(self, start: int, stop: int) -> Span:
        """A span without its stop and without the commas and spaces at its ends."""
        text = self.reading.text
        return trimmed(text, start, stop, self.reading.language.file.sentences.terminators)

    def _cut(self, span: Span, *, phrase: bool = False) -> Span:
        text = self.clauses.cut_right(self.reading.text[slice(*span)], phrase=phrase)
        return self._body(span[0], span[0] + len(text))

    def _dangling(self, span: Span, quoted: str) -> bool:
        """Whether a clause of the first sentence points back to nothing."""
        sentences = self.reading.sentences
        return span[0] < sentences[0].stop and self.clauses.points_back(quoted)

    def _pair(
        self,
        left: Span,
        right: Span,
        connective: str,
        relation: _Relation,
        *,
        left_phrase: bool = False,
        right_phrase: bool = False,
        joint: bool = False,
        head: bool = False,
        cut: bool = False,
        checked: bool = False,
    ) -> Iterator[Mined]:
        first, second = self.reading.quote(*left), self.reading.quote(*right)
        clauses = self.clauses
        if joint and relation.not_before and relation.not_before.search(first[-_TAIL:]):
            return
        if joint and relation.not_left and relation.not_left.search(first):
            return
        if relation.not_after and not head and relation.not_after.search(second):
            return
        if joint and relation.not_right and relation.not_right.search(second):
            return
        if not (
            clauses.is_phrase(first)
            if left_phrase
            else clauses.is_clause(first, begins=cut, sentence=not joint and not head)
        ):
            return
        if left_phrase and joint and clauses.names_action(first):
            return
        if not checked and not (
            clauses.is_phrase(second)
            if right_phrase
            else clauses.is_clause(second, begins=joint or head, sentence=not joint and not head)
        ):
            return
        if self._dangling(left, first):  # what the second clause points back to is in the first
            return
        if left_phrase and right_phrase and relation.rules.question:
            yield from self._question(left, right, relation)
            return
        if head and relation.backward:
            left, right, first, second = right, left, second, first
        as_sentence = self.reading.as_sentence
        yield from _tasks(
            relation, connective, as_sentence(first), as_sentence(second), (left, right)
        )

    def _question(self, left: Span, right: Span, relation: _Relation) -> Iterator[Mined]:
        """What two phrases answer: "What can cause gout?" of "Gout is caused by crystals."."""
        effect, cause = (left, right) if relation.backward else (right, left)
        named, told = self.reading.quote(*effect), self.reading.quote(*cause)
        pattern, question = relation.not_asked, relation.rules.question
        if pattern and (pattern.search(named) or pattern.search(told)):
            return
        assert question is not None
        if "{cause}" in question:  # what follows is asked for
            effect, cause, named, told = cause, effect, told, named
        asked = question.format(
            **{"effect": common(named, self.reading), "cause": common(named, self.reading)}
        )
        slots = {"question": asked, "answer": self.reading.as_sentence(told)}
        pair = "+".join(f"{start}:{stop}" for start, stop in (left, right))
        yield Mined("question", "cause", slots, (effect, cause), pair)


def _tasks(
    relation: _Relation, connective: str, first: str, second: str, spans: tuple[Span, ...]
) -> Iterator[Mined]:
    pair = "+".join(f"{start}:{stop}" for start, stop in sorted(spans))
    word = _plain(connective).strip(" ,;，；")
    for family, label in relation.rules.tasks.items():
        names = _SLOTS[family]
        if label == "effect_cause":
            names = names[::-1]
        slots = {names[0]: first, names[1]: second, "connective": word}
        yield Mined(family, label, slots, spans, pair)
