"""The instruction synthesizer's text format: written for training and prompting, read back.

One example is a text and its pairs, byte for byte as the published synthesizer was trained:

    <s> <CON> text </CON>

    <QUE> question <ANS> answer </END>

    <QUE> question <ANS> answer </END></s>

Examples follow each other with nothing between them; an M-shot prompt is whole examples and then
the context block of the next text. The marks are plain strings, `<s>` and `</s>` too: a prompt says
itself where BOS stands (`Prompt.literal_special`), so BOS is never doubled. The space before `<CON>`
belongs to the format.

What kind of task a pair is stands inside its strings: options are lines behind "Options:", a chain
of thought is asked for at the end of the question and ends in "Therefore, the answer is ".
Source: Instruction Pre-Training, published inference code and model card.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from data.document import Turn
from data.generator import Prompt, Sampling

BOS = "<s>"
EOS = "</s>"
CONTEXT = "<CON>"
CONTEXT_END = "</CON>"
QUESTION = "<QUE>"
ANSWER = "<ANS>"
END = "</END>"
BETWEEN = "\n\n"

OPTIONS = "Options:"
OPTION = "- "
THINK = "Let's think step by step."
THEREFORE = "Therefore, the answer is "

Shape = Literal["free", "options", "reasoned", "reasoned options"]

_MARK = re.compile(
    "|".join(map(re.escape, (BOS, EOS, CONTEXT, CONTEXT_END, QUESTION, ANSWER, END)))
)
_EXCERPT = 160


@dataclass(frozen=True)
class Pair:
    """A question and its answer as they stand in the format, the task's shape inside them."""

    question: str
    answer: str


@dataclass(frozen=True)
class Example:
    """A text and the pairs made of it."""

    text: str
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Rejected:
    """A piece of a model's output that is not a pair: why not (a name to count), and its start."""

    reason: str
    excerpt: str


@dataclass(frozen=True)
class Parsed:
    """What a model's output holds, in its order."""

    pairs: tuple[Pair, ...]
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Task:
    """A pair taken apart.

    Attributes:
        shape: free, options, reasoned (a chain of thought), or both of the latter.
        question: without options and without what asks for a chain of thought.
        answer: the final answer; for options the text of the right one, as it is listed.
        options: what there is to choose from; empty for the other shapes.
        rationale: the chain of thought; empty for the other shapes.
    """

    shape: Shape
    question: str
    answer: str
    options: tuple[str, ...] = ()
    rationale: str = ""


# --- writing --------------------------------------------------------------------------------------


def write_context(text: str) -> str:
    """The context block, the blank line behind it included: what a model continues with pairs."""
    return f"{BOS} {CONTEXT} {text} {CONTEXT_END}{BETWEEN}"


def write_pairs(pairs: Iterable[Pair]) -> str:
    """Pairs joined by a blank line."""
    return BETWEEN.join(
        f"{QUESTION} {pair.question} {ANSWER} {pair.answer} {END}" for pair in pairs
    )


def write_example(example: Example) -> str:
    """A text with its pairs, closed: one shot.

    Raises:
        ValueError: it has no pairs.
    """
    if not example.pairs:
        raise ValueError("pairs: an example of the synthesizer needs one pair at least; it has 0")
    return f"{write_context(example.text)}{write_pairs(example.pairs)}{EOS}"


def write_prompt(text: str, shots: Sequence[Example] = ()) -> str:
    """Whole examples, then the context block of the text whose pairs are wanted."""
    return "".join([*map(write_example, shots), write_context(text)])


def synthesis_prompt(
    id: str, text: str, shots: Sequence[Example] = (), sampling: Sampling | None = None
) -> Prompt:
    """`write_prompt` as a request; its `<s>` become BOS, none is added, and `</s>` ends the reply."""
    turn = Turn("text", write_prompt(text, shots))
    return Prompt(id, (turn,), sampling or Sampling(max_new_tokens=400), literal_special=True)


