"""Definitions and topics: statements of the form "term verb rest".

A definition also answers the question what its term is; both have the same spans, so a finished
text shows one of them.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data.comprehension.clauses import Clauses, clauses_of, trimmed
from data.comprehension.language import Language, StatementRule, load_language
from data.comprehension.mined import Mined
from data.comprehension.reading import Reading, Sentence


@dataclass(frozen=True)
class _Rule:
    family: str
    question: str | None
    left: re.Pattern[str]
    right: re.Pattern[str]
    not_left: re.Pattern[str] | None
    not_right: re.Pattern[str] | None


@functools.cache
def _statements(code: str) -> tuple[re.Pattern[str], tuple[_Rule, ...]]:
    """An expression that finds the verbs of all rules, in one pass, and the rules."""
    language = load_language(code)
    file = language.file
    rules: list[_Rule] = []
    verbs: list[str] = []
    for family, statements in (("definition", file.definitions), ("topic", file.topics)):
        for rule in statements:
            verbs += [f"(?P<r{len(rules)}>{_verbs(rule, language)})"]
            rules.append(_compiled(family, rule, language))
    # Longer verbs first: a rule that comes earlier has its verbs tried first.
    before, after = ("[ \\n’']", "[ \\n]") if file.sentences.spaced else ("", "")
    lead = f"(?={before})(?:[ \\n]|(?=[’']))" if before else ""
    return re.compile(f"{lead}(?:{'|'.join(verbs)}){after}"), tuple(rules)


def _verbs(rule: StatementRule, language: Language) -> str:
    return "|".join(f"(?:{language.shape(verb)})" for verb in rule.verbs)


def _compiled(family: str, rule: StatementRule, language: Language) -> _Rule:
    left, right = language.compile(rule.left), language.compile(rule.right)
    assert left and right
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
    code = reading.language.code
    find, rules = _statements(code)
    clauses = clauses_of(code)
    done: set[int] = set()
    for sentence, match in reading.hits(find):
        start = opened.get(sentence.index, sentence.start)
        # The first verb of a sentence alone: what stands before it is the term.
        if sentence.index in done or match.start() <= start or not reading.is_statement(sentence):
            continue
        done.add(sentence.index)
        yield from _mine(reading, clauses, sentence, match, start, rules)


def _mine(
    reading: Reading,
    clauses: Clauses,
    sentence: Sentence,
    match: re.Match[str],
    start: int,
    rules: tuple[_Rule, ...],
) -> Iterator[Mined]:
    text = reading.text
    verb_start, verb_stop = match.span(match.lastgroup or 0)
    marks = reading.language.file.sentences.terminators
    left = trimmed(text, start, match.start())
    right = trimmed(text, match.end(), sentence.stop, marks)
    right = right[0], right[0] + len(clauses.cut_right(text[slice(*right)]))
    right = trimmed(text, *right, marks)
    first, second = reading.quote(*left), reading.quote(*right)
    verb = reading.quote(verb_start, verb_stop)
    for number, rule in enumerate(rules):
        if match[f"r{number}"] is None:
            continue
        named, told = rule.left.fullmatch(first), rule.right.fullmatch(second)
        if (
            named is None
            or told is None
            or (rule.not_left and rule.not_left.search(named["term"]))
            or (rule.family == "definition" and clauses.names_action(named["term"]))
            or (rule.not_right and rule.not_right.search(told["rest"]))
            or clauses.not_last.search(told["rest"])
            or (clauses.forbidden and clauses.forbidden.search(second))
        ):
            return
        spans = (_within(reading, left, named), _within(reading, right, told))
        groups = {name: value or "" for name, value in named.groupdict().items()}
        groups["term"] = _common(named["term"], reading.text)
        article = groups.get("article", "").lower()
        yield from _tasks(reading, rule, groups | {"article": article}, verb, told["rest"], spans)


def _common(term: str, text: str) -> str:
    """A term as it stands inside a sentence: "Asthma" is "asthma" if the text has it so."""
    first = term.split(" ", 1)[0]
    if first[1:].islower() and first[:1].isupper() and f" {first.lower()} " in text:
        return term[0].lower() + term[1:]
    return term


def _within(
    reading: Reading, whole: tuple[int, int], match: re.Match[str]
) -> tuple[int, int]:
    """The span in the text of the group that a match has in the quoted `whole`."""
    group = "term" if "term" in match.re.groupindex else "rest"
    start, stop = match.span(group)
    if whole[1] - whole[0] == len(match.string):  # quoted as it stands
        return whole[0] + start, whole[0] + stop
    return whole


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
        slots = {"sentence": term, "verb": verb, "topic": as_sentence(rest)}
        yield Mined("topic", "topic", slots, spans, pair)
        return
    slots = {"term": term, "verb": verb, "definition": as_sentence(rest)}
    yield Mined("definition", "definition", slots, spans, pair)
    if rule.question:
        question = rule.question.format(**groups, verb=verb)
        slots = {"question": question, "answer": as_sentence(rest)}
        yield Mined("question", "definition", slots, spans, pair)
