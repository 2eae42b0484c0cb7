"""Items as prompts: filled templates, examples before them, conversations for chat models.

An item is asked as one prompt or several, each a list of turns up to where the answer begins, with the
texts that may follow it. Where the options stand in the prompt itself (CaseHOLD's candidates, the gap of
WinoGrande) every option has a prompt of its own and one text follows.

An answer follows its prompt after one space, as the published evaluator has it.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from data.benchmarks import Item
from data.document import Turn, draw
from evaluation.exam import LETTERS
from evaluation.task import Task

_PLACE = re.compile(r"\{(question[12]?|context|options|labels)\}")


@dataclass(frozen=True)
class Question:
    """One item as it is asked.

    Attributes:
        item: what is asked.
        prompts: one, or one for each option; each the turns before the answer.
        answers: the texts that may follow: of all options after the one prompt, or the same one after
            every prompt. Empty where the answer is free.
        options: what is chosen from, as it is written.
    """

    item: Item
    prompts: tuple[tuple[Turn, ...], ...]
    answers: tuple[str, ...]
    options: tuple[str, ...]


def choose_items(
    items: Sequence[Item], task: Task, *, limit: int | None, seed: int, rendered: bool
) -> tuple[list[Item], list[Item]]:
    """The items that are scored, and those that serve as examples, which are never scored.

    Both are drawn by their own content and the seed, so neither depends on the file's order: examples
    balanced over the right answers, at most `limit` of the rest, which keep their order.

    Raises:
        ValueError: there are no items, or not enough for the examples.
    """
    if not items:
        raise ValueError(f"task {task.name}: no items; is the data whole?")
    order = sorted(range(len(items)), key=lambda i: _lot(items[i], seed))
    examples: list[int] = []
    if task.shots and not rendered:
        by_answer: dict[tuple[str, ...], list[int]] = {}
        for i in order:
            if items[i].answers:
                by_answer.setdefault(items[i].answers if items[i].options else (), []).append(i)
        # One of each answer, then a second one of each; with free answers just the first ones.
        queues = sorted(by_answer.values(), key=lambda q: _lot(items[q[0]], seed))
        while len(examples) < task.shots and any(queues):
            for queue in queues:
                if queue and len(examples) < task.shots:
                    examples.append(queue.pop(0))
        if len(examples) < task.shots or len(items) <= len(examples):
            raise ValueError(
                f"task {task.name}: {len(items)} items are not enough for {task.shots} examples and a "
                "test; set shots to fewer"
            )
    taken = set(examples)
    left = [i for i in order if i not in taken][:limit]
    return [items[i] for i in sorted(left)], [items[i] for i in examples]


def ask(
    items: Sequence[Item],
    examples: Sequence[Item],
    task: Task,
    *,
    chat: bool = False,
    rendered: bool = False,
) -> list[Question]:
    """Every item as it is asked, with the examples before it.

    For chat models an example is a turn of the user and one of the assistant, and the system prompt is
    the task's; for others it is text, divided by the task's separator. All items of a task have the
    same examples in the same order, so that they are read once.
    """
    before: list[Turn] = [Turn("system", task.system)] if chat and task.system else []
    for example in examples:
        (prompt, *_), answer = _prompts_of(example, task, False, gold=True)
        before += [Turn("user", prompt), Turn("assistant", answer)]
    questions = []
    for item in items:
        prompts, _ = _prompts_of(item, task, rendered)
        turns = tuple(
            (*before, Turn("user", prompt))
            if chat
            else (Turn("text", task.separator.join([*_as_text(before), prompt])),)
            for prompt in prompts
        )
        options = tuple(written(task, option) for option in item.options)
        questions.append(Question(item, turns, _answers(item, task, options), options))
    return questions


def written(task: Task, option: str) -> str:
    """What is written for an option."""
    return task.verbalise.get(option, option)


def _answers(item: Item, task: Task, options: tuple[str, ...]) -> tuple[str, ...]:
    if task.kind != "options":
        return ()
    if item.continuation:
        return (item.continuation,)
    if task.blank:
        return (_around_blank(item, task)[2],)
    return options


def _prompts_of(
    item: Item, task: Task, rendered: bool, *, gold: bool = False
) -> tuple[list[str], str]:
    """An item's prompts and, for an example, its right answer; of a gap only the right filling."""
    template = draw(item.id, "prompt").choice(task.prompts)
    if task.kind != "options" or not (item.continuation or task.blank):
        prompt = item.question if rendered else _filled(template, item, task)
        answer = (
            item.conclusion if task.explained else ", ".join(written(task, a) for a in item.answers)
        )
        return [prompt], answer
    which = list(item.gold[:1]) if gold else range(len(item.options))
    if item.continuation:
        return [item.options[i] for i in which], item.continuation
    start, end, rest = _around_blank(item, task)
    return [start + item.options[i] + end for i in which], rest


def _around_blank(item: Item, task: Task) -> tuple[str, str, str]:
    """What stands before a gap, what is joined to it (`'s`), and what follows after a space."""
    start, found, rest = item.question.partition(task.blank or "")
    if not found or not rest.strip():
        raise ValueError(
            f"task {task.name}, item {item.id}: no {task.blank!r} with text behind it in "
            f"{item.question[:80]!r}"
        )
    joined = "" if rest[0].isspace() else rest.split(maxsplit=1)[0]
    behind = rest[len(joined) :].strip()
    return (start, joined, behind) if behind else (start, "", joined)


def _filled(template: str, item: Item, task: Task) -> str:
    """A template with what its places stand for; text of an item is never taken for a place."""
    values = {
        "question": item.question,
        "question1": item.questions[0],
        "question2": item.questions[-1],
        "context": item.context,
        "options": "\n".join(
            f"{letter}. {written(task, option)}"
            for letter, option in zip(LETTERS, item.options, strict=False)
        ),
        "labels": ", ".join(written(task, option) for option in item.options),
    }
    return _PLACE.sub(lambda match: values[match[1]], template)


def _as_text(turns: Sequence[Turn]) -> list[str]:
    spoken = [turn.text for turn in turns]
    return [f"{a} {b}" for a, b in zip(spoken[::2], spoken[1::2], strict=True)]


def _lot(item: Item, seed: int) -> bytes:
    told = f"{seed}\0{item.id}\0{item.question}\0{item.context}\0{item.options}"
    return hashlib.blake2b(told.encode(), digest_size=16).digest()
