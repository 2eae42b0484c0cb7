"""Runs a function over the partitions of a corpus, on the processes of this machine.

A pool of spawned processes that report progress, die with their parent, and turn a message for the
user back into the `ValueError` it was.
"""

import gc
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
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
GC_ALLOCATIONS = 10_000

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


@dataclass(frozen=True)
class LocalExecutor:
    """The processes of this machine."""

    workers: int
    shared: bool = False

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
            run_tasks(function, tasks, workers=self.workers, advance=advance)

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
