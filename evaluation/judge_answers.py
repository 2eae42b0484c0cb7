"""What a judge compares: questions, and two models' answers to them, from files or made here.

A row of the prompts has one of

- `prompt`: one question
- `messages`: a conversation that ends with the user; the next reply is compared
- `turns`: the user's side of a conversation; every model gives all of its replies, one after another

and if it likes an `id` and a `group`. A row of answers has the `id` of its question and `text`, or
`texts` where there are several turns: what `python -m model.generate` writes will do.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.document import Turn
from data.generator import Generate, Prompt, Sampling

Answers = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Question:
    """What both models were asked.

    Attributes:
        id: of the row, or its number.
        before: the conversation up to the first reply that is compared.
        later: what the user says after each reply but the last.
        group: what it is counted together with.
    """

    id: str
    before: tuple[Turn, ...]
    later: tuple[str, ...] = ()
    group: str = ""


def read_questions(path: str, limit: int | None = None) -> list[Question]:
    """The questions of a JSONL file.

    Raises:
        ValueError: a row is none, with file and line, or there are none.
    """
    questions: list[Question] = []
    seen: set[str] = set()
    for number, row in _rows(path, "--prompts"):
        if limit is not None and len(questions) >= limit:
            break
        try:
            question = _question(row, str(row.get("id", number)))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        if question.id in seen:
            raise ValueError(f"{path}:{number}: id: {question.id!r} stands there twice")
        seen.add(question.id)
        questions.append(question)
    if not questions:
        raise ValueError(f"--prompts: {path} holds no prompts")
    return questions


def read_answers(path: str, questions: Sequence[Question], flag: str) -> Answers:
    """The answers of a JSONL file to these questions; others in it are left out.

    Raises:
        ValueError: a question has none, or not as many replies as the user's turns.
    """
    found: Answers = {}
    for number, row in _rows(path, flag):
        texts = row.get("texts", [row["text"]] if "text" in row else None)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{path}:{number}: text: missing; a row has id and text, or texts")
        if row.get("finish") == "error":
            raise ValueError(f"{path}:{number}: there is no answer: {row.get('error')}")
        found[str(row.get("id", number))] = tuple(texts)
    missing = [q.id for q in questions if q.id not in found]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(f"{flag}: {path} has no answer to {len(missing)} prompts: {shown}")
    for question in questions:
        given, wanted = len(found[question.id]), len(question.later) + 1
        if given != wanted:
            raise ValueError(
                f"{flag}: {path}: {question.id}: {given} replies, but the user speaks {wanted} times"
            )
    return {question.id: found[question.id] for question in questions}


def make_answers(generate: Generate, questions: Sequence[Question], sampling: Sampling) -> Answers:
    """A model's answers, turn by turn, each behind its own earlier ones.

    Raises:
        ValueError: a prompt cannot be continued.
    """
    said: dict[str, list[str]] = {question.id: [] for question in questions}
    for turn in range(max(len(question.later) for question in questions) + 1):
        asked = [
            Prompt(q.id, conversation(q, said[q.id]), sampling)
            for q in questions
            if turn <= len(q.later)
        ]
        for completion in generate(asked):
            if completion.finish == "error":
                raise ValueError(f"prompt {completion.id}: {completion.error}")
            said[completion.id].append(completion.text.strip())
    return {id: tuple(texts) for id, texts in said.items()}


def write_answers(path: Path, answers: Answers) -> None:
    """Writes answers as `read_answers` reads them."""
    lines = [
        json.dumps({"id": id, "texts": list(texts)}, ensure_ascii=False) + "\n"
        for id, texts in answers.items()
    ]
    path.write_text("".join(lines), encoding="utf-8")


def conversation(question: Question, replies: Sequence[str]) -> tuple[Turn, ...]:
    """The conversation with these replies in it, up to what the user says after the last."""
    turns = list(question.before)
    for i, reply in enumerate(replies):
        turns.append(Turn("assistant", reply))
        if i < len(question.later):
            turns.append(Turn("user", question.later[i]))
    return tuple(turns)


def identity(
    source: str, step: int | None, questions: Iterable[Question], sampling: Sampling
) -> str:
    """Stands for all that a model's answers depend on."""
    files = sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []
    weights = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    told = [source, step, weights, [repr(question) for question in questions], repr(sampling)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _question(row: dict[str, Any], id: str) -> Question:
    kinds = [kind for kind in ("prompt", "messages", "turns") if kind in row]
    if len(kinds) != 1:
        raise ValueError("prompt, messages, turns: one of the three is needed")
    group, value = str(row.get("group", "")), row[kinds[0]]
    if kinds == ["prompt"]:
        value = [value]
    if kinds == ["messages"]:
        if not isinstance(value, list) or not all(
            isinstance(m, dict) and isinstance(m.get("content"), str) for m in value
        ):
            raise ValueError('messages: a list of {"role", "content"} is needed')
        turns = tuple(Turn(str(m.get("role")), m["content"]) for m in value)
        if not turns or turns[-1].role != "user":
            raise ValueError("messages: the last one must be the user's, so that there is a reply")
        return Question(id, turns, (), group)
    if not isinstance(value, list) or not value or not all(isinstance(t, str) for t in value):
        raise ValueError(f"{kinds[0]}: {value!r} is not text")
    return Question(id, (Turn("user", value[0]),), tuple(value[1:]), group)


def _rows(path: str, flag: str) -> Iterable[tuple[int, dict[str, Any]]]:
    if not Path(path).is_file():
        raise ValueError(f"{flag}: {path} is not there, or not a file")
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}:{number}: {error}") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{path}:{number}: a row is a JSON object")
                yield number, row
