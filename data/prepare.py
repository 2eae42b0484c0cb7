"""Raw corpora into converted documents and packed streams: `python -m data.prepare RECIPE [key.path=value ...]`.

1. **Deal.** Every input is read once; documents go to buckets by the hash of their id, sorted by id (`executor.py`).
2. **Split.** Which groups are held out is decided once, over all corpora together (`split.py`).
3. **Tokenizer.** The recipe's, or one trained on documents that are not held out.
4. **Partitions.** Each is converted, tokenized once and packed into one shard, on its own and in any process.
5. **Finish.** The held-out rows, the card, the metadata and, last of all, `stream.json`.

What comes out is a function of the documents and the recipe: byte for byte the same for any number and order of input
files, any number of workers and any hash seed (`run.json`, with times and hosts, and the places in `set_aside` aside). A
run that was killed goes on where it was: finished partitions are kept. A finished one does nothing when it is run again.
"""

import functools
import itertools
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path as LocalPath
from typing import Any

import numpy as np
import zstandard
from etils import epath

from data import rows as rows_lib
from data import sources
from data.card import Counts, add_counts, make_card, print_table
from data.chat import ConversationError, Encoded, encode_documents
from data.config import ChatConfig, CorpusConfig, PrepareConfig
from data.document import Document, draw
from data.executor import BUCKETS, Dealer, Run, find_runs, progress_bar, read_lines, run_tasks
from data.pack import Row, pack
from data.split import SignatureFile, Split, decide
from data.tokenizer import Tokenizer, load_tokenizer, train_sentencepiece

# Bytes may change with this number: what was prepared under another one is prepared again.
VERSION = 1
PARTITION_ROWS = 200
BYTES_PER_TOKEN = 4.0
BATCH_BYTES = 1 << 18
MAX_READERS = 64
KEPT_LINES = 1 << 14
# Held-out conversations are measured as plain text, whatever their corpus is converted to.
PLAIN = ChatConfig(template="plain", train_on="all", system=None)

Report = Callable[[float], None]
Stage = Callable[[Iterable[Document]], Iterable[Document]]


def prepare(config: PrepareConfig) -> dict[str, dict[str, Any]]:
    """Prepares every corpus of a recipe and gives its `stream.json`, by name.

    Raises:
        ValueError: the recipe, a source or the tokenizer is not as it must be; the message says what to do.
        ChildProcessError: a worker was killed.
    """
    job = _Job(config)
    pending = [name for name in config.corpora if not job.is_finished(name)]
    if pending:
        for name in pending:
            job.begin(name)
        read = _deal(job, pending)
        split = _split(job, read)
        tokenizer = job.save_tokenizer(lambda: _tokenizer_texts(job, split, read))
        tasks = {name: _partition_tasks(job, name, read[name], tokenizer) for name in pending}
        num_bytes = sum(read[name].counts["bytes"] for name in pending)
        _build_partitions(job, list(itertools.chain(*tasks.values())), num_bytes)
        cards = [_finish(job, name, tasks[name], read[name]) for name in pending]
        job.clean_up()
        print_table(cards)
        _say_what_next(config, cards)
    else:
        job.clean_up()  # a run may have been killed while it did this
        print(f"{config.out_dir}: prepared already, nothing to do.")
    return {name: rows_lib.read_stream(job.out / name) or {} for name in config.corpora}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    import sys

    from configs.load import command, recipe_yaml, user_errors

    config, options = command(PrepareConfig, sys.argv[1:] if argv is None else argv, __doc__ or "")
    with user_errors():
        if options.dry_run:
            print(recipe_yaml(config))
            _print_plan(config)
            return
        try:
            prepare(config)
        except KeyboardInterrupt:
            print("\nInterrupted. Run the same command to go on; finished partitions are kept.")
            raise SystemExit(130) from None


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


# --- 0. what there is to do, and what is done --------------------------------------------------------------------


