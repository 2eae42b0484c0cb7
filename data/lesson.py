"""A converted document as a lesson: the text that is read, the tasks, and where they quote it.

`meta.read` says where each piece of the text read stands in the document, `meta.tasks` what is
asked; both are put back together here, for people to look at and for pairs to be exported.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.document import Document

Span = tuple[int, int]

# What these ask for is the whole text or a half of it: no place in it to be underlined.
WHOLE = ("title", "completion")


@dataclass(frozen=True)
class Task:
    """One question with its answer.

    Attributes:
        spans: characters of the text read that it was made of.
        filter: why a later stage would leave it out, if one says so.
        parent: id of the document that it is about.
    """

    family: str
    label: str
    question: str
    answer: str
    spans: tuple[Span, ...]
    filter: str | None = None
    parent: str | None = None


@dataclass(frozen=True)
class Run:
    """A run of characters that the same mined tasks quote; `tasks` are their numbers, from 0."""

    text: str
    tasks: tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A run of a finished text.

    `kind`: `read` (the text that is read), `question`, `answer`, or `frame` (what stands around
    them). `task` is the number of the task, for questions and answers.
    """

    text: str
    kind: str
    task: int | None = None


@dataclass(frozen=True)
class Lesson:
    """What was read, what is asked about it, and the finished text by its turns."""

    document: Document
    text: str
    tasks: tuple[Task, ...]
    turns: tuple[tuple[str, tuple[Piece, ...]], ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """The text read, cut where the spans of tasks begin and end."""
        inside = [
            (max(start, 0), min(stop, len(self.text)), number)
            for number, task in enumerate(self.tasks)
            if task.family not in WHOLE
            for start, stop in task.spans
        ]
        cuts = sorted({0, len(self.text), *(at for span in inside for at in span[:2])})
        return tuple(
            Run(self.text[low:high], tuple(sorted({n for a, b, n in inside if a <= low < b})))
            for low, high in itertools.pairwise(cuts)
        )


def lesson(document: Document) -> Lesson | None:
    """The lesson that a document is, None if it has no tasks."""
    records = document.meta.get("tasks")
    if not records:
        return None
    tasks = tuple(
        Task(
            record["family"],
            record["label"],
            record["question"],
            record["answer"],
            tuple((start, stop) for start, stop in record.get("source_spans") or ()),
            record.get("filter"),
            # A text may be made of several documents.
            record.get("parent") or document.meta.get("parent"),
        )
        for record in records
    )
    return Lesson(document, _text_read(document), tasks, tuple(_turns(document, records)))


def pairs(documents: Iterable[Document]) -> Iterator[dict[str, Any]]:
    """Every task of every document, as a row to be graded, counted or trained on.

    `spans` are characters of `text`, and `quotes` what stands there.
    """
    for document in documents:
        found = lesson(document)
        if found is None:
            continue
        for number, task in enumerate(found.tasks):
            yield {
                "document": document.id,
                "parent": task.parent,
                "source_id": document.meta.get("source_id"),
                "number": number,
                "family": task.family,
                "label": task.label,
                "question": task.question,
                "answer": task.answer,
                "spans": [list(span) for span in task.spans],
                "quotes": [found.text[start:stop] for start, stop in task.spans],
                "filter": task.filter,
                "text": found.text,
            }


def _text_read(document: Document) -> str:
    """The text read. A title line that is asked for, and not shown, is put where it stood."""
    pieces = sorted(document.meta.get("read") or [], key=lambda piece: piece[3])
    if not pieces:
        return "\n\n".join(turn.text for turn in document.turns if turn.role == "text")
    text = ""
    for turn, start, stop, at in pieces:
        if at > len(text):
            text += _gap(document, at - len(text)) if not text else "\n" * (at - len(text))
        # A piece may be shown twice, once to be read and once as an answer.
        text += document.turns[turn].text[start:stop][len(text) - at :]
    return text


def _gap(document: Document, size: int) -> str:
    """What stands before the first piece: the line of the title, as long as that was.

    It is the section's title where the text is a section; blanks may stand before it.
    """
    told = [title for key in ("section", "title") if (title := document.meta.get(key))]
    fits = [title for title in told if len(title) == size - 1]
    title = (fits or told or [""])[0]
    return title[: size - 1].rjust(size - 1) + "\n"


def _turns(
    document: Document, records: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    """The turns cut into pieces. Where they overlap, what is read is within what is asked."""
    marks: list[list[tuple[int, int, str, int | None]]] = [[] for _ in document.turns]
    for turn, start, stop, _ in document.meta.get("read") or []:
        marks[turn].append((start, stop, "read", None))
    for number, record in enumerate(records):
        kinds = zip(("question", "answer"), record.get("places") or [], strict=False)
        for kind, (turn, start, stop) in kinds:
            marks[turn].append((start, stop, kind, number))
    for turn, found in zip(document.turns, marks, strict=True):
        cuts = sorted({0, len(turn.text), *(at for mark in found for at in mark[:2])})
        pieces = []
        for low, high in itertools.pairwise(cuts):
            over = [mark for mark in found if mark[0] <= low < mark[1]]
            # Of a text that is the answer itself, the answer is what is to be seen.
            _, _, kind, task = max(
                over,
                key=lambda mark: (mark[2] == "answer", mark[2] == "read"),
                default=(0, 0, "frame", None),
            )
            pieces.append(Piece(turn.text[low:high], kind, task))
        yield turn.role, tuple(pieces)
