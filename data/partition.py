"""A partition of a corpus: a share of its documents, converted, tokenized, packed into a shard.

A partition is made on its own, in any process. What is counted on the way is its record, which is
written last. Every document that goes in is held out, taken away with a reason, or in the stream.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zstandard
from etils import epath

from data import rows as rows_lib
from data.card import Counts
from data.clean.config import CleanConfig
from data.cleaning import read_cleaned
from data.clock import Clock
from data.conversion import Conversion
from data.corpus import Corpus
from data.decision import Decision
from data.document import Document
from data.executor import Report
from data.job import Job
from data.pack import Row, pack
from data.runs import Run
from data.tally import Tally


@dataclass(frozen=True)
class PartitionTask:
    """What a process needs to make one partition, and where it puts what it made."""

    conversion: Conversion
    clean: CleanConfig | None
    decision: Decision
    out: str
    work: str
    partition: int
    num_partitions: int
    runs: tuple[Run, ...]
    buckets: tuple[int, ...]

    @property
    def name(self) -> str:
        """The corpus."""
        return self.conversion.name

    @property
    def record(self) -> epath.Path:
        """What was counted; written last, so a partition that has it is finished."""
        return epath.Path(self.work) / f"part-{self.partition:05d}.json"

    @property
    def heldout(self) -> epath.Path:
        """Its documents that are not trained on, as read."""
        return epath.Path(self.work) / f"heldout-{self.partition:05d}.jsonl.zst"

    @property
    def set_aside(self) -> epath.Path:
        """A line for each document that was taken away, sorted."""
        return epath.Path(self.work) / f"set_aside-{self.partition:05d}.jsonl.zst"

    @property
    def journal(self) -> str:
        """How the paths begin of what was written for it by a generator."""
        return f"{self.work}/synthesis-{self.partition:05d}"

    @property
    def documents(self) -> epath.Path:
        """Its converted documents."""
        return epath.Path(self.out) / "documents" / f"part-{self.partition:05d}.jsonl.zst"

    @property
    def shard(self) -> epath.Path:
        """Its packed rows."""
        return epath.Path(self.out) / rows_lib.shard_name(self.partition, self.num_partitions)


def partition_tasks(
    job: Job, corpus: Corpus, decision: Decision, conversion: Conversion
) -> list[PartitionTask]:
    """One task for every partition of a corpus."""
    name, count = corpus.name, corpus.num_partitions
    folders = str(job.out / name), str(job.work / name)
    settings = conversion, job.config.clean_of(name), decision, *folders
    return [PartitionTask(*settings, i, count, *corpus.share(i)) for i in range(count)]


def build_partitions(job: Job, tasks: Sequence[PartitionTask], num_bytes: int) -> None:
    """Makes the partitions that are not finished; `num_bytes` is what all of them read."""
    todo = [task for task in tasks if not task.record.exists()]
    if len(todo) < len(tasks):
        print(f"{len(tasks) - len(todo)} of {len(tasks)} partitions were finished before.")
    # What has a writer works on this machine's devices, one partition at a time.
    here = [task for task in todo if task.conversion.writer is not None]
    apart = [task for task in todo if task.conversion.writer is None]
    total = num_bytes / max(len(tasks), 1)
    job.executor.run("preparing", build_partition, apart, total * len(apart))
    for task in here:
        build_partition(task, lambda amount: None)


def build_partition(task: PartitionTask, report: Report) -> None:
    """Converts, tokenizes and packs one partition; its record is written last."""
    clock, tally = Clock(), Tally(task.name)
    conversion, flow = task.conversion, _Flow(task, tally, clock)
    documents = flow.trained_on()
    documents = clock.through("compare", task.decision.stage(task.name, tally)(documents))
    documents = conversion.stage(tally, task.journal)(flow.converting(documents))
    documents = flow.converted(clock.through(conversion.corpus.convert, documents))
    with rows_lib.whole_file(task.documents) as local, zstandard.open(local, "wb") as file:

        def write(document: Document) -> None:
            with clock.stage("write"):
                file.write(document.to_json().encode() + b"\n")

        encoded = conversion.encode(documents, conversion.corpus.chat, tally, write, report)
        rows = pack(clock.through("tokenize", encoded), conversion.seq_len)
        with clock.stage("shard"):
            num_rows = rows_lib.write_shard(task.shard, counted(clock.through("pack", rows), tally))
    tally.add({"rows": num_rows})
    if tally.counts.get("tokens_packed", 0) != tally.counts.get("tokens_out", 0):
        raise AssertionError(f"{task.shard}: {tally.counts}: tokens were lost in packing")
    rows_lib.write_lines(task.heldout, flow.heldout)
    rows_lib.write_lines(task.set_aside, sorted(tally.set_aside))
    rows_lib.write_json(task.record, {"counts": tally.counts, "seconds": clock.seconds})


@dataclass
class _Flow:
    """The documents of one partition on their way, and what is kept of those that leave it."""

    task: PartitionTask
    tally: Tally
    clock: Clock
    heldout: list[str] = field(default_factory=list)
    entered: set[str] = field(default_factory=set)

    def trained_on(self) -> Iterator[Document]:
        """The cleaned documents that are neither held out nor taken away by cleaning."""
        task, tally = self.task, self.tally
        for dealt in read_cleaned(task.runs, task.buckets, task.clean, self.clock):
            document, cleaned = dealt.document, dealt.cleaned
            assert cleaned is not None
            if task.decision.is_held_out(document):
                self.heldout.append(document.to_json())
                tally.add({"heldout": 1})
                continue
            tally.add({"documents_in": 1})
            tally.add({k: v for k, v in cleaned.counts.items() if k != "languages"})
            if cleaned.document is None:
                tally.remove(document, cleaned.stage, cleaned.reason)
            else:
                yield cleaned.document

    def converting(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Notes what goes into conversion."""
        for document in documents:
            self.entered.add(document.id)
            size = document.num_bytes
            reached = str(1 << max(size.bit_length() - 1, 0))
            kept = {"documents_kept": 1, "bytes_kept": size, "document_bytes": {reached: 1}}
            self.tally.add(kept)
            if language := document.meta.get("language"):
                self.tally.add({"languages": {language: 1}})
            with self.clock.stage("measure"):
                self.task.conversion.measure(document, self.tally)
            yield document

    def converted(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Checks, when all have come, that conversion has lost no document."""
        left: set[str] = set()
        for document in documents:
            left.update(document.meta.get("parents", [document.meta.get("parent", document.id)]))
            yield document
        lost = self.entered - left - self.tally.removed
        if lost:
            raise AssertionError(f"{self.task.shard}: {min(lost)} was lost in conversion")


def counted(rows: Iterable[Row], tally: Tally) -> Iterator[Row]:
    """The rows, added to `tokens_out` and `supervised` as they pass."""
    for row in rows:
        tokens, supervised = np.count_nonzero(row.segment_ids), np.count_nonzero(row.loss_mask)
        tally.add({"tokens_out": int(tokens), "supervised": int(supervised)})
        yield row


def stream_facts(
    conversion: Conversion, name: str, documents: int, counts: Counts
) -> dict[str, Any]:
    """What `stream.json` says of rows made by a conversion, but for its shards."""
    return {
        "name": name,
        "seq_len": conversion.seq_len,
        "tokens": counts["tokens_out"],
        "supervised": counts["supervised"],
        "documents": documents,
        "tokenizer": conversion.tokenizer.fingerprint,
        "vocab_size": conversion.tokenizer.vocab_size,
        "add_bos": conversion.add_bos,
        "add_eos": conversion.add_eos,
    }
