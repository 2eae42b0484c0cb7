"""Written answers judged: numbers, and lists of named things.

Each rule has its published counterpart (`reference_...`), with the defects that published scores of
ConvFinQA and NER have.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

_DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<open>\()?(?<![\w.])(?P<sign>[-+−–])?\s?[$€£¥]?\s?(?P<inner>[-−])?(?P<digits>{_DIGITS})(?![\w])"
    r"(?P<percent>\s?%|\s?percent\b|\s?per cent\b)?(?P<close>\))?"
)
_ENTITY = re.compile(r"\s*[,;]?\s*(?P<text>[^\n]+?)\s*\((?P<kind>[A-Za-z]+)\)")


@dataclass(frozen=True)
class Number:
    """A number as it is written: `value` without its per cent sign, and its digits behind the point."""

    value: Decimal
    percent: bool
    decimals: int


def first_line(text: str) -> str:
    """The first line that says something: a line break before an answer does not end it."""
    return text.strip().partition("\n")[0].strip()


def numbers(text: str) -> list[Number]:
    """The numbers in a text, in order: `1,234.5`, `-3 %`, `$ -2`, `(12.4)` for minus 12.4."""
    found = []
    for match in _NUMBER.finditer(text):
        digits = match["digits"].replace(",", "")
        negative = (match["sign"] or match["inner"] or "") in ("-", "−", "–") and bool(
            match["sign"] or match["inner"]
        )
        negative ^= bool(match["open"] and match["close"])
        value = Decimal(digits) * (-1 if negative else 1)
        found.append(Number(value, bool(match["percent"]), len(digits.partition(".")[2])))
    return found


def equal_numbers(written: Number, gold: Number) -> bool:
    """Whether a number is the gold one, to the digits that the gold one is given with.

    `14.1%` is also 0.141, and 14.1 where the sign was left out.
    """
    near = Decimal(5) * Decimal(10) ** -(gold.decimals + 1)
    forms = [written.value]
    if gold.percent and not written.percent:
        forms.append(written.value * 100)
    if written.percent and not gold.percent:
        forms = [written.value / 100]
    return any(abs(form - gold.value) <= near for form in forms)


def numeric_match(text: str, gold: str, *, which: str = "first") -> bool:
    """Whether the one number that a text answers with is the gold one.

    Args:
        text: what was written.
        gold: text with a number; without one, the answers must be the same words (yes, no).
        which: the `first` number of the first line, or the `last` one of the whole text (for answers
            that end a calculation).
    """
    wanted = numbers(gold)
    if not wanted:
        return first_line(text).strip(" .").casefold() == gold.strip(" .").casefold()
    found = numbers(first_line(text)) if which == "first" else numbers(text)
    if not found:
        return False
    # `10 - 4 = 6` answers with what it comes to.
    line = first_line(text)
    if which == "first" and "=" in line and (after := numbers(line.rpartition("=")[2])):
        found = after
    return equal_numbers(found[0 if which == "first" else -1], wanted[-1])


def reference_numeric_match(text: str, gold: str) -> bool:
    """The published rule: any number of the first line, within 0.01 of gold's first, per cent as fraction.

    A number with a leading zero cannot be read and is infinite, on both sides. So 13.5 % is 14.1 %, a
    list of guesses is right if one is, 14.1 is not 14.1 %, and 007 is 012.
    """
    wanted = _reference_numbers(gold.partition("\n")[0])
    if not wanted:
        return text.partition("\n")[0].strip() == gold.strip()
    return any(
        found == wanted[0] or abs(found - wanted[0]) <= 0.01
        for found in _reference_numbers(text.partition("\n")[0])
    )


def _reference_numbers(text: str) -> list[float]:
    found = []
    for digits, percent in re.findall(r"(-?\d[\d,]*\.?\d*)\s?(%)?", text):
        plain = digits.replace(",", "")
        unreadable = re.match(r"-?0\d", plain) is not None
        value = math.inf if unreadable else float(plain)
        found.append(value / 100 if percent else value)
    return found


def entities(text: str) -> Counter[tuple[str, str]]:
    """Things of the first line with their types, `Acme Bank (ORG), Ann Lee (PER)`, each as often as named."""
    found = _ENTITY.finditer(first_line(text))
    return Counter((" ".join(m["text"].split()), m["kind"].upper()) for m in found)


def span_counts(text: str, gold: str) -> tuple[int, int, int]:
    """(right, found, wanted): a thing is right when its whole name and its type are."""
    found, wanted = entities(text), entities(gold)
    return (found & wanted).total(), found.total(), wanted.total()


def span_f1(text: str, gold: str) -> float:
    """F1 of one answer; nothing found where there is nothing is right."""
    right, found, wanted = span_counts(text, gold)
    return 1.0 if found + wanted == 0 else 2 * right / (found + wanted)


def reference_span_f1(text: str, gold: str) -> float:
    """The published rule: only the last word of a name, half a point for the name, half for the type.

    So a wrong first name is right, a wrong type of the right name is half right, and an answer of
    nothing where there is nothing is wrong.
    """

    def parts(line: str) -> list[tuple[str, str]]:
        return re.findall(r"(\S+)\s*\(([A-Za-z]+)\)", line.partition("\n")[0])

    found, wanted = parts(text), parts(gold)
    if not found or not wanted:
        return 0.0
    points = 0
    left = list(found)
    for name, kind in wanted:
        best = max(left, key=lambda f: (f[0] == name) + (f == (name, kind)), default=None)
        if best is None or best[0] != name:
            continue
        points += 1 + (best[1] == kind)
        left.remove(best)
    return 2 * points / (2 * len(found) + 2 * len(wanted))


def exact_match(text: str, gold: str) -> bool:
    """The same words on the first line, whatever their case and spacing and a full stop."""

    def plain(line: str) -> str:
        return " ".join(line.split()).strip(" .").casefold()

    return plain(first_line(text)) == plain(gold)
