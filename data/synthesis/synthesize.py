"""The stage that turns a partition's documents into instruction-augmented text.

1. **Draw.** `augment` of the documents get pairs, the rest passes as it is.
2. **Cut.** Documents too long for a window or a row become chunks (`cut.py`).
3. **Rounds.** A generator writes pairs for every text, lane by lane (`rounds.py`); what it wrote is kept
   in a journal, so a partition that was stopped goes on with the same pairs.
4. **Set out.** Texts that were linked are joined to few-shot documents as long as a row holds them, in one
   layout (`templatify.py`). A text without a pair stays raw.

What comes out is a function of the partition's documents, the recipe and the generator.
"""

import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from data.document import Document, Turn, draw
from data.generator import Generate
from data.journal import journaled
from data.literal import encode_literal
from data.synthesis.config import SynthesisConfig
from data.synthesis.cut import cut
from data.synthesis.format import BETWEEN, Task, unwritable
from data.synthesis.rounds import Entry, Text, run_rounds
from data.synthesis.templates import Templates, load_templates
from data.synthesis.templatify import Layout, draw_layout, set_out
from data.tally import Tally
from data.tokenizer import Tokenizer

FAMILY = "synthesis"
ENDS = 2  # BOS and EOS of a row's document
MARKS = 32  # tokens of the marks around a text, in any tokenizer


def synthesize(
    documents: Iterable[Document],
    config: SynthesisConfig,
    *,
    generate: Generate,
    tokenizer: Tokenizer,
    seq_len: int,
    tally: Tally,
    work: str | None = None,
    generator_tokenizer: Tokenizer | None = None,
    model: str = "",
) -> Iterator[Document]:
    """The documents of one whole partition, with pairs behind (or before) their texts.

    Args:
        documents: running texts in the order of their ids.
        config: how.
        generate: what writes the pairs; takes prompts with `literal_special`.
        tokenizer: that of the stream: few-shot documents are filled up to a row of its tokens.
        seq_len: tokens in a row.
        tally: gets `tasks{synthesis}`, and `synthesis{...}`: texts, prompts, accepted, rejected by
            reason, texts left raw by reason, layouts.
        work: how the paths of the journal begin, in a folder that outlives a killed run
            (`.work/articles/synthesis-00003`); files of this name only, no folders. None keeps none.
        generator_tokenizer: counts the tokens of prompts; default: `tokenizer`.
        model: names the generator's model in the journal.

    Yields:
        Documents. Those with pairs have `meta.parent` (the id of the document read; `meta.parents` where
        there are several), `meta.span` for a chunk, `meta.mode`, `meta.inverted`, `meta.read` (where
        its texts stand), `meta.tasks` ({family, label, question, answer, source_spans, filter}, for
        options and chains of thought also {options, rationale}, and the task's own parent; spans count
        in the texts read, a blank line between two) and `meta.rejected` ({reason, excerpt}).
        Raw ones are the documents that came in.

    Raises:
        ValueError: a conversation came in, a row or window has no room, or too many requests failed.
    """
    reader = generator_tokenizer or tokenizer
    templates = load_templates(config.templates.file)
    limits = _limits(config, seq_len, tally.name)
    held = iter(documents)
    for number in itertools.count():
        block = list(itertools.islice(held, config.block_documents))
        if not block:
            return
        texts: list[Text] = []
        for document in block:
            texts += _texts(document, config, reader, tokenizer, limits, tally)
        place = f"{work}-{number:05d}"
        ask = journaled(generate, place, key=model) if work else generate
        lanes = run_rounds(
            texts,
            config,
            generate=ask,
            count_tokens=lambda text: len(encode_literal(text, reader)),
            tally=tally,
        )
        began, before = time.monotonic(), tally.counts.get("synthesis", {}).get("accepted", 0)
        lanes = list(lanes)
        pairs = tally.counts.get("synthesis", {}).get("accepted", 0) - before
        seconds = time.monotonic() - began
        print(  # a partition may take hours, and this is what it shows of itself
            f"{tally.name}: {len(texts):,} texts, {pairs:,} pairs in {seconds:,.0f} s",
            file=sys.stderr,
        )
        yield from _written(block, texts, lanes, config, templates, tokenizer, seq_len, tally)


