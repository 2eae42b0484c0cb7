"""Shows what was prepared: `python -m data.inspect DIR [--documents N] [--rows N] [--html FILE]`.

DIR is the `out_dir` of a preparation, or one stream in it. Shown are converted documents, and
packed rows with their segments; text is coloured by the loss mask as it lies on disk, so what is
seen is what is trained on.
"""

import argparse
import html
import sys
from collections.abc import Sequence

from etils import epath

from data.document import Document
from data.view import Kind, RowView, Segment, Span, StreamView, view_streams

LEGEND: dict[Kind, str] = {
    "supervised": "supervised: a target of the loss",
    "context": "context: seen, not predicted",
    "special": "special token (underlined where it is supervised)",
}
STYLES: dict[Kind, str] = {"supervised": "green", "context": "bright_black", "special": "magenta"}
# Characters of a text shown on a terminal; the HTML page shows all.
SHOWN = 700


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
        views = view_streams(options.DIR, num_documents=options.documents, num_rows=options.rows)
        if options.html:
            epath.Path(options.html).write_text(to_html(views))
            print(f"{options.html}: {len(views)} streams; open it in a browser")
        else:
            print_views(views)


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
    summary = f"<summary>{_text(title)}</summary>"
    return f'<details open>{summary}<div class="bar">{bar}</div>{segments}</details>'


def _html_span(span: Span) -> str:
    supervised = " target" if span.kind == "special" and span.supervised else ""
    return f'<span class="{span.kind}{supervised}">{_text(span.text)}</span>'


def _text(text: str) -> str:
    return html.escape(text)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Prepared streams</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }}
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
