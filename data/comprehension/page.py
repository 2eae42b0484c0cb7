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
            self._put(self._gap() + text)
            self._below = True

    def read(self, text: str, span: Span) -> None:
        """A piece of the text read, as it is."""
        self._put(self._gap())
        start = self._length
        self._put(text[span[0] : span[1]])
        self.pieces.append([0, start, self._length, span[0]])

    def exchange(self, task: Task, reads: tuple[str, Span] | None = None) -> None:
        """A task. `reads`: a piece of the text read is its answer."""
        answer = reads[0][reads[1][0] : reads[1][1]] if reads else task.answer
        gap = self._gap()
        asked = self._length + len(gap)
        end = asked + len(task.question)
        said = end + len(task.join)
        self._put(gap + task.question + task.join + answer)
        if reads:
            self.pieces.append([0, said, self._length, reads[1][0]])
        self.tasks.append(task.record(answer, [[0, asked, end], [0, said, self._length]]))

    def turns(self) -> tuple[Turn, ...]:
        """The finished text."""
        return (Turn("text", "".join(self._parts)),)

    def _put(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def _gap(self) -> str:
        """What parts the next thing from what is there."""
        if not self._parts:
            return ""
        if self._below:
            self._below = False
            return "\n"
        last = self._parts[-1]
        if not last.endswith("\n"):
            return "\n\n"
        return "" if last.endswith("\n\n") else "\n"


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
