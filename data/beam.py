"""The passes of a preparation on Apache Beam, with any runner: `--beam_runner=NAME`.

Every pass is a pipeline of its own, made of the functions that a single machine runs, so the bytes
are the same; between the passes everything lies in `out_dir`, which all workers must reach.

* **Deal**: the inputs are read in parallel, and lines are grouped by bucket (`GroupByKey`); each
  group is sorted out of core and written as one file.
* **Clean**, **sample** and **partitions**: one element per task, spread over the workers.
* **Decide**: see `beam_copies.py`.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from data.beam_copies import pair_finder
from data.card import Counts
from data.clean.config import CleanConfig
from data.clean.survey import Surveyor
from data.clock import Clock
from data.corpus import ReadTask
from data.document import partition_of
from data.executor import Work
from data.rows import is_remote
from data.runs import Run, write_sorted

# Flags of `data.prepare` itself; the others go to Beam.
OURS = ("help", "h", "dry-run", "dry_run", "schema", "profile", "limit", "beam_runner")


def split_flags(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Parts a command line with `--beam_runner` into ours and Beam's, which has `--name=value`."""
    names = [word.lstrip("-").split("=", 1)[0] for word in argv if word.startswith("--")]
    if "beam_runner" not in names:
        return list(argv), ()
    theirs = tuple(
        word
        for word in argv
        if word.startswith("--") and word.lstrip("-").split("=", 1)[0] not in OURS
    )
    return [word for word in argv if word not in theirs], theirs


@dataclass(frozen=True)
class BeamExecutor:
    """Runs passes on Beam.

    Attributes:
        options: flags for Beam, `--runner` among them.
    """

    options: tuple[str, ...]
    shared: bool = True

    def deal(self, tasks: Sequence[ReadTask]) -> Callable[[ReadTask], Sequence[Run]]:
        """See `Executor`: the shares of a corpus are dealt together, one file for each bucket."""
        groups: dict[str, list[ReadTask]] = {}
        for task in tasks:
            groups.setdefault(_dealt_folder(task), []).append(task)
        for folder, group in groups.items():
            if not (epath.Path(folder) / "dealt").exists():
                self._deal(folder, group)
        return lambda task: _dealt(task) if task.part[0] == 0 else []

    def close(self) -> None:
        """See `Executor`: every pass is a pipeline of its own."""

    def decide(
        self, notes: Sequence[str], surveyor: Surveyor, config: CleanConfig, out: str
    ) -> None:
        """See `Executor`: pairs are found on Beam, and settled on the machine that starts it."""
        from data.clean.verdicts import decide

        print(f"comparing: the notes of {len(notes)} partitions on Beam")
        with tempfile.TemporaryDirectory(prefix="lectern-notes-") as folder:
            # Where notes lie elsewhere, copies of them are read; their names keep the order.
            notes = sorted(notes, key=Path)
            here = [_local_copy(path, f"{folder}/{i:07d}") for i, path in enumerate(notes)]
            find_pairs = pair_finder(self._pipeline, notes, config.dedup.threshold, f"{out}.pairs")
            decide(here, surveyor, config, f"{folder}/verdicts", find_pairs)
            target = epath.Path(out)
            target.mkdir(parents=True, exist_ok=True)
            for file in epath.Path(f"{folder}/verdicts").iterdir():
                file.copy(target / file.name, overwrite=True)

    def run(self, what: str, function: Work, tasks: Sequence[Any], total: float | None) -> None:
        """See `Executor`: a task is an element; Beam's own counters show the bytes done."""
        import apache_beam as beam

        if not tasks:
            return
        print(f"{what}: {len(tasks)} tasks on Beam")
        with self._pipeline() as pipeline:
            _ = (
                pipeline
                | beam.Create(list(tasks))
                | beam.Reshuffle()
                | what >> beam.Map(_do, function)
            )

    def _deal(self, folder: str, group: Sequence[ReadTask]) -> None:
        import apache_beam as beam

        print(f"dealing: {len(group)} inputs of {group[0].name} on Beam")
        with self._pipeline() as pipeline:
            _ = (
                pipeline
                | beam.Create(list(group))
                | beam.Reshuffle()
                | "read" >> beam.FlatMap(_read)
                | "deal" >> beam.GroupByKey()
                | "write" >> beam.Map(_write_bucket, folder)
            )
        (epath.Path(folder) / "dealt").write_text("")

    def _pipeline(self) -> Any:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        return beam.Pipeline(options=PipelineOptions(list(self.options)))

    def __str__(self) -> str:
        return f"Beam {' '.join(self.options)}"


def _read(task: ReadTask) -> Iterator[tuple[int, bytes]]:
    """The documents of a share as lines, by bucket."""
    clock, counts = Clock(), Counts()
    for document in task.documents(lambda amount: None, clock, counts):
        yield partition_of(document.id, task.num_buckets), document.to_json().encode()
    task.finish(counts, clock)  # the group's own mark says that what was read is dealt


def _write_bucket(dealt: tuple[int, Iterable[bytes]], folder: str) -> None:
    bucket, lines = dealt
    write_sorted(f"{folder}/bucket-{bucket:05d}.zst", lines)


def _dealt(task: ReadTask) -> list[Run]:
    """The file of every bucket; where a bucket got no document there is none."""
    files = (f"{_dealt_folder(task)}/bucket-{i:05d}.zst" for i in range(task.num_buckets))
    return [Run(file, (), i) for i, file in enumerate(files) if epath.Path(file).exists()]


def _dealt_folder(task: ReadTask) -> str:
    return str(epath.Path(task.folder).parent / f"{task.num_buckets}-dealt")


def _local_copy(folder: str, local: str) -> str:
    if not is_remote(folder):
        return folder
    epath.Path(local).mkdir()
    for file in epath.Path(folder).iterdir():
        file.copy(epath.Path(local) / file.name)
    return local


def _do(task: Any, function: Work) -> None:
    function(task, lambda amount: None)
