"""`card.html`: the card of a prepared corpus as a page for people, which needs no other file.

It shows what is in `card.json`, and samples of what was taken away from `set_aside.jsonl.zst`; so it
depends on the documents and the recipe alone, as they do. Counts that no part of the page knows are
shown as tables.
"""

import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from data import rows as rows_lib
from data.page import family_class, page

SAMPLES = 3  # shown of each reason
SAMPLE_CHARS = 240
LISTED = 50  # entries of a list that are shown
Samples = Mapping[tuple[str, str], Sequence[Mapping[str, str]]]

# Told by the parts of the page; every other key of a card has a table of its own.
_TOLD = {
    "name", "convert", "documents_in", "documents_kept", "documents_out", "bytes_in", "bytes_kept",
    "tokens_in", "tokens_out", "supervised", "partitions", "seq_len", "rows", "fill", "heldout",
    "removed", "duplicates", "lengths", "document_bytes", "tasks", "labels", "contamination",
    "languages", "licences", "fertility",
}  # fmt: skip


def write_card_page(folder: str | os.PathLike) -> None:
    """Writes `card.html` beside the `card.json` of a corpus."""
    out = epath.Path(folder)
    card = json.loads((out / "card.json").read_text())
    set_aside = out / "set_aside.jsonl.zst"
    lines = rows_lib.read_lines(set_aside) if set_aside.exists() else ()
    with rows_lib.whole_file(out / "card.html") as local:
        local.write_text(card_page(card, samples_of(lines)), encoding="utf-8")


def samples_of(lines: Iterable[str]) -> Samples:
    """The first few lines of `set_aside.jsonl.zst` for each stage and reason."""
    samples: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for line in lines:
        item = json.loads(line)
        kind = item["reason"].split(":", 1)[0].strip()
        kept = samples.setdefault((item.get("stage", "read"), kind), [])
        if len(kept) < SAMPLES:
            kept.append(item)
    return samples


def card_page(card: Mapping[str, Any], samples: Samples) -> str:
    """The page of one card."""
    others = [
        f"<h2>{_words(key)}</h2>{_table_of(value)}"
        for key, value in card.items()
        if key not in _TOLD and isinstance(value, Mapping | list) and value
    ]
    figures = [
        f"<tr><th>{_words(key)}</th><td>{_number(value)}</td></tr>"
        for key, value in card.items()
        if key not in _TOLD and not isinstance(value, Mapping | list)
    ]
    parts = [
        _headline(card),
        _whereabouts(card),
        _tasks(card),
        _histogram("Tokens in a text", card.get("lengths"), "tokens"),
        _histogram("Bytes in a document, before conversion", card.get("document_bytes"), "bytes"),
        _shares("Languages", card.get("languages")),
        _fertility(card),
        _removed(card, samples),
        _contamination(card),
        _shares("Licences", card.get("licences")),
        *others,
        f'<h2>Other figures</h2><table class="facts">{"".join(figures)}</table>' if figures else "",
    ]
    return page(f"Corpus {card['name']}", "\n".join(filter(None, parts)))


# --- parts ----------------------------------------------------------------------------------------


def _headline(card: Mapping[str, Any]) -> str:
    tokens_in = card.get("tokens_in")
    grown = f" ({card['tokens_out'] / tokens_in:.2f} × the {tokens_in:,} read)" if tokens_in else ""
    figures = [
        ("documents read", card["documents_in"]),
        ("kept", card.get("documents_kept", card["documents_out"])),
        ("texts", card["documents_out"]),
        ("tokens", card["tokens_out"]),
        ("supervised", card["supervised"]),
        ("tasks", sum(_leaves(card.get("tasks") or {}))),
        ("duplicates removed", card.get("duplicates", 0)),
        ("held out", (card.get("heldout") or {}).get("documents", 0)),
    ]
    tiles = "".join(
        f'<div class="tile"><b>{value:,}</b><span>{name}</span></div>' for name, value in figures
    )
    return (
        f"<p>convert: <b>{_text(card['convert'])}</b>. {card['bytes_in'] / 1e6:,.1f} MB of text "
        f"became {card['tokens_out']:,} tokens{grown} in {card['rows']:,} rows of "
        f"{card['seq_len']:,}, {100 * card['fill']:.2f} % full.</p>"
        f'<div class="tiles">{tiles}</div>'
    )


