"""Reads `templates.yaml`: lists spelled out, every pattern checked, near copies refused.

What a person wrote is composed here into the full lists: parts in every combination, labels in every
layout, options in every place. The checks see to it that no list has an entry twice and that no pattern
loses a part of its pair.
"""

import difflib
import functools
import itertools
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from data.synthesis.format import Shape

Item = TypeVar("Item")

TEMPLATES = Path(__file__).with_name("templates.yaml")
NEAR = 0.85  # hand-written lines that are more alike than this say the same thing
_LONG = 20  # shorter ones are labels and marks, which resemble each other rightly

_FIELDS = {"free": {"question", "answer"}, "reasoned": {"question", "answer", "rationale"}}


@dataclass(frozen=True)
class Wrapper:
    """Lines to put somewhere, and how often there is none."""

    lines: tuple[str, ...]
    empty: float


@dataclass(frozen=True)
class Pattern:
    """A pair: `prompt`, a line break, `reply`, with fields in braces."""

    prompt: str
    reply: str

    @property
    def text(self) -> str:
        """Both together."""
        return f"{self.prompt}\n{self.reply}"

    @property
    def shows_options(self) -> bool:
        """Whether options stand somewhere in it."""
        return "{options}" in self.text


@dataclass(frozen=True)
class ItemStyle:
    """How one option or question is marked: a frame around `{n}`, or a bullet without a name."""

    frame: str
    numeral: str | None

    def mark(self, index: int) -> str:
        """What stands before item `index` (from 0)."""
        return self.frame if self.numeral is None else self.frame.replace("{n}", self.name(index))

    def name(self, index: int) -> str:
        """The item's own name; empty where items have none."""
        return "" if self.numeral is None else numeral(self.numeral, index)


@dataclass(frozen=True)
class Inline:
    """Examples and a last question in one prompt; `because` only where chains of thought are shown."""

    intro: str
    shows: str
    asks: str
    because: str = ""


@dataclass(frozen=True)
class Templates:
    """All of `templates.yaml`, spelled out; the names are those of the file."""

    wrappers: Mapping[str, Wrapper]
    separators: tuple[str, ...]
    apart: tuple[str, ...]
    headers: tuple[str, ...]
    items: tuple[ItemStyle, ...]
    terminators: tuple[str, ...]
    between: tuple[str, ...]
    needed_by: tuple[str, ...]
    patterns: Mapping[Shape, tuple[Pattern, ...]]
    conclusions: tuple[str, ...]
    speakers: tuple[tuple[str, str], ...]
    dialog_headers: tuple[str, ...]
    numberings: tuple[ItemStyle, ...]
    heads: tuple[tuple[str, str], ...]
    inline: Mapping[str, tuple[Inline, ...]]
    next_turn: tuple[tuple[str, str], ...]


WRAPPERS = ("read_start", "comprehension_start", "inverted_start", "inverted_end", "text_start")


