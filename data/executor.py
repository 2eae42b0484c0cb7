"""How one machine works on a corpus: deals documents, then runs a function over each partition.

Dealing: documents are read, gathered until 64 MB are full, sorted by id and written as a *run*: one
file with one compressed frame per bucket. Reading a partition back merges its frames of all runs,
so documents come sorted by id, then by content, whatever the inputs were, and neither step holds
more than a run.

Running: a pool of spawned processes that report progress, die with their parent, and turn a message
for the user back into the `ValueError` it was.
"""

import heapq
import io
import json
import mmap
import os
import queue
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import zstandard

from data.document import Document, partition_of

BUCKETS = 64
RUN_BYTES = 64 << 20
# A frame read back needs its window in memory, times the number of runs; a small one costs a few
# percent of disk.
WINDOW_LOG = 18
MAX_OPEN_RUNS = 256

Report = Callable[[float], None]
Task = TypeVar("Task")
Result = TypeVar("Result")


# --- dealing --------------------------------------------------------------------------------------


class Dealer:
    """Writes documents into the runs of one folder, dealt to buckets by the hash of their id."""

    def __init__(self, folder: str | os.PathLike, num_buckets: int, run_bytes: int = RUN_BYTES):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        for stale in self._folder.glob("run-*"):
            stale.unlink()
        self._num_buckets = num_buckets
        self._run_bytes = run_bytes
        self._lines: list[list[bytes]] = [[] for _ in range(num_buckets)]
        self._held = 0
        self._num_runs = 0

    def add(self, document: Document) -> None:
        """Deals one document. Lone surrogates were set aside before: they are not text."""
        line = document.to_json().encode()
        self._lines[partition_of(document.id, self._num_buckets)].append(line)
        self._held += len(line) + 64
        if self._held >= self._run_bytes:
            self._write_run()

    def close(self) -> None:
        """Writes what is left."""
        self._write_run()

    def _write_run(self) -> None:
        if not self._held:
            return
        # Every line begins with {"id": "...", so the order of the lines is that of the ids.
        _write_run(self._folder / f"run-{self._num_runs:05d}.zst", (sorted(b) for b in self._lines))
        self._lines = [[] for _ in range(self._num_buckets)]
        self._held = 0
        self._num_runs += 1


@dataclass(frozen=True)
class Run:
    """One run file: where the frame of each bucket begins and ends."""

    path: str
    offsets: tuple[int, ...]


def find_runs(folders: Iterable[str | os.PathLike]) -> list[Run]:
    """The runs in some folders that a `Dealer` has closed."""
    paths = sorted(path for folder in folders for path in Path(folder).glob("run-*.zst"))
    return [Run(str(path), _read_offsets(path)) for path in paths]


def read_lines(runs: Sequence[Run], buckets: Sequence[int]) -> Iterator[bytes]:
    """Lines of some buckets (one JSON document each), sorted, over all runs."""
    streams = [_read_frame(run, bucket) for run in runs for bucket in buckets]
    if len(streams) <= MAX_OPEN_RUNS:
        yield from heapq.merge(*streams)
        return
    # Too many to hold open: merge groups of them into longer runs first.
    with tempfile.TemporaryDirectory(dir=Path(runs[0].path).parent, prefix=".merge-") as folder:
        longer = []
        for i in range(0, len(streams), MAX_OPEN_RUNS):
            path = Path(folder) / f"run-{i:09d}.zst"
            _write_run(path, [heapq.merge(*streams[i : i + MAX_OPEN_RUNS])])
            longer.append(Run(str(path), _read_offsets(path)))
        yield from read_lines(longer, [0])


def _write_run(path: Path, buckets: Iterable[Iterable[bytes]]) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=WINDOW_LOG)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    offsets = [0]
    with open(temporary, "wb") as file:
        for lines in buckets:
            compressor = zstandard.ZstdCompressor(compression_params=parameters)
            with compressor.stream_writer(file, closefd=False) as writer:
                for line in lines:
                    writer.write(line + b"\n" if not line.endswith(b"\n") else line)
            offsets.append(file.tell())
    path.with_suffix(".json").write_text(json.dumps(offsets))
    os.replace(temporary, path)


