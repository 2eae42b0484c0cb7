"""The letters of the options that a reply to an exam question names.

A reply from which no letters can be read is *unparsed*: it counts as wrong and is counted, and no
letter is put in its place. (The published rule put a `B`, which is right a quarter of the time.)
"""

import itertools
import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# What announces the letters. Between it and them there may be little: "the correct answer is: (B)".
_SAYS = re.compile(
    r"(?:answers?|option|choice|答案|选项|选择)\s*(?:is|are|would be|should be|为|是|应为|应该是)?\s*[:：]?\s*"
    r"(?:(?:options?|choices?|选项)\s*)?",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"\s+(?!because|since|as|for|is|and|or|due|which|means)[a-z]")
_AND = r"(?:\s*(?:,|，|、|;|/|&|\band\b|和|与)\s*|\s*(?:,|，|、)\s*and\s+|)"


def read_letters(reply: str, options: Sequence[str]) -> tuple[int, ...] | None:
    """The options that a reply names, in order; None when it names none clearly.

    Tried in this order: letters after words such as *the answer is* (the last such place counts, as a
    reply may change its mind), letters at the very beginning, the text of an option, letters that stand
    free when all of them say the same.
    """
    labels = LETTERS[: len(options)]
    ends = [match.end() for match in _SAYS.finditer(reply)]
    said = [found for end in ends if (found := _letters_at(reply, end, labels))]
    if said:
        return said[-1]
    if found := _letters_at(reply.lstrip(), 0, labels):
        return found
    named = [i for i, option in enumerate(options) if _holds(reply, option.strip(), options)]
    if named:
        return tuple(named)
    free = {
        found
        for match in re.finditer(rf"(?<![A-Za-z0-9'])[(\[*]*[{labels}]", reply)
        if (found := _letters_at(reply, match.start(), labels))
    }
    alone = {(labels.index(letter),) for letter in re.findall(rf"(?<!\w)[{labels}](?!\w)", reply)}
    if len(free) == 1 and (len(free | alone) == 1 or len(next(iter(free))) > 1):
        return next(iter(free))
    return None


def reference_letters(reply: str, options: Sequence[str]) -> tuple[int, ...]:
    """The published rule: strictly rising letters after *answer is*, option texts, free letters, else B."""
    labels = LETTERS[: len(options)]
    after = re.search(
        r"(?:answer is|答案是|答案为)(.*?)(?:[.。\n]|$)", reply, re.IGNORECASE | re.DOTALL
    )
    if after:
        found = re.findall(f"[{labels}]", after[1])
        if found and all(a < b for a, b in itertools.pairwise(found)):
            return tuple(labels.index(letter) for letter in found)
    places = sorted((reply.find(o), i) for i, o in enumerate(options) if o and o in reply)
    order = [i for _, i in places]
    if order and order == sorted(order):
        return tuple(order)
    for run in re.findall(rf"(?<![A-Za-z])([{labels}]+)(?![A-Za-z])", reply):
        if list(run) == sorted(set(run)):
            return tuple(labels.index(letter) for letter in run)
    return (1,)


def _letters_at(reply: str, start: int, labels: str) -> tuple[int, ...]:
    """Letters in brackets or free, one or several: `B`, `(B)`, `**B**`, `A, C and D`, `ACD`.

    None where a letter is named twice, and none where an `A` is the article: "A patient".
    """
    one = rf"[(（\[*]*[{labels}][)）\]*]*"
    match = re.compile(rf"(?:{one}{_AND})*{one}(?![A-Za-z0-9'])").match(reply, start)
    if match is None or (match[0] == "A" and _ARTICLE.match(reply, match.end())):
        return ()
    if re.match(r"\s+or\b", reply[match.end() :]):
        return ()
    found = re.findall(rf"(?<![a-z])[{labels}](?![a-z])", match[0])
    if len(set(found)) != len(found):
        return ()
    return tuple(sorted(labels.index(letter) for letter in found))


def _holds(reply: str, option: str, options: Sequence[str]) -> bool:
    """Whether a reply names an option by its text, and not only as a part of a longer option."""
    if not option:
        return False
    longer = [o for o in options if option.casefold() in o.casefold() and o.strip() != option]
    rest = reply.casefold()
    for other in longer:
        rest = rest.replace(other.strip().casefold(), "\0")
    return re.search(rf"(?<!\w){re.escape(option.casefold())}(?!\w)", rest) is not None
