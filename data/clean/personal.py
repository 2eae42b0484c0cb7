"""Masks personal data where a recipe asks for it: e-mail addresses, telephone numbers, ids.

What is masked has the form of one and, where there are check digits, their sum. A pattern looks at
the places where a match can begin and at most some dozen characters from there, so the time is
linear whatever the text. Digits may touch Chinese characters, not letters. Nothing is recognised by
its meaning: names stay.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from data.clean.config import PersonalConfig
from data.document import Document, Turn

_EMAIL = re.compile(
    r"(?<![A-Za-z0-9_.%+-])[A-Za-z0-9_%+-][A-Za-z0-9._%+-]{0,63}@"
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9_-])"
)
_PHONE = re.compile(
    r"(?<![A-Za-z0-9_.+/=-])(?:"
    r"\+\d{1,3}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d{1,5}){2,5}"  # +49 30 123456
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4}"  # (301) 555-0123
    r"|0\d{2,3}-\d{7,8}"  # 010-12345678
    r"|1[3-9]\d{9}"  # a Chinese mobile number
    r")(?![A-Za-z0-9_-]|[./]\d)"
)
_SSN = re.compile(
    r"(?<![A-Za-z0-9_-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![A-Za-z0-9_-])"
)
_RESIDENT = re.compile(
    r"(?<![A-Za-z0-9_])[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])[0-3]\d\d{3}[\dXx](?![A-Za-z0-9_])"
)
_CARD = re.compile(r"(?<![A-Za-z0-9_.-])(?:\d[ -]?){12,18}\d(?![A-Za-z0-9_-])")
_IBAN = re.compile(
    r"(?<![A-Za-z0-9_])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9_])"
)
_IP = re.compile(
    r"(?<![A-Za-z0-9_.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![A-Za-z0-9_]|\.\d)"
)

_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_MIN_PHONE_DIGITS = 8


def masker(config: PersonalConfig) -> Callable[[Document], tuple[Document, dict[str, int]]]:
    """A function that masks what the recipe asks for, and counts it."""
    rules: list[tuple[str, str, re.Pattern[str], Callable[[str], bool]]] = []
    if config.emails:
        rules.append(("emails", "[EMAIL]", _EMAIL, lambda found: True))
    if config.ids:
        rules += [
            ("ids", "[ID]", _SSN, lambda found: True),
            ("ids", "[ID]", _RESIDENT, _is_resident),
            ("ids", "[ID]", _IBAN, _is_iban),
            ("ids", "[ID]", _CARD, _is_card),
            ("ids", "[ID]", _IP, lambda found: True),
        ]
    if config.phones:
        rules.append(("phones", "[PHONE]", _PHONE, _is_phone))

    def mask(document: Document) -> tuple[Document, dict[str, int]]:
        counts: dict[str, int] = {}
        turns = tuple(Turn(turn.role, put(turn.text, counts)) for turn in document.turns)
        meta = document.meta
        if isinstance(title := meta.get("title"), str):
            meta = {**meta, "title": put(title, {})}
        return (replace(document, turns=turns, meta=meta), counts) if counts else (document, {})

    def put(text: str, counts: dict[str, int]) -> str:
        for name, instead, pattern, holds in rules:

            def replaced(match: re.Match[str], name=name, instead=instead, holds=holds) -> str:
                if not holds(match[0]):
                    return match[0]
                counts[name] = counts.get(name, 0) + 1
                return instead

            if pattern is not _EMAIL or "@" in text:
                text = pattern.sub(replaced, text)
        return text

    return mask


def _is_phone(found: str) -> bool:
    return len(re.sub(r"\D", "", found)) >= _MIN_PHONE_DIGITS


def _is_resident(found: str) -> bool:
    total = sum(int(d) * w for d, w in zip(found[:17], _RESIDENT_WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == found[17].upper()


def _is_card(found: str) -> bool:
    digits = [int(d) for d in found if d.isdigit()]
    doubled = [d if i % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d)
               for i, d in enumerate(reversed(digits))]  # fmt: skip
    return len(set(digits)) > 1 and sum(doubled) % 10 == 0


def _is_iban(found: str) -> bool:
    plain = found.replace(" ", "")
    moved = plain[4:] + plain[:4]
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1
