"""What a run measures of itself as it goes, on the live weights and without leaving the mesh.

At every evaluation: loss and bits per byte of each stream's held-out text; the forgetting alarm; the
recipe's tasks, as far as their budget goes. Every process calls `measure` at the same steps with its
part of the same weights, and all get the same answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from data.tokenizer import Tokenizer
from evaluation.config import EvalConfig
from evaluation.forgetting import ForgettingAlarm, ForgettingError
from evaluation.heldout import HeldOutText
from evaluation.runtasks import RunTasks
from evaluation.scoring import HeldOut
from model.attention import Attend
from model.llama import Params
from training.clock import Clock
from training.config import TrainConfig
from training.state import Layout
from training.tracking import Tracker
from training.watch import check_finite


class InRun:
    """Measures a run's weights and says whether it may go on.

    Args:
        config: what to measure.
        heldout: the streams' held-out text.
        rows: of a training step.
        alarm: on process 0 of a run that watches for forgetting.
        tasks: those asked of the weights.
        tracker: gets the numbers.
        clock: is charged.
    """

    def __init__(
        self,
        config: EvalConfig,
        heldout: HeldOutText,
        rows: int,
        *,
        alarm: ForgettingAlarm | None,
        tasks: RunTasks | None,
        tracker: Tracker,
        clock: Clock,
    ) -> None:
        self._config, self._heldout, self._alarm, self._tasks = config, heldout, alarm, tasks
        self._tracker, self._clock, self._rows = tracker, clock, rows
        self._begun = (0, 0.0)  # the step that this process began with, and its seconds of steps

    @classmethod
    def of(
        cls,
        recipe: Any,
        train: TrainConfig,
        streams: Sequence[Any],
        plan: Layout,
        attend: Attend,
        tokenizer: Tokenizer,
        tracker: Tracker,
        clock: Clock,
    ) -> "InRun":
        """What a training recipe (`configs.recipe.TrainRecipe`) asks for on its opened streams.

        `train` is the recipe's with what it leaves open decided.
        """
        add_bos = streams[0].info["add_bos"]
        heldout = HeldOutText(
            recipe, train, plan.config, plan.mesh, plan.specs, attend, tokenizer, add_bos=add_bos
        )
        for name in recipe.streams:
            if name not in heldout.names:
                tracker.say(f"{name} has no held-out text; it is not measured")
        alarm, forgetting = None, recipe.eval.forgetting
        if forgetting is not None and jax.process_index() == 0:
            after = forgetting.after_steps
            alarm = ForgettingAlarm(
                recipe.run_dir,
                forgetting,
                after_steps=2 * recipe.optimizer.warmup_steps if after is None else after,
                before=recipe.resume.from_run,
            )
        tasks = None
        if recipe.eval.tasks:
            tasks = RunTasks(
                recipe.eval.tasks,
                plan,
                tokenizer,
                add_bos=add_bos,
                compute_dtype=train.compute_dtype,
                run_dir=recipe.run_dir,
                share=recipe.eval.task_budget,
                num_steps=train.num_steps,
                every_steps=recipe.eval.every_steps,
                say=tracker.say,
            )
        return cls(
            recipe.eval,
            heldout,
            train.global_batch_rows,
            alarm=alarm,
            tasks=tasks,
            tracker=tracker,
            clock=clock,
        )

    def measure(self, step: int, params: Params) -> bool:
        """Measures the weights of a step and logs what was found.

        Returns:
            Whether the forgetting alarm wants the run to stop, the same on every process.

        Raises:
            DivergedError: a held-out number is not finite.
        """
        self._tracker.event("eval", step=step)
        with self._clock("eval"):
            scores = self._heldout.score(params)
        values: dict[str, float] = {}
        for name, score in scores.items():
            values[f"eval/{name}/loss"] = score.loss
            values[f"eval/{name}/bits_per_byte"] = score.bits_per_byte
        check_finite(step, values)
        if self._tasks is not None:
            with self._clock("eval"):
                scores_of_tasks, left_out = self._tasks.measure(
                    step, params, step_seconds=self._step_seconds(step, params)
                )
            values |= scores_of_tasks
            if left_out:
                self._tracker.say(left_out)
                self._tracker.event("tasks_left_out", step=step, reason=left_out)
        self._tracker.log(step, values)
        return self._forgets(step, scores)

    def begin(self, step: int) -> None:
        """Call with the step that a process goes on from, before any other is taken.

        Raises:
            ForgettingError: the alarm stopped this run there, and the recipe still says so.
        """
        self._begun = (step, self._trained())
        if self._agreed(bool(self._stops() and self._alarm and self._alarm.standing(step))):
            raise ForgettingError(self._advice(step))

    def stopped(self, step: int) -> ForgettingError:
        """What to raise once the state of a run that forgets is saved."""
        return ForgettingError(self._advice(step))

    def _step_seconds(self, step: int, params: Params) -> float | None:
        """What a training step takes: measured where there were any, else three forward passes."""
        begun, before = self._begun
        if step > begun:
            return (self._trained() - before) / (step - begun)
        row = self._heldout.row_seconds(params)
        return None if row is None else 3 * row * self._rows

    def _trained(self) -> float:
        """Seconds that this process has spent on steps and their data."""
        spent = self._clock.seconds()
        return spent["step"] + spent["data"]

    def _forgets(self, step: int, scores: Mapping[str, HeldOut]) -> bool:
        stop = False
        if self._alarm is not None and self._config.forgetting is not None:
            names = self._config.forgetting.streams or self._config.streams.general
            watched = {name: scores[name] for name in names if name in scores}
            findings, silent = self._alarm.look(step, watched)
            for name, reason in silent.items():
                self._tracker.say(f"forgetting of {name} cannot be told: {reason}")
                self._tracker.event("forgetting_unknown", step=step, stream=name, reason=reason)
            numbers = {
                f"forgetting/{f.stream}/{key}": getattr(f, key)
                for f in findings
                for key in ("change", "low", "high")
            }
            if numbers:
                self._tracker.log(step, numbers)
            alarms = self._alarm.alarms(findings)
            for alarm in alarms:
                self._tracker.event(
                    "forgetting",
                    step=step,
                    stream=alarm.stream,
                    change=round(alarm.change, 5),
                    interval=[round(alarm.low, 5), round(alarm.high, 5)],
                    limit=self._config.forgetting.limit,
                    action=self._config.forgetting.action,
                )
            if alarms:
                self._tracker.say(f"WARNING {self._alarm.message(alarms)}")
            stop = bool(alarms) and self._stops()
        return self._agreed(stop)

    def _stops(self) -> bool:
        forgetting = self._config.forgetting
        return forgetting is not None and forgetting.action == "stop"

    def _agreed(self, decision: bool) -> bool:
        """Process 0's decision on every process; only where there is something to decide."""
        if not self._stops() or jax.process_count() == 1:
            return decision
        from jax.experimental import multihost_utils

        return bool(multihost_utils.broadcast_one_to_all(np.int32(decision)))

    def _advice(self, step: int) -> str:
        found = self._alarm.standing(step) if self._alarm is not None else []
        told = (
            self._alarm.message(found) if self._alarm and found else f"step {step}: the run forgets"
        )
        return (
            f"{told}. The state is saved. Give general streams more weight, lower optimizer.peak_lr, or "
            "go on all the same with eval.forgetting.action=warn or a higher eval.forgetting.limit."
        )