class _Job:
    """The folders of one preparation, and the settings under which their contents are valid."""

    def __init__(self, config: PrepareConfig):
        self.config = config
        self.out = epath.Path(config.out_dir)
        self.work = self.out / ".work"
        self.started = time.time()
        self.inputs = {name: _list_inputs(name, corpus) for name, corpus in config.corpora.items()}
        self.tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
        groupless = any(c.fields.group is None for c in config.corpora.values())
        # Documents without a group are compared with those of every corpus.
        self.near_duplicates = groupless and config.heldout.fraction > 0
        self.needs_all = self.near_duplicates or self.tokenizer is None
        self._settings = {name: self._settings_of(name) for name in config.corpora}
        self.workers = config.workers or _num_cores()
        if rows_lib.is_remote(self.out):
            key = sha256(str(self.out).encode()).hexdigest()[:12]
            self.spool = LocalPath(tempfile.gettempdir()) / f"lectern-prepare-{key}"
        else:
            self.spool = LocalPath(self.work) / "spool"

    def digest(self, name: str) -> str:
        return _digest(self._settings[name])

    def source_digest(self, name: str) -> str:
        """What the dealt documents of a corpus depend on."""
        return _digest([self._source_of(name), self.near_duplicates, self.config.heldout.fraction])

    def is_finished(self, name: str) -> bool:
        stream = rows_lib.read_stream(self.out / name)
        run = self.out / name / "run.json"
        if stream is None or not run.exists():
            return False
        if json.loads(run.read_text())["digest"] != self.digest(name):
            return False
        for shard in stream["shards"]:
            path = self.out / name / shard["file"]
            if not path.exists() or path.stat().length != shard["bytes"]:
                return False
        return (self.out / "tokenizer").exists()

    def begin(self, name: str) -> None:
        """Makes the folder ready; what was made under other settings is taken away, and that is said."""
        mark = self.work / name / "settings.json"
        try:
            (self.work / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"out_dir: {self.out} cannot be written: {error}") from error
        for folder in ("", "documents", "heldout"):
            for partial in (self.out / name / folder).glob(f".*{rows_lib.PARTIAL}"):
                partial.unlink()
        before = [p for p in (mark, self.out / name / "run.json") if p.exists()]
        if before:
            settings = json.loads(before[0].read_text())["settings"]
            if _digest(settings) == self.digest(name):
                return
            changed = [
                k for k in self._settings[name] if settings.get(k) != self._settings[name][k]
            ]
            print(
                f"{name}: {', '.join(changed)} changed since it was prepared; preparing it again."
            )
        for path in _products(self.out / name) + list((self.work / name).glob("*")):
            path.unlink()
        rows_lib.write_json(mark, {"settings": self._settings[name]})

    def save_tokenizer(self, texts: Callable[[], Iterable[str]]) -> Tokenizer:
        """Puts the tokenizer beside the streams; trains it first where the recipe says so."""
        folder = self.out / "tokenizer"
        if self.tokenizer is None:
            assert self.config.train_tokenizer is not None
            mark = self.work / "tokenizer.json"
            digest = _digest(self._settings)
            if not mark.exists() or json.loads(mark.read_text())["digest"] != digest:
                with tempfile.TemporaryDirectory() as local:
                    train_sentencepiece(texts(), local, self.config.train_tokenizer).save(folder)
                rows_lib.write_json(mark, {"digest": digest})
            self.tokenizer = load_tokenizer(str(folder))
        else:
            self.tokenizer.save(folder)
        return self.tokenizer

    def add_bos(self, tokenizer: Tokenizer) -> bool:
        return tokenizer.add_bos if self.config.add_bos == "auto" else self.config.add_bos

    def run_facts(self, name: str, num_bytes: int) -> dict[str, Any]:
        seconds = time.time() - self.started
        return {
            "digest": self.digest(name),
            "settings": self._settings[name],
            "host": socket.gethostname(),
            "workers": self.workers,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(seconds, 3),
            "megabytes": round(num_bytes / 1e6, 3),
        }

    def clean_up(self) -> None:
        shutil.rmtree(self.spool, ignore_errors=True)
        if self.work.exists():
            self.work.rmtree()

    def _source_of(self, name: str) -> dict[str, Any]:
        corpus = self.config.corpora[name].model_dump(exclude={"convert", "chat"})
        return {"source": corpus, "inputs": [_identity(item) for item in self.inputs[name]]}

    def _settings_of(self, name: str) -> dict[str, Any]:
        config = self.config
        tokenizer = self.tokenizer.fingerprint if self.tokenizer else config.train_tokenizer
        settings = {
            "version": VERSION,
            **self._source_of(name),
            "convert": config.corpora[name].convert,
            "chat": config.corpora[name].chat,
            "seq_len": config.seq_len,
            "tokenizer": tokenizer,
            "add_bos": config.add_bos,
            "add_eos": config.add_eos,
            "partitions": config.partitions,
            "heldout": config.heldout,
        }
        if self.needs_all:
            settings["corpora"] = {n: self._source_of(n) for n in sorted(config.corpora)}
        return json.loads(json.dumps(settings, default=lambda value: value.model_dump()))