def _whereabouts(card: Mapping[str, Any]) -> str:
    """One bar: of every row that was read, where it went."""
    removed = {stage: sum(_leaves(reasons)) for stage, reasons in card["removed"].items()}
    parts = {
        "in the stream": card.get("documents_kept", card["documents_out"]),
        "held out": (card.get("heldout") or {}).get("documents", 0),
        **{f"removed: {stage}": count for stage, count in removed.items()},
    }
    total = max(sum(parts.values()), 1)
    bar = "".join(
        f'<i class="s{i % 8}" style="flex:{count}" title="{_text(name)}: {count:,}"></i>'
        for i, (name, count) in enumerate(parts.items())
        if count
    )
    legend = " ".join(
        f'<span><i class="s{i % 8}"></i>{_text(name)} {count:,} ({_percent(count / total)})</span>'
        for i, (name, count) in enumerate(parts.items())
        if count
    )
    return (
        f'<h2>Where the documents went</h2><div class="parts">{bar}</div>'
        f'<p class="legend">{legend}</p>'
    )


def _tasks(card: Mapping[str, Any]) -> str:
    tasks, labels = card.get("tasks") or {}, card.get("labels") or {}
    if not tasks:
        return ""
    most, total = max(tasks.values()), sum(tasks.values())
    lines = []
    for family, count in sorted(tasks.items(), key=lambda item: (-item[1], item[0])):
        own = f"{family}/"  # labels are counted as "family/label"
        told = {k.removeprefix(own): v for k, v in labels.items() if k.startswith(own)}
        inner = ", ".join(f"{_text(label)} {number:,}" for label, number in sorted(told.items()))
        lines.append(
            _bar(
                _text(family),
                count,
                most,
                total,
                family_class(family),
                inner if len(told) > 1 else "",
            )
        )
    texts = max(card["documents_out"], 1)
    return (
        f"<h2>Tasks by family</h2><p>{total:,} tasks, {total / texts:.2f} a text.</p>"
        f'<table class="bars">{"".join(lines)}</table>'
    )


def _histogram(title: str, counts: Sequence[Sequence[int]] | None, unit: str) -> str:
    """Columns for powers of two: `[[reached, documents], ...]`."""
    if not counts:
        return ""
    found = {int(reached): int(number) for reached, number in counts}
    every, reached = [], min(found)
    while reached <= max(found):
        every.append((reached, found.get(reached, 0)))
        reached = max(2 * reached, 1)
    most, total = max(found.values()), sum(found.values())
    columns = "".join(
        f'<div title="{low:,} to {max(2 * low - 1, low):,} {unit}: {number:,} ({_percent(number / total)})">'
        f'<span>{number:,}</span><i style="height:{max(120 * number / most, 1 if number else 0):.1f}px">'
        f"</i><b>{_short(low)}</b></div>"
        for low, number in every
    )
    return f'<h2>{title}</h2><div class="columns">{columns}</div><p class="note">From this many {unit} up to twice as many.</p>'


def _shares(title: str, counts: Mapping[str, Any] | None) -> str:
    if not counts:
        return ""
    if not all(isinstance(count, int | float) for count in counts.values()):
        return f"<h2>{title}</h2>{_table_of(counts)}"
    most, total = max(counts.values()), sum(counts.values())
    lines = "".join(
        _bar(_text(name), count, most, total)
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )
    return f'<h2>{title}</h2><table class="bars">{lines}</table>'


def _fertility(card: Mapping[str, Any]) -> str:
    value = card.get("fertility")
    if not value:
        return ""
    told = (
        _table_of(value) if isinstance(value, Mapping) else f"<p><b>{_number(value)}</b> tokens</p>"
    )
    return (
        "<h2>Fertility of the tokenizer</h2>"
        '<p class="note">Tokens that it needs for the text of this domain: the fewer, the more text '
        f"goes into a row.</p>{told}"
    )


