"""Reads a run's step metrics, one step behind the device, and stops a run that has gone wrong."""

import collections
import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from training.config import SpikeConfig
from training.steps import good_steps, record_bad

_NOT_SAVED = (
    "The state was not saved. Restart from the last checkpoint with a lower optimizer.peak_lr, a longer "
    "optimizer.warmup_steps, or train.compute_dtype=float32 to see whether it is precision "
    "(resume.accept_changes=true lets the run go on with another recipe)."
)


class DivergedError(RuntimeError):
    """The loss is not finite, or has stayed far above its best.

    `bad_state` is the step after which the weights were such that their loss or its gradient is not
    finite; None where it is not known.
    """

    def __init__(self, message: str, bad_state: int | None = None):
        super().__init__(message)
        self.bad_state = bad_state


def check_finite(step: int, values: Mapping[str, float]) -> None:
    """Stops a run whose held-out numbers, taken after `step`, are not finite; call before its state is saved."""
    bad = {key: value for key, value in values.items() if not math.isfinite(value)}
    if bad:
        numbers = ", ".join(f"{key} {value}" for key, value in bad.items())
        raise DivergedError(f"step {step}: {numbers}. {_NOT_SAVED}", step)


def distrust(run_dir: str, error: DivergedError) -> str:
    """What to tell the user; a checkpoint of the very state that went wrong is never chosen again.

    That a state is bad shows one step later, when a checkpoint of it may have been written. The
    weights a run was given are kept whatever they do.
    """
    step = error.bad_state
    if not step or step not in good_steps(run_dir):
        return str(error)
    if jax.process_index() == 0:
        record_bad(run_dir, step, "its loss, or the gradient of it, is not finite")
    left = [good for good in good_steps(run_dir) if good != step]
    where = (
        f"the same command goes on from step {left[-1]}"
        if left
        else "no other is left, so begin again in another run_dir"
    )
    return (
        f"{error} The checkpoint of step {step} holds those weights and is not used again: {where}."
    )


class Watch:
    """Reads every step's metrics and gives out their means over windows of `every` steps.

    `push` takes a step's metrics while they may still be being computed and reads those of the step
    before, so the device always has the next step queued. `drain` reads what is left; call it before
    the state is saved or measured, so that no state behind a bad loss is ever kept.

    Args:
      names: the streams.
      every: steps of a window; windows end at multiples of it, and at `last_step`.
      emit: called with (step, values, steps in the window) when a window is complete. Values: loss,
        loss and share of tokens per stream, grad_norm, tokens, supervised.
      spike: when to give up on a loss that stays high.
    """

    def __init__(
        self,
        names: list[str],
        *,
        every: int,
        last_step: int,
        emit: Callable[[int, dict[str, float], int], None],
        spike: SpikeConfig | None = None,
    ):
        self._names = names
        self._every = every
        self._last_step = last_step
        self._emit = emit
        self._spike = spike
        self._queue: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()
        self._recent: collections.deque[float] = collections.deque(maxlen=spike and spike.window)
        self._best = math.inf
        self._sums: dict[str, Any] = {}
        self._steps = 0

    def push(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of the step just started."""
        self._queue.append((step, metrics))
        while len(self._queue) > 1:
            self._read()

    def drain(self) -> None:
        """Reads all that is queued; returns when the device is done with it."""
        while self._queue:
            self._read()

    def _window(self) -> dict[str, float]:
        sums = self._sums
        values = {
            "loss": float(sums["stream_loss"].sum() / max(sums["stream_supervised"].sum(), 1)),
            "grad_norm": float(sums["grad_norm"] / self._steps),
            "tokens": int(sums["tokens"]),
            "supervised": int(sums["supervised"]),
        }
        for k, name in enumerate(self._names):
            if supervised := sums["stream_supervised"][k]:
                values[f"loss/{name}"] = float(sums["stream_loss"][k] / supervised)
            values[f"share/{name}"] = float(sums["stream_tokens"][k] / max(sums["tokens"], 1))
        return values

    def _read(self) -> None:
        step, metrics = self._queue.popleft()
        read = {
            key: np.asarray(value, np.float64) for key, value in jax.device_get(metrics).items()
        }
        loss, norm = float(read["loss"]), float(read["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"step {step}: loss {loss}, gradient norm {norm}. {_NOT_SAVED}", step - 1
            )
        if self._spike is not None:
            self._check_spike(step, loss, self._spike)
        for key, value in read.items():
            self._sums[key] = self._sums.get(key, 0) + value
        self._steps += 1
        if step % self._every == 0 or step == self._last_step:
            self._emit(step, self._window(), self._steps)
            self._sums, self._steps = {}, 0

    def _check_spike(self, step: int, loss: float, spike: SpikeConfig) -> None:
        self._recent.append(loss)
        if len(self._recent) < spike.window:
            return
        median = statistics.median(self._recent)
        self._best = min(self._best, median)
        if median > spike.factor * self._best:
            raise DivergedError(
                f"step {step}: the median loss of the last {spike.window} steps is {median:.3f}, more "
                f"than {spike.factor} x the best one, {self._best:.3f}. Restart from an older checkpoint "
                "with a lower optimizer.peak_lr, or unset train.stop_on_spike."
            )
