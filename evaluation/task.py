"""Tasks as files: how the items of a data set are asked, and how the answers are scored.

A task is `evaluation/tasks/<name>.yaml` or any YAML file of that shape. Its `data` part says where the
items are (`data.benchmarks` reads it, for decontamination too); the rest is here: prompts, examples,
what is scored, and by which metric. See docs/evaluation.md for the format.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.benchmarks import TASKS, task_names

Normalise = Literal["token", "byte", "none"]
Kind = Literal["options", "text", "exam"]
Metric = Literal[
    "accuracy",
    "set_accuracy",
    "micro_f1",
    "macro_f1",
    "weighted_f1",
    "grouped_weighted_f1",
    "span_f1",
    "numeric_match",
    "exact_match",
    "exam_accuracy",
]
FIXTURES = Path(__file__).resolve().parent / "fixtures"
_NAMES = ("question", "question1", "question2", "context", "options", "labels")
_PLACE = re.compile(r"\{([^{}]*)\}")


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Task(Config):
    """What a task file says besides its data.

    `kind: options` chooses the likeliest option, `text` writes an answer, `exam` writes a reply from
    which the letters of the chosen options are read.
    """

    name: str = Field(description="of the file")
    path: str = Field(description="the file", exclude=True)
    kind: Kind = "options"
    prompts: tuple[str, ...] = Field(
        min_length=1,
        description="ways to ask; an item's own is drawn by its id. Places: "
        + ", ".join(f"{{{name}}}" for name in _NAMES),
    )
    rendered: tuple[str, ...] = Field(
        default=(), description="sources whose question is the whole prompt, its examples included"
    )
    fixture_shape: str | None = Field(
        default=None, description="the source whose columns the fixture has; default: the first"
    )
    shots: int = Field(default=0, ge=0, description="examples before an item, from other items")
    published_shots: int | None = Field(
        default=None, ge=0, description="examples inside a published prompt, for the record"
    )
    separator: str = Field(default="\n\n", description="between examples, and before the item")
    verbalise: dict[str, str] = Field(
        default={}, description="what is written for an option, where it is not the option itself"
    )
    blank: str | None = Field(
        default=None,
        description="what stands for the gap that the options fill; what follows it is scored",
    )
    explained: bool = Field(
        default=False, description="examples answer with what the answer follows from (conclusion)"
    )
    number: Literal["first", "last"] = Field(
        default="first", description="which number of a written answer counts, for numeric_match"
    )
    normalise: Normalise = Field(
        default="token", description="by what an option's log-likelihood is divided"
    )
    metric: Metric
    also: tuple[Metric, ...] = Field(default=(), description="further metrics")
    stop: tuple[str, ...] = Field(default=("\n",), description="strings that end a written answer")
    max_new_tokens: int = Field(default=100, ge=1)
    system: str | None = Field(default=None, description="system prompt of chat models")
    date: str | None = Field(
        default=None,
        pattern=r"^\d{4}(-\d\d(-\d\d)?)?$",
        description="when the items were made public: a corpus that is younger may hold them",
    )
    expected_rows: int | None = Field(
        default=None, ge=1, description="items of the published test, for the record"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Task":
        for prompt in self.prompts:
            for name in _PLACE.findall(prompt):
                if name not in _NAMES:
                    raise ValueError(f"prompts: no place {{{name}}}; there are {', '.join(_NAMES)}")
        written = {"span_f1", "numeric_match", "exact_match"}
        for metric in (self.metric, *self.also):
            kind = (
                "text" if metric in written else "exam" if metric == "exam_accuracy" else "options"
            )
            if kind != self.kind:
                raise ValueError(f"metric: {metric} is for kind {kind}, which is {self.kind}")
        return self

    @property
    def definition(self) -> str:
        """Digest of all settings: a task that was edited is another one."""
        told = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]


def load_task(name_or_path: str) -> Task:
    """A task of this project by its name, or of a file that ends in `.yaml`.

    Raises:
        ValueError: there is none, or the file is wrong; the message names file and field.
    """
    named = name_or_path.endswith(".yaml")
    file = Path(name_or_path) if named else TASKS / f"{name_or_path}.yaml"
    if not file.exists():
        raise ValueError(
            f"no task {name_or_path!r}: {file} is not there; tasks: {', '.join(task_names())}"
        )
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(content, Mapping):
        raise ValueError(f"{file}: a task file is a mapping with `data`, `prompts` and `metric`")
    told: dict[str, Any] = {key: value for key, value in content.items() if key != "data"}
    try:
        return Task.model_validate({"name": file.stem, "path": str(file), **told})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{file}: {place + ': ' if place else ''}{said}") from error


def fixture_of(task: Task) -> Path:
    """The rows of this project's own writing, in the published columns.

    Raises:
        ValueError: the task has none.
    """
    path = FIXTURES / f"{task.name}.jsonl"
    if not path.exists():
        raise ValueError(f"--fixtures: task {task.name} has no fixture ({path})")
    return path
