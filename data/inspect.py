"""Shows what was prepared: `python -m data.inspect DIR [--documents N] [--rows N] [--html FILE]`.

DIR is the `out_dir` of a preparation, or one stream in it. Shown are converted documents, and packed rows with their
segments; text is coloured by the loss mask as it lies on disk, so what is seen is what is trained on.
"""

import argparse
import html
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from etils import epath

from data import rows as rows_lib
from data.document import Document
from data.pack import Row
from data.tokenizer import Tokenizer, load_tokenizer

Kind = Literal["supervised", "context", "special"]
LEGEND: dict[Kind, str] = {
    "supervised": "supervised: a target of the loss",
    "context": "context: seen, not predicted",
    "special": "special token (underlined where it is supervised)",
}
STYLES: dict[Kind, str] = {"supervised": "green", "context": "bright_black", "special": "magenta"}
# Characters of a text shown on a terminal; the HTML page shows all.
SHOWN = 700


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


def inspect(folder: str, *, num_documents: int = 3, num_rows: int = 2) -> list[StreamView]:
    """Reads what is to be shown of a prepared folder, or of one stream.

    Raises:
        ValueError: there is no finished stream, or no tokenizer that it was made with.
    """
    paths = find_streams(folder)
    return [_view(path, num_documents, num_rows) for path in paths]


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
                    f"(fingerprints {tokenizer.fingerprint[:12]}, {fingerprint[:12]}); run data.prepare again"
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


def to_html(views: Sequence[StreamView]) -> str:
    """One page that needs no other file."""
    return _PAGE.format(
        legend=" ".join(f'<span class="{kind}">{text}</span>' for kind, text in LEGEND.items()),
        body="\n".join(_html_stream(view) for view in views),
    )


