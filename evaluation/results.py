"""What came of a task: its score with all that it depends on, one JSON file a task.

A task whose file is there and says the same settings is done: a run that was stopped goes on with the
next one. A file is written under another name first, so that half a result is never taken for one.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from etils import epath

# What a score depends on; a result of other settings is not that of this run.
SETTINGS = (
    "model",
    "step",
    "add_bos",
    "template",
    "system",
    "shots",
    "normalise",
    "metric",
    "reference_compatible",
    "source",
    "limit",
    "seed",
    "compute_dtype",
    "definition",
)


@dataclass(frozen=True)
class TaskResult:
    """The score of one model on one task.

    Attributes:
        task: its name.
        model: as given.
        step: of the checkpoint, None for a Hugging Face model.
        add_bos: whether a prompt began with BOS.
        template: the chat template that prompts went through, None for running text.
        system: the system prompt before every conversation, None for none.
        shots: examples before every item.
        normalise: by what the log-likelihood of an option was divided: token, byte or none.
        metric: the main one.
        value: its value.
        interval: the middle 95 % of its bootstrap.
        metrics: every metric: `{name: {"value", "interval"}}`.
        reference_compatible: whether the published, defective rules were used.
        items: scored.
        expected_rows: of the data, None where nobody says.
        source: where the items came from, for people.
        date: when the items were made public, as far as known.
        truncated: prompts that lost their beginning.
        unparsed: generated answers that could not be read; they count as wrong.
        per_item: of the main metric, None where an item has no score of its own.
        samples: some items: id, prompt, options, gold, and what was chosen or written.
        limit: items at most, None for all.
        seed: of the choice of items and examples.
        compute_dtype: of the model's arithmetic.
        definition: digest of the task file's settings, so that an edited task is run anew.
        ids: of the items, in the order of `per_item`: two models are compared item by item.
    """

    task: str
    model: str
    step: int | None
    add_bos: bool
    template: str | None
    system: str | None
    shots: int
    normalise: str
    metric: str
    value: float
    interval: tuple[float, float]
    metrics: dict[str, dict[str, Any]]
    reference_compatible: bool
    items: int
    expected_rows: int | None
    source: str
    date: str | None
    truncated: int
    unparsed: int
    per_item: tuple[float | None, ...]
    samples: tuple[dict[str, Any], ...]
    limit: int | None = None
    seed: int = 0
    compute_dtype: str = "float32"
    definition: str = ""
    ids: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The file's content."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TaskResult":
        """The result that `to_json` wrote.

        Raises:
            ValueError: it is not one.
        """
        try:
            told = json.loads(text)
            for name in ("interval", "per_item", "samples", "ids"):
                told[name] = tuple(told[name])
            return cls(**told)
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"not a task's result: {error}") from error


def path_of(out: str, task: str) -> epath.Path:
    """The file of a task's result."""
    return epath.Path(out) / f"{task}.json"


def write_result(out: str, result: TaskResult) -> None:
    """Writes a result whole or not at all."""
    path = path_of(out, result.task)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.unfinished"
    unfinished.write_text(result.to_json())
    unfinished.replace(path)


def read_result(path: str | epath.Path) -> TaskResult:
    """A result's file.

    Raises:
        ValueError: it is none; the message names the file.
    """
    path = epath.Path(path)
    try:
        return TaskResult.from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete it to have the task run again") from error


def finished(out: str, task: str, settings: dict[str, Any]) -> TaskResult | None:
    """The result in `out` if it is of just these settings, else None.

    Raises:
        ValueError: there is one of other settings; the message says what differs.
    """
    path = path_of(out, task)
    if not path.exists():
        return None
    found = read_result(path)
    other = {
        name: (getattr(found, name), settings[name])
        for name in SETTINGS
        if name in settings and getattr(found, name) != settings[name]
    }
    if other:
        said = "; ".join(f"{name}: {a!r} there, {b!r} asked for" for name, (a, b) in other.items())
        raise ValueError(f"--out: {path} is of another run ({said}); name another folder")
    return found
