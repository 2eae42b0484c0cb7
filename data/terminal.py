"""Prepared streams on a terminal: facts, documents beside their tasks, packed rows."""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from data.document import Document
from data.lesson import Lesson, lesson
from data.view import Kind, RowView, Segment, StreamView

LEGEND: dict[Kind, str] = {
    "supervised": "supervised: a target of the loss",
    "context": "context: seen, not predicted",
    "special": "special token (underlined where it is supervised)",
}
STYLES: dict[Kind, str] = {"supervised": "green", "context": "bright_black", "special": "magenta"}
FAMILY_STYLES = {
    "nli": "dodger_blue2",
    "cause": "dark_orange",
    "paraphrase": "medium_purple",
    "keyword": "green3",
    "definition": "red3",
    "topic": "turquoise4",
    "question": "deep_pink3",
    "section": "gold3",
    "title": "orchid",
    "completion": "grey58",
}
OTHER_STYLE = "cyan3"
# Characters of a text that are shown; the HTML page shows all.
SHOWN = 700
SHOWN_READ = 4000
WIDE = 100  # columns from which a text and its tasks stand side by side


def print_views(views: Sequence[StreamView]) -> None:
    """Shows the streams."""
    console = Console()
    rows = False
    for view in views:
        console.rule(f"[bold]{view.name}")
        width = max((len(name) for name, _ in view.facts), default=0)
        for name, value in view.facts:
            console.print(Text(f"{name:<{width}}  ", style="bold").append(value, style="default"))
        for document in view.documents:
            _print_document(console, document)
        for row in view.rows:
            rows = True
            _print_row(console, view.name, row)
    if rows:
        legend = Text("\n")
        for kind, meaning in LEGEND.items():
            legend.append(f"{meaning}   ", style=STYLES[kind])
        console.print(legend)


def segment_title(number: int, segment: Segment) -> str:
    """Where a segment is in its row, and how much of it is supervised."""
    count = segment.stop - segment.start
    return (
        f"segment {number}, tokens {segment.start}-{segment.stop - 1} ({count}), "
        f"{segment.num_supervised} supervised, {segment.place}"
    )


def about(document: Document) -> str:
    """Where a document is from, and what is known about it, on one line."""
    told = [
        f"{key}: {value}"
        for key, value in document.meta.items()
        if value is not None and key not in ("tasks", "read") and value != document.id
    ]
    return _short("  ".join([document.source, *told]), 160)


def _print_document(console: Console, document: Document) -> None:
    console.print(Text(f"\ndocument {document.id}  {about(document)}", style="bold cyan"))
    found = lesson(document)
    if found is None:
        for turn in document.turns:
            role = "" if turn.role == "text" else f"[{turn.role}] "
            console.print(Text(role, style="bold").append(_short(turn.text), style="default"))
        return
    source = Group(Text("what is read", style="bold"), _source(found))
    asked = Group(*_asked(found))
    if console.width >= WIDE:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        table.add_row(source, asked)
        console.print(table)
    else:
        console.print(source, asked)


def _source(found: Lesson) -> Text:
    text, left = Text(), SHOWN_READ
    for run in found.runs:
        style = ""
        if run.tasks:
            style = f"underline {family_style(found.tasks[run.tasks[0]].family)}"
        text.append(_short(run.text, left), style=style)
        numbers = ",".join(str(number + 1) for number in run.tasks)
        if numbers:
            text.append(f"[{numbers}]", style="bright_black")
        left -= len(run.text)
        if left <= 0:
            break
    return text


def _asked(found: Lesson) -> list[Text]:
    lines = [Text(f"{len(found.tasks)} tasks", style="bold")]
    for number, task in enumerate(found.tasks, 1):
        style = family_style(task.family)
        kind = task.family if task.label == task.family else f"{task.family}: {task.label}"
        head = Text(f"{number}. {kind}", style=f"bold {style}")
        if task.filter:
            head.append(f"  left out: {task.filter}", style="bright_black")
        lines += [
            head,
            Text(_short(task.question.strip(), SHOWN), style=style),
            Text("→ ", style="bold").append(
                _short(task.answer.strip(), SHOWN), style=f"bold {style}"
            ),
        ]
    return lines


def family_style(family: str) -> str:
    """The colour of a family of tasks."""
    return FAMILY_STYLES.get(family, OTHER_STYLE)


def _print_row(console: Console, stream: str, row: RowView) -> None:
    fill = 100 * row.num_tokens / row.seq_len
    console.print(
        Text(
            f"\nrow {row.index} of {stream}: {len(row.segments)} segments, "
            f"{row.num_tokens} of {row.seq_len} tokens ({fill:.1f} %)",
            style="bold yellow",
        )
    )
    for i, segment in enumerate(row.segments, 1):
        console.print(Text(segment_title(i, segment), style="bold"))
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


def _short(text: str, most: int = SHOWN) -> str:
    most = max(most, 0)
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most} more characters)"
