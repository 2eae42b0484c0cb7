"""Definitions and topics: statements of the form "term verb rest".

A definition also answers the question what its term is; both have the same spans, so a finished
text shows one of them.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data.comprehension.clauses import Clauses, clauses_of, trimmed
from data.comprehension.finders import APOSTROPHES, statement_words
from data.comprehension.language import Language, StatementRule, load_language
from data.comprehension.mined import Mined
from data.comprehension.reading import Reading, Sentence, common

_LONGEST = 240  # characters of a left side


@dataclass(frozen=True)
class _Rule:
    family: str
    question: str | None
    left: re.Pattern[str]
    right: re.Pattern[str]
    not_left: re.Pattern[str] | None
    not_right: re.Pattern[str] | None


@functools.cache
def _statements(code: str) -> dict[str, list[tuple[str, _Rule]]]:
    """What stands in a text for a verb, to the verb's spelling and rules."""
    language = load_language(code)
    compiled: dict[int, _Rule] = {}
    found: dict[str, list[tuple[str, _Rule]]] = {}
    for word, family, verb, rule in statement_words(language):
        if id(rule) not in compiled:
            compiled[id(rule)] = _compiled(family, rule, language)
        found.setdefault(word, []).append((verb, compiled[id(rule)]))
    return found


def _compiled(family: str, rule: StatementRule, language: Language) -> _Rule:
    left, right = language.compile(rule.left), language.compile(rule.right)
    assert left is not None
    assert right is not None
    return _Rule(
        family,
        rule.question,
        left,
        right,
        language.compile(rule.not_left),
        language.compile(rule.not_right),
    )


def mine_statements(reading: Reading, opened: dict[int, int]) -> Iterator[Mined]:
    """Definitions, the questions that they answer, and topics."""
    verbs = _statements(reading.language.code)
    clauses = clauses_of(reading.language.code)
    done: set[int] = set()
    for sentence, match, word in reading.found:
        if (known := verbs.get(word)) is None:
            continue
        start = opened.get(sentence.index, sentence.start)
        # The first verb of a sentence alone: what stands before it is the term.
        if sentence.index in done or match.start() <= start or not reading.is_statement(sentence):
            continue
        done.add(sentence.index)
        for verb, rule in known:
            if tasks := list(_mine(reading, clauses, sentence, match, start, verb, rule)):
                yield from tasks
                break


def _mine(
    reading: Reading,
    clauses: Clauses,
    sentence: Sentence,
    match: re.Match[str],
    start: int,
    verb: str,
    rule: _Rule,
) -> Iterator[Mined]:
    text = reading.text
    marks = reading.language.file.sentences.terminators
    lead = reading.language.file.sentences.spaced and verb[0] not in APOSTROPHES
    right = trimmed(text, match.start() + lead + len(verb), sentence.stop, marks)
    if not rule.right.match(reading.quote(*right)):  # most end here: " are" is everywhere
        return
    left = trimmed(text, start, match.start())
    if left[1] - left[0] > _LONGEST or not (named := rule.left.fullmatch(reading.quote(*left))):
        return
    right = right[0], right[0] + len(clauses.cut_right(text[slice(*right)]))
    right = trimmed(text, *right, marks)
    told = rule.right.fullmatch(reading.quote(*right))
    if (
        told is None
        or (rule.not_left and rule.not_left.search(named["term"]))
        or (rule.family == "definition" and clauses.names_action(named["term"]))
        or (rule.not_right and rule.not_right.search(told["rest"]))
        or clauses.breaks_off(told["rest"])
        or clauses.is_forbidden(told.string)
    ):
        return
    spans = (_within(left, named, "term"), _within(right, told, "rest"))
    groups = {name: value or "" for name, value in named.groupdict().items()}
    groups["term"] = common(named["term"], reading)
    groups["article"] = groups.get("article", "").lower()
    yield from _tasks(reading, rule, groups, verb, told["rest"], spans)


def _within(whole: tuple[int, int], match: re.Match[str], group: str) -> tuple[int, int]:
    """The span in the text of a group that a match has in the quoted `whole`."""
    if whole[1] - whole[0] != len(match.string):  # quoted with its line breaks taken out
        return whole
    start, stop = match.span(group)
    return whole[0] + start, whole[0] + stop


def _tasks(
    reading: Reading,
    rule: _Rule,
    groups: dict[str, str],
    verb: str,
    rest: str,
    spans: tuple[tuple[int, int], tuple[int, int]],
) -> Iterator[Mined]:
    term = groups["term"]
    pair = "+".join(f"{start}:{stop}" for start, stop in spans)
    as_sentence = reading.as_sentence
    if rule.family == "topic":
        slots = {"sentence": term[:1].upper() + term[1:], "verb": verb, "topic": as_sentence(rest)}
        yield Mined("topic", "topic", slots, spans, pair)
        return
    slots = {"term": term, "verb": verb, "definition": as_sentence(rest)}
    yield Mined("definition", "definition", slots, spans, pair)
    if rule.question:
        question = rule.question.format(**groups, verb=verb)
        slots = {"question": question, "answer": as_sentence(rest)}
        yield Mined("question", "definition", slots, spans, pair)
