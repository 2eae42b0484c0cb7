"""Puts texts in order: characters, white space, lines that say nothing, words cut at line ends.

Words, paragraphs, indentation, columns and every sentence stay as they were read, and so do code and
tables. Conversations get their characters and line ends put in order, and nothing else: their lines
were written to somebody.
"""

import functools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from data.clean.config import NormalizeConfig
from data.document import Document, Turn

# A longer line is prose.
_BOILERPLATE_CHARACTERS = 60
# Lines of a text that was wrapped at one width are at least so long, and end so near each other.
_WRAPPED_LINES = 6
_WRAPPED_SHARE = 0.7

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000"
    "\ufb00-\ufb06\ufeff\ufff9-\ufffb\ue000-\uf8ff]"
)
_TABLE: dict[int, str | None] = {
    **dict.fromkeys([*range(9), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0xAD, 0x180E]),
    # Bytes of Windows-1252 that were read as Latin-1: quotation marks, dashes, an ellipsis.
    **{c: mark for c in range(0x80, 0xA0) if (mark := bytes([c]).decode("cp1252", "ignore"))},
    **dict.fromkeys([0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x2070)]),
    **dict.fromkeys([0xFEFF, *range(0xFFF9, 0xFFFC), *range(0xE000, 0xF900)]),
    **dict.fromkeys([0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000], " "),
    **dict.fromkeys([0x0B, 0x0C, 0x0D, 0x2028], "\n"),
    0x2029: "\n\n",
    0xF0B7: "•",  # the bullet of a symbol font
    **dict(zip(range(0xFB00, 0xFB07), ("ff", "fi", "fl", "ffi", "ffl", "st", "st"), strict=True)),
}
# A joiner outside a word of a script that needs it.
_LOOSE_JOINER = re.compile("(?<![^\x00-\u024f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\u024f])")
_HYPHEN = re.compile(
    r"(?<![^\W\d_])([^\W\d_]{2,30})-\n[ \t]{0,40}([^\W\d_]{2,30})(?![^\W\d_])([^\s\w]{0,8})"
)
_NUMBER = re.compile(r"\d{1,9}")
_EDGES = " \t.,:;!?…·•*|–—-_=<>[](){}\"'“”‘’。，：；！？、【】《》"


def normalizer(config: NormalizeConfig) -> Callable[[Document], tuple[Document, dict[str, Any]]]:
    """A function that puts a document in order and says what it changed.

    A document with nothing to change comes back as the very object it was.
    """
    lines, keep_hyphen = _load()
    lines = lines | {_folded_line(line) for line in config.boilerplate_lines}

    def normalize(document: Document) -> tuple[Document, dict[str, Any]]:
        counts: dict[str, int] = {}
        meta, title = document.meta, document.meta.get("title")
        if isinstance(title, str) and (put := _ordered(title, {})) != title:
            meta = {**meta, "title": put}
        title = _folded_line(title) if isinstance(title, str) else ""
        turns = tuple(_turn(turn, document.is_text, title, counts) for turn in document.turns)
        if turns == document.turns and meta is document.meta:
            return document, {}
        return replace(document, turns=turns, meta=meta), {"normalize": counts}

    def _turn(turn: Turn, is_text: bool, title: str, counts: dict[str, int]) -> Turn:
        text = _ordered(turn.text, counts)
        if is_text and config.hyphenation and "-\n" in text:
            text, joined = _join_hyphens(text, keep_hyphen)
            _count(counts, "hyphens", joined)
        if is_text and config.boilerplate and "\n" in text:
            text, dropped = _drop_lines(text, lines - {title} if title in lines else lines)
            _count(counts, "lines", dropped)
        return turn if text == turn.text else Turn(turn.role, text)

    def _ordered(text: str, counts: dict[str, int]) -> str:
        if config.unicode:
            put = in_unicode_order(text)
            _count(counts, "unicode", put != text)
            text = put
        if config.whitespace:
            put = in_space_order(text, config.max_blank_lines)
            _count(counts, "whitespace", put != text)
            text = put
        return text

    return normalize


def in_unicode_order(text: str) -> str:
    """NFC, ordinary spaces and line ends, no characters that nobody sees."""
    if text.isascii():
        if not _CONTROLS.search(text):
            return text
    else:
        text = unicodedata.normalize("NFC", text)
        if "\u200c" in text or "\u200d" in text:
            text = _LOOSE_JOINER.sub("", text)
        if not _ODD.search(text):
            return text
    return text.replace("\r\n", "\n").translate(_TABLE)


def in_space_order(text: str, max_blank_lines: int) -> str:
    """No spaces at line ends, few blank lines, none at the ends of the text."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if " \n" in text or "\t\n" in text:
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    if "\n" * (max_blank_lines + 2) in text:
        text = re.sub(f"\n{{{max_blank_lines + 2},}}", "\n" * (max_blank_lines + 1), text)
    return text.rstrip().lstrip("\n")


def _join_hyphens(text: str, keep: frozenset[str]) -> tuple[str, int]:
    """Words cut at a line end, in one piece again; the break comes behind the word."""
    lower = text.lower()
    known: set[str] | None = None
    wrapped = _is_wrapped(text)
    parts, at, joined = [], 0, 0
    for match in _HYPHEN.finditer(text):
        first, second, marks = match.groups()
        if not second[0].islower() or first.lower() in keep:
            continue
        if known is None:
            known = set(re.findall(r"[^\W\d_]{2,60}(?:-[^\W\d_]{2,30})?", lower))
        whole, compound = (first + second).lower(), f"{first}-{second}".lower()
        if compound in known or not (wrapped or whole in known):
            continue
        parts += [text[at : match.start()], first, second, marks, "\n"]
        at, joined = match.end(), joined + 1
        if text[at : at + 1] in (" ", "\n"):
            at += 1
    parts.append(text[at:])
    return "".join(parts), joined


def _is_wrapped(text: str) -> bool:
    """Whether most lines end where a page's right edge is."""
    lengths = sorted(len(line) for line in text.split("\n") if line.strip())
    if len(lengths) < _WRAPPED_LINES:
        return False
    edge = lengths[-max(1, len(lengths) // 10)]
    near = sum(0.8 * edge <= length <= 1.1 * edge for length in lengths)
    return 40 <= edge <= 160 and near >= _WRAPPED_SHARE * len(lengths)


def _drop_lines(text: str, boilerplate: frozenset[str]) -> tuple[str, int]:
    lines = text.split("\n")
    kept = [line for line in lines if not _says_nothing(line, boilerplate)]
    # A text that is nothing but such lines is left to the quality rules.
    if len(kept) == len(lines) or not any(line.strip() for line in kept):
        return text, 0
    return "\n".join(kept).strip("\n"), len(lines) - len(kept)


def _says_nothing(line: str, boilerplate: frozenset[str]) -> bool:
    return (
        0 < len(line) <= 4 * _BOILERPLATE_CHARACTERS
        and len(line.strip()) <= _BOILERPLATE_CHARACTERS
        and _folded_line(line) in boilerplate
    )


def _folded_line(line: str) -> str:
    return _NUMBER.sub("#", " ".join(line.lower().split()).strip(_EDGES))


def _count(counts: dict[str, int], name: str, number: int) -> None:
    if number:
        counts[name] = counts.get(name, 0) + int(number)


@functools.cache
def _load() -> tuple[frozenset[str], frozenset[str]]:
    content = yaml.safe_load(Path(__file__).with_name("boilerplate.yaml").read_text("utf-8"))
    lines = frozenset(_folded_line(str(line)) for line in content["lines"])
    return lines, frozenset(content["keep_hyphen_after"])
