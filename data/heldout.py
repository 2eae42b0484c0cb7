"""The rows to measure on: held-out documents of a corpus, packed as they were read.

Whatever a corpus is converted to, its held-out documents stay raw text (conversations as a question
and its response), so that measurements of differently converted corpora, and of models trained on
them, compare. On request the same documents are packed converted too, beside them.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from data import rows as rows_lib
from data.card import Counts
from data.chat import Encoded
from data.cleaning import clean_function
from data.config import ChatConfig
from data.document import Document, draw
from data.job import Job
from data.pack import pack
from data.partition import PartitionTask, counted, stream_facts
from data.tally import Tally
from data.tokenizer import Tokenizer

# Held-out conversations are measured as plain text, whatever their corpus is converted to.
PLAIN = ChatConfig(template="plain", train_on="all", system=None)


def finish_heldout(job: Job, name: str, tasks: Sequence[PartitionTask]) -> dict[str, Any]:
    """Packs the held-out documents to measure on, unconverted: every token of text is a target."""
    config = job.config
    total, lines = _choose(tasks, config.heldout.max_documents)
    split_by = "group" if config.corpora[name].fields.group else "near duplicates"
    counts: Counts = {"documents": total, "measured": len(lines), "split_by": split_by}
    if not lines:
        return counts
    folder = job.out / name / "heldout"
    rows_lib.write_lines(folder / "documents.jsonl.zst", lines)
    conversion, tally = tasks[0].conversion, Tally(name)
    documents = map(Document.from_json, lines)
    encoded = conversion.encode(documents, PLAIN, tally, lambda _: None, lambda _: None)
    encoded = _all_text_supervised(encoded, conversion.tokenizer)
    rows = counted(pack(encoded, conversion.seq_len), tally)
    num_rows = rows_lib.write_shard(folder / rows_lib.shard_name(0, 1), rows)
    told = tally.counts
    counts |= {"tokens": told["tokens_out"], "supervised": told["supervised"], "rows": num_rows}
    stream = stream_facts(conversion, f"{name}/heldout", len(lines), told)
    rows_lib.write_stream(folder, stream, [num_rows], counts)
    if config.heldout.converted:
        counts["converted"] = _finish_converted(job, tasks[0], lines)
    return counts


def _finish_converted(job: Job, task: PartitionTask, lines: Sequence[str]) -> Counts:
    """The same documents, cleaned and converted as those that are trained on."""
    name, conversion, tally = task.name, task.conversion, Tally(task.name)
    folder = job.out / name / "heldout_converted"
    clean = clean_function(task.clean)
    cleaned = (clean(Document.from_json(line)).document for line in lines)
    documents = conversion.stage(tally)(document for document in cleaned if document is not None)
    written: list[str] = []
    encoded = conversion.encode(
        documents,
        conversion.corpus.chat,
        tally,
        lambda document: written.append(document.to_json()),
        lambda _: None,
    )
    rows = counted(pack(encoded, conversion.seq_len), tally)
    num_rows = rows_lib.write_shard(folder / rows_lib.shard_name(0, 1), rows)
    told = tally.counts
    if not num_rows:
        return {"rows": 0}
    rows_lib.write_lines(folder / "documents.jsonl.zst", written)
    counts = {key: told[key] for key in ("documents_out", "tokens_out", "supervised")}
    counts["rows"] = num_rows
    stream = stream_facts(conversion, f"{name}/heldout_converted", told["documents_out"], told)
    rows_lib.write_stream(folder, stream, [num_rows], counts)
    return counts


def _choose(tasks: Sequence[PartitionTask], at_most: int) -> tuple[int, list[str]]:
    """How many documents are held out, and those of them that are measured on, sorted."""
    total = 0
    chosen: list[tuple[float, str]] = []
    for task in tasks:
        ranked = []
        for line in rows_lib.read_lines(task.heldout):
            rank = draw(Document.from_json(line).id, "held out to measure on").random()
            ranked.append((rank, line))
        total += len(ranked)
        chosen = heapq.nsmallest(at_most, [*chosen, *ranked])
    return total, sorted(line for _, line in chosen)


def _all_text_supervised(documents: Iterable[Encoded], tokenizer: Tokenizer) -> Iterator[Encoded]:
    special = np.zeros(tokenizer.vocab_size, np.bool_)
    ids = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, *tokenizer.special_ids.values()}
    special[[id_ for id_ in ids if id_ is not None]] = True
    for document in documents:
        yield Encoded(document.tokens, ~special[document.tokens])
