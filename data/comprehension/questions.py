"""Questions that a statement with a number answers: "How many people does asthma affect?"."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data.comprehension.clauses import clauses_of, trimmed
from data.comprehension.finders import TRIGGER
from data.comprehension.language import QuestionRule, load_language
from data.comprehension.mined import Mined
from data.comprehension.reading import Reading, Sentence


@dataclass(frozen=True)
class _Rule:
    rule: QuestionRule
    pattern: re.Pattern[str]
    forbidden: re.Pattern[str] | None


@dataclass(frozen=True)
class _Questions:
    starts: re.Pattern[str]  # at the start of a sentence
    rules: tuple[_Rule, ...]


@functools.cache
def _questions(code: str) -> _Questions:
    language = load_language(code)
    rules = []
    for rule in language.file.questions:
        pattern = language.compile(rule.pattern)
        assert pattern is not None
        rules.append(_Rule(rule, pattern, language.compile(rule.forbidden)))
    starts = [language.shape(rule.starts) for rule in language.file.questions if rule.starts]
    return _Questions(
        re.compile("|".join(f"(?:{start})" for start in starts) or "(?!)"),
        tuple(rules),
    )


def mine_questions(reading: Reading, opened: dict[int, int]) -> Iterator[Mined]:
    """A question and its answer for every sentence that a rule fits, by the first that does."""
    questions = _questions(reading.language.code)
    clauses = clauses_of(reading.language.code)
    text = reading.text
    worth = {sentence.index for sentence, match, _ in reading.found if match.lastgroup == TRIGGER}
    begins = questions.starts.match
    worth |= {s.index for s in reading.sentences if begins(text, opened.get(s.index, s.start))}
    for sentence in (reading.sentences[index] for index in sorted(worth)):
        if not reading.is_statement(sentence):
            continue
        start = opened.get(sentence.index, sentence.start)
        start, _ = trimmed(text, start, sentence.stop)
        quoted = reading.as_sentence(reading.quote(start, sentence.stop))
        body = quoted.rstrip(reading.language.file.sentences.terminators)
        if clauses.is_forbidden(body):
            continue
        for rule in questions.rules:
            if (match := rule.pattern.fullmatch(quoted)) and not (
                rule.forbidden and rule.forbidden.search(quoted)
            ):
                yield _task(reading, sentence, start, rule.rule, match)
                break


def _task(
    reading: Reading, sentence: Sentence, start: int, rule: QuestionRule, match: re.Match[str]
) -> Mined:
    groups = {
        name: _lowered(value) if name.startswith("lower_") else value
        for name, value in match.groupdict().items()
        if value is not None
    }
    answer = rule.answer.format(**groups)
    span = (start, sentence.stop)
    slots = {"question": rule.question.format(**groups), "answer": reading.as_sentence(answer)}
    return Mined("question", rule.label, slots, (span,), f"{span[0]}:{span[1]}?")


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:] if text[1:2].islower() else text
