"""Finished texts as they grow: running text, or a conversation.

Both take the same calls in the same order: what is said, what is read, what is asked. They note
where each piece of the text read and each task came to stand.
"""

from dataclasses import dataclass, field
from typing import Any

from data.document import Turn

Span = tuple[int, int]


@dataclass(frozen=True)
class Task:
    """A question with its answer.

    Attributes:
        family, label: what it is a task of.
        question: in words.
        answer: in words; empty where a piece of the text read is the answer.
        spans: what of the text read it is made of.
        join: what stands between question and answer in running text.
    """

    family: str
    label: str
    question: str
    answer: str
    spans: tuple[Span, ...]
    join: str

    def record(self, answer: str, places: list[list[int]]) -> dict[str, Any]:
        """What `meta.tasks` says of it; `places` are `[turn, start, stop]`."""
        return {
            "family": self.family,
            "label": self.label,
            "question": self.question,
            "answer": answer,
            "source_spans": [list(span) for span in self.spans],
            "filter": None,
            "places": places,
        }


@dataclass
class TextPage:
    """Running text: blocks apart by a blank line, an answer behind its question.

    Attributes:
        pieces: `[turn, start, stop, at]` of each piece of the text read; `at` is where it begins
            in the text read.
        tasks: a record of each task.
    """

    pieces: list[list[int]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)
    _length: int = 0
    _below: bool = False  # whether what was said belongs right above what comes

    def say(self, text: str) -> None:
        """A line above the next thing; nothing if it is empty."""
        if text:
            self._block()
            self._add(text)
            self._below = True

    def read(self, text: str, span: Span) -> None:
        """A piece of the text read, as it is."""
        self._block()
        self._read(text, span)

    def exchange(self, task: Task, reads: tuple[str, Span] | None = None) -> None:
        """A task. `reads`: a piece of the text read is its answer."""
        self._block()
        asked = self._add(task.question)
        if task.join:
            self._add(task.join)
        said = self._read(*reads) if reads else self._add(task.answer)
        answer = self._parts[-1] if reads else task.answer
        self.tasks.append(task.record(answer, [asked, said]))

    def turns(self) -> tuple[Turn, ...]:
        """The finished text."""
        return (Turn("text", "".join(self._parts)),)

    def _add(self, text: str) -> list[int]:
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        return [0, start, self._length]

    def _read(self, text: str, span: Span) -> list[int]:
        place = self._add(text[span[0] : span[1]])
        self.pieces.append([*place, span[0]])
        return place

    def _block(self) -> None:
        if not self._parts:
            return
        if self._below:
            self._below = False
            self._add("\n")
        elif not (last := self._parts[-1]).endswith("\n"):
            self._add("\n\n")
        elif not last.endswith("\n\n"):
            self._add("\n")


@dataclass
class ChatPage:
    """A conversation: what is said and read goes before the next question.

    Attributes:
        system: turns that come first; they ask for nothing.
        pieces, tasks: as those of `TextPage`.
    """

    system: tuple[Turn, ...] = ()
    pieces: list[list[int]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    _turns: list[Turn] = field(default_factory=list)
    _user: str = ""

    def say(self, text: str) -> None:
        """A line above the next thing; nothing if it is empty."""
        self._add(text, "\n\n")

    def read(self, text: str, span: Span) -> None:
        """A piece of the text read."""
        start, stop = _stripped(text, span)
        self.pieces.append([*self._add(text[start:stop], "\n"), start])

    def exchange(self, task: Task, reads: tuple[str, Span] | None = None) -> None:
        """A user's and an assistant's turn. `reads`: a piece of the text read is the answer."""
        asked = self._add(task.question, "\n\n")
        start, stop = _stripped(*reads) if reads else _stripped(task.answer, (0, len(task.answer)))
        answer = (reads[0] if reads else task.answer)[start:stop]
        said = [asked[0] + 1, 0, len(answer)]
        if reads:
            self.pieces.append([*said, start])
        self.tasks.append(task.record(answer, [asked, said]))
        self._turns += [Turn("user", self._user), Turn("assistant", answer)]
        self._user = ""

    def turns(self) -> tuple[Turn, ...]:
        """The conversation; empty if nothing was asked."""
        return (*self.system, *self._turns) if self._turns else ()

    def _add(self, text: str, gap: str) -> list[int]:
        self._user += (gap if self._user and text else "") + text
        turn = len(self.system) + len(self._turns)
        return [turn, len(self._user) - len(text), len(self._user)]


def _stripped(text: str, span: Span) -> Span:
    """The span without blank lines and spaces around it, which chat templates would strip.

    A line keeps its indentation, as far as the chat template does.
    """
    start, stop = span
    while start < stop and text[start].isspace():
        start += 1
    line = text.rfind("\n", 0, start) + 1
    while stop > start and text[stop - 1].isspace():
        stop -= 1
    return line if line >= span[0] else start, stop
