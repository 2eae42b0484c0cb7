"""What is said around a text to make reading comprehension of it: `templates/<language>.yaml`, read.

* A **template** asks for one mined task: a question, and an answer that may depend on the label.
* A **frame** stands around the text itself: what is said before it, and how its title or its ending
  is asked for.
* A slot is a quotation, `{premise}`; it is put in as a sentence of its own, or, with `:bare`,
  `:inner` and `:rest`, without its full stop, without its full stop and capital, without its
  capital.
"""

import functools
import itertools
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.comprehension.quotation import capitalized, stopped, uncapitalized, unstopped

FOLDER = Path(__file__).parent / "templates"

# Slots of the tasks that mining finds; `opening` is the beginning of a section's body.
SLOTS = {
    "nli": ("premise", "hypothesis", "connective"),
    "cause": ("cause", "effect", "connective"),
    "paraphrase": ("first", "second", "connective"),
    "keyword": ("sentence", "keywords"),
    "definition": ("term", "verb", "definition"),
    "topic": ("sentence", "verb", "topic"),
    "question": ("question", "answer"),
    "section": ("title", "body", "opening"),
}
TASK_GROUPS = (
    "nli.classify",
    "nli.entail",
    "nli.contradict",
    "nli.neutral",
    "cause.cause_effect",
    "cause.effect_cause",
    "paraphrase.similar",
    "paraphrase.different",
    "keyword",
    "definition",
    "topic",
    "question",
    "section",
)
FRAME_GROUPS = {  # what the frames of a layout say
    "title": ("ask",),
    "title.inverted": ("ask",),
    "completion": ("ask",),
    "both": ("ask", "ask_title"),
    "neither": (),
}
# Slots that are words rather than sentences: they get neither a capital letter nor a full stop.
_WORDS = frozenset(
    {"connective", "keywords", "term", "verb", "title", "opening", "options", "body"}
)
_QUOTABLE = frozenset(name for names in SLOTS.values() for name in names) - _WORDS | {"opening"}
_SPECS = ("", "bare", "inner", "rest")

Piece = str | tuple[str, str]  # a literal, or (slot, spec)


@dataclass(frozen=True)
class Template:
    """One way to ask for a mined task.

    Attributes:
        question: literals and slots.
        answers: the same for each label; under `""` for every label that has none of its own.
        inverted: whether it goes from what the others ask for to what they give.
        linked: whether it repeats the connective, at the beginning of a sentence.
        quoted: slots that stand in quotation marks.
        clause: whether it asks about a statement, which the effect of "is caused by" is not.
    """

    question: tuple[Piece, ...]
    answers: Mapping[str, tuple[Piece, ...]]
    inverted: bool
    linked: bool
    quoted: tuple[str, ...]
    clause: bool = False

    def answer(self, label: str) -> tuple[Piece, ...]:
        """What is answered where the task has this label."""
        return self.answers.get(label) or self.answers[""]


@dataclass(frozen=True)
class Frame:
    """What stands around a text. Literals, but for `{title}` in the frames that give the title."""

    before: str
    ask: tuple[Piece, ...] = ()
    ask_title: str = ""
    tasks_first: bool = False

    @property
    def gives_title(self) -> bool:
        """Whether it gives the title and asks for the text."""
        return any(not isinstance(piece, str) for piece in self.ask)


@dataclass(frozen=True)
class Templates:
    """The templates of one language, `{domain}` filled in.

    Attributes:
        language: its code.
        stop: ends a sentence that has lost its end.
        join: stands between a question and its answer in running text.
        more: stands behind the beginning of something longer.
        links: connectives that may open a sentence.
        clauses: connectives next to a whole clause.
        lower: words that lose their capital letter inside a sentence.
        tasks: templates by group; the groups are `TASK_GROUPS`.
        frames: frames by group; the groups are those of `FRAME_GROUPS`.
        intros: sentences between the text and its tasks.
    """

    language: str
    stop: str
    join: str
    more: str
    links: frozenset[str]
    clauses: frozenset[str]
    lower: frozenset[str]
    tasks: Mapping[str, tuple[Template, ...]]
    frames: Mapping[str, tuple[Frame, ...]]
    intros: tuple[str, ...]

    def render(self, pieces: Sequence[Piece], slots: Mapping[str, str]) -> str:
        """The pieces with the slots put in."""
        form = self._form
        return "".join([p if isinstance(p, str) else form(slots[p[0]], p[0], p[1]) for p in pieces])

    def behind(self, question: str) -> str:
        """What stands between a question and its answer: without spaces, a line break at a stop."""
        return "\n" if not self.join and question.endswith(self.stop) else self.join

    def _form(self, text: str, slot: str, spec: str) -> str:
        if slot == "body":
            return text
        if "\n" in text or "  " in text or "\t" in text:
            text = " ".join(text.split())
        if spec == "inner" or spec == "rest":
            text = uncapitalized(text, self.lower)
        elif slot not in _WORDS:
            text = capitalized(text)
        if spec == "bare" or spec == "inner":
            return unstopped(text)
        return text if slot in _WORDS else stopped(text, self.stop)


