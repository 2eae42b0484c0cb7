"""What there is to see of prepared streams: facts, converted documents, packed rows as text.

Text is marked by the loss mask as it lies on disk, so what is seen is what is trained on.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from etils import epath

from data import rows as rows_lib
from data.document import Document
from data.pack import Row
from data.tokenizer import Tokenizer, load_tokenizer

Kind = Literal["supervised", "context", "special"]


@dataclass(frozen=True)
class Span:
    """A run of tokens that are treated alike, as text."""

    text: str
    kind: Kind
    supervised: bool


@dataclass(frozen=True)
class Segment:
    """One document, or a piece of one, in a row."""

    start: int
    stop: int
    num_supervised: int
    spans: tuple[Span, ...]
    place: str


@dataclass(frozen=True)
class RowView:
    """A packed row, readable."""

    index: int
    segments: tuple[Segment, ...]
    seq_len: int

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return self.segments[-1].stop if self.segments else 0


@dataclass(frozen=True)
class StreamView:
    """What is shown of one stream: facts as (name, value), documents, rows."""

    name: str
    facts: tuple[tuple[str, str], ...]
    documents: tuple[Document, ...]
    rows: tuple[RowView, ...]


def view_streams(folder: str, *, num_documents: int = 3, num_rows: int = 2) -> list[StreamView]:
    """Reads what is to be shown of a prepared folder, or of one stream.

    Raises:
        ValueError: there is no finished stream, or no tokenizer that it was made with.
    """
    paths = find_streams(folder)
    return [_view(path, num_documents, num_rows) for path in paths]


def view_documents(folder: str, wanted: str) -> list[StreamView]:
    """The documents that go by an id, by stream.

    It is their own, that of the document that they are made of, or the user's. A part of a document
    (`ID#2`) is shown by itself, `ID` shows all of them.

    Raises:
        ValueError: no stream has it.
    """
    views = []
    for path in find_streams(folder):
        found = tuple(d for d in read_documents(path, wanted) if _goes_by(d, wanted))
        if found:
            views.append(StreamView(str(path.name), (("folder", str(path)),), found, ()))
    if not views:
        raise ValueError(
            f"--id: no document {wanted!r} in {folder}: neither as its id, nor as meta.parent or "
            "meta.source_id"
        )
    return views


def read_documents(path: epath.Path, containing: str = "") -> Iterator[Document]:
    """The converted documents of a stream, partition by partition.

    With `containing`, those whose line has it somewhere.
    """
    # The held-out folder has one file of documents, a stream has one to a partition.
    files = sorted(path.glob("documents*.jsonl.zst")) or sorted((path / "documents").glob("*.zst"))
    needle = json.dumps(containing, ensure_ascii=False)[1:-1]
    for file in files:
        for line in rows_lib.read_lines(file):
            if needle in line:
                yield Document.from_json(line)


def _goes_by(document: Document, wanted: str) -> bool:
    parents = document.meta.get("parents") or document.meta.get("parent") or []
    parents = [parents] if isinstance(parents, str) else parents
    return wanted in (document.id, document.meta.get("source_id"), *parents)


def find_streams(folder: str) -> list[epath.Path]:
    """The finished streams in a folder: itself, or those one level below."""
    root = epath.Path(folder)
    if not root.exists():
        raise ValueError(f"DIR: {folder} does not exist")
    if (root / "stream.json").exists():
        return [root]
    found = sorted(path.parent for path in root.glob("*/stream.json"))
    if not found:
        raise ValueError(
            f"DIR: {folder} holds no finished stream (no stream.json there or one level below); "
            "run data.prepare to its end first"
        )
    return found


def find_tokenizer(stream: epath.Path, fingerprint: str) -> Tokenizer:
    """The tokenizer that a stream was made with, from the folder beside it."""
    for above in (stream, stream.parent, stream.parent.parent):
        if (above / "tokenizer").exists():
            tokenizer = load_tokenizer(str(above / "tokenizer"))
            if tokenizer.fingerprint != fingerprint:
                raise ValueError(
                    f"{above / 'tokenizer'}: is not the tokenizer that {stream} was made with "
                    f"(fingerprints {tokenizer.fingerprint[:12]}, {fingerprint[:12]}); "
                    "run data.prepare again"
                )
            return tokenizer
    raise ValueError(f"DIR: no folder `tokenizer` beside {stream}; it was not moved along")


def view_row(index: int, row: Row, tokenizer: Tokenizer) -> RowView:
    """A row with its segments as text."""
    names = {id_: text for text, id_ in tokenizer.special_ids.items()}
    for id_, name in ((tokenizer.bos_id, "<BOS>"), (tokenizer.eos_id, "<EOS>")):
        if id_ is not None:
            names.setdefault(id_, name)
    segments = []
    for segment in range(1, int(row.segment_ids.max(initial=0)) + 1):
        where = np.flatnonzero(row.segment_ids == segment)
        tokens, mask = row.tokens[where], row.loss_mask[where]
        begins = tokenizer.bos_id is None or tokens[0] == tokenizer.bos_id
        ends = tokens[-1] == tokenizer.eos_id
        place = "begins with BOS, " if begins and tokenizer.bos_id is not None else "no BOS, "
        place += "ends with EOS" if ends else "no EOS"
        segments.append(
            Segment(
                start=int(where[0]),
                stop=int(where[-1]) + 1,
                num_supervised=int(mask.sum()),
                spans=tuple(_spans(tokens, mask, tokenizer, names)),
                place=place,
            )
        )
    return RowView(index, tuple(segments), len(row.tokens))


def _view(path: epath.Path, num_documents: int, num_rows: int) -> StreamView:
    info = rows_lib.read_stream(path)
    assert info is not None
    tokenizer = find_tokenizer(path, info["tokenizer"])
    # Spread over the stream, and not the first: long documents are packed first and fill rows
    # alone.
    num_rows = min(num_rows, info["num_rows"])
    chosen = [(2 * k + 1) * info["num_rows"] // (2 * num_rows) for k in range(num_rows)]
    rows = [view_row(i, next(rows_lib.read_rows(path, i, i + 1)), tokenizer) for i in chosen]
    return StreamView(
        name=info["name"],
        facts=tuple(_facts(path, info, tokenizer)),
        documents=tuple(itertools.islice(read_documents(path), num_documents)),
        rows=tuple(rows),
    )


def _facts(
    path: epath.Path, info: dict[str, Any], tokenizer: Tokenizer
) -> Iterator[tuple[str, str]]:
    tokens, places = info["tokens"], info["num_rows"] * info["seq_len"]
    yield "folder", str(path)
    yield (
        "rows",
        f"{info['num_rows']:,} of {info['seq_len']:,} tokens in {len(info['shards'])} shards",
    )
    yield "fill", f"{100 * tokens / places:.2f} % ({tokens:,} tokens, {places - tokens:,} padding)"
    yield "supervised", f"{info['supervised']:,} tokens ({100 * info['supervised'] / tokens:.1f} %)"
    yield "documents", f"{info['documents']:,}"
    yield "tokenizer", f"{tokenizer.kind}, {info['vocab_size']:,} entries, {info['tokenizer'][:12]}"
    yield "BOS", _told(info["add_bos"], "begins", tokenizer.bos_id, tokenizer)
    yield "EOS", _told(info["add_eos"], "ends", tokenizer.eos_id, tokenizer)
    heldout = rows_lib.read_stream(path / "heldout")
    if heldout:
        yield (
            "held out",
            f"{heldout['documents']:,} documents, {heldout['num_rows']:,} rows to measure on",
        )


def _told(added: bool, verb: str, id_: int | None, tokenizer: Tokenizer) -> str:
    if not added:
        return f"not added: a document {verb} with its own first or last token"
    text = {i: text for text, i in tokenizer.special_ids.items()}.get(id_ or 0, "")
    return f"every document {verb} with {text} (id {id_}); a piece of a split one need not"


def _spans(
    tokens: np.ndarray, mask: np.ndarray, tokenizer: Tokenizer, names: dict[int, str]
) -> Iterator[Span]:
    special = np.isin(tokens, list(names))
    changes = (special[1:] != special[:-1]) | (mask[1:] != mask[:-1])
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(tokens)]
    # Decoding a run by itself loses the space before it, so texts are differences of growing
    # prefixes.
    told = ""
    for start, stop in itertools.pairwise(bounds):
        if special[start]:
            text = "".join(names[int(token)] for token in tokens[start:stop])
            yield Span(text, "special", bool(mask[start]))
            continue
        before = told
        told = tokenizer.decode(tokens[:stop][~special[:stop]])
        shared = len(before) if told.startswith(before) else len(before.rstrip("\ufffd"))
        yield Span(told[shared:], "supervised" if mask[start] else "context", bool(mask[start]))