def write_task(task: Task) -> Pair:
    """The pair that `read_task` takes apart.

    Raises:
        ValueError: the parts do not belong to the shape, or the answer is none of the options.
    """
    if bool(task.options) != ("options" in task.shape):
        raise ValueError(f"options: {len(task.options)} options in a task of shape {task.shape!r}")
    if bool(task.rationale) != task.shape.startswith("reasoned"):
        raise ValueError(f"rationale: {task.rationale!r} in a task of shape {task.shape!r}")
    if task.options and task.answer not in task.options:
        raise ValueError(f"answer: {task.answer!r} is none of the options {list(task.options)}")
    question, answer = task.question, task.answer
    if task.options:
        question = "\n".join([question, OPTIONS, *(OPTION + option for option in task.options)])
    if task.rationale:
        question = f"{question}\n{THINK}"
        answer = f"{task.rationale}\n{THEREFORE}{answer}"
    return Pair(question, answer)


def unwritable(text: str) -> str | None:
    """The first mark of the format that stands in `text`, which therefore cannot go into it."""
    found = _MARK.search(text)
    return found[0] if found else None


# --- reading --------------------------------------------------------------------------------------


def parse(output: str) -> Parsed:
    """The pairs of a model's output, and every other piece of it with the reason.

    A pair is `<QUE> question <ANS> answer </END>` with nothing else of the format inside. What is
    left open is rejected alone, and a pair that begins behind it is read. A `<QUE>` within a
    question, or a pair closed inside another one's answer, leaves it open what belongs to what:
    all of it is rejected. Reading stops at `</s>`, and where a new example begins: what follows is
    about another text.

    Reasons: `cut off`, `not closed`, `no question mark`, `no answer mark`, `two answers`, `nested`,
    `mark inside`, `empty question`, `empty answer`, `outside a pair`, `after the end`.
    """
    return _Reader(output).read()