@functools.cache
def languages() -> tuple[str, ...]:
    """Codes of the languages that have templates."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@functools.lru_cache(maxsize=32)
def load_templates(language: str, domain: str | None = None) -> Templates:
    """The templates of a language. Without a domain, those that name it are left out.

    Raises:
        ValueError: the file is not there, or a template in it is not as it must be.
    """
    path = FOLDER / f"{language}.yaml"
    if not path.exists():
        raise ValueError(
            f"language: there is no {path.name} in data/comprehension/templates "
            f"(there are {', '.join(languages())})"
        )
    return parse_templates(path.read_text(encoding="utf-8"), path.name, language, domain)


def parse_templates(source: str, name: str, language: str, domain: str | None) -> Templates:
    """The templates in a YAML file's text; `name` is for messages.

    Raises:
        ValueError: a group or a key is missing or unknown, or a slot is not one of its family.
    """
    import yaml

    content = yaml.load(source, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    head = ("stop", "join", "more", "links", "clauses", "lower", "intro")
    known = {*head, *TASK_GROUPS, *FRAME_GROUPS}
    if wrong := content.keys() ^ known:
        what = ", ".join(sorted(wrong))
        raise ValueError(f"{name}: missing or unknown: {what}; there have to be {sorted(known)}")
    reader = _Reader(name, domain)
    return Templates(
        language,
        content["stop"],
        content["join"],
        content["more"],
        frozenset(content["links"]),
        frozenset(content["clauses"]),
        frozenset(content["lower"]),
        {group: reader.templates(group, content[group]) for group in TASK_GROUPS},
        {group: reader.frames(group, content[group]) for group in FRAME_GROUPS},
        tuple(reader.texts("intro", content["intro"])),
    )


class _Reader:
    """Makes templates of what the YAML holds, and says where it is wrong."""

    def __init__(self, name: str, domain: str | None) -> None:
        self._name, self._domain = name, domain

    def templates(self, group: str, entries: Sequence[Mapping[str, Any]]) -> tuple[Template, ...]:
        found = []
        slots = SLOTS[group.split(".")[0]]
        for entry in entries:
            self._keys(group, entry, ("answer", "templates", "inverted", "clause"))
            answer = entry["answer"]
            answers = answer if isinstance(answer, dict) else {"": answer}
            options = "\n".join(f"- {text}" for text in _in_order(answers))
            for text in entry["templates"]:
                if not self._usable(text):
                    continue
                extra = ("options",) if len(answers) > 1 else ()
                question = self._pieces(group, text, slots + extra, {"options": options})
                parsed = {k: self._pieces(group, v, slots, {}) for k, v in answers.items()}
                found.append(
                    Template(
                        question,
                        parsed,
                        inverted=entry.get("inverted", False),
                        linked=any(
                            p[0] == "connective" for p in question if not isinstance(p, str)
                        ),
                        quoted=_quoted(question),
                        clause=entry.get("clause", False),
                    )
                )
        if not found:
            raise ValueError(f"{self._name}: {group}: no template can be used without a domain")
        return tuple(found)

    def frames(self, group: str, entries: Sequence[Any]) -> tuple[Frame, ...]:
        needed = FRAME_GROUPS[group]
        if not needed:
            return tuple(Frame(text) for text in self.texts(group, entries))
        found = []
        slots = ("title",) if group == "title.inverted" else ()
        for entry in entries:
            self._keys(group, entry, ("before", "tasks", *needed))
            texts = {"before": "", "tasks": "after"} | entry
            if not all(self._usable(text) for text in texts.values()):
                continue
            if texts["tasks"] not in ("before", "after"):
                raise ValueError(f"{self._name}: {group}: tasks: {texts['tasks']!r}: before, after")
            found.append(
                Frame(
                    self._text(group, texts["before"]),
                    self._pieces(group, texts["ask"], slots, {}),
                    self._text(group, texts["ask_title"]) if "ask_title" in needed else "",
                    texts["tasks"] == "before",
                )
            )
        return tuple(found)

    def texts(self, group: str, entries: Sequence[str]) -> list[str]:
        return [self._text(group, text) for text in entries if self._usable(text)]

    def _usable(self, text: str) -> bool:
        return self._domain is not None or "{domain}" not in text

    def _text(self, group: str, text: str) -> str:
        return "".join(str(piece) for piece in self._pieces(group, text, (), {}))

    def _keys(self, group: str, entry: Mapping[str, Any], known: Sequence[str]) -> None:
        if wrong := entry.keys() - set(known):
            raise ValueError(f"{self._name}: {group}: {sorted(wrong)}: none of {sorted(known)}")

    def _pieces(
        self, group: str, text: str, slots: Sequence[str], values: Mapping[str, str]
    ) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        values = {**values, "domain": self._domain or ""}
        try:
            fields = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"{self._name}: {group}: {text!r}: {error}") from error
        for literal, slot, spec, _ in fields:
            pieces.append(literal)
            if slot is None:
                continue
            if slot in values and (slot == "domain" or slot in slots):
                pieces.append(values[slot])
            elif slot in slots and spec in _SPECS:
                pieces.append((slot, spec or ""))
            else:
                raise ValueError(
                    f"{self._name}: {group}: {text!r}: {{{slot}{':' if spec else ''}{spec}}} is "
                    f"none of its slots ({', '.join((*slots, 'domain'))}; with "
                    f"{', '.join(':' + s for s in _SPECS if s)})"
                )
        return _joined(pieces)


def _in_order(answers: Mapping[str, str]) -> list[str]:
    """Answers in the order in which people list them: yes, no, maybe."""
    order = {"entail": 0, "contradict": 1, "neutral": 2}
    return [answers[label] for label in sorted(answers, key=lambda label: order.get(label, 3))]


def _quoted(question: Sequence[Piece]) -> tuple[str, ...]:
    """Slots right behind an opening quotation mark."""
    return tuple(
        piece[0]
        for before, piece in itertools.pairwise(question)
        if isinstance(before, str) and before.endswith(('"', "“", "„")) and piece[0] in _QUOTABLE
    )


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Neighbouring literals as one, empty ones left out."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece:
            joined.append(piece)
    return tuple(joined)
