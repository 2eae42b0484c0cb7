"""Runs a function over the partitions of a corpus, on the processes of this machine.

A pool of spawned processes that report progress, die with their parent, and turn a message for the
user back into the `ValueError` it was. One pool serves all passes of a preparation.
"""

import gc
import importlib
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from data.clean.config import CleanConfig
    from data.clean.survey import Surveyor
    from data.corpus import ReadTask
    from data.runs import Run

# Documents hold no cycles of references. To look for some after every 700 new objects, as Python
# does, takes a fifth of the time of a conversion.
GC_ALLOCATIONS = 50_000
# What every worker needs sooner or later, and half a second.
WARM = ("data.partition", "data.cleaning", "data.comprehension.convert", "data.clean.language")

Report = Callable[[float], None]
Work = Callable[[Any, Report], Any]
Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Protocol):
    """Where the passes of a preparation run."""

    @property
    def shared(self) -> bool:
        """Whether tasks run on machines that have only `out_dir` in common."""
        ...

    def deal(self, tasks: Sequence["ReadTask"]) -> Callable[["ReadTask"], Sequence["Run"]]:
        """Reads the shares and deals their documents; says where the runs of a share are."""
        ...

    def decide(
        self, notes: Sequence[str], surveyor: "Surveyor", config: "CleanConfig", out: str
    ) -> None:
        """Writes the folder of verdicts over all that was noted of documents."""
        ...

    def run(self, what: str, function: Work, tasks: Sequence[Any], total: float | None) -> None:
        """Runs `function(task, report)` for every task; `what` and `total` bytes are shown."""
        ...

    def close(self) -> None:
        """Ends what was kept for the next pass."""
        ...


@dataclass
class LocalExecutor:
    """The processes of this machine, kept from one pass to the next until `close`."""

    workers: int
    shared: bool = False
    _pool: "_Pool | None" = field(default=None, init=False, repr=False)

    def warm(self) -> None:
        """Starts the processes, to be ready while this one does what it does alone."""
        if self.workers > 1:
            self._open().warm()

    def deal(self, tasks: Sequence["ReadTask"]) -> Callable[["ReadTask"], Sequence["Run"]]:
        """See `Executor`: each share is dealt in its own folder."""
        from data.corpus import deal_here
        from data.runs import find_runs

        todo = [task for task in tasks if not task.record.exists()]
        self.run("reading", deal_here, todo, None)
        return lambda task: find_runs([task.folder])

    def decide(
        self, notes: Sequence[str], surveyor: "Surveyor", config: "CleanConfig", out: str
    ) -> None:
        """See `Executor`."""
        from data.clean.verdicts import decide

        decide(notes, surveyor, config, out)

    def run(self, what: str, function: Work, tasks: Sequence[Any], total: float | None) -> None:
        """See `Executor`."""
        with progress_bar(what, total) as advance:
            if self.workers <= 1 or len(tasks) <= 1:
                run_tasks(function, tasks, workers=1, advance=advance)
            else:
                self._open().run(function, tasks, advance)

    def close(self) -> None:
        """See `Executor`."""
        if self._pool:
            self._pool.close()
        self._pool = None

    def _open(self) -> "_Pool":
        self._pool = self._pool or _Pool(self.workers)
        return self._pool

    def __str__(self) -> str:
        return f"{self.workers} processes"


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
        with _rare_collections():
            return [function(task, advance) for task in tasks]
    pool = _Pool(min(workers, len(tasks)))
    try:
        return pool.run(function, tasks, advance)
    finally:
        pool.close()


class _Pool:
    """Processes that are started when they are needed, and wait for more until `close`."""

    def __init__(self, workers: int) -> None:
        context = get_context("spawn")
        self._workers = workers
        self._amounts = context.Queue()
        self._advance: Report = _nothing
        self._done = threading.Event()
        self._drain = threading.Thread(target=self._pass_on, daemon=True)
        self._drain.start()
        self._pool = ProcessPoolExecutor(
            workers, context, initializer=_start_worker, initargs=(self._amounts,)
        )

    def warm(self) -> None:
        """Starts all processes and lets them import what they will need."""
        for _ in range(self._workers):
            self._pool.submit(_warm)

    def run(
        self, function: Callable[[Task, Report], Result], tasks: Sequence[Task], advance: Report
    ) -> list[Result]:
        """See `run_tasks`. A pool in which something went wrong is closed."""
        self._advance = advance
        try:
            futures = {
                self._pool.submit(_run_task, function, task): i for i, task in enumerate(tasks)
            }
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
            self._pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():  # all are ours; what they have begun is done again
                child.terminate()
            raise
        finally:
            self._advance = _nothing

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._done.set()
        self._drain.join()

    def _pass_on(self) -> None:
        while not self._done.is_set():
            try:
                self._advance(self._amounts.get(timeout=0.1))
            except queue.Empty:
                continue


def _nothing(amount: float) -> None:
    pass


@dataclass(frozen=True)
class _UserError:
    message: str


_amounts: Any = None


def _start_worker(amounts: Any) -> None:
    global _amounts
    _amounts = amounts
    gc.set_threshold(GC_ALLOCATIONS)
    threading.Thread(target=_die_with_parent, daemon=True).start()


@contextmanager
def _rare_collections() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(GC_ALLOCATIONS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _die_with_parent() -> None:
    """A parent killed outright cannot stop its workers, and they would wait for tasks for ever."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _warm() -> None:
    for name in WARM:
        importlib.import_module(name)


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
    here = Path(__file__).resolve().parent
    return bool(frames) and Path(frames[-1].filename).resolve().is_relative_to(here)


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
