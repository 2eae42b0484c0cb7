"""Questions that a statement with a number answers: "How many people does asthma affect?"."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data.comprehension.clauses import clauses_of
from data.comprehension.language import QuestionRule, load_language
from data.comprehension.mined import Mined
from data.comprehension.reading import Reading, Sentence


@dataclass(frozen=True)
class _Rule:
    rule: QuestionRule
    pattern: re.Pattern[str]
    forbidden: re.Pattern[str] | None


@functools.cache
def _questions(code: str) -> tuple[re.Pattern[str], tuple[_Rule, ...]]:
    language = load_language(code)
    rules = []
    for rule in language.file.questions:
        pattern = language.compile(rule.pattern)
        assert pattern is not None
        rules.append(_Rule(rule, pattern, language.compile(rule.forbidden)))
    triggers = "|".join(f"(?:{language.shape(rule.trigger)})" for rule in language.file.questions)
    return re.compile(triggers or "(?!)"), tuple(rules)


def mine_questions(reading: Reading, opened: dict[int, int]) -> Iterator[Mined]:
    """A question and its answer for every sentence that a rule fits, by the first that does."""
    find, rules = _questions(reading.language.code)
    clauses = clauses_of(reading.language.code)
    seen: set[int] = set()
    for sentence, _ in reading.hits(find):
        if sentence.index in seen or not reading.is_statement(sentence):
            continue
        seen.add(sentence.index)
        start = opened.get(sentence.index, sentence.start)
        start += len(reading.text[start : sentence.stop]) - len(
            reading.text[start : sentence.stop].lstrip(" ,\n\t，")
        )
        quoted = reading.as_sentence(reading.quote(start, sentence.stop))
        body = quoted.rstrip(reading.language.file.sentences.terminators)
        if clauses.forbidden and clauses.forbidden.search(body):
            continue
        for rule in rules:
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
