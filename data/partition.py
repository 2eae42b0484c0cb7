"""A partition of a corpus: a share of its documents, converted, tokenized, packed into a shard.

A partition is made on its own, in any process, from the documents as they were read. What is
counted on the way is its record, which is written last.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as LocalPath
from typing import Any

import numpy as np
import zstandard
from etils import epath

from data import rows as rows_lib
from data import sources
from data.card import Counts, add_counts
from data.chat import ConversationError, Encoded, encode_documents
from data.config import ChatConfig, CorpusConfig, PrepareConfig
from data.corpus import ReadCorpus
from data.document import Document
from data.executor import BUCKETS, Report, Run, progress_bar, read_lines, run_tasks
from data.job import Job
from data.pack import Row, pack
from data.split import Split
from data.tokenizer import Tokenizer

PARTITION_ROWS = 200
BYTES_PER_TOKEN = 4.0
BATCH_BYTES = 1 << 18
KEPT_LINES = 1 << 14

Stage = Callable[[Iterable[Document]], Iterable[Document]]


def stages(name: str, corpus: CorpusConfig) -> list[Stage]:
    """What a corpus' documents go through between reading and tokenizing."""
    return {"raw": [], "conversation": [functools.partial(_require_turns, name)]}[corpus.convert]


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


@dataclass(frozen=True)
class PartitionTask:
    """What a process needs to make one partition, and where it puts what it made."""

    name: str
    corpus: CorpusConfig
    out: str
    work: str
    partition: int
    num_partitions: int
    buckets: tuple[int, ...]
    runs: tuple[Run, ...]
    split: str
    tokenizer: Tokenizer
    seq_len: int
    add_bos: bool
    add_eos: bool

    @property
    def record(self) -> epath.Path:
        """What was counted; written last, so a partition that has it is finished."""
        return epath.Path(self.work) / f"part-{self.partition:05d}.json"

    @property
    def heldout(self) -> epath.Path:
        """Its documents that are not trained on."""
        return epath.Path(self.work) / f"heldout-{self.partition:05d}.jsonl.zst"

    @property
    def set_aside(self) -> epath.Path:
        """Its documents that could not be tokenized."""
        return epath.Path(self.work) / f"set_aside-{self.partition:05d}.jsonl.zst"

    @property
    def documents(self) -> epath.Path:
        """Its converted documents."""
        return epath.Path(self.out) / "documents" / f"part-{self.partition:05d}.jsonl.zst"

    @property
    def shard(self) -> epath.Path:
        """Its packed rows."""
        return epath.Path(self.out) / rows_lib.shard_name(self.partition, self.num_partitions)


def partition_tasks(
    job: Job, name: str, read: ReadCorpus, tokenizer: Tokenizer
) -> list[PartitionTask]:
    """One task for every partition of a corpus."""
    config = job.config
    count = num_partitions(config, read.counts["bytes"])
    buckets = config.partitions or BUCKETS
    return [
        PartitionTask(
            name=name,
            corpus=config.corpora[name],
            out=str(job.out / name),
            work=str(job.work / name),
            partition=i,
            num_partitions=count,
            # `partition_of` is a remainder and `count` divides the buckets, so a partition is some
            # whole buckets.
            buckets=tuple(range(i, buckets, count)),
            runs=read.runs,
            split=str(job.spool / "split.json"),
            tokenizer=tokenizer,
            seq_len=config.seq_len,
            add_bos=job.add_bos(tokenizer),
            add_eos=config.add_eos,
        )
        for i in range(count)
    ]


def build_partitions(job: Job, tasks: Sequence[PartitionTask], num_bytes: int) -> None:
    """Makes the partitions that are not finished; `num_bytes` is what all of them read."""
    todo = [task for task in tasks if not task.record.exists()]
    if len(todo) < len(tasks):
        print(f"{len(tasks) - len(todo)} of {len(tasks)} partitions were finished before.")
    with progress_bar("preparing", num_bytes * len(todo) / max(len(tasks), 1)) as advance:
        run_tasks(_build_partition, todo, workers=job.workers, advance=advance)


