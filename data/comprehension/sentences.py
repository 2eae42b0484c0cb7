"""Sentences of a text as character spans.

sentencex splits (108–149 MB/s, linear on everything that was tried); around it stands what running
text needs and a language file says:

* lines are joined or kept apart first: an empty line, an item of a list and the end of a short line
  without a terminator (a heading) end a sentence, a wrapped line does not;
* what the library joins because of an open bracket, quote or "<" anywhere before is split at
  terminators before a capital; what it splits behind an abbreviation is joined again.
"""

import functools
import re
from dataclasses import dataclass

from data.comprehension.language import Language

_LINE = re.compile(r"\S[^\n]*")
# Sentences inside brackets belong to what is around them if the bracket closes so near.
_ASIDE = 300
_LONGEST = 16  # of an abbreviation


@dataclass(frozen=True)
class _Rules:
    ends: re.Pattern[str]  # a terminator, what closes behind it, spaces, before a capital
    abbreviations: frozenset[str]
    tails: frozenset[str]  # the last two characters of abbreviations
    spaced: bool
    item: re.Pattern[str]
    terminated: re.Pattern[str]


@functools.cache
def _rules(code: str) -> _Rules:
    from data.comprehension.language import load_language

    language = load_language(code)
    rules = language.file.sentences
    marks = re.escape(rules.terminators)
    space = r"\s{1,8}" if rules.spaced else r"\s{0,8}"
    return _Rules(
        re.compile(f"[{marks}][\"')\\]”’»」』]{{0,3}}{space}(?={language.shape(rules.start)})"),
        frozenset(rules.abbreviations),
        frozenset(word[-2:] for word in rules.abbreviations),
        rules.spaced,
        re.compile(language.shape(rules.item)),
        re.compile(f"[{marks}:：][\"')\\]”’»」』]{{0,3}}$"),
    )


def paragraphs(text: str, language: Language) -> list[tuple[int, int]]:
    """Spans of what belongs together without a break: wrapped lines are joined, headings are not."""
    rules = _rules(language.code)
    wrap = language.file.sentences.wrap_chars
    spans: list[tuple[int, int]] = []
    start = stop = line_start = -1
    for match in _LINE.finditer(text):
        low, high = match.span()
        if start >= 0:
            goes_on = (
                text.count("\n", stop, low) == 1
                and not rules.item.match(text, low)
                and (
                    stop - line_start >= wrap
                    or text[low].islower()
                    or rules.terminated.search(text, max(line_start, stop - 6), stop)
                )
            )
            if not goes_on:
                spans.append((start, stop))
                start = low
        else:
            start = low
        line_start = low
        # Trailing spaces are no part of the line; `rstrip` of a long line would copy it.
        stop = high
        while stop > low and text[stop - 1].isspace():
            stop -= 1
    if start >= 0:
        spans.append((start, stop))
    return spans


def split_sentences(text: str, language: Language) -> list[tuple[int, int]]:
    """Spans of the sentences of `text`, without the white space around them, in text order.

    Headings and items of a list count as sentences of their own; joining `text[start:stop]` loses
    white space and nothing else.
    """
    spans: list[tuple[int, int]] = []
    for start, stop in paragraphs(text, language):
        split_paragraph(text, start, stop, language, spans)
    return spans


def split_paragraph(
    text: str, start: int, stop: int, language: Language, spans: list[tuple[int, int]]
) -> None:
    """Appends the sentences of `text[start:stop]` to `spans`."""
    from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]

    rules = _rules(language.code)
    block = text[start:stop]
    cuts: set[int] = set()
    if ends := [(match.start() + 1, match.end()) for match in rules.ends.finditer(block)]:
        at = 0
        for piece in segment(language.file.sentences.library, block):
            at += len(piece)
            cuts.add(at)
        if at != len(block):  # it has lost a part of the text: its bounds cannot be placed
            cuts.clear()
        seen, depth, brackets = 0, 0, "(" in block
        for mark, end in ends:
            if brackets:
                depth += block.count("(", seen, end) - block.count(")", seen, end)
                seen = end
            elif end in cuts:
                continue
            if end in cuts or depth < 0 or (depth and block.find(")", end, end + _ASIDE) < 0):
                depth = 0  # a bracket that is never closed holds nothing together
            if not depth and end not in cuts and not _is_short(block, mark, rules):
                cuts.add(end)
    if item := rules.item.match(block):  # "1. Rest" is one
        cuts = {cut for cut in cuts if cut > item.end()}
    low = 0
    for cut in [*sorted(cuts), len(block)]:
        piece = block[low:cut]
        high = low + len(piece.rstrip())
        low += len(piece) - len(piece.lstrip())
        if high <= low:
            continue
        if (
            cut < len(block)
            and block[high - 2 : high] in rules.tails
            and _word_before(block, high) in rules.abbreviations
        ):
            continue  # "et al. (2010)": joined with what follows
        spans.append((start + low, start + high))
        low = cut


def _word_before(block: str, stop: int) -> str:
    """The word that ends at `stop`, its own stop included; nothing where it is a long one."""
    start = max(block.rfind(" ", stop - _LONGEST, stop), block.rfind("(", stop - _LONGEST, stop))
    if start < 0:
        return block[:stop] if stop <= _LONGEST else ""
    return block[start + 1 : stop]


def _is_short(block: str, stop: int, rules: _Rules) -> bool:
    """Whether the stop belongs to an abbreviation or an initial, or to "vitamin C."."""
    if not rules.spaced:
        return False
    word = _word_before(block, stop)
    if word in rules.abbreviations:
        return True
    # "10 M." is a unit, "(III) B." the end of a sentence.
    before = block[max(0, stop - 5) : stop - 2].rstrip()[-1:]
    return len(word) == 2 and word[0].isupper() and not (before.isdigit() or before == ")")
