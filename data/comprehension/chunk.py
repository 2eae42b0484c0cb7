"""Long documents divided into parts, each to be one text; nothing is lost between them.

A document with sections is divided at them. What is still too long is divided into parts of about
equal length at the best bound in reach: between paragraphs, else lines, else sentences, else
words, else anywhere.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.comprehension.mined import Section

Spans = list[tuple[int, int]]
Sentences = Callable[[str], Spans]

# A shorter section is read together with the next one, the last with the one before.
MIN_SECTION = 200
_BLANK_LINES = re.compile(r"\n(?:[ \t\r]*\n)+")
_LINE_ENDS = re.compile(r"\n+")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Part:
    """The characters `start:stop` of a document. Those before `body` are the line of its title."""

    start: int
    stop: int
    title: str | None = None
    body: int = 0

    @property
    def num_chars(self) -> int:
        """Characters of the part, its title's line included."""
        return self.stop - self.start


def by_section(text: str, sections: Sequence[Section], fill: int = 0) -> list[Part]:
    """One part for each section, title line included; together they are the whole text.

    `sections` are in order, without the white space and the titles between them. Neighbours are
    read together as long as they have at most `fill` characters; such a part has no title.
    """
    parts: list[Part] = []
    start, joined = 0, False
    if len(sections) > 1 and len(text) - sections[-2].stop < MIN_SECTION:
        sections = [*sections[:-2], Section(None, sections[-2].start, sections[-1].stop)]
    ends = [_next_line(text, section.stop) for section in sections[:-1]] + [len(text)]
    for n, (section, stop) in enumerate(zip(sections, ends, strict=True)):
        last = n + 1 == len(sections)
        if not last and (stop - start < MIN_SECTION or ends[n + 1] - start <= fill):
            joined = True  # the next title is a line of the same part
            continue
        title = None if joined else _as_written(text[start : section.start], section.title)
        parts.append(Part(start, stop, title, section.start if title else start))
        start, joined = stop, False
    return parts


def _as_written(line: str, title: str | None) -> str | None:
    """The title with the number before it, which would be lost where the title is asked for."""
    line = " ".join(line.split())
    return line if title and line.endswith(" " + title) else title


def _next_line(text: str, at: int) -> int:
    """Where the first line with something on it begins, from the end of another on."""
    stop = at
    while stop < len(text) and text[stop].isspace():
        stop += 1
    return text.rfind("\n", at, stop) + 1 or at


def by_length(text: str, part: Part, limit: int, sentences: Sentences) -> list[Part]:
    """`part` in parts of at most `limit` characters; itself where it is no longer.

    The first keeps its title.
    """
    bounds: dict[str, list[int]] = {}
    parts: list[Part] = []
    start = part.start
    while part.stop - start > limit:
        number = -(-(part.stop - start) // limit)
        aim = start + (part.stop - start) // number
        cut = _cut(text, max(start, part.body), aim, start + limit, bounds, sentences)
        parts.append(Part(start, cut, None, start))
        start = cut
    parts.append(Part(start, part.stop, None, start))
    if part.title and parts[0].stop > part.body:
        parts[0] = Part(part.start, parts[0].stop, part.title, part.body)
    return parts


def _cut(
    text: str, start: int, aim: int, most: int, bounds: dict[str, list[int]], sentences: Sentences
) -> int:
    """The best bound in `(start, most]`: of the best kind that there is near `aim`, the nearest."""
    least = start + max(1, (aim - start) // 2)
    for name, pattern in (("paragraphs", _BLANK_LINES), ("lines", _LINE_ENDS)):
        if name not in bounds:
            bounds[name] = [match.end() for match in pattern.finditer(text)]
        if (cut := _nearest(bounds[name], least, aim, most)) is not None:
            return cut
    inside = [start + span[0] for span in sentences(text[start:most])]
    if (cut := _nearest(inside, least, aim, most)) is not None:
        return cut
    words = [match.end() for match in _SPACES.finditer(text, least, most)]
    if (cut := _nearest(words, least, aim, most)) is not None:
        return cut
    return max(most, start + 1)


def _nearest(bounds: Sequence[int], least: int, aim: int, most: int) -> int | None:
    inside = bounds[bisect_left(bounds, least) : bisect_right(bounds, most)]
    return min(inside, key=lambda bound: (abs(bound - aim), bound), default=None)
