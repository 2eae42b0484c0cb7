"""Prepared streams as one HTML page that needs no other file.

A text and what is asked about it stand side by side; a family has its colour in both, and pointing
at a task shows the places that it is made of.
"""

import html
from collections.abc import Sequence
from pathlib import Path

from data.document import Document
from data.lesson import Lesson, Piece, Run, lesson
from data.terminal import FAMILY_STYLES, LEGEND, about, segment_title
from data.view import RowView, Span, StreamView

SHOWN_ANSWER = 250
FILES = Path(__file__).parent / "page_files"


def to_html(views: Sequence[StreamView]) -> str:
    """The page."""
    legend = " ".join(f'<span class="{kind}">{text}</span>' for kind, text in LEGEND.items())
    families = {
        task["family"]: None
        for view in views
        for document in view.documents
        for task in document.meta.get("tasks") or ()
    }
    colours = " ".join(
        f'<b class="family {family_class(family)}">{_text(family)}</b>'
        for family in sorted(families)
    )
    body = "\n".join(_stream(view) for view in views)
    return page(
        "Prepared streams",
        f"<p>{colours}</p><p>{legend if any(view.rows for view in views) else ''}</p>\n{body}",
    )


def page(title: str, body: str) -> str:
    """A whole page around `body`, with the style and the few lines of script that it needs."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>\n{(FILES / 'style.css').read_text()}</style></head>"
        f"<body><h1>{_text(title)}</h1>\n{body}\n"
        f"<script>\n{(FILES / 'point.js').read_text()}</script></body></html>\n"
    )


def _stream(view: StreamView) -> str:
    facts = "".join(f"<tr><th>{_text(n)}</th><td>{_text(v)}</td></tr>" for n, v in view.facts)
    documents = "".join(_document(document) for document in view.documents)
    rows = "".join(_row(view.name, row) for row in view.rows)
    parts = [f'<section><h2>{_text(view.name)}</h2><table class="facts">{facts}</table>']
    if documents:
        parts.append(f"<h3>Documents, converted</h3>{documents}")
    if rows:
        parts.append(f"<h3>Rows, packed</h3>{rows}")
    return "".join(parts) + "</section>"


def _document(document: Document) -> str:
    title = _text(f"{document.id}  {about(document)}")
    found = lesson(document)
    if found is not None:
        return f"<details open><summary>{title}</summary>{_lesson(found)}</details>"
    turns = "".join(
        f"<p><b>{turn.role}</b></p><pre>{_text(turn.text)}</pre>" for turn in document.turns
    )
    return f"<details open><summary>{title}</summary>{turns}</details>"


# --- a text beside its tasks ----------------------------------------------------------------------


def _lesson(found: Lesson) -> str:
    source = "".join(_run(found, run) for run in found.runs)
    tasks = "".join(_task(found, number) for number in range(len(found.tasks)))
    finished = "".join(
        f'<p class="role">{"" if role == "text" else role}</p>'
        f"<pre>{''.join(_piece(found, piece) for piece in pieces)}</pre>"
        for role, pieces in found.turns
    )
    return (
        '<div class="lesson">'
        f"<div><h4>What is read</h4><pre>{source}</pre></div>"
        f"<div><h4>What is asked</h4>{tasks}</div>"
        '</div><details class="finished"><summary>The finished text, as it is trained on</summary>'
        f"{finished}</details>"
    )


def _run(found: Lesson, run: Run) -> str:
    if not run.tasks:
        return _text(run.text)
    families = dict.fromkeys(family_class(found.tasks[number].family) for number in run.tasks)
    told = ", ".join(f"{n + 1} {found.tasks[n].family}: {found.tasks[n].label}" for n in run.tasks)
    # One line for each family, one under the other, all of them below the letters.
    lines = ",".join(
        f"linear-gradient(var(--{family}),var(--{family})) "
        f"0 calc(100% - {3 * i}px)/100% 2px no-repeat"
        for i, family in enumerate(families)
    )
    marks = " ".join(f"t{number}" for number in run.tasks)
    return (
        f'<span class="mined {marks}" style="background:{lines};padding-bottom:{3 * len(families)}px" '
        f'title="{_text(told)}">{_text(run.text)}</span>'
    )


def _task(found: Lesson, number: int) -> str:
    task = found.tasks[number]
    kind = task.family if task.label == task.family else f"{task.family}: {task.label}"
    left_out = f" <i>left out: {_text(task.filter)}</i>" if task.filter else ""
    return (
        f'<div class="task {family_class(task.family)}" data-task="t{number}">'
        f'<b class="family {family_class(task.family)}">{number + 1} {_text(kind)}</b>{left_out}'
        f"<pre>{_text(task.question.strip())}</pre>"
        f'<pre class="answer">{_text(_shortened(task.answer.strip()))}</pre></div>'
    )


def _shortened(answer: str) -> str:
    """An answer that is a text of its own is to be read below, in the finished text."""
    return answer if len(answer) <= 2 * SHOWN_ANSWER else f"{answer[:SHOWN_ANSWER]} …"


def _piece(found: Lesson, piece: Piece) -> str:
    if piece.kind == "frame":
        return _text(piece.text)
    family = "" if piece.task is None else f" {family_class(found.tasks[piece.task].family)}"
    return f'<span class="p-{piece.kind}{family}">{_text(piece.text)}</span>'


def family_class(family: str) -> str:
    """The class that a family's colour goes by."""
    return f"f-{family}" if family in FAMILY_STYLES else "f-other"


# --- packed rows ----------------------------------------------------------------------------------


def _row(stream: str, row: RowView) -> str:
    bar = "".join(
        f'<i style="flex:{s.stop - s.start}" title="{_text(segment_title(i, s))}"></i>'
        for i, s in enumerate(row.segments, 1)
    )
    padding = row.seq_len - row.num_tokens
    if padding:
        bar += f'<i class="padding" style="flex:{padding}" title="{padding} padding"></i>'
    segments = "".join(
        f"<p>{_text(segment_title(i, s))}</p><pre>{''.join(map(_span, s.spans))}</pre>"
        for i, s in enumerate(row.segments, 1)
    )
    fill = 100 * row.num_tokens / row.seq_len
    title = f"row {row.index} of {stream}: {row.num_tokens} of {row.seq_len} tokens ({fill:.1f} %)"
    summary = f"<summary>{_text(title)}</summary>"
    return f'<details open>{summary}<div class="bar">{bar}</div>{segments}</details>'


def _span(span: Span) -> str:
    supervised = " target" if span.kind == "special" and span.supervised else ""
    return f'<span class="{span.kind}{supervised}">{_text(span.text)}</span>'


def _text(text: str) -> str:
    return html.escape(text)
