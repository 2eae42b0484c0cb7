"""The items of the tasks that evaluation runs: questions, options, answers, passages.

One reader for scoring and for decontamination, so that what is kept out of the corpora is what is
measured. A task is a file `evaluation/tasks/<name>.yaml`; **this module reads its `data` part and
nothing else**, so a task file may say more (prompts, shots, metric) to those who run it.

    data:
      sources:                    # where the items may come from, best first
        original:
          path: ${LECTERN_REALDATA}/some.jsonl.gz     # a source whose variables are not set is not
          rows: 1000                                  # to be had here, and the next one is taken
          fields: {id: pmid, question: question, context: contexts, answer: final_decision}
          options: ["yes", "no", "maybe"]             # the same for every item
        published:
          hub: AdaptLLM/medicine-tasks
          name: PubMedQA
          split: test
          fields: {id: id, question: input, options: options, gold: gold_index}

A field is a dotted path into the row. `gold` is the index of the right option or a list of them,
`answer` its text, its label, or the free answer. `parse` takes a question apart whose options are
written inside it ("... Answer1: ... Answer2: ...").
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from etils import epath
from pydantic import Field, ValidationError, model_validator

from data import formats
from data.broken import Broken
from data.paths import Missing, entries, plain, reach
from data.strict import Config

TASKS = Path(__file__).resolve().parent.parent / "evaluation" / "tasks"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class ItemFields(Config):
    """Which fields of a row hold what."""

    id: str | None = Field(default=None, description="default: the number of the row, from 1")
    question: str | tuple[str, ...] = Field(
        description="what is asked; several fields are several questions of one item"
    )
    context: str | tuple[str, ...] | None = Field(
        default=None, description="the passage that is asked about"
    )
    options: str | tuple[str, ...] | None = Field(
        default=None, description="a list, an object by label, or a field for each option"
    )
    gold: str | None = Field(default=None, description="index of the right option, or a list")
    answer: str | None = Field(
        default=None, description="the right option or its label, or the free answer, or a list"
    )
    conclusion: str | None = Field(default=None, description="a text from which the answer follows")
    group: str | None = Field(default=None, description="items are scored by groups (class_id)")
    kind: str | None = Field(default=None, description="type of a question, in exams")
    continuation: str | None = Field(
        default=None,
        description="what follows every option, where an option is a prompt of its own",
    )


class Parse(Config):
    """A question with its options written inside it."""

    before: str = Field(default="", description="stands before the question, and is left out")
    options: str = Field(
        default="", description="the word before the number of an option: Answer, for Answer1:"
    )
    after: str = Field(
        default="", description="from the last place where it stands, all is left out"
    )


class Source(Config):
    """One place that a task's items can be read from, and the shape of its rows."""

    path: str | None = Field(default=None, description="a file; ${NAME} is put in")
    format: Literal["auto", "json", "jsonl", "csv", "parquet"] = "auto"
    hub: str | None = Field(default=None, description="a data set of the Hugging Face hub")
    name: str | None = Field(default=None, description="its configuration")
    split: str = "test"
    revision: str | None = None
    where: dict[str, str | int | bool] = Field(
        default={}, description="only rows whose fields have these values"
    )
    rows: int | None = Field(default=None, ge=1, description="items there must be")
    fields: ItemFields
    options: tuple[str, ...] = Field(default=(), description="the options of every item")
    parse: Parse | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "Source":
        if (self.path is None) == (self.hub is None):
            raise ValueError("name a path or a hub id (one of them)")
        return self

    @property
    def shown(self) -> str:
        """The place, for people and cards; what a variable stands for does not show."""
        if self.path is not None:
            return self.path
        return f"{self.hub} {self.name or ''}".strip() + f" ({self.split})"


class TaskData(Config):
    """The `data` part of a task file."""

    sources: dict[str, Source] = Field(min_length=1)


