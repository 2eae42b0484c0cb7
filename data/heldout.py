"""The rows to measure on: held-out documents of a corpus, packed as they were read.

Whatever a corpus is converted to, its held-out documents stay raw text (conversations as a question
and its response), so that measurements of differently converted corpora, and of models trained on
them, compare.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from data import rows as rows_lib
from data.card import Counts
from data.chat import Encoded
from data.config import ChatConfig
from data.document import Document, draw
from data.job import Job
from data.pack import pack
from data.partition import PartitionTask, counted, encode, stream_facts
from data.tokenizer import Tokenizer

# Held-out conversations are measured as plain text, whatever their corpus is converted to.
PLAIN = ChatConfig(template="plain", train_on="all", system=None)


def finish_heldout(job: Job, name: str, tasks: Sequence[PartitionTask]) -> dict[str, Any]:
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
    encoded = encode(task, documents, PLAIN, told, [], lambda _: None, lambda _: None)
    rows = pack(_all_text_supervised(encoded, task.tokenizer), job.config.seq_len)
    num_rows = rows_lib.write_shard(folder / rows_lib.shard_name(0, 1), counted(rows, told))
    counts |= {"tokens": told["tokens_out"], "supervised": told["supervised"], "rows": num_rows}
    stream = stream_facts(task, f"{name}/heldout", len(lines), told)
    rows_lib.write_stream(folder, stream, [num_rows], counts)
    return counts


def _all_text_supervised(documents: Iterable[Encoded], tokenizer: Tokenizer) -> Iterator[Encoded]:
    special = np.zeros(tokenizer.vocab_size, np.bool_)
    ids = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, *tokenizer.special_ids.values()}
    special[[id_ for id_ in ids if id_ is not None]] = True
    for document in documents:
        yield Encoded(document.tokens, ~special[document.tokens])
