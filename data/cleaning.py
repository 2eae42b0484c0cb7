"""The cleaning pass: every document by itself, and what is noted of it for decisions over all.

Only where documents are compared with each other (near duplicates, the held-out split without
groups, test items) are they cleaned in a pass of their own, a partition at a time. Otherwise nothing
waits for it, and a partition cleans its documents when it converts them.
"""

import functools
import itertools
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from etils import epath

from data import rows as rows_lib
from data.clean.config import CleanConfig, DedupConfig
from data.clean.record import SurveyFile
from data.clean.stages import Cleaned, cleaner
from data.clean.survey import Surveyor
from data.clock import Clock
from data.config import PrepareConfig
from data.corpus import REPORT_BYTES, Corpus
from data.dealt import Dealt
from data.document import Document
from data.executor import Report
from data.job import Job
from data.runs import Run, read_lines

BATCH = 64


@dataclass(frozen=True)
class CleanTask:
    """One partition of a corpus to clean, and where what comes of it goes."""

    name: str
    clean: CleanConfig | None
    runs: tuple[Run, ...]
    buckets: tuple[int, ...]
    surveyor: str
    folder: str
    partition: int

    @property
    def cleaned(self) -> str:
        """A line for every document, sorted as before: as read, with what cleaning made of it."""
        return f"{self.folder}/clean-{self.partition:05d}.zst"

    @property
    def notes(self) -> str:
        """What was noted of its documents: a folder of a `SurveyFile`."""
        return f"{self.folder}/notes-{self.partition:05d}"

    @property
    def record(self) -> epath.Path:
        """What was counted; written last."""
        return epath.Path(self.folder) / f"clean-{self.partition:05d}.json"


def clean_corpora(
    job: Job, corpora: Mapping[str, Corpus]
) -> tuple[dict[str, Corpus], list[CleanTask]]:
    """Cleans and notes every document of the corpora.

    Returns:
        The corpora as they are now, and the tasks by which they became so; as they were, and no
        tasks, where documents are not compared.
    """
    if not job.compares:
        return dict(corpora), []
    surveyor = job.spool / f"surveyor-{job.decision_digest()[:16]}.pickle"
    with rows_lib.whole_file(surveyor) as local:
        local.write_bytes(pickle.dumps(make_surveyor(job)))
    tasks: dict[str, list[CleanTask]] = {}
    for name, corpus in corpora.items():
        folder = str(job.spool / f"{name}-{job.clean_digest(name)[:16]}-{corpus.num_partitions}")
        tasks[name] = [
            CleanTask(
                name, job.config.clean_of(name), *corpus.share(i),
                str(surveyor), folder, i,
            )
            for i in range(corpus.num_partitions)
        ]  # fmt: skip
    everything = [task for group in tasks.values() for task in group]
    todo = [task for task in everything if not task.record.exists()]
    total = sum(corpus.counts["bytes"] for corpus in corpora.values())
    job.executor.run("cleaning", _clean, todo, total * len(todo) / len(everything))
    cleaned = {}
    for name, group in tasks.items():
        runs = tuple(Run(task.cleaned) for task in group)
        cleaned[name] = replace(corpora[name], partitions=runs)
    return cleaned, everything


def make_surveyor(job: Job) -> Surveyor:
    """What notes the documents of a recipe.

    Raises:
        ValueError: a task of `decontaminate` cannot be read.
    """
    config = job.config
    groupless = any(corpus.fields.group is None for corpus in config.corpora.values())
    return Surveyor.of(
        compared(config),
        corpora=list(config.corpora),
        fraction=config.heldout.fraction,
        split=groupless,
    )


def compared(config: PrepareConfig) -> CleanConfig:
    """The settings of what is decided over all documents."""
    return config.clean or CleanConfig(dedup=DedupConfig(enabled=False))


def clean_function(config: CleanConfig | None) -> Callable[[Document], Cleaned]:
    """What cleans one document; without a config it stays as it is."""
    return cleaner(config) if config else Cleaned


def read_cleaned(
    runs: Iterable[Run], buckets: Iterable[int], config: CleanConfig | None, clock: Clock
) -> Iterator[Dealt]:
    """The documents of a partition with what cleaning made of them, cleaned now if not before."""
    clean = clean_function(config)
    dealt = map(Dealt.from_line, read_lines(tuple(runs), tuple(buckets)))
    # Some at a time: each step finds its tables in the cache.
    while batch := list(clock.through("read", itertools.islice(dealt, BATCH))):
        with clock.stage("clean"):
            batch = [
                item if item.cleaned else replace(item, cleaned=clean(item.document))
                for item in batch
            ]
        yield from batch


def _clean(task: CleanTask, report: Report) -> None:
    """Cleans one partition; its record is written last."""
    clock = Clock()
    surveyor = _load(task.surveyor)
    remote = rows_lib.is_remote(task.notes)
    folder = tempfile.mkdtemp(prefix="lectern-notes-") if remote else task.notes
    notes = SurveyFile(folder)

    def lines() -> Iterator[str]:
        done = 0
        for dealt in read_cleaned(task.runs, task.buckets, task.clean, clock):
            assert dealt.cleaned is not None
            with clock.stage("survey"):
                notes.add(surveyor.survey(dealt.document, dealt.cleaned, task.name))
            done += dealt.document.num_bytes
            if done > REPORT_BYTES:
                report(done)
                done = 0
            with clock.stage("deal"):
                line = dealt.to_line().decode()
            yield line
        report(done)

    rows_lib.write_lines(task.cleaned, lines())
    notes.close()
    if remote:
        epath.Path(task.notes).mkdir(parents=True, exist_ok=True)
        for file in epath.Path(folder).iterdir():
            file.copy(epath.Path(task.notes) / file.name, overwrite=True)
        shutil.rmtree(folder)
    rows_lib.write_json(task.record, {"seconds": clock.seconds})


@functools.lru_cache(1)
def _load(path: str) -> Surveyor:
    return pickle.loads(epath.Path(path).read_bytes())
