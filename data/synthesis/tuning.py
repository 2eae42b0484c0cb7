"""Tuning data of the instruction synthesizer: texts with their pairs, shot behind shot in a window.

A row of the tuning collection (`context`, `QA_list` of `{Q, A}`, `rc_name`) is read as a
conversation about a text, the text being its system turn:

    fields: {system: context, turns: QA_list, dataset: rc_name}
    convert: tuning
    chat: {template: synthesizer, train_on: assistant}

`few_shot` lines up rows of one data set until a window is full, so that a synthesizer learns to go
on from the examples before; the chat template writes the format and supervises the pairs alone.
What kind of task a pair is stands inside its strings already (data/synthesis/format.py).
Source: Instruction Pre-Training, tuning collection; no tuning code was published.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from data.chat import encode_document
from data.config import ChatConfig
from data.document import Document
from data.synthesis.format import EOS, unwritable
from data.tally import Tally
from data.tokenizer import Tokenizer

TEMPLATE = "synthesizer"


def few_shot(
    documents: Iterable[Document],
    *,
    tokenizer: Tokenizer,
    chat: ChatConfig,
    seq_len: int,
    tally: Tally,
) -> Iterator[Document]:
    """Rows of one data set (`meta.dataset`) behind each other, as many as a window holds.

    Args:
        documents: each a text (system turn) and its pairs (user, assistant, ...).
        tokenizer: counts the tokens of what `chat.template` writes.
        chat: the corpus' own; its template must be `synthesizer`.
        seq_len: tokens of a window. A row that is longer alone is removed: its last pairs would
            stand in a window without their text.
        tally: gets the removed rows, and `shots{dataset}` and `pairs{dataset}`.

    Yields:
        Documents with the first row's id and `meta.parents`, the ids of all their rows.

    Raises:
        ValueError: `chat` is not the synthesizer's.
    """
    if chat.template != TEMPLATE or chat.train_on != "assistant" or chat.system is not None:
        raise ValueError(
            f"corpora.{tally.name}.chat: convert: tuning is written by the template {TEMPLATE} with "
            f"its pairs supervised; say chat: {{template: {TEMPLATE}, train_on: assistant}}"
        )
    waiting: dict[str, tuple[list[Document], int]] = {}
    for document in documents:
        if reason := _unusable(document):
            tally.remove(document, "tuning", reason)
            continue
        length = _length(document, tokenizer, chat)
        if length > seq_len:
            tally.remove(document, "tuning", "longer than the window", f"{length} tokens")
            continue
        dataset = document.meta.get("dataset", "")
        shots, held = waiting.get(dataset, ([], 0))
        if shots and held + length > seq_len:
            yield _joined(shots, dataset, tally)
            shots, held = [], 0
        waiting[dataset] = [*shots, document], held + length
    for dataset, (shots, _) in sorted(waiting.items()):
        yield _joined(shots, dataset, tally)


def _length(document: Document, tokenizer: Tokenizer, chat: ChatConfig) -> int:
    """Tokens of one shot; a sum of them is never less than what the shots make together.

    Where `</s>` is a special token the texts on its sides are tokenized apart, and sums are exact.
    Else they may join over the seam, which saves tokens, but never costs more than one.
    """
    encoded = encode_document(document, tokenizer, chat, add_bos=False, add_eos=False)
    return len(encoded.tokens) + (EOS not in tokenizer.special_ids)


def _unusable(document: Document) -> str | None:
    """Why a document is no text with pairs; None if it is one."""
    roles = [turn.role for turn in document.turns]
    pairs = len(roles) // 2
    if roles[:1] != ["system"]:
        return "no text"
    if pairs == 0:
        return "no pairs"
    if roles[1:] != ["user", "assistant"] * pairs:
        return "questions and answers do not alternate"
    for turn in document.turns:
        if mark := unwritable(turn.text):
            return f"a mark of the format stands in it: {mark}"
    return None


def _joined(shots: list[Document], dataset: str, tally: Tally) -> Document:
    turns = tuple(turn for shot in shots for turn in shot.turns)
    pairs = sum(turn.role == "assistant" for turn in turns)
    tally.add({"shots": {dataset: len(shots)}, "pairs": {dataset: pairs}})
    ids = [shot.id for shot in shots]
    return replace(shots[0], turns=turns, meta=shots[0].meta | {"parent": ids[0], "parents": ids})
