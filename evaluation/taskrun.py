"""Runs one task on one model: items, prompts, scores, metrics. Seam only for the moment."""

from collections.abc import Sequence

from data.benchmarks import Item
from data.chat import ChatConfig
from data.generator import Generate
from evaluation.options import Scorer
from evaluation.results import TaskResult
from evaluation.source import Model
from evaluation.task import Task


def run_task(
    task: Task,
    items: Sequence[Item],
    model: Model,
    scorer: Scorer,
    generate: Generate | None = None,
    *,
    source: str,
    chat: ChatConfig | None = None,
    limit: int | None = None,
    seed: int = 0,
    reference_compatible: bool = False,
    rendered: bool = False,
) -> TaskResult:
    """The score of a model on the items of a task.

    `model.params` are the weights used: `dataclasses.replace(model, params=..., step=...)` measures a
    training run's live state with one scorer and without compiling anew.
    """
    raise NotImplementedError