def _build_partition(task: PartitionTask, report: Report) -> None:
    """Converts, tokenizes and packs one partition; its record is written last."""
    split = _load_split(task.split)
    counts: Counts = {"documents_in": 0, "documents_out": 0, "tokens_in": 0, "tokens_out": 0}
    counts |= {"supervised": 0, "rows": 0, "heldout": 0, "removed": {}}
    heldout: list[str] = []
    lines: dict[int, tuple[Document, bytes]] = {}

    def trained_on() -> Iterator[Document]:
        for line in read_lines(task.runs, task.buckets):
            document = Document.from_json(line)
            if split.is_held_out(document):
                heldout.append(line.decode().rstrip("\n"))
                counts["heldout"] += 1
                continue
            counts["documents_in"] += 1
            if len(lines) >= KEPT_LINES:
                lines.clear()
            lines[id(document)] = document, line
            yield document

    def write(document: Document) -> None:
        # A document that no stage has changed is written as it was read; spelling it again costs a
        # twentieth of the time.
        same, line = lines.pop(id(document), (None, b""))
        file.write(line if same is document else document.to_json().encode() + b"\n")

    documents: Iterable[Document] = trained_on()
    for stage in stages(task.name, task.corpus):
        documents = stage(documents)
    set_aside: list[str] = []
    with rows_lib.whole_file(task.documents) as local, zstandard.open(local, "wb") as file:
        encoded = encode(task, documents, task.corpus.chat, counts, set_aside, write, report)
        rows = counted(pack(encoded, task.seq_len), counts)
        counts["rows"] = rows_lib.write_shard(task.shard, rows)
    if counts["tokens_in"] != counts["tokens_out"]:
        raise AssertionError(f"{task.shard}: {counts}: tokens were lost in packing")
    rows_lib.write_lines(task.heldout, heldout)
    rows_lib.write_lines(task.set_aside, set_aside)
    rows_lib.write_json(task.record, counts)


def encode(
    task: PartitionTask,
    documents: Iterable[Document],
    chat: ChatConfig,
    counts: Counts,
    set_aside: list[str],
    write: Callable[[Document], None],
    report: Report,
) -> Iterator[Encoded]:
    """Tokenizes documents, and hands those that could be to `write`.

    Args:
        task: the tokenizer, and whether BOS and EOS are added.
        documents: what to tokenize.
        chat: how conversations are written.
        counts: `documents_out`, `tokens_in` and `removed` are counted here.
        set_aside: gets a line of JSON for each of the others.
        write: is called with a document before its tokens are given.
        report: is called with the bytes done.
    """
    for batch, num_bytes in _batches(documents):
        for document, encoded in _encode_batch(task, batch, chat):
            if isinstance(encoded, str):
                item = sources.SetAside(
                    task.name, f"document {document.id}", encoded, document.turns[0].text[:200]
                )
                add_counts(counts, {"removed": {"tokenize": {item.kind: 1}}})
                set_aside.append(rows_lib.to_json(asdict(item)))
                continue
            write(document)
            counts["documents_out"] += 1
            counts["tokens_in"] += len(encoded.tokens)
            yield encoded
        report(num_bytes)


def _encode_batch(
    task: PartitionTask, batch: list[Document], chat: ChatConfig
) -> Iterator[tuple[Document, Encoded | str]]:
    """Documents with their tokens, or with what keeps them from having any."""
    ends = {"add_bos": task.add_bos, "add_eos": task.add_eos}
    try:
        encoded: list[Encoded | str] = [*encode_documents(batch, task.tokenizer, chat, **ends)]
    except ConversationError as error:
        if len(batch) > 1:  # find the one
            for document in batch:
                yield from _encode_batch(task, [document], chat)
            return
        encoded = [f"does not fit the chat template: {error.__cause__ or error}"]
    for document, item in zip(batch, encoded, strict=True):
        yield document, item if isinstance(item, str) or len(item.tokens) else "no tokens"


def counted(rows: Iterable[Row], counts: Counts) -> Iterator[Row]:
    """The rows, added to `tokens_out` and `supervised` as they pass."""
    for row in rows:
        counts["tokens_out"] += int(np.count_nonzero(row.segment_ids))
        counts["supervised"] += int(np.count_nonzero(row.loss_mask))
        yield row


def _batches(documents: Iterable[Document]) -> Iterator[tuple[list[Document], int]]:
    batch: list[Document] = []
    num_bytes = 0
    for document in documents:
        batch.append(document)
        num_bytes += document.num_bytes
        if num_bytes >= BATCH_BYTES:
            yield batch, num_bytes
            batch, num_bytes = [], 0
    if batch:
        yield batch, num_bytes


def stream_facts(task: PartitionTask, name: str, documents: int, counts: Counts) -> dict[str, Any]:
    """What `stream.json` says of rows made by tasks like this one, but for its shards."""
    return {
        "name": name,
        "seq_len": task.seq_len,
        "tokens": counts["tokens_out"],
        "supervised": counts["supervised"],
        "documents": documents,
        "tokenizer": task.tokenizer.fingerprint,
        "vocab_size": task.tokenizer.vocab_size,
        "add_bos": task.add_bos,
        "add_eos": task.add_eos,
    }


@functools.lru_cache(1)
def _load_split(path: str) -> Split:
    return Split(**json.loads(LocalPath(path).read_text()))


def _require_turns(name: str, documents: Iterable[Document]) -> Iterator[Document]:
    for document in documents:
        if document.is_text:
            raise ValueError(
                f"corpora.{name}.convert: conversation, but the documents are running text; name "
                f"corpora.{name}.fields.prompt and .response (or .turns), or say convert: raw"
            )
        yield document
