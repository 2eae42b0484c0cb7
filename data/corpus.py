"""A corpus as it was read: its documents, what was counted, what was set aside.

Documents are dealt to buckets by the hash of their id, and sorted by id, so neither the number nor
the order of the inputs shows. Inputs are shared out to processes; a share that was read is not read
again by a run that goes on.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from etils import epath

from data import rows as rows_lib
from data import sources
from data.card import Counts, add_counts
from data.clock import Clock
from data.config import CorpusConfig, PrepareConfig
from data.document import Document
from data.executor import Report
from data.job import Job
from data.runs import BUCKETS, Dealer, Run

MAX_READERS = 64
PARTITION_ROWS = 200
BYTES_PER_TOKEN = 4.0
REPORT_BYTES = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """Where the documents of a corpus are by now, and what was counted when it was read.

    Attributes:
        name: its name in the recipe.
        runs: sorted runs of its documents; each holds `num_buckets` buckets.
        num_buckets: what the documents were dealt to.
        num_partitions: what they are converted in.
        partitions: when it has been cleaned, one run for each partition instead.
        set_aside: files with a line for every row that made no document.
        counts: `documents`, `bytes`, `set_aside` by reason, `seconds` by stage.
    """

    name: str
    runs: tuple[Run, ...]
    num_buckets: int
    num_partitions: int
    set_aside: tuple[str, ...]
    counts: Counts = field(default_factory=dict)
    partitions: tuple[Run, ...] = ()

    def share(self, partition: int) -> tuple[tuple[Run, ...], tuple[int, ...]]:
        """The runs and buckets in which the documents of one partition are."""
        if self.partitions:
            return (self.partitions[partition],), (0,)
        # `partition_of` is a remainder and the number of partitions divides that of the buckets, so
        # a partition is some whole buckets.
        return self.runs, tuple(range(partition, self.num_buckets, self.num_partitions))


@dataclass(frozen=True)
class ReadTask:
    """One share of a corpus' inputs, and where what is read goes."""

    name: str
    corpus: CorpusConfig
    part: tuple[int, int]
    folder: str
    num_buckets: int

    @property
    def record(self) -> epath.Path:
        """What was counted; written last, so a share that has it has been read."""
        return epath.Path(self.folder) / "done.json"

    @property
    def set_aside(self) -> epath.Path:
        """A line for every row that made no document."""
        return epath.Path(self.folder) / "set_aside.jsonl.zst"

    def documents(self, report: Report, clock: Clock, counts: Counts) -> Iterator[Document]:
        """Reads the share; `counts` is filled when all was taken, and goes to `finish` then."""
        set_aside: list[sources.SetAside] = []
        documents = num_bytes = reported = 0
        found = sources.read(self.corpus, self.name, set_aside=set_aside.append, part=self.part)
        for document in clock.through("read", found):
            documents += 1
            num_bytes += document.num_bytes
            if num_bytes - reported > REPORT_BYTES:
                report(num_bytes - reported)
                reported = num_bytes
            # The place it was read from depends on how the input is cut into files; the corpus
            # does not.
            yield Document(document.id, document.turns, self.name, document.meta)
        reasons: Counts = {}
        for item in set_aside:
            add_counts(reasons, {item.kind: 1})
        lines = sorted(rows_lib.to_json(asdict(item)) for item in set_aside)
        rows_lib.write_lines(self.set_aside, lines)
        counts |= {"documents": documents, "bytes": num_bytes, "set_aside": reasons}

    def finish(self, counts: Counts, clock: Clock) -> None:
        """Writes the record, when the documents are where they shall be."""
        rows_lib.write_json(self.record, counts | {"seconds": clock.seconds})


def num_partitions(config: PrepareConfig, num_bytes: int) -> int:
    """The recipe's number of partitions, or a power of two up to 64 that leaves each some 200 rows.

    Fewer rows to a partition pack less well: each may end with a row that is not full.
    """
    if config.partitions:
        return config.partitions
    rows = num_bytes / BYTES_PER_TOKEN / config.seq_len
    partitions = BUCKETS
    while partitions > 1 and rows / partitions < PARTITION_ROWS:
        partitions //= 2
    return partitions


def read_corpora(job: Job, pending: Iterable[str]) -> dict[str, Corpus]:
    """Reads the pending corpora, or all where they depend on each other; the inputs in parallel.

    Raises:
        ValueError: a source is not as the recipe says, or a corpus has no documents.
    """
    config = job.config
    tasks: dict[str, list[ReadTask]] = {}
    buckets = config.partitions or BUCKETS
    for name in config.corpora if job.needs_all else pending:
        corpus = config.corpora[name]
        # A limit counts documents in the order of the inputs, so one reader has to see them all.
        parts = 1 if corpus.limit else max(1, min(len(job.inputs[name]), MAX_READERS))
        folder = job.spool / f"{name}-{job.source_digest(name)[:16]}-{parts}"
        tasks[name] = [
            ReadTask(name, corpus, (i, parts), str(folder / f"{buckets}-{i:05d}"), buckets)
            for i in range(parts)
        ]
    everything = [task for group in tasks.values() for task in group]
    runs = job.executor.deal(everything)
    return {name: _corpus(config, group, runs) for name, group in tasks.items()}


def deal_here(task: ReadTask, report: Report) -> None:
    """Reads one share into sorted runs in its own folder."""
    clock, counts = Clock(), Counts()
    dealer = Dealer(task.folder, task.num_buckets)
    for document in task.documents(report, clock, counts):
        with clock.stage("deal"):
            dealer.add(document)
    with clock.stage("deal"):
        dealer.close()
    task.finish(counts, clock)


def _corpus(
    config: PrepareConfig, group: Sequence[ReadTask], runs: Callable[[ReadTask], Sequence[Run]]
) -> Corpus:
    name = group[0].name
    counts: Counts = {"documents": 0, "bytes": 0, "set_aside": {}, "seconds": {}}
    for task in group:
        add_counts(counts, json.loads(task.record.read_text()))
    if not counts["documents"]:
        reasons = "; ".join(f"{n} x {reason}" for reason, n in counts["set_aside"].items())
        raise ValueError(
            f"corpora.{name}.path: {config.corpora[name].path} has no documents"
            + (f" ({reasons})" if reasons else "")
        )
    found = tuple(run for task in group for run in runs(task))
    set_aside = tuple(str(task.set_aside) for task in group)
    partitions = num_partitions(config, counts["bytes"])
    return Corpus(name, found, group[0].num_buckets, partitions, set_aside, counts)
