"""Sections of a text with the titles that stand over them.

A title is a line of its own, short and unfinished, before a line that is neither; or a label that
opens a paragraph ("METHODS: ..."). Expressions of titles are in connectives/<language>.yaml.
"""

import bisect
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data.comprehension.finders import label_of
from data.comprehension.language import Language, SectionRules, load_language
from data.comprehension.mined import Mined, Section
from data.comprehension.reading import Reading
from data.comprehension.sentences import paragraphs


@dataclass(frozen=True)
class _Rules:
    rules: SectionRules
    title: tuple[re.Pattern[str], ...]
    not_title: re.Pattern[str] | None
    label: re.Pattern[str]
    item: re.Pattern[str]  # what opens an item of a list


@functools.cache
def _rules(code: str) -> _Rules:
    language = load_language(code)
    rules = language.file.sections
    titles = tuple(p for p in map(language.compile, rules.titles) if p)
    return _Rules(
        rules,
        titles,
        language.compile(rules.not_title),
        label_of(code),
        re.compile(language.shape(language.file.sentences.item)),
    )


def split_sections(text: str, language: Language) -> list[Section]:
    """The sections of a text, in order; what stands before the first title has none.

    A section reaches from behind its title to before the next one, without the white space at its
    ends. A text without titles is one section.
    """
    return _sections(text, language, paragraphs(text, language))


def _sections(text: str, language: Language, spans: list[tuple[int, int]]) -> list[Section]:
    titles = list(_titles(text, language, spans))
    sections = []
    bounds = [(None, 0, 0), *titles]
    for (title, _, start), (_, stop, _) in zip(
        bounds, [*titles, (None, len(text), len(text))], strict=True
    ):
        start, stop = _stripped(text, start, stop)
        if stop > start or title is not None:
            sections.append(Section(title, start, stop))
    return sections


def _stripped(text: str, start: int, stop: int) -> tuple[int, int]:
    while start < stop and text[start].isspace():
        start += 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return start, stop


def _titles(
    text: str, language: Language, spans: list[tuple[int, int]]
) -> Iterator[tuple[str, int, int]]:
    """(title, start of its line, where its section's text begins)."""
    rules = _rules(language.code)
    most = rules.rules.max_chars
    for number, (start, stop) in enumerate(spans):
        if stop - start <= most:
            line = text[start:stop]
            follows = number + 1 < len(spans)
            # The first line of a text is the document's title, not a section's.
            if number and follows and "\n" not in line and (title := _title(line, rules)):
                yield title, start, stop
                continue
        stop = min(stop, start + most)
        if text.find(":", start, stop) < 0 and text.find("：", start, stop) < 0:
            continue
        if match := rules.label.match(text, start, stop):
            yield match["title"], start, match.end()


def _title(line: str, rules: _Rules) -> str | None:
    if rules.not_title and rules.not_title.search(line):
        return None
    for pattern in rules.title:
        if match := pattern.fullmatch(line):
            return match["title"].strip()
    return None


def mine_sections(reading: Reading) -> Iterator[Mined]:
    """A task for every section that has a title and enough text in its first paragraph.

    What is quoted ends with that paragraph: a heading further down that reads like a sentence is
    not known as one, and what stands under it is not under this title.
    """
    rules = _rules(reading.language.code)
    ends = reading.language.file.sentences.statements + "\"')]”’»」』"
    text = reading.text
    for section in _sections(text, reading.language, reading.paragraphs):
        if section.title is None:
            continue
        at = bisect.bisect_right(reading.paragraphs, (section.start, len(text))) - 1
        span = (section.start, min(section.stop, reading.paragraphs[at][1]))
        if span[1] - span[0] < rules.rules.min_body_chars or rules.item.match(text, span[0]):
            continue
        if text[span[1] - 1] not in ends:  # a table, or a credit below the text
            continue
        slots = {"title": section.title, "body": text[span[0] : span[1]]}
        yield Mined("section", "section", slots, (span,), f"section {span[0]}:{span[1]}")
