"""Tasks that a run asks of its live weights: which items, when, and what they said.

What a step and an item take is measured, process 0 decides and tells the others. The decision lies in the
run directory (`tasks.json`), so that a run that goes on asks the same items.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from data.chat import ChatConfig
from data.tokenizer import Tokenizer
from evaluation.options import Scorer
from evaluation.ration import Ration, ration
from evaluation.source import Model
from evaluation.task import load_task
from evaluation.taskrun import open_items, run_task
from model.llama import Params
from training.state import Layout

NAME = "tasks.json"
_PROBE = 8  # items whose time is taken


class RunTasks:
    """The tasks of one run.

    Args:
        names: of the tasks, or their files.
        plan: the network's shape, and how the weights lie on the mesh.
        tokenizer: the run's.
        add_bos: whether its texts begin with BOS.
        compute_dtype: of the run.
        run_dir: keeps what was decided.
        share: of training time, for all of them.
        num_steps: of the run.
        every_steps: between evaluations.
        say: tells the user.

    Raises:
        ValueError: a task that is not there, whose data is not, or that writes its answers.
    """

    def __init__(
        self,
        names: Sequence[str],
        plan: Layout,
        tokenizer: Tokenizer,
        *,
        add_bos: bool,
        compute_dtype: Any,
        run_dir: str,
        share: float,
        num_steps: int,
        every_steps: int,
        say: Callable[[str], None],
    ) -> None:
        self._tasks = {task.name: task for task in map(load_task, names)}
        for name, task in self._tasks.items():
            if task.kind != "options":
                raise ValueError(
                    f"eval.tasks: {name} writes its answers, which a run has no room for; measure it "
                    "afterwards with python -m evaluation.run"
                )
        self._items = {name: open_items(task) for name, task in self._tasks.items()}
        self._scorer = Scorer(
            plan.config,
            plan.mesh,
            plan.specs,
            compute_dtype=compute_dtype,
            bos_id=tokenizer.bos_id,
        )
        self._model = Model(
            run_dir, 0, plan.config, plan, {}, tokenizer, add_bos, (), ChatConfig(), {}
        )
        self._path = epath.Path(run_dir) / NAME
        self._share, self._num_steps, self._every_steps = share, num_steps, every_steps
        self._say = say
        self._ration: Ration | None = None
        self._spent, self._last_cost = 0.0, 0.0  # process 0's

    def measure(
        self, step: int, params: Params, *, step_seconds: float | None
    ) -> tuple[dict[str, float], str | None]:
        """Asks what the ration says for this step.

        Args:
            step: of the weights.
            params: they.
            step_seconds: what a step of training takes, measured or guessed; None where unknown.

        Returns:
            `eval/<task>/<metric>` values, and what was left out and why, where that is new.
        """
        said = None
        if self._ration is None:
            said = self._decide(step, params, step_seconds)
        assert self._ration is not None
        last = -(-self._num_steps // self._every_steps)
        evaluation = last if step == self._num_steps else step // self._every_steps
        if not self._ration.is_due(evaluation, last):
            return {}, said
        if step and not self._affordable(evaluation == last, step_seconds):
            reason = f"step {step}: tasks are left out, they have taken their share of the time"
            return {}, reason
        values: dict[str, float] = {}
        begun = time.monotonic()
        for name, count in self._ration.items.items():
            for metric, score in self._ask(name, step, params, count).items():
                values[f"eval/{name}/{metric}"] = score["value"]
        cost = time.monotonic() - begun
        # The first time compiles, so what was foreseen counts.
        cost = min(cost, self._last_cost) if self._spent == 0 and self._last_cost else cost
        self._spent, self._last_cost = self._spent + cost, cost
        self._keep()
        return values, said

    def _decide(self, step: int, params: Params, step_seconds: float | None) -> str | None:
        """The ration: kept, or decided by what a few items take."""
        kept = self._kept() if jax.process_index() == 0 else None
        if _agreed(np.array([int(kept is None)]))[0]:
            seconds: dict[str, float] = {}
            for name in self._tasks:
                self._ask(name, step, params, _PROBE)  # compiles
                begun = time.monotonic()
                count = min(_PROBE, len(self._items[name].items))
                self._ask(name, step, params, _PROBE)
                seconds[name] = (time.monotonic() - begun) / count
            sizes = {name: self._size(name) for name in self._tasks}
            total = None if step_seconds is None else step_seconds * self._num_steps
            evaluations = 1 + -(-self._num_steps // self._every_steps)
            decided = ration(
                sizes, seconds, training_seconds=total, evaluations=evaluations, share=self._share
            )
            whole = evaluations * sum(seconds[n] * sizes[n] for n in sizes)
            self._last_cost = sum(seconds[n] * decided.items[n] for n in sizes)
        else:
            decided, sizes, whole, total = kept, {}, 0.0, None
        numbers = (
            [*decided.items.values(), decided.every] if decided else [0] * (len(self._tasks) + 1)
        )
        numbers = _agreed(np.array(numbers)).tolist()
        self._ration = Ration(dict(zip(self._tasks, numbers[:-1], strict=True)), numbers[-1])
        return self._left_out(sizes, whole, total)

    def _left_out(self, sizes: dict[str, int], whole: float, total: float | None) -> str | None:
        assert self._ration is not None
        if not self._ration.every:
            return (
                f"eval.tasks are not asked: even a few items would take more than eval.task_budget "
                f"{100 * self._share:g} % of training time"
            )
        parts = [
            f"{name} {count:,} of {sizes[name]:,} items"
            for name, count in self._ration.items.items()
            if name in sizes and count < sizes[name]
        ]
        if self._ration.every > 1 and sizes:
            parts.append(f"at every {self._ration.every}th evaluation")
        if not parts:
            return None
        why = f"; all would take {100 * whole / total:.0f} % of training time" if total else ""
        budget = f"eval.task_budget {100 * self._share:g} %"
        return f"eval.tasks asked in part: {', '.join(parts)}{why} ({budget})"

    def _affordable(self, is_last: bool, step_seconds: float | None) -> bool:
        """Whether the share of the whole run's time allows another evaluation and still the last."""
        allowed = True
        if jax.process_index() == 0 and step_seconds is not None:
            ahead = self._last_cost * (1 if is_last else 2)
            allowed = self._spent + ahead <= self._share * step_seconds * self._num_steps
        return bool(_agreed(np.array([int(allowed)]))[0])

    def _ask(self, name: str, step: int, params: Params, limit: int) -> dict[str, Any]:
        model = dataclasses.replace(self._model, params=params, step=step)
        task, items = self._tasks[name], self._items[name]
        found = run_task(task, items, model, self._scorer, limit=limit).metrics
        return {metric: score for metric, score in found.items() if "[" not in metric}

    def _size(self, name: str) -> int:
        task, items = self._tasks[name], self._items[name]
        return len(items.items) - (0 if items.rendered else task.shots)

    def _settings(self) -> dict[str, Any]:
        tasks = {name: task.definition for name, task in self._tasks.items()}
        return {"tasks": tasks, "share": self._share}

    def _kept(self) -> Ration | None:
        if not self._path.exists():
            return None
        kept = json.loads(self._path.read_text())
        if kept["settings"] != self._settings():
            self._say("eval.tasks changed: which items are asked is decided anew")
            return None
        self._spent, self._last_cost = kept["spent"], kept["last_cost"]
        return Ration(kept["items"], kept["every"])

    def _keep(self) -> None:
        if jax.process_index() == 0 and self._ration is not None:
            told = {
                "settings": self._settings(),
                **dataclasses.asdict(self._ration),
                "spent": self._spent,
                "last_cost": self._last_cost,
            }
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(told) + "\n")


def _agreed(values: np.ndarray) -> np.ndarray:
    """Process 0's whole numbers on every process."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(values.astype(np.int32)))