def _removed(card: Mapping[str, Any], samples: Samples) -> str:
    stages = {stage: reasons for stage, reasons in card["removed"].items() if reasons}
    if not stages:
        return "<h2>Removed</h2><p>Nothing.</p>"
    total = max(card["documents_in"], 1)
    parts = []
    for stage, reasons in stages.items():
        parts.append(f"<h3>{_text(stage)}: {sum(_leaves(reasons)):,}</h3>")
        for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            shown = "".join(map(_sample, samples.get((stage, reason), ())))
            parts.append(
                f"<details><summary>{_text(reason)}: {count:,} ({_percent(count / total)} of what "
                f"was read)</summary>{shown or '<p>No sample.</p>'}</details>"
            )
    return f"<h2>Removed, by stage and reason</h2>{''.join(parts)}"


def _sample(item: Mapping[str, str]) -> str:
    excerpt = item.get("excerpt", "")
    cut = excerpt[:SAMPLE_CHARS] + (" …" if len(excerpt) > SAMPLE_CHARS else "")
    # A file and its line would change with how the corpus is divided into files; set_aside has it.
    place = f" · {item['place']}" if item["place"].startswith("document ") else ""
    return f'<p class="note">{_text(item["reason"] + place)}</p><pre>{_text(cut)}</pre>'


def _contamination(card: Mapping[str, Any]) -> str:
    value = card.get("contamination")
    if not value:
        return ""
    return (
        '<h2>Contamination</h2><p class="note">Test questions of the tasks that evaluation runs, found '
        f"in this corpus.</p>{_table_of(value)}"
    )


# --- pieces ---------------------------------------------------------------------------------------


def _bar(
    name: str, count: float, most: float, total: float, class_: str = "", note: str = ""
) -> str:
    return (
        f'<tr class="{class_}"><th>{name}</th><td class="count">{_number(count)}</td>'
        f'<td class="count">{_percent(count / total if total else 0)}</td>'
        f'<td class="wide"><i style="width:{100 * count / most if most else 0:.1f}%"></i></td>'
        f'<td class="note">{note}</td></tr>'
    )


def _table_of(value: Any) -> str:
    """A table for counts however deep they lie; one whose entries are alike has columns."""
    if isinstance(value, Mapping):
        inner = [entry for entry in value.values() if isinstance(entry, Mapping)]
        flat = all(not isinstance(v, Mapping) for entry in inner for v in entry.values())
        if inner and len(inner) == len(value) and flat:
            keys = list(dict.fromkeys(key for entry in inner for key in entry))
            head = "".join(f"<th>{_words(key)}</th>" for key in keys)
            lines = "".join(
                f"<tr><th>{_text(str(name))}</th>"
                + "".join(f'<td class="count">{_cell(entry.get(key, ""))}</td>' for key in keys)
                + "</tr>"
                for name, entry in value.items()
            )
            return f'<table class="grid"><tr><th></th>{head}</tr>{lines}</table>'
        lines = "".join(
            f"<tr><th>{_text(str(name))}</th><td>{_table_of(entry)}</td></tr>"
            for name, entry in value.items()
        )
        return f'<table class="grid">{lines}</table>'
    if isinstance(value, list):
        return "<br>".join(_table_of(entry) for entry in value[:LISTED])
    return _number(value)


def _cell(value: Any) -> str:
    """A number, a word, or how many things are listed, which can be unfolded."""
    if not isinstance(value, list):
        return _number(value)
    if not value:
        return "0"
    listed = "".join(f"<p>{_number(entry)}</p>" for entry in value[:LISTED])
    return f"<details><summary>{len(value):,}</summary>{listed}</details>"


def _leaves(counts: Any) -> Iterable[int]:
    if isinstance(counts, Mapping):
        for inner in counts.values():
            yield from _leaves(inner)
    elif isinstance(counts, int):
        yield counts


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return _text(str(value))


def _short(value: int) -> str:
    return next(
        (f"{value >> bits}{letter}" for bits, letter in ((20, "M"), (10, "k")) if value >> bits),
        str(value),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 or not share else "< 0.1 %"


def _words(key: str) -> str:
    return _text(key.replace("_", " ").capitalize())


def _text(text: str) -> str:
    return html.escape(text)
