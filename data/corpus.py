"""A corpus as it was read: its documents, what was counted, what was set aside.

Documents are dealt to buckets by the hash of their id, and sorted by id, so neither the number nor
the order of the inputs shows.
Inputs are shared out to processes; a share that was read is not read again by a run that goes on.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path as LocalPath

from data import rows as rows_lib
from data import sources
from data.card import Counts, add_counts
from data.config import CorpusConfig
from data.document import Document
from data.executor import BUCKETS, Dealer, Report, Run, find_runs, progress_bar, run_tasks
from data.job import Job
from data.split import SignatureFile

MAX_READERS = 64


@dataclass(frozen=True)
class ReadCorpus:
    """The folders of its readers (with what was set aside), their runs, and what was counted."""

    folders: tuple[str, ...]
    runs: tuple[Run, ...]
    counts: Counts


def read_corpora(job: Job, pending: Iterable[str]) -> dict[str, ReadCorpus]:
    """Reads the pending corpora, or all where they depend on each other; the inputs in parallel.

    Raises:
        ValueError: a source is not as the recipe says, or a corpus has no documents.
    """
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
        read[name] = ReadCorpus(folders, tuple(find_runs(folders)), counts)
        if not counts["documents"]:
            reasons = "; ".join(f"{n} x {reason}" for reason, n in counts["set_aside"].items())
            raise ValueError(
                f"corpora.{name}.path: {config.corpora[name].path} has no documents"
                + (f" ({reasons})" if reasons else "")
            )
    return read


@dataclass(frozen=True)
class _ReadTask:
    name: str
    corpus: CorpusConfig
    part: tuple[int, int]
    folder: str
    num_buckets: int
    signatures: bool
    fraction: float


def _read_record(task: _ReadTask) -> Counts | None:
    path = LocalPath(task.folder) / "done.json"
    return json.loads(path.read_text()) if path.exists() else None


def _read_inputs(task: _ReadTask, report: Report) -> None:
    """Reads one part of a corpus into sorted runs."""
    folder = LocalPath(task.folder)
    dealer = Dealer(folder, task.num_buckets)
    signatures = SignatureFile(folder / "signatures") if task.signatures else None
    set_aside: list[sources.SetAside] = []
    documents = num_bytes = reported = 0
    for document in sources.read(
        task.corpus, task.name, set_aside=set_aside.append, part=task.part
    ):
        # The place it was read from depends on how the input is cut into files; the corpus does
        # not.
        document = Document(document.id, document.turns, task.name, document.meta)
        dealer.add(document)
        if signatures:
            signatures.add(document, task.fraction)
        documents += 1
        num_bytes += document.num_bytes
        if num_bytes - reported > 1 << 20:
            report(num_bytes - reported)
            reported = num_bytes
    dealer.close()
    if signatures:
        signatures.close()
    reasons: Counts = {}
    for item in set_aside:
        add_counts(reasons, {item.kind: 1})
    rows_lib.write_lines(
        folder / "set_aside.jsonl.zst", [rows_lib.to_json(asdict(item)) for item in set_aside]
    )
    counts = {"documents": documents, "bytes": num_bytes, "set_aside": reasons}
    rows_lib.write_json(folder / "done.json", counts)
