"""metrics.jsonl: one JSON object a line, numbers of a step or an event, in the order in which they came.

Lines of numbers are `{"step", "time", ...}`; lines of events carry "event" as well. At a resume the numbers of steps
that will be done again are cut off, so that a curve never folds back; events stay, for they did happen.
"""

import json
import math
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from etils import epath

NAME = "metrics.jsonl"
WALL = "wall/"  # + kind: seconds of this process so far
_UPLOAD_SECONDS = 30.0


class MetricsLog:
    """The file of one run.

    Lines reach a local disk at once. Object storage, which cannot append, is given the whole file every half minute
    in the background, and at once after an event.

    Args:
        run_dir: Local path, gs:// or s3://.
        start_step: The step that the run goes on from: numbers of later steps are cut off.
    """

    def __init__(self, run_dir: str, start_step: int) -> None:
        self._path = epath.Path(run_dir) / NAME
        self._remote = "://" in str(run_dir)
        self._lines = _cut(read_lines(run_dir), start_step)
        if self._remote:
            self._lock = threading.Lock()  # one upload at a time, the last one newest
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="metrics")
            self._pending: Future[None] | None = None
            self._uploaded = 0.0
            self._dirty = True
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whole, then in place: killed here, the old file or the new one is there.
        fresh = self._path.with_name(NAME + ".new")
        fresh.write_text("".join(_dump(line) for line in self._lines))
        fresh.replace(self._path)
        self._lines.clear()
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - closed in close()

    def write(self, line: Mapping[str, Any], *, now: bool = False) -> None:
        """Adds a line; `now` waits until it is where another process can read it."""
        if not self._remote:
            self._file.write(_dump(line))
            self._file.flush()
            return
        self._lines.append(dict(line))
        self._dirty = True
        if now:
            self._upload(list(self._lines))
        elif time.monotonic() - self._uploaded > _UPLOAD_SECONDS:
            if self._pending is not None and self._pending.done():
                self._pending.result()  # an upload that failed is said by the next line
            if self._pending is None or self._pending.done():
                self._pending = self._pool.submit(self._upload, list(self._lines))

    def close(self) -> None:
        """Everything is written when this returns."""
        if not self._remote:
            self._file.close()
            return
        self._pool.shutdown(wait=True)
        if self._dirty:
            self._upload(self._lines)

    def _upload(self, lines: list[dict[str, Any]]) -> None:
        with self._lock:
            self._path.write_text("".join(_dump(line) for line in lines))
            self._uploaded = time.monotonic()
            self._dirty = len(lines) < len(self._lines)


def read_lines(run_dir: str) -> list[dict[str, Any]]:
    """A run's lines so far; a last line torn by a kill is left out. Empty when there is no file.

    Raises:
        ValueError: A line in the middle is not a JSON object.
    """
    path = epath.Path(run_dir) / NAME
    if not path.exists():
        return []
    texts = path.read_text().split("\n")
    lines = []
    for number, text in enumerate(texts, 1):
        if not text:
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            if number == len(texts):
                break
            raise ValueError(f"{path}:{number}: not a JSON object: {text[:80]!r}") from error
        lines.append(line)
    return lines


def _cut(lines: list[dict[str, Any]], start_step: int) -> list[dict[str, Any]]:
    kept = [line for line in lines if "event" in line or line["step"] <= start_step]
    last: dict[str, Any] = {}
    for line in lines:
        if line.get("event") == "wall":
            last = {}
        elif any(key.startswith(WALL) for key in line):
            last = line
    if last:
        # A killed process never closed its account of wall time, and its last lines may just have been cut.
        seconds = {k.removeprefix(WALL): v for k, v in last.items() if k.startswith(WALL)}
        times = {"time": last["time"], "step": last["step"]}
        kept.append({"event": "wall", **times, "seconds": seconds, "killed": True})
    return kept


def _dump(line: Mapping[str, Any]) -> str:
    return json.dumps({key: _plain(value) for key, value in line.items()}) + "\n"


def _plain(value: Any) -> Any:
    """Python numbers for array scalars; null for what JSON has no number for."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
