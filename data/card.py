"""What is counted while a corpus is prepared, and the `card.json` that says it.

A card depends on the documents and the recipe alone. Times, hosts and paths go to `run.json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from data.config import CorpusConfig

Counts = dict[str, Any]


def add_counts(total: Counts, more: Mapping[str, Any]) -> Counts:
    """Adds counts into `total`, key by key and as deep as they go, and returns it."""
    for key, value in more.items():
        if isinstance(value, Mapping):
            add_counts(total.setdefault(key, {}), value)
        else:
            total[key] = total.get(key, 0) + value
    return total


def make_card(
    name: str,
    corpus: CorpusConfig,
    *,
    seq_len: int,
    read: Mapping[str, Any],
    partitions: Sequence[Mapping[str, Any]],
    heldout: Mapping[str, Any],
) -> dict[str, Any]:
    """The card of one corpus.

    `documents_in` counts every row of the sources; those not in the stream are held out or in
    `removed`, by stage and reason. Tokens are those of the documents trained on: `tokens_in` before
    conversion, `tokens_out` in the rows.

    Args:
        name: the corpus' name in the recipe.
        corpus: how it was read and converted.
        seq_len: tokens in a row.
        read: what reading counted (documents, bytes, set_aside by reason).
        partitions: what each partition counted.
        heldout: what the held-out set counted.
    """
    total: Counts = {}
    for partition in partitions:
        add_counts(total, partition)
    removed = total.get("removed", {})
    if read.get("set_aside"):
        add_counts(removed, {"read": read["set_aside"]})
    rows = total.get("rows", 0)
    tokens = total.get("tokens_out", 0)
    return {
        "name": name,
        "convert": corpus.convert,
        "documents_in": read.get("documents", 0) + sum(read.get("set_aside", {}).values()),
        "documents_out": total.get("documents_out", 0),
        "bytes_in": read.get("bytes", 0),
        "tokens_in": total.get("tokens_in", 0),
        "tokens_out": tokens,
        "supervised": total.get("supervised", 0),
        "partitions": len(partitions),
        "seq_len": seq_len,
        "rows": rows,
        "fill": round(tokens / (rows * seq_len), 6) if rows else 0.0,
        "heldout": dict(heldout),
        "removed": _sorted(removed),
        "tasks": {},
        "contamination": {},
        "languages": {},
        "licences": {},
    }


def print_table(cards: Sequence[Mapping[str, Any]]) -> None:
    """One line per corpus: what went in, what came out, what was kept back."""
    from rich.console import Console
    from rich.table import Table

    columns = (
        "corpus",
        "documents",
        "tokens",
        "supervised",
        "rows",
        "fill",
        "held out",
        "set aside",
    )
    table = Table(*columns[:1], box=None, pad_edge=False, header_style="bold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for card in cards:
        set_aside = sum(sum(reasons.values()) for reasons in card["removed"].values())
        numbers = (card["documents_out"], card["tokens_out"], card["supervised"], card["rows"])
        table.add_row(
            card["name"],
            *(f"{number:,}" for number in numbers),
            f"{100 * card['fill']:.2f} %",
            f"{card['heldout'].get('documents', 0):,}",
            f"{set_aside:,}",
        )
    console = Console()
    if not console.is_terminal:  # as wide as it must be, so that no number is cut
        console = Console(width=160)
    console.print(table)


def _sorted(counts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _sorted(value) if isinstance(value, Mapping) else value
        for key, value in sorted(counts.items())
    }