def _read_offsets(path: Path) -> tuple[int, ...]:
    return tuple(json.loads(path.with_suffix(".json").read_text()))


def _read_frame(run: Run, bucket: int) -> Iterator[bytes]:
    start, stop = run.offsets[bucket], run.offsets[bucket + 1]
    if stop == start:
        return
    # The reader does not stop at the end of a frame by itself, so it is shown that frame alone.
    with (
        open(run.path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as whole,
        whole[start:stop] as frame,
        zstandard.ZstdDecompressor().stream_reader(frame) as reader,
    ):
        yield from io.BufferedReader(reader, 1 << 16)


# --- running --------------------------------------------------------------------------------------


def run_tasks(
    function: Callable[[Task, Report], Result],
    tasks: Sequence[Task],
    *,
    workers: int,
    advance: Report,
) -> list[Result]:
    """Runs `function(task, advance)` for every task and gives the results in order.

    One worker (or one task) runs here, in this process. Otherwise `function` and the tasks are sent
    to spawned processes, so `function` must be a module's own function (or a `functools.partial` of
    one).

    Args:
        function: does one task; calls `advance(amount)` as it goes.
        tasks: what to do.
        workers: processes at most.
        advance: is called here with every amount that a worker reports.

    Raises:
        ValueError: the message of a task that found something wrong with what the user gave.
        ChildProcessError: a process was killed (out of memory, most likely).
    """
    if workers <= 1 or len(tasks) <= 1:
        return [function(task, advance) for task in tasks]
    context = get_context("spawn")
    amounts = context.Queue()
    done = threading.Event()
    drain = threading.Thread(target=_drain, args=(amounts, advance, done), daemon=True)
    drain.start()
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), context, initializer=_start_worker, initargs=(amounts,)
    )
    try:
        futures = {pool.submit(_run_task, function, task): i for i, task in enumerate(tasks)}
        results: dict[int, Result] = {}
        for future in as_completed(futures):
            outcome = future.result()
            if isinstance(outcome, _UserError):
                raise ValueError(outcome.message)
            results[futures[future]] = outcome
        return [results[i] for i in range(len(tasks))]
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "A worker process was killed, most likely for want of memory: "
            "run again with fewer `workers`; finished partitions are kept."
        ) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in active_children():  # all are ours; what they have not finished is done again
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        done.set()
        drain.join()


@dataclass(frozen=True)
class _UserError:
    message: str


_amounts: Any = None


def _start_worker(amounts: Any) -> None:
    global _amounts
    _amounts = amounts
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A parent killed outright cannot stop its workers, and they would wait for tasks for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _run_task(function: Callable[..., Any], task: Any) -> Any:
    try:
        return function(task, _amounts.put)
    except ValueError as error:
        # Raised by our code it is a message for the user; raised inside a library it is a defect
        # and keeps its traceback.
        if is_ours(error):
            return _UserError(str(error))
        raise


def is_ours(error: BaseException) -> bool:
    """Whether an exception was raised by a file of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        bool(frames)
        and Path(frames[-1].filename).resolve().parent == Path(__file__).resolve().parent
    )


def _drain(amounts: Any, advance: Report, done: threading.Event) -> None:
    while not done.is_set():
        try:
            advance(amounts.get(timeout=0.1))
        except queue.Empty:
            continue


@contextmanager
def progress_bar(what: str, total: float | None) -> Iterator[Report]:
    """Shows bytes done, MB/s and the time left while the block runs.

    Silent where the output is not a terminal.

    Args:
        what: said before the bar.
        total: bytes to do, None where that is not known.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console()
    if not console.is_terminal:
        yield lambda amount: None
        return
    columns = [TextColumn(f"{what:<10}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda amount: progress.advance(task, amount)
