"""A run's numbers, said once and kept everywhere: console, metrics.jsonl, TensorBoard, Weights & Biases.

Only process 0 writes; on the others every call does nothing, so callers need not ask. Keys are those of a flat
dictionary: `loss`, `loss/<stream>`, `share/<stream>`, `grad_norm`, `lr`, `tokens_per_second`, `mfu`,
`eval/<stream>/loss`, `eval/<stream>/bits_per_byte`, `eval/<task>/<metric>`, `forgetting/<stream>/change` with
`low` and `high`; `wall/<kind>` is added from the clock.
"""

import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from etils import epath

from training.clock import Clock, duration, shares
from training.config import TrackingConfig, WandbConfig
from training.metrics_log import WALL, MetricsLog

__all__ = ["Clock", "Tracker", "Writer", "heldout_lines", "training_line"]


class Writer(Protocol):
    """A place that numbers go to."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the numbers of a step."""
        ...

    def close(self) -> None:
        """Finishes what was taken."""
        ...


class Tracker:
    """Everything a run says about itself; a context manager.

    Args:
        run_dir: Where metrics.jsonl and tensorboard/ go.
        config: Which places besides the console and metrics.jsonl.
        num_steps: The run's last step, for the time left.
        start_step: The step it goes on from; numbers of later steps, from before a restart, are cut off.
        recipe: The resolved recipe, for Weights & Biases.
        clock: The account of wall time to log from and to close with.

    Raises:
        ValueError: Weights & Biases is asked for and not installed, or has no key.
    """

    def __init__(
        self,
        run_dir: str,
        config: TrackingConfig,
        *,
        num_steps: int,
        start_step: int = 0,
        recipe: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock
        self._is_main = jax.process_index() == 0
        self._is_open = self._is_main
        if not self._is_main:
            return
        self._step = start_step
        self._wall = clock.seconds() if clock else {}
        self._writers: list[Writer] = []
        if config.wandb is not None:  # first: the one that may refuse
            self._writers.append(_Wandb(run_dir, config.wandb, recipe or {}))
        if config.tensorboard:
            self._writers.append(_TensorBoard(run_dir, start_step))
        self._log = MetricsLog(run_dir, start_step)
        self._console = _Console(num_steps, start_step)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes the numbers of a step: training's, or held-out ones (`eval/...`). Array scalars are read here."""
        if not self._is_open:
            return
        numbers = {key: float(value) for key, value in values.items()}
        line = {"step": step, "time": round(time.time(), 3), **numbers}
        wall = ""
        if self._clock is not None and "loss" in numbers:
            seconds = self._clock.seconds()
            line |= {WALL + kind: round(value, 3) for kind, value in seconds.items() if value}
            spent = {kind: seconds[kind] - self._wall.get(kind, 0.0) for kind in seconds}
            wall, self._wall = shares(spent, least=0.01).split(": ")[1], seconds
        self._step = max(self._step, step)
        self._log.write(line)
        for writer in self._writers:
            writer.write(step, numbers)
        self._console.show(step, numbers, wall)

    def event(self, name: str, **fields: Any) -> None:
        """Writes down that something happened. It is readable by others when this returns."""
        if self._is_open:
            self._log.write({"event": name, "time": round(time.time(), 3), **fields}, now=True)

    def say(self, text: str) -> None:
        """Prints a line, above the progress line where there is one."""
        if self._is_open:
            self._console.say(text)

    def close(self) -> None:
        """Says where the time went, and finishes every place."""
        if not self._is_open:
            return
        self._is_open = False
        self._console.close()
        if self._clock is not None:
            seconds = {kind: round(value, 3) for kind, value in self._clock.seconds().items()}
            now = round(time.time(), 3)
            event = {"event": "wall", "time": now, "step": self._step, "seconds": seconds}
            self._log.write(event, now=True)
            print(self._clock.line(), flush=True)
        self._log.close()
        for writer in self._writers:
            writer.close()


def training_line(values: Mapping[str, float]) -> str:
    """The numbers of a training step as a person reads them, without the step."""
    parts = []
    if "loss" in values:
        streams = _under(values, "loss/")
        inside = ", ".join(f"{name} {value:.3f}" for name, value in streams.items())
        parts.append(f"loss {values['loss']:.4f}" + (f" ({inside})" if inside else ""))
    if "tokens_per_second" in values:
        parts.append(f"{_short(values['tokens_per_second'])} tokens/s")
    if values.get("mfu", 0) > 0:
        parts.append(f"MFU {100 * values['mfu']:.1f} %")
    if "grad_norm" in values:
        parts.append(f"grad {values['grad_norm']:.3g}")
    if "lr" in values:
        parts.append(f"lr {values['lr']:.2e}")
    return "  ".join(parts)


def heldout_lines(values: Mapping[str, float]) -> list[str]:
    """Held-out numbers, one stream or task a line."""
    by_name: dict[str, dict[str, float]] = {}
    for key, value in _under(values, "eval/").items():
        name, _, metric = key.rpartition("/")
        by_name.setdefault(name, {})[metric] = value
    width = max((len(name) for name in by_name), default=0)
    return [
        f"{'held-out' if 'loss' in metrics else 'task    '} {name:<{width}}  "
        + "  ".join(f"{metric.replace('_', ' ')} {value:.4f}" for metric, value in metrics.items())
        for name, metrics in by_name.items()
    ]


class _Console:
    """A progress line in place on a terminal; elsewhere one plain line a time."""

    def __init__(self, num_steps: int, start_step: int) -> None:
        self._num_steps = num_steps
        # The time left goes by the last few intervals: compiling and slow starts wash out.
        self._marks = deque([(start_step, time.monotonic())], maxlen=20)
        self._progress = None
        if sys.stdout.isatty() and num_steps > 0:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.table import Column

            one_line = Column(no_wrap=True, overflow="ellipsis", ratio=1)

            self._progress = Progress(
                TextColumn("step"),
                BarColumn(24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}", markup=False, table_column=one_line),
                expand=True,
            )
            self._task = self._progress.add_task("", total=num_steps, completed=start_step, said="")
            self._progress.start()

    def show(self, step: int, values: Mapping[str, float], wall: str) -> None:
        for line in heldout_lines(values):
            self.say(f"step {step}  {line}")
        said = training_line(values)
        if not said:
            return
        self._marks.append((step, time.monotonic()))
        left = f"left {self._left(step)}"
        wall = f"  [{wall}]" if wall else ""
        if self._progress is not None:  # what matters most first: a narrow terminal cuts the rest
            self._progress.update(self._task, completed=step, said=f"{left}  {said}{wall}")
        else:
            print(f"step {step}/{self._num_steps}  {said}  {left}{wall}", flush=True)

    def say(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _left(self, step: int) -> str:
        first, then = self._marks[0]
        if step <= first:
            return "?"
        return duration((time.monotonic() - then) / (step - first) * (self._num_steps - step))


def _summary_writer() -> Any:
    """The class of tensorboardX, which imports torch where it is installed: two seconds, for nothing here."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hidden:
            del sys.modules["torch"]
    return SummaryWriter


class _TensorBoard:
    """Event files by tensorboardX; for object storage written locally and uploaded at the end."""

    def __init__(self, run_dir: str, start_step: int) -> None:
        self._target = epath.Path(run_dir) / "tensorboard"
        self._scratch = None
        folder = str(self._target)
        if "://" in str(run_dir):
            self._scratch = tempfile.TemporaryDirectory(prefix="tensorboard-")
            folder = self._scratch.name
        # TensorBoard leaves out what an earlier process wrote from here on.
        purge = start_step + 1 if start_step else None
        self._writer = _summary_writer()(folder, purge_step=purge, flush_secs=30)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()
        if self._scratch is not None:
            self._target.mkdir(parents=True, exist_ok=True)
            for file in Path(self._scratch.name).iterdir():
                (self._target / file.name).write_bytes(file.read_bytes())
            self._scratch.cleanup()


class _Wandb:
    """Weights & Biases. The run's id lies in the run directory, so a restart goes on with the same run."""

    def __init__(self, run_dir: str, config: WandbConfig, recipe: Mapping[str, Any]) -> None:
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                "tracking.wandb: the package is not installed; install the `track` extra "
                "(pip install -e '.[track]') or take tracking.wandb out of the recipe"
            ) from error
        offline = os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun")
        if not offline and not os.environ.get("WANDB_API_KEY"):
            raise ValueError(
                "tracking.wandb: set WANDB_API_KEY in the environment, or WANDB_MODE=offline"
            )
        place = epath.Path(run_dir) / "wandb_id.txt"
        if place.exists():
            name = place.read_text().strip()
        else:
            name = wandb.util.generate_id()
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(name + "\n")
        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.name,
            id=name,
            resume="allow",
            config=dict(recipe),
        )
        # Steps done again after a restart are a metric of their own: the service's own step only grows.
        self._run.define_metric("*", step_metric="train_step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "train_step": step})

    def close(self) -> None:
        self._run.finish()


def _under(values: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