@dataclass(frozen=True)
class Item:
    """One item of a task.

    Attributes:
        id: its own id, or the number of its row.
        question: what is asked; where it is several texts, with a line break between them.
        options: the answers to choose from; empty where the answer is free.
        answers: the texts that are right.
        context: the passage that is asked about, if it stands apart.
        gold: indices of the right options.
        conclusion: a text from which the answer follows.
        group: what it is scored together with.
        questions: the texts of `question`, one by one.
        kind: type of the question, in exams.
        continuation: what follows every option, where an option is a prompt of its own.
    """

    id: str
    question: str
    options: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    context: str = ""
    gold: tuple[int, ...] = ()
    conclusion: str = ""
    group: str = ""
    questions: tuple[str, ...] = field(default=(), repr=False)
    kind: str = ""
    continuation: str = ""

    def __post_init__(self) -> None:
        if not self.questions:
            object.__setattr__(self, "questions", (self.question,))


def read_items(task: str, *, path: str | None = None, source: str | None = None) -> Iterator[Item]:
    """The items of a task.

    Args:
        task: the name of a file in `evaluation/tasks`, or a path that ends in `.yaml`.
        path: read this file instead of the task's own place.
        source: the source whose place, or whose shape where `path` is given, is meant; default: the
            first that can be had here.

    Raises:
        ValueError: the task, its data or a field is not there, or rows are missing.
    """
    return read_task(task, path=path, source=source)[1]


def choose(task: str, *, path: str | None = None, source: str | None = None) -> tuple[str, Source]:
    """The name and the shape of the source that `read_items` takes.

    Raises:
        ValueError: as `read_items`.
    """
    return _choose(task, path, source)


def read_task(
    task: str, *, path: str | None = None, source: str | None = None
) -> tuple[Source, Iterator[Item]]:
    """The source that `read_items` takes, and its items."""
    name, chosen = _choose(task, path, source)
    return chosen, _items(f"{_name_of(task)}.{name}", chosen)


def identity(task: str, *, path: str | None = None, source: str | None = None) -> dict[str, Any]:
    """What tells that the items of a task are still those that were read: shape, place, size, time.

    Raises:
        ValueError: as `read_items`.
    """
    name, chosen = _choose(task, path, source)
    told: dict[str, Any] = {"task": task, "source": chosen.model_dump()}
    if chosen.path is not None:
        file = epath.Path(_expanded(f"{_name_of(task)}.{name}", chosen.path))
        if file.exists():
            stat = file.stat()
            told |= {"bytes": stat.length, "changed": stat.mtime}
    return told


def task_names() -> list[str]:
    """The tasks of this project."""
    return sorted(file.stem for file in TASKS.glob("*.yaml"))


def _choose(task: str, path: str | None, source: str | None) -> tuple[str, Source]:
    sources = _load(task).sources
    where = f"task {_name_of(task)}"
    if source is not None and source not in sources:
        raise ValueError(f"{where}: no source {source!r}; there are: {', '.join(sources)}")
    if path is not None:
        name = source or next(iter(sources))
        shape = sources[name].model_dump() | {"path": path, "hub": None, "rows": None}
        return name, Source.model_validate(shape | {"format": "auto"})
    unset: dict[str, str] = {}
    for name, found in sources.items() if source is None else [(source, sources[source])]:
        missing = [v for v in _VARIABLE.findall(found.path or "") if not os.environ.get(v)]
        if not missing:
            return name, found
        unset[name] = missing[0]
    reasons = "; ".join(f"{name}: set {variable}" for name, variable in unset.items())
    raise ValueError(f"{where}: its data is not to be had ({reasons}), or give its path")


def _load(task: str) -> TaskData:
    file = Path(task) if task.endswith(".yaml") else TASKS / f"{task}.yaml"
    if not file.exists():
        raise ValueError(f"no task {task!r}: {file} is not there; tasks: {', '.join(task_names())}")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(content, Mapping) or "data" not in content:
        raise ValueError(f"{file}: a task file needs `data`, with the `sources` of its items")
    try:
        return TaskData.model_validate(content["data"])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("data", *first["loc"])))
        raise ValueError(f"{file}: {place}: {first['msg']}") from error