# --- 1. deal -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ReadTask:
    name: str
    corpus: CorpusConfig
    part: tuple[int, int]
    folder: str
    num_buckets: int
    signatures: bool
    fraction: float


@dataclass(frozen=True)
class _Read:
    """A corpus as it was read: its runs, what was counted, what was set aside."""

    folders: tuple[str, ...]
    runs: tuple[Run, ...]
    counts: Counts


def _deal(job: _Job, pending: list[str]) -> dict[str, _Read]:
    config = job.config
    tasks: dict[str, list[_ReadTask]] = {}
    for name in config.corpora if job.needs_all else pending:
        corpus = config.corpora[name]
        # A limit counts documents in the order of the inputs, so one reader has to see them all.
        parts = 1 if corpus.limit else max(1, min(len(job.inputs[name]), MAX_READERS))
        folder = job.spool / f"{name}-{job.source_digest(name)[:16]}-{parts}"
        buckets = config.partitions or BUCKETS
        tasks[name] = [
            _ReadTask(
                name, corpus, (i, parts), str(folder / f"{buckets}-{i:05d}"), buckets,
                job.near_duplicates, config.heldout.fraction,
            )
            for i in range(parts)
        ]  # fmt: skip
    todo = [task for group in tasks.values() for task in group if not _read_record(task)]
    with progress_bar("reading", None) as advance:
        run_tasks(_read_inputs, todo, workers=job.workers, advance=advance)
    read = {}
    for name, group in tasks.items():
        counts: Counts = {"documents": 0, "bytes": 0, "set_aside": {}}
        for task in group:
            add_counts(counts, _read_record(task) or {})
        folders = tuple(task.folder for task in group)
        read[name] = _Read(folders, tuple(find_runs(folders)), counts)
        if not counts["documents"]:
            reasons = "; ".join(f"{n} x {reason}" for reason, n in counts["set_aside"].items())
            raise ValueError(
                f"corpora.{name}.path: {config.corpora[name].path} has no documents"
                + (f" ({reasons})" if reasons else "")
            )
    return read


def _read_record(task: _ReadTask) -> Counts | None:
    path = LocalPath(task.folder) / "done.json"
    return json.loads(path.read_text()) if path.exists() else None


def _read_inputs(task: _ReadTask, report: Report) -> None:
    """Reads one part of a corpus into sorted runs."""
    folder = LocalPath(task.folder)
    dealer = Dealer(folder, task.num_buckets)
    signatures = SignatureFile(folder / "signatures") if task.signatures else None
    set_aside: list[dict[str, str]] = []
    documents = num_bytes = reported = 0
    for document in sources.read(
        task.corpus,
        task.name,
        set_aside=lambda item: set_aside.append(asdict(item)),
        part=task.part,
    ):
        # The place it was read from depends on how the input is cut into files; the corpus does not.
        document = Document(document.id, document.turns, task.name, document.meta)
        dealer.add(document)
        if signatures:
            signatures.add(document, task.fraction)
        documents += 1
        num_bytes += _num_bytes(document)
        if num_bytes - reported > 1 << 20:
            report(num_bytes - reported)
            reported = num_bytes
    dealer.close()
    if signatures:
        signatures.close()
    reasons: Counts = {}
    for item in set_aside:
        add_counts(reasons, {_reason(item["reason"]): 1})
    rows_lib.write_lines(
        folder / "set_aside.jsonl.zst", [rows_lib.to_json(item) for item in set_aside]
    )
    counts = {"documents": documents, "bytes": num_bytes, "set_aside": reasons}
    rows_lib.write_json(folder / "done.json", counts)


# --- 2. split ----------------------------------------------------------------------------------------------------


def _split(job: _Job, read: dict[str, _Read]) -> Split:
    split = Split(job.config.heldout.fraction)
    if job.near_duplicates:
        files = [LocalPath(f) / "signatures" for item in read.values() for f in item.folders]
        split = decide(files, job.config.heldout.fraction)
    rows_lib.write_json(job.spool / "split.json", asdict(split))
    return split