@functools.lru_cache(4)
def load_templates(path: str | None = None) -> Templates:
    """The templates of a file; ours by default.

    Raises:
        ValueError: a part is missing, stands there twice, is a near copy of another one, or a pattern
            lacks a field.
    """
    place = Path(path) if path else TEMPLATES
    try:
        return _read(yaml.safe_load(place.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"templates.file: {place} cannot be read: {error}") from error
    except KeyError as error:
        raise ValueError(f"templates.file: {place} has no {error}") from error
    except ValueError as error:
        raise ValueError(f"templates.file: {place}: {error}") from error


def numeral(system: str, index: int) -> str:
    """Number `index` (from 0): `A`, `a` (… Z, AA, AB …), `1`, `I` or `i`, without end."""
    if system in ("A", "a"):
        letters, rest = "", index + 1
        while rest:
            rest, digit = divmod(rest - 1, 26)
            letters = string.ascii_uppercase[digit] + letters
        return letters if system == "A" else letters.lower()
    if system == "1":
        return str(index + 1)
    if system in ("I", "i"):
        roman, rest = "", index + 1
        for value, sign in _ROMAN:
            roman += sign * (rest // value)
            rest %= value
        return roman if system == "I" else roman.lower()
    raise ValueError(f"numerals: {system!r} is none of A, a, 1, I, i")


_ROMAN = (
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"),
    (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
)  # fmt: skip


def _read(record: dict[str, Any]) -> Templates:
    options, dialog, numbered = record["options"], record["dialog"], record["numbered"]
    plain = {kind: _patterns(kind, record["patterns"][kind]) for kind in _FIELDS}
    placed = record["placed"]
    patterns: dict[Shape, tuple[Pattern, ...]] = {
        "free": plain["free"],
        "options": _place(plain["free"], placed["options"], "options"),
        "reasoned": plain["reasoned"],
        "reasoned options": _place(
            plain["reasoned"], placed["reasoned options"], "reasoned options"
        ),
    }
    inline = {
        kind: tuple(Inline(**entry) for entry in record["inline"][kind])
        for kind in ("plain", "explained")
    }
    for kind, entries in inline.items():
        wanted = (
            ["answer", "because", "question"] if kind == "explained" else ["answer", "question"]
        )
        for entry in entries:
            _require(sorted(_fields(entry.shows)) == wanted, f"inline.{kind}: {entry.shows!r}")
            _require(_fields(entry.asks) == ["question"], f"inline.{kind}: {entry.asks!r}")
            because = ["rationale"] if kind == "explained" else []
            _require(_fields(entry.because) == because, f"inline.{kind}: {entry.because!r}")
    handwritten = [
        *(line for kind in inline.values() for e in kind for line in (e.intro, e.asks)),
        *(line for pair in record["next_turn"] for line in pair),
        *(line for pair in numbered["heads"] for line in pair),
        *dialog["headers"],
    ]
    _no_near_copies("modes", handwritten)
    return Templates(
        wrappers={name: _wrapper(name, record[name]) for name in WRAPPERS},
        separators=_distinct("separators", record["separators"]),
        apart=_distinct("apart", record["apart"]),
        headers=_distinct("options.headers", options["headers"]),
        items=_styles("options", options) + tuple(ItemStyle(b, None) for b in options["bullets"]),
        terminators=_distinct("options.terminators", options["terminators"]),
        between=_distinct("options.between", options["between"]),
        needed_by=_distinct("options.needed_by", options["needed_by"]),
        patterns=patterns,
        conclusions=_distinct("conclusions", record["conclusions"]),
        speakers=tuple(
            (style.replace("{name}", asker), style.replace("{name}", teller))
            for (asker, teller), style in itertools.product(dialog["speakers"], dialog["styles"])
        ),
        dialog_headers=_distinct("dialog.headers", dialog["headers"]),
        numberings=_styles("numbered", numbered),
        heads=tuple((first, second) for first, second in numbered["heads"]),
        inline=inline,
        next_turn=tuple((first, second) for first, second in record["next_turn"]),
    )


def _wrapper(name: str, record: dict[str, Any]) -> Wrapper:
    lines: list[str] = []
    written = []
    for item in record["of"]:
        if isinstance(item, str):
            written.append(item)
            lines.append(item)
        else:
            lines += map("".join, itertools.product(*item["compose"]))
    _no_near_copies(name, written)
    return Wrapper(_distinct(name, lines), record["empty"])


def _styles(name: str, record: dict[str, Any]) -> tuple[ItemStyle, ...]:
    for frame in record["frames"]:
        _require(_fields(frame) == ["n"], f"{name}.frames: {frame!r}")
    for system in record["numerals"]:
        numeral(system, 0)
    pairs = itertools.product(record["frames"], record["numerals"])
    return tuple(ItemStyle(frame, system) for frame, system in pairs)


def _patterns(kind: str, groups: Sequence[dict[str, Any]]) -> tuple[Pattern, ...]:
    """The patterns of pairs without options."""
    patterns: list[Pattern] = []
    written: list[str] = []
    for group in groups:
        if "labels" in group:
            for layout, labels in itertools.product(group["layouts"], group["labels"]):
                parts = [
                    layout.replace("{label}", label).replace("{value}", f"{{{field}}}")
                    for label, field in zip(labels, group["fields"], strict=True)
                ]
                patterns.append(Pattern(parts[0], "\n".join(parts[1:])))
        else:
            pairs = itertools.product(group["prompts"], group["replies"])
            patterns += [Pattern(prompt, reply) for prompt, reply in pairs]
            written += group["prompts"]
    for pattern in patterns:
        fields = _fields(pattern.text)
        _require(sorted(fields) == sorted(_FIELDS[kind]), f"patterns.{kind}: {pattern.text!r}")
    _no_near_copies(f"patterns.{kind}", written)
    return _distinct(f"patterns.{kind}", patterns)


def _place(patterns: Iterable[Pattern], places: Iterable[str], name: str) -> tuple[Pattern, ...]:
    """The patterns with options in every place."""
    placed = []
    for place, pattern in itertools.product(places, patterns):
        _require(place.count("{question}") == 1, f"placed.{name}: {place!r}")
        put = [part.replace("{question}", place) for part in (pattern.prompt, pattern.reply)]
        placed.append(Pattern(*put))
    return _distinct(f"placed.{name}", placed)


def _fields(text: str) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]


def _require(holds: bool, where: str) -> None:
    if not holds:
        raise ValueError(f"{where} lacks a field in braces, or has one too many")


def _distinct(name: str, items: Iterable[Item]) -> tuple[Item, ...]:
    found = tuple(items)
    if len(set(found)) < len(found):
        twice = next(item for item in found if found.count(item) > 1)
        raise ValueError(f"{name}: {twice!r} stands there twice; take one away")
    return found


def _no_near_copies(name: str, lines: Sequence[str]) -> None:
    _distinct(name, lines)
    for first, second in itertools.combinations([s for s in lines if len(s) >= _LONG], 2):
        alike = difflib.SequenceMatcher(None, first, second, autojunk=False)
        if alike.quick_ratio() > NEAR and alike.ratio() > NEAR:
            raise ValueError(f"{name}: {first!r} and {second!r} are nearly the same; reword one")
