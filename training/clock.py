"""Where the wall time went: every second of a run belongs to one kind of work."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

KINDS = ("step", "data", "checkpoint", "eval", "compile", "restart")


class Clock:
    """An account of wall time by kind, for one thread.

        clock = Clock()
        with clock("data"):
            batch = next(batches)

    Kinds nest: the inner one is charged and the outer one pauses, so the parts add up to the whole. What nobody
    claimed is "other".

    Args:
        now: A clock in seconds.
        started: Reading of `now` to count from, when the process is older than this object.
    """

    def __init__(
        self, *, now: Callable[[], float] = time.monotonic, started: float | None = None
    ) -> None:
        self._now = now
        self._started = now() if started is None else started
        self._since = self._started  # when the kind on top of the stack began to be charged
        self._stack = ["other"]
        self._seconds: dict[str, float] = dict.fromkeys((*KINDS, "other"), 0.0)

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Charges the time inside the `with` to a kind."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of wall time; the kinds are {', '.join(KINDS)}")
        self._charge()
        self._stack.append(kind)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def move(self, seconds: float, source: str, target: str) -> None:
        """Charges part of one kind to another: what a first step spent compiling, known only afterwards."""
        self._charge()
        seconds = min(seconds, self._seconds[source])
        self._seconds[source] -= seconds
        self._seconds[target] += seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by kind so far; they add up to the time since the start."""
        self._charge()
        return dict(self._seconds)

    def line(self) -> str:
        """The account in one line, the largest first."""
        return "wall " + shares(self.seconds())

    def _charge(self) -> None:
        now = self._now()
        self._seconds[self._stack[-1]] += now - self._since
        self._since = now


def shares(seconds: dict[str, float], *, least: float = 0.0) -> str:
    """The total and each kind's share ("1:02:03: step 92.1 %, data 0.3 %"), without those below `least`."""
    total = sum(seconds.values())
    parts = sorted(seconds.items(), key=lambda item: -item[1])
    said = [
        f"{kind} {100 * value / total:.1f} %"
        for kind, value in parts
        if value > 0 and value >= least * total
    ]
    return f"{duration(total)}: " + ", ".join(said)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03", "2:03"."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