@functools.lru_cache(1)
def _load_split(path: str) -> Split:
    return Split(**json.loads(LocalPath(path).read_text()))


# --- 3. tokenizer ------------------------------------------------------------------------------------------------


def _tokenizer_texts(job: _Job, split: Split, read: dict[str, _Read]) -> Iterator[str]:
    """A sample of the documents trained on, drawn by their ids, at most `sample_mb` of it."""
    assert job.config.train_tokenizer is not None
    total = sum(item.counts["bytes"] for item in read.values())
    share = job.config.train_tokenizer.sample_mb * 1e6 / max(total, 1)
    for item in read.values():
        for line in read_lines(item.runs, range(job.config.partitions or BUCKETS)):
            document = Document.from_json(line)
            if split.is_held_out(document):
                continue
            if share >= 1 or draw(document.id, "tokenizer sample").random() < share:
                yield from (turn.text for turn in document.turns)


# --- 4. partitions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PartitionTask:
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
        return epath.Path(self.work) / f"heldout-{self.partition:05d}.jsonl.zst"

    @property
    def set_aside(self) -> epath.Path:
        return epath.Path(self.work) / f"set_aside-{self.partition:05d}.jsonl.zst"

    @property
    def documents(self) -> epath.Path:
        return epath.Path(self.out) / "documents" / f"part-{self.partition:05d}.jsonl.zst"

    @property
    def shard(self) -> epath.Path:
        return epath.Path(self.out) / rows_lib.shard_name(self.partition, self.num_partitions)