def print_views(views: Sequence[StreamView]) -> None:
    """Shows the streams on the terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for view in views:
        console.rule(f"[bold]{view.name}")
        width = max(len(name) for name, _ in view.facts)
        for name, value in view.facts:
            console.print(Text(f"{name:<{width}}  ", style="bold").append(value, style="default"))
        for document in view.documents:
            console.print(Text(f"\ndocument {document.id}  {_meta(document)}", style="bold cyan"))
            for turn in document.turns:
                role = "" if turn.role == "text" else f"[{turn.role}] "
                console.print(Text(role, style="bold").append(_short(turn.text), style="default"))
        for row in view.rows:
            fill = 100 * row.num_tokens / row.seq_len
            console.print(
                Text(
                    f"\nrow {row.index} of {view.name}: {len(row.segments)} segments, "
                    f"{row.num_tokens} of {row.seq_len} tokens ({fill:.1f} %)",
                    style="bold yellow",
                )
            )
            for i, segment in enumerate(row.segments, 1):
                console.print(Text(_segment_title(i, segment), style="bold"))
                text = Text()
                left = SHOWN
                for span in segment.spans:
                    style = STYLES[span.kind]
                    if span.kind == "special" and span.supervised:
                        style += " underline"
                    text.append(_short(span.text, left), style=style)
                    left -= len(span.text)
                    if left <= 0:
                        break
                console.print(text)
    legend = Text("\n")
    for kind, meaning in LEGEND.items():
        legend.append(f"{meaning}   ", style=STYLES[kind])
    console.print(legend)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    from configs.load import user_errors

    parser = argparse.ArgumentParser("python -m data.inspect", description=__doc__)
    parser.add_argument("DIR", help="a folder written by data.prepare, or one stream in it")
    parser.add_argument(
        "--documents", type=int, default=3, metavar="N", help="documents to show of each stream"
    )
    parser.add_argument(
        "--rows", type=int, default=2, metavar="N", help="packed rows to show of each stream"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page instead of printing")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    with user_errors():
        views = inspect(options.DIR, num_documents=options.documents, num_rows=options.rows)
        if options.html:
            epath.Path(options.html).write_text(to_html(views))
            print(f"{options.html}: {len(views)} streams; open it in a browser")
        else:
            print_views(views)


# --- reading ----------------------------------------------------------------------------------------------------


def _view(path: epath.Path, num_documents: int, num_rows: int) -> StreamView:
    info = rows_lib.read_stream(path)
    assert info is not None
    tokenizer = find_tokenizer(path, info["tokenizer"])
    # Spread over the stream, and not the first: long documents are packed first and fill rows alone.
    num_rows = min(num_rows, info["num_rows"])
    chosen = [(2 * k + 1) * info["num_rows"] // (2 * num_rows) for k in range(num_rows)]
    rows = [view_row(i, next(rows_lib.read_rows(path, i, i + 1)), tokenizer) for i in chosen]
    return StreamView(
        name=info["name"],
        facts=tuple(_facts(path, info, tokenizer)),
        documents=tuple(_documents(path, num_documents)),
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


def _documents(path: epath.Path, count: int) -> Iterator[Document]:
    # The held-out folder has one file of documents, a stream has one to a partition.
    files = sorted(path.glob("documents*.jsonl.zst")) or sorted((path / "documents").glob("*.zst"))
    for file in files:
        for line in rows_lib.read_lines(file):
            if count <= 0:
                return
            count -= 1
            yield Document.from_json(line)


def _spans(
    tokens: np.ndarray, mask: np.ndarray, tokenizer: Tokenizer, names: dict[int, str]
) -> Iterator[Span]:
    special = np.isin(tokens, list(names))
    changes = (special[1:] != special[:-1]) | (mask[1:] != mask[:-1])
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(tokens)]
    # Decoding a run by itself loses the space before it, so texts are differences of growing prefixes.
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


# --- showing ----------------------------------------------------------------------------------------------------


def _segment_title(number: int, segment: Segment) -> str:
    count = segment.stop - segment.start
    return (
        f"segment {number}, tokens {segment.start}-{segment.stop - 1} ({count}), "
        f"{segment.num_supervised} supervised, {segment.place}"
    )


def _short(text: str, most: int = SHOWN) -> str:
    most = max(most, 0)
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most} more characters)"


def _meta(document: Document) -> str:
    told = [f"{key}: {value}" for key, value in document.meta.items() if value is not None]
    return _short("  ".join([document.source, *told]), 160)


def _html_stream(view: StreamView) -> str:
    facts = "".join(f"<tr><th>{_text(n)}</th><td>{_text(v)}</td></tr>" for n, v in view.facts)
    documents = "".join(_html_document(document) for document in view.documents)
    rows = "".join(_html_row(view.name, row) for row in view.rows)
    return (
        f"<section><h2>{_text(view.name)}</h2><table>{facts}</table>"
        f"<h3>Documents, converted</h3>{documents}<h3>Rows, packed</h3>{rows}</section>"
    )


def _html_document(document: Document) -> str:
    turns = "".join(
        f"<p><b>{turn.role}</b></p><pre>{_text(turn.text)}</pre>" for turn in document.turns
    )
    title = _text(f"{document.id}  {_meta(document)}")
    return f"<details open><summary>{title}</summary>{turns}</details>"


def _html_row(stream: str, row: RowView) -> str:
    bar = "".join(
        f'<i style="flex:{s.stop - s.start}" title="{_text(_segment_title(i, s))}"></i>'
        for i, s in enumerate(row.segments, 1)
    )
    padding = row.seq_len - row.num_tokens
    if padding:
        bar += f'<i class="padding" style="flex:{padding}" title="{padding} padding"></i>'
    segments = "".join(
        f"<p>{_text(_segment_title(i, s))}</p><pre>{''.join(map(_html_span, s.spans))}</pre>"
        for i, s in enumerate(row.segments, 1)
    )
    fill = 100 * row.num_tokens / row.seq_len
    title = f"row {row.index} of {stream}: {row.num_tokens} of {row.seq_len} tokens ({fill:.1f} %)"
    return f'<details open><summary>{_text(title)}</summary><div class="bar">{bar}</div>{segments}</details>'


def _html_span(span: Span) -> str:
    supervised = " target" if span.kind == "special" and span.supervised else ""
    return f'<span class="{span.kind}{supervised}">{_text(span.text)}</span>'


def _text(text: str) -> str:
    return html.escape(text)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Prepared streams</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
th {{ text-align: left; padding-right: 2rem; font-weight: 600; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; margin: .2rem 0 1rem; }}
summary {{ font-weight: 600; margin-top: 1rem; }}
.bar {{ display: flex; height: 1rem; gap: 1px; margin: .5rem 0; }}
.bar i {{ background: #3a7ca5; min-width: 1px; }}
.bar i:nth-child(even) {{ background: #81b29a; }}
.bar i.padding {{ background: repeating-linear-gradient(45deg, #999 0 3px, transparent 3px 6px); }}
.supervised {{ background: #2a9d5c40; }}
.context {{ opacity: .6; }}
.special {{ background: #b5179e30; border-radius: 3px; font-weight: 600; }}
.target {{ text-decoration: underline; }}
</style></head><body><h1>Prepared streams</h1><p>{legend}</p>
{body}
</body></html>
"""


if __name__ == "__main__":
    main()