def _items(where: str, source: Source) -> Iterator[Item]:
    count = 0
    for place, row in _rows(where, source):
        if isinstance(row, Broken):
            raise ValueError(f"task {where}: {place}: {row.reason}; an incomplete task is no task")
        try:
            if any(str(plain(reach(row, path))) != str(v) for path, v in source.where.items()):
                continue
            count += 1
            yield _item(row, source, str(count))
        except Missing as missing:
            raise ValueError(
                f"task {where}: {place}: no field {missing.key!r}; there are: "
                f"{', '.join(missing.known) or 'none'}"
            ) from missing
        except ValueError as error:
            raise ValueError(f"task {where}: {place}: {error}") from error
    if (source.rows is not None and count != source.rows) or not count:
        expected = source.rows if source.rows is not None else "some"
        raise ValueError(
            f"task {where}: {source.shown} has {count} items, {expected} expected; "
            "is the data whole?"
        )


def _rows(where: str, source: Source) -> Iterator[formats.Item]:
    if source.hub is not None:
        try:
            dataset = formats.open_dataset(source.hub, source.name, source.split, source.revision)
            yield from formats.dataset_rows(source.hub, source.split, dataset, 0, 1)
        except ValueError as error:
            raise ValueError(f"task {where}: {error}") from error
        return
    assert source.path is not None
    path = _expanded(where, source.path)
    format_ = formats.format_of(path) if source.format == "auto" else source.format
    if format_ is None:
        raise ValueError(f"task {where}: the name of {path} does not tell its format; set format")
    try:
        yield from formats.file_rows(path, format_, _paths(source))
    except OSError as error:
        raise ValueError(f"task {where}: {path} cannot be read: {error}") from error


def _expanded(where: str, path: str) -> str:
    """A path with its environment variables put in."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not os.environ.get(name):
            raise ValueError(f"task {where}: the environment variable {name} is not set; export it")
        return os.environ[name]

    return os.path.expanduser(_VARIABLE.sub(value, path))


def _item(row: Mapping[str, Any], source: Source, number: str) -> Item:
    fields = source.fields

    def texts(paths: str | tuple[str, ...] | None) -> list[str]:
        paths = (paths,) if isinstance(paths, str) else paths or ()
        return [text for path in paths for text in _texts(reach(row, path))]

    questions = tuple(texts(fields.question))
    options, labels = source.options, ()
    if fields.options:
        options, labels = _options_of(row, fields.options)
    if source.parse is not None and questions:
        first, options, labels = _parsed(questions[0], source.parse, options)
        questions = (first, *questions[1:])
    gold = _gold(plain(reach(row, fields.gold)), options) if fields.gold else ()
    answers = [options[index] for index in gold]
    for answer in _several(texts(fields.answer), options, labels):
        index = _index(answer, options, labels)
        if index is None:
            answers.append(answer)
        elif index not in gold:
            gold += (index,)
            answers.append(options[index])
    if not any(question.strip() for question in questions):
        raise ValueError("the question is empty")
    return Item(
        id=" ".join(texts(fields.id)) or number,
        question="\n".join(questions),
        options=options,
        answers=tuple(dict.fromkeys(answers)),
        context="\n\n".join(texts(fields.context)),
        gold=gold,
        conclusion="\n\n".join(texts(fields.conclusion)),
        group=" ".join(texts(fields.group)),
        questions=questions,
        kind=" ".join(texts(fields.kind)),
        continuation="\n".join(texts(fields.continuation)),
    )


def _texts(value: Any) -> list[str]:
    """The texts that a value holds; lists are flattened, what is not there is left out."""
    value = plain(value)
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, int | float):
        return [str(value)]
    if isinstance(value, Sequence):
        return [text for entry in value for text in _texts(entry)]
    raise ValueError(f"an object with {', '.join(map(str, value))} is not text; name one of them")


def _options_of(
    row: Mapping[str, Any], paths: str | tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options of a row and their labels; where each has a field of its own, A, B, C, ..."""
    if isinstance(paths, str):
        return _options(plain(reach(row, paths)))
    options = tuple(text for path in paths for text in _texts(reach(row, path)))
    return options, tuple(map(chr, range(ord("A"), ord("A") + len(options))))