def _partition_tasks(
    job: _Job, name: str, read: _Read, tokenizer: Tokenizer
) -> list[_PartitionTask]:
    config = job.config
    count = num_partitions(config, read.counts["bytes"])
    buckets = config.partitions or BUCKETS
    return [
        _PartitionTask(
            name=name,
            corpus=config.corpora[name],
            out=str(job.out / name),
            work=str(job.work / name),
            partition=i,
            num_partitions=count,
            # `partition_of` is a remainder and `count` divides the buckets, so a partition is some whole buckets.
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


def _build_partitions(job: _Job, tasks: list[_PartitionTask], num_bytes: int) -> None:
    todo = [task for task in tasks if not task.record.exists()]
    if len(todo) < len(tasks):
        print(f"{len(tasks) - len(todo)} of {len(tasks)} partitions were finished before.")
    with progress_bar("preparing", num_bytes * len(todo) / max(len(tasks), 1)) as advance:
        run_tasks(_build_partition, todo, workers=job.workers, advance=advance)


def _build_partition(task: _PartitionTask, report: Report) -> None:
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
        # A document that no stage has changed is written as it was read; spelling it again costs a twentieth of the time.
        same, line = lines.pop(id(document), (None, b""))
        file.write(line if same is document else document.to_json().encode() + b"\n")

    documents: Iterable[Document] = trained_on()
    for stage in stages(task.name, task.corpus):
        documents = stage(documents)
    set_aside: list[str] = []
    with rows_lib.whole_file(task.documents) as local, zstandard.open(local, "wb") as file:
        encoded = _encode(task, documents, task.corpus.chat, counts, set_aside, write, report)
        rows = _counted(pack(encoded, task.seq_len), counts)
        counts["rows"] = rows_lib.write_shard(task.shard, rows)
    if counts["tokens_in"] != counts["tokens_out"]:
        raise AssertionError(f"{task.shard}: {counts}: tokens were lost in packing")
    rows_lib.write_lines(task.heldout, heldout)
    rows_lib.write_lines(task.set_aside, set_aside)
    rows_lib.write_json(task.record, counts)


def _encode(
    task: _PartitionTask,
    documents: Iterable[Document],
    chat: ChatConfig,
    counts: Counts,
    set_aside: list[str],
    write: Callable[[Document], None],
    report: Report,
) -> Iterator[Encoded]:
    """Tokenizes, and writes the documents that could be."""
    for batch, num_bytes in _batches(documents):
        for document, encoded in _encode_batch(task, batch, chat):
            if isinstance(encoded, str):
                add_counts(counts, {"removed": {"tokenize": {_reason(encoded): 1}}})
                item = sources.SetAside(
                    task.name, f"document {document.id}", encoded, document.turns[0].text[:200]
                )
                set_aside.append(rows_lib.to_json(asdict(item)))
                continue
            write(document)
            counts["documents_out"] += 1
            counts["tokens_in"] += len(encoded.tokens)
            yield encoded
        report(num_bytes)


def _encode_batch(
    task: _PartitionTask, batch: list[Document], chat: ChatConfig
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


def _counted(rows: Iterable[Row], counts: Counts) -> Iterator[Row]:
    for row in rows:
        counts["tokens_out"] += int(np.count_nonzero(row.segment_ids))
        counts["supervised"] += int(np.count_nonzero(row.loss_mask))
        yield row


def _batches(documents: Iterable[Document]) -> Iterator[tuple[list[Document], int]]:
    batch: list[Document] = []
    num_bytes = 0
    for document in documents:
        batch.append(document)
        num_bytes += _num_bytes(document)
        if num_bytes >= BATCH_BYTES:
            yield batch, num_bytes
            batch, num_bytes = [], 0
    if batch:
        yield batch, num_bytes


def _require_turns(name: str, documents: Iterable[Document]) -> Iterator[Document]:
    for document in documents:
        if document.is_text:
            raise ValueError(
                f"corpora.{name}.convert: conversation, but the documents are running text; name "
                f"corpora.{name}.fields.prompt and .response (or .turns), or say convert: raw"
            )
        yield document


# --- 5. finish ---------------------------------------------------------------------------------------------------


def _finish(job: _Job, name: str, tasks: list[_PartitionTask], read: _Read) -> dict[str, Any]:
    """Writes what completes a stream, `stream.json` last. Gives the card."""
    counts = [json.loads(task.record.read_text()) for task in tasks]
    dealt = sum(item["documents_in"] + item["heldout"] for item in counts)
    if dealt != read.counts["documents"]:
        raise AssertionError(f"{name}: {read.counts['documents']} documents read, {dealt} dealt")
    if not sum(item["rows"] for item in counts):
        raise ValueError(
            f"corpora.{name}: all {read.counts['documents']} documents are held out; "
            f"lower heldout.fraction ({job.config.heldout.fraction}) or give more documents"
        )
    out = job.out / name
    set_aside = sorted(
        line
        for path in [epath.Path(f) / "set_aside.jsonl.zst" for f in read.folders]
        + [task.set_aside for task in tasks]
        for line in rows_lib.read_lines(path)
    )
    rows_lib.write_lines(out / "set_aside.jsonl.zst", set_aside)
    heldout = _finish_heldout(job, name, tasks)
    card = make_card(
        name,
        job.config.corpora[name],
        seq_len=job.config.seq_len,
        read=read.counts,
        partitions=counts,
        heldout=heldout,
    )
    rows_lib.write_json(out / "card.json", card)
    rows_lib.write_json(out / "run.json", job.run_facts(name, card["bytes_in"]))
    stream = _stream_facts(job, name, tasks[0], card["documents_out"], card)
    rows_lib.write_stream(out, stream, [item["rows"] for item in counts], card)
    return card


def _finish_heldout(job: _Job, name: str, tasks: list[_PartitionTask]) -> dict[str, Any]:
    """Packs the held-out documents to measure on, unconverted: every token of text is a target."""
    total = 0
    chosen: list[tuple[float, str]] = []
    for task in tasks:
        for line in rows_lib.read_lines(task.heldout):
            total += 1
            rank = draw(Document.from_json(line).id, "held out to measure on").random()
            chosen.append((rank, line))
        chosen = sorted(chosen)[: job.config.heldout.max_documents]
    split_by = "group" if job.config.corpora[name].fields.group else "near duplicates"
    counts: Counts = {"documents": total, "measured": len(chosen), "split_by": split_by}
    if not chosen:
        return counts
    folder = job.out / name / "heldout"
    lines = sorted(line for _, line in chosen)
    rows_lib.write_lines(folder / "documents.jsonl.zst", lines)
    told: Counts = {"documents_out": 0, "tokens_in": 0, "tokens_out": 0, "supervised": 0}
    task = tasks[0]
    documents = (Document.from_json(line) for line in lines)
    encoded = _encode(task, documents, PLAIN, told, [], lambda _: None, lambda _: None)
    rows = pack(_all_text_supervised(encoded, task.tokenizer), job.config.seq_len)
    num_rows = rows_lib.write_shard(folder / rows_lib.shard_name(0, 1), _counted(rows, told))
    counts |= {"tokens": told["tokens_out"], "supervised": told["supervised"], "rows": num_rows}
    stream = _stream_facts(job, f"{name}/heldout", task, len(lines), told)
    rows_lib.write_stream(folder, stream, [num_rows], counts)
    return counts


def _all_text_supervised(documents: Iterable[Encoded], tokenizer: Tokenizer) -> Iterator[Encoded]:
    special = np.zeros(tokenizer.vocab_size, np.bool_)
    ids = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, *tokenizer.special_ids.values()}
    special[[id_ for id_ in ids if id_ is not None]] = True
    for document in documents:
        yield Encoded(document.tokens, ~special[document.tokens])


def _stream_facts(
    job: _Job, name: str, task: _PartitionTask, documents: int, counts: Counts
) -> dict[str, Any]:
    return {
        "name": name,
        "seq_len": job.config.seq_len,
        "tokens": counts["tokens_out"],
        "supervised": counts["supervised"],
        "documents": documents,
        "tokenizer": task.tokenizer.fingerprint,
        "vocab_size": task.tokenizer.vocab_size,
        "add_bos": task.add_bos,
        "add_eos": task.add_eos,
    }


def _say_what_next(config: PrepareConfig, cards: list[dict[str, Any]]) -> None:
    for card in cards:
        if config.heldout.fraction and not card["heldout"]["documents"]:
            print(
                f"{card['name']}: no document is held out (heldout.fraction={config.heldout.fraction} "
                "of few groups); its held-out loss cannot be measured."
            )
    paths = [f"{config.out_dir}/{card['name']}" for card in cards]
    print(f"\nStreams:  {', '.join(paths)}")
    print(f"Look:     python -m data.inspect {config.out_dir}")
    print(f"Train:    name them in a recipe, as streams.{cards[0]['name']}.path={paths[0]}")


def _print_plan(config: PrepareConfig) -> None:
    job = _Job(config)
    for name, inputs in job.inputs.items():
        sizes = [_identity(item).get("bytes") or 0 for item in inputs]
        state = "prepared already" if job.is_finished(name) else "to prepare"
        count = config.partitions or "by size, at most 64"
        print(
            f"{name}: {len(inputs)} inputs, {sum(sizes) / 1e6:,.1f} MB as stored; partitions: {count}; {state}"
        )
        for item, size in itertools.islice(zip(inputs, sizes, strict=True), 5):
            print(f"  {item}  {size / 1e6:,.1f} MB")
        if len(inputs) > 5:
            print(f"  ... and {len(inputs) - 5} more")


# --- small things ------------------------------------------------------------------------------------------------


def _num_bytes(document: Document) -> int:
    texts = [turn.text for turn in document.turns]
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reason(text: str) -> str:
    """The kind of a reason: what follows a colon is about the one document."""
    return text.split(":", 1)[0].strip()


def _digest(value: Any) -> str:
    return sha256(rows_lib.to_json(value).encode()).hexdigest()


def _list_inputs(name: str, corpus: CorpusConfig) -> list[str]:
    try:
        return sources.list_inputs(corpus)
    except ValueError as error:
        raise ValueError(f"corpora.{name}.{error}") from error


def _identity(item: Any) -> dict[str, Any]:
    """What tells that an input is still the one that was read."""
    path = epath.Path(item)
    if not path.exists():
        return {"name": str(item)}
    stat = path.stat()
    return {"name": str(item), "bytes": stat.length, "changed": stat.mtime}


def _products(folder: epath.Path) -> list[epath.Path]:
    """The files this command writes into a stream's folder; the ones that say it is finished come first."""
    patterns = [
        "stream.json",
        "heldout/stream.json",
        "*.json",
        "heldout/*.json",
        "set_aside.jsonl.zst",
    ]
    patterns += ["rows-train.array_record-*", "documents/part-*.jsonl.zst"]
    patterns += ["heldout/rows-train.array_record-*", "heldout/documents.jsonl.zst"]
    return list(dict.fromkeys(path for pattern in patterns for path in folder.glob(pattern)))


if __name__ == "__main__":
    main()
