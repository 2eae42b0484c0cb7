"""Runs `train.py` and dies at a stated moment of the run: `python tests/die.py WHEN RECIPE [overrides]`.

WHEN is SIGNAL:event:NAME:STEP (as the run writes that event to its log), SIGNAL:loss:STEP (as it logs
that step's loss), SIGNAL:path:GLOB (as soon as a path below the run directory matches), or "never". The
signal reaches this very process, so the moment is the moment, whatever the machine is doing.
"""

import os
import signal
import sys
import threading
from pathlib import Path


def die_at_event(number: int, name: str, step: int) -> None:
    """Sends the signal when the line is written, after it is on disk."""
    from training.tracking import Tracker

    write = Tracker.event

    def event(self, kind, **fields):
        write(self, kind, **fields)
        if kind == name and fields.get("step") == step:
            os.kill(os.getpid(), number)

    Tracker.event = event


def die_at_loss(number: int, step: int) -> None:
    """Sends the signal when the step's loss is in the log."""
    from training.tracking import Tracker

    write = Tracker.log

    def log(self, at, values):
        write(self, at, values)
        if at == step and "loss" in values:
            os.kill(os.getpid(), number)

    Tracker.log = log


def die_at_path(number: int, run_dir: str, pattern: str) -> None:
    """Watches the run directory without a pause and sends the signal at the first match."""

    def watch() -> None:
        while not any(Path(run_dir).glob(pattern)):
            pass
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    when, recipe, *overrides = sys.argv[1:]
    if when != "never":
        number, kind, *rest = when.split(":")
        if kind == "event":
            die_at_event(signal.Signals[number], rest[0], int(rest[1]))
        elif kind == "loss":
            die_at_loss(signal.Signals[number], int(rest[0]))
        else:
            run_dir = next(o for o in overrides if o.startswith("run_dir=")).removeprefix(
                "run_dir="
            )
            die_at_path(signal.Signals[number], run_dir, rest[0])
    import train

    return train.main([recipe, *overrides])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.exit(main())