def _limits(config: SynthesisConfig, seq_len: int, name: str) -> tuple[int, int]:
    """Tokens of a text at most: in the generator's window, and in a row beside its pairs."""
    window = config.window - config.max_new_tokens - MARKS
    # Pairs may take up to half of a short row; those that do not fit are left out, and counted.
    row = max(seq_len // 2, seq_len - config.max_new_tokens - MARKS) - ENDS
    if config.text_tokens:
        return min(window, config.text_tokens), min(row, config.text_tokens)
    if min(window, row) < 16:
        raise ValueError(
            f"corpora.{name}.synthesis: a window of {config.window} tokens and a row of {seq_len} leave "
            f"{min(window, row)} tokens to a text; raise them, or lower max_new_tokens"
        )
    return window, row


def _texts(
    document: Document,
    config: SynthesisConfig,
    reader: Tokenizer,
    tokenizer: Tokenizer,
    limits: tuple[int, int],
    tally: Tally,
) -> list[Text]:
    """What is asked of a document: all of it, its chunks, or nothing."""
    if not document.is_text:
        raise ValueError(
            f"corpora.{tally.name}.convert: synthesis, but document {document.id} is a conversation; "
            "say convert: conversation"
        )
    text = "\n\n".join(turn.text for turn in document.turns)
    if draw(document.id, "synthesis: augment").random() >= config.augment:
        return _left(document, "not drawn", tally)
    if mark := unwritable(text):
        return _left(document, f"holds the mark {mark}", tally)
    spans = cut(text, reader, limits[0])
    if reader is not tokenizer or limits[1] < limits[0]:
        spans = [
            (start + first, start + last)
            for start, stop in spans
            for first, last in cut(text[start:stop], tokenizer, limits[1])
        ]
    if len(spans) <= 1:
        texts = [Text(document, text, None, document.id)] if spans else []
    else:
        texts = [
            Text(document, text[start:stop], (start, stop), f"{document.id}#{n}")
            for n, (start, stop) in enumerate(spans)
        ]
    asked = [item for item in texts if len(item.text.strip()) >= config.min_text_chars]
    return asked or _left(document, "too short", tally)


def _left(document: Document, reason: str, tally: Tally) -> list[Text]:
    tally.add({"synthesis": {"raw": {reason: 1}}})
    return []


def _written(
    block: Sequence[Document],
    texts: Sequence[Text],
    lanes: Iterable[Sequence[Entry]],
    config: SynthesisConfig,
    templates: Templates,
    tokenizer: Tokenizer,
    seq_len: int,
    tally: Tally,
) -> Iterator[Document]:
    """The block's documents: raw ones first, then those with pairs, lane by lane."""
    runs = [run for lane in lanes for run in _runs(lane)]
    # By the object: equal documents share an id, and each of them comes out.
    with_pairs = Counter(id(entry.text.document) for run in runs for entry in run)
    asked = Counter(id(text.document) for text in texts)
    for document in block:
        if not with_pairs[id(document)]:
            if asked[id(document)]:
                tally.add({"synthesis": {"raw": {"no pairs": 1}}})
            yield document
    used = {(id(entry.text.document), entry.text.span) for run in runs for entry in run}
    for document in block:
        if with_pairs[id(document)]:
            yield from _rest(document, used)
    for run in runs:
        layout = draw_layout(
            run[0].text.name,
            templates,
            config.templates,
            least_pairs=min(len(entry.tasks) for entry in run),
        )
        yield from _joined(run, layout, templates, tokenizer, seq_len, tally)


def _runs(lane: Sequence[Entry]) -> Iterator[list[Entry]]:
    """The lane's entries that have pairs; one that is linked stays with the one before it."""
    run: list[Entry] = []
    for entry in lane:
        if run and not (entry.linked and entry.tasks):
            yield run
            run = []
        if entry.tasks:
            run.append(entry)
    if run:
        yield run


def _rest(document: Document, used: set[tuple[int, tuple[int, int] | None]]) -> Iterator[Document]:
    """The stretches of a cut document that have no pairs, raw, so that no text is lost."""
    spans = sorted(span for owner, span in used if owner == id(document) and span)
    if not spans:
        return
    text = "\n\n".join(turn.text for turn in document.turns)
    starts = [0, *(stop for _, stop in spans)]
    stops = [*(start for start, _ in spans), len(text)]
    for n, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        if rest := text[start:stop].strip():
            begin = text.index(rest, start)
            meta = document.meta | {"parent": document.id, "span": [begin, begin + len(rest)]}
            yield Document(f"{document.id}#raw{n}", (Turn("text", rest),), document.source, meta)


def _joined(
    run: Sequence[Entry],
    layout: Layout,
    templates: Templates,
    tokenizer: Tokenizer,
    seq_len: int,
    tally: Tally,
) -> Iterator[Document]:
    """Few-shot documents of a run, each as many texts as a row holds."""

    def count(text: str) -> int:
        return len(tokenizer.encode(text)) + ENDS

    held: list[Entry] = []
    written: list[str] = []
    for entry in run:
        entry, shown = _fitted(entry, layout, templates, count, seq_len, tally)
        if held and count(layout.separator.join([*written, shown])) > seq_len:
            yield _document(held, written, layout, tally)
            held, written = [], []
        held.append(entry)
        written.append(shown)
    yield _document(held, written, layout, tally)


def _fitted(
    entry: Entry, layout: Layout, templates: Templates, count: Any, seq_len: int, tally: Tally
) -> tuple[Entry, str]:
    """The entry set out, without its last pairs where a row does not hold them."""
    tasks = list(entry.tasks)
    while True:
        shown = set_out(entry.text.text, tasks, layout, entry.text.document.id, templates)
        if len(tasks) == 1 or count(shown) <= seq_len:
            break
        tasks.pop()
    dropped = len(entry.tasks) - len(tasks)
    if dropped:
        tally.add({"synthesis": {"accepted": -dropped, "rejected": {"no room in a row": dropped}}})
    return replace(entry, tasks=tuple(tasks)), shown


def _document(
    entries: Sequence[Entry], written: Sequence[str], layout: Layout, tally: Tally
) -> Document:
    first = entries[0].text
    parents = [entry.text.document.id for entry in entries]
    read, tasks = [], []
    start = at = 0  # in this document's text, and in the texts read, one behind the other
    for entry, shown in zip(entries, written, strict=True):
        text = entry.text.text
        place = start + (shown.rfind(text) if layout.inverted else shown.find(text))
        read.append([0, place, place + len(text), at])
        tasks += [_task(task, entry, at) for task in entry.tasks]
        start += len(shown) + len(layout.separator)
        at += len(text) + len(BETWEEN)
    meta: dict[str, Any] = dict(first.document.meta) if len(entries) == 1 else {}
    meta |= {"parent": parents[0], "tasks": tasks, "read": read}
    meta |= {"mode": layout.mode, "inverted": layout.inverted}
    if len(entries) > 1:
        meta["parents"] = parents
    elif first.span:
        meta["span"] = list(first.span)
    if rejected := [item for entry in entries for item in entry.rejected]:
        meta["rejected"] = [{"reason": item.reason, "excerpt": item.excerpt} for item in rejected]
    tally.add(
        {
            "tasks": {FAMILY: len(tasks)},
            "synthesis": {
                "shapes": dict(Counter(task["label"] for task in tasks)),
                "modes": {layout.mode: 1},
                "inverted": int(layout.inverted),
                "shots": {str(len(entries)): 1},
            },
        }
    )
    text = layout.separator.join(written)
    return Document(first.name, (Turn("text", text),), first.document.source, meta)


def _task(task: Task, entry: Entry, at: int) -> dict[str, Any]:
    record: dict[str, Any] = {
        "family": FAMILY,
        "label": task.shape,
        "question": task.question,
        "answer": task.answer,
        "source_spans": _spans(task, entry, at),
        "filter": None,
        "parent": entry.text.document.id,
    }
    if task.options:
        record["options"] = list(task.options)
    if task.rationale:
        record["rationale"] = task.rationale
    return record


def _spans(task: Task, entry: Entry, at: int) -> list[list[int]]:
    """Where the answer stands in the texts read; empty where it is not quoted."""
    text = entry.text.text
    folded, wanted = text.casefold(), task.answer.casefold()
    found = folded.find(wanted)
    if found < 0 or len(folded) != len(text) or len(wanted) != len(task.answer):
        return []
    return [[at + found, at + found + len(task.answer)]]