class _Reader:
    """Walks over the marks of one output; the state is the pair that is open."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.found: list[tuple[int, Pair | Rejected]] = []  # (where it began, what it is)
        self.start = 0  # of the piece that is open: a pair, or text outside of pairs
        self.asked: int | None = None  # where its question begins
        self.answered: int | None = None  # where its answer begins
        self.fault = ""  # what is already wrong with it
        self.inside: tuple[int, int] | None = None  # the last pair began in the open pair (from, #)

    def read(self) -> Parsed:
        for mark in _MARK.finditer(self.output):
            if mark[0] in (EOS, BOS, CONTEXT) and self._ends_here(mark):
                self._leave(mark.start())
                self._reject("after the end", mark.end(), len(self.output))
                break
            if mark[0] == QUESTION:
                self._open(mark)
            elif mark[0] == ANSWER:
                if self.answered is not None:
                    self.fault = self.fault or "two answers"
                elif self.asked is None:
                    self.fault = self.fault or "no question mark"
                self.answered = mark.end() if self.answered is None else self.answered
            elif mark[0] == END:
                self._close(mark)
            else:
                self.fault = self.fault or "mark inside"
        else:
            self._leave(len(self.output), last=True)
        self.found.sort(key=lambda item: item[0])
        return Parsed(
            tuple(item for _, item in self.found if isinstance(item, Pair)),
            tuple(item for _, item in self.found if isinstance(item, Rejected)),
        )

    def _ends_here(self, mark: re.Match[str]) -> bool:
        """Whether the example is over: a closing `</s>`, or the start of another example."""
        return mark[0] != CONTEXT or not self._is_open or self._starts_line(mark.start())

    @property
    def _is_open(self) -> bool:
        return self.asked is not None or self.answered is not None

    def _starts_line(self, at: int) -> bool:
        return not self.output[:at].rpartition("\n")[2].strip()

    def _open(self, mark: re.Match[str]) -> None:
        """A question begins: what is open stays unclosed, or the two cannot be told apart."""
        at = mark.start()
        self.inside = None
        if self.asked is not None and self.answered is None and not self._starts_line(at):
            self.fault = self.fault or "nested"
            return
        if self._is_open and self.answered is not None and not self._starts_line(at):
            self.inside = self.start, len(self.found)
        self._leave(at)
        self.asked = mark.end()

    def _close(self, mark: re.Match[str]) -> None:
        start, stop = self.start, mark.end()
        if self.asked is None and self.answered is None and self.inside and not self.fault:
            # The end of a pair that another one was closed in: neither can be trusted.
            outer, count = self.inside
            del self.found[count:]
            self._reject("nested", outer, stop)
        elif self.fault:
            self._reject(self.fault, start, stop)
        elif self.asked is None:
            self._reject("no question mark", start, stop)
        elif self.answered is None:
            self._reject("no answer mark", start, stop)
        else:
            question = self.output[self.asked : self.answered - len(ANSWER)].strip()
            answer = self.output[self.answered : mark.start()].strip()
            if not question:
                self._reject("empty question", start, stop)
            elif not answer:
                self._reject("empty answer", start, stop)
            else:
                self.found.append((start, Pair(question, answer)))
                self._begin(stop)
                return
        self.inside = None
        self._begin(stop)

    def _leave(self, stop: int, last: bool = False) -> None:
        """Gives up what is open, up to `stop`."""
        if self._is_open:
            self._reject(self.fault or ("cut off" if last else "not closed"), self.start, stop)
        else:
            self._reject(self.fault or "outside a pair", self.start, stop)
        self._begin(stop)

    def _begin(self, at: int) -> None:
        self.start, self.asked, self.answered, self.fault = at, None, None, ""

    def _reject(self, reason: str, start: int, stop: int) -> None:
        if excerpt := self.output[start:stop].strip():
            self.found.append((start, Rejected(reason, excerpt[:_EXCERPT])))


def read_task(pair: Pair) -> Task | Rejected:
    """What kind of task a pair is, or why it is none.

    Reasons: `rationale does not split`, `empty rationale`, `empty answer`, `no options`, `empty
    option`, `equal options`, `no question`.
    """
    question, answer = pair.question.strip(), pair.answer.strip()
    reasoned = question.endswith(THINK)
    rationale = ""
    if reasoned:
        question = question.removesuffix(THINK).rstrip()
        parts = answer.split(THEREFORE.rstrip())
        if len(parts) != 2:
            return Rejected("rationale does not split", answer[:_EXCERPT])
        rationale, answer = parts[0].strip(), parts[1].strip()
        if not rationale:
            return Rejected("empty rationale", pair.answer[:_EXCERPT])
        if not answer:
            return Rejected("empty answer", pair.answer[:_EXCERPT])
    lines = question.split("\n")
    at = next((i for i, line in enumerate(lines) if line.strip() == OPTIONS), None)
    if at is None:
        if not question:
            return Rejected("no question", pair.question[:_EXCERPT])
        return Task("reasoned" if reasoned else "free", question, answer, (), rationale)
    options = _options(lines[at + 1 :])
    if isinstance(options, str):
        return Rejected(options, question[:_EXCERPT])
    question = "\n".join(lines[:at]).strip()
    if not question:
        return Rejected("no question", pair.question[:_EXCERPT])
    return Task("reasoned options" if reasoned else "options", question, answer, options, rationale)


def _options(lines: Sequence[str]) -> tuple[str, ...] | str:
    """The options of the lines behind "Options:", or what is wrong with them."""
    options: list[str] = []
    for line in lines:
        if line.startswith(OPTION) or line.rstrip() == OPTION.rstrip():
            options.append(line[len(OPTION) :].strip())
        elif options:  # an option of several lines
            options[-1] = f"{options[-1]}\n{line}".strip()
        elif line.strip():
            return "no options"
    if len(options) < 2:
        return "no options"
    if not all(options):
        return "empty option"
    if len({option.casefold() for option in options}) < len(options):
        return "equal options"
    return tuple(options)