def _options(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Options and their labels: of a list, of {label: text}, of {label: [...], text: [...]}."""
    if isinstance(value, Mapping):
        listed = entries(value)
        if listed is value:
            return tuple(map(str, value.values())), tuple(map(str, value))
        value = listed
    if isinstance(value, Sequence) and value and all(isinstance(v, Mapping) for v in value):
        return tuple(str(v["text"]) for v in value), tuple(str(v["label"]) for v in value)
    return tuple(_texts(value)), ()


def _gold(value: Any, options: Sequence[str]) -> tuple[int, ...]:
    indices = []
    for index in value if isinstance(value, list | tuple) else [value]:
        try:
            indices.append(int(index))
        except (TypeError, ValueError):
            raise ValueError(f"gold {index!r} is no index of an option") from None
        if not 0 <= indices[-1] < len(options):
            raise ValueError(f"gold {index} is none of the {len(options)} options")
    return tuple(indices)


def _several(answers: list[str], options: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Answers that name several options by one-letter labels, `ABD`, as one answer each."""
    found = []
    for answer in answers:
        letters = re.sub(r"[\s,，、;]", "", answer)
        several = len(letters) > 1 and all(len(label) == 1 for label in labels)
        if several and answer not in options and set(letters) <= set(labels):
            found += list(letters)
        else:
            found.append(answer)
    return found


def _index(answer: str, options: Sequence[str], labels: Sequence[str]) -> int | None:
    """Which option an answer names, by its label or by its text; None where the answer is free."""
    for names in (labels, options):
        folded = [name.strip().lower() for name in names]
        if answer.strip().lower() in folded:
            return folded.index(answer.strip().lower())
    if options:
        shown = ", ".join(labels or options)
        raise ValueError(f"the answer {answer!r} is none of the options ({shown[:200]})")
    return None


def _parsed(
    text: str, parse: Parse, options: tuple[str, ...]
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """The question without what stands around it, the options in it, and their labels."""
    if parse.before:
        head, found, text = text.partition(parse.before)
        if not found or head.strip():
            raise ValueError(f"the question does not begin with {parse.before!r}: {head[:80]!r}")
    expected = 0
    if parse.after:
        text, found, tail = text.rpartition(parse.after)
        if not found:
            raise ValueError(f"the question does not end with {parse.after!r}: {tail[-80:]!r}")
        expected = tail.count("/") + 1
    if not parse.options:
        return text.strip(), options, ()
    parts, start = [], 0
    while (at := text.find(f"{parse.options}{len(parts) + 1}:", start)) >= 0:
        parts.append(at)
        start = at + 1
    if len(parts) < 2 or (expected and len(parts) != expected):
        raise ValueError(f"{len(parts)} options found after {parse.options!r}: {text[-120:]!r}")
    found_options = [
        text[begin:end].partition(":")[2].strip()
        for begin, end in zip(parts, [*parts[1:], len(text)], strict=True)
    ]
    names = tuple(f"{parse.options}{i + 1}" for i in range(len(parts)))
    return text[: parts[0]].strip(), tuple(found_options), names


def _paths(source: Source) -> list[str]:
    """Every field that is read, for files that can leave others out."""
    paths = list(source.where)
    for name in ItemFields.model_fields:
        value = getattr(source.fields, name)
        paths += [value] if isinstance(value, str) else list(value or ())
    return paths


def _name_of(task: str) -> str:
    return Path(task).stem if task.endswith(".yaml") else task
