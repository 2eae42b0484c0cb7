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
    facts: Mapping[str, Any] | None = None,
    ends: int = 0,
) -> dict[str, Any]:
    """The card of one corpus.

    `documents_in` counts every row of the sources: it is `documents_kept` (what went into the
    stream), the held-out ones, and those in `removed`, by stage and reason. `documents_out` counts
    texts of the stream: a long document may give several, a lane of documents one.

    `tokens_in` are those of the kept documents before conversion, counted where conversion leaves
    the text as it is or where the recipe asks for it (`count_tokens_in`), else null; `tokens_out`
    those in the rows.

    Args:
        name: the corpus' name in the recipe.
        corpus: how it was read and converted.
        seq_len: tokens in a row.
        read: what reading counted (documents, bytes, set_aside by reason).
        partitions: what each partition counted.
        heldout: what the held-out set counted.
        facts: what else is known of the whole corpus (contamination, vocabularies).
        ends: tokens that begin and end every document, BOS and EOS.
    """
    total: Counts = {}
    for partition in partitions:
        add_counts(total, partition)
    removed = total.pop("removed", {})
    if read.get("set_aside"):
        add_counts(removed, {"read": read["set_aside"]})
    rows, tokens = total.pop("rows", 0), total.pop("tokens_out", 0)
    lengths = total.pop("lengths", {})
    kept = total.pop("documents_kept", 0)
    for counted_elsewhere in ("documents_in", "heldout", "tokens_packed"):
        total.pop(counted_elsewhere, None)
    measured = total.pop("measured", {})
    tokens_in = tokens if corpus.convert in ("raw", "conversation") else None
    if tokens_in is None and measured.get("documents") == kept:
        tokens_in = measured.get("tokens", 0) + ends * kept
    card = {
        "name": name,
        "convert": corpus.convert,
        "documents_in": read.get("documents", 0) + sum(read.get("set_aside", {}).values()),
        "documents_kept": kept,
        "documents_out": total.pop("documents_out", 0),
        "bytes_in": read.get("bytes", 0),
        "bytes_kept": total.pop("bytes_kept", 0),
        "tokens_in": tokens_in,
        "tokens_out": tokens,
        "supervised": total.pop("supervised", 0),
        "partitions": len(partitions),
        "seq_len": seq_len,
        "rows": rows,
        "fill": round(tokens / (rows * seq_len), 6) if rows else 0.0,
        "heldout": dict(heldout),
        "removed": _sorted(removed),
        "duplicates": sum(removed.get("dedup", {}).values()),
        "lengths": _histogram(lengths),
        "document_bytes": _histogram(total.pop("document_bytes", {})),
        "fertility": _fertility(measured),
        "tasks": _sorted(total.pop("tasks", {})),
        "contamination": {},
        "languages": _sorted(total.pop("languages", {})),
        "licences": {corpus.licence: kept} if corpus.licence else {},
    }
    return card | _sorted(total) | _sorted(facts or {})


def _fertility(measured: Mapping[str, int]) -> dict[str, Any]:
    """How finely the tokenizer cuts the domain's text, before conversion, special tokens aside."""
    if not measured.get("words"):
        return {}
    return {
        **measured,
        "tokens_per_word": round(measured["tokens"] / measured["words"], 4),
        "bytes_per_token": round(measured["bytes"] / max(measured["tokens"], 1), 4),
    }


def print_table(cards: Sequence[Mapping[str, Any]]) -> None:
    """One line per corpus: what went in, what came out, what was kept back."""
    from rich.table import Table

    columns = (
        "corpus",
        "documents",
        "texts",
        "tokens",
        "supervised",
        "rows",
        "fill",
        "tasks",
        "held out",
        "set aside",
    )
    table = Table(*columns[:1], box=None, pad_edge=False, header_style="bold")
    for column in columns[1:]:
        table.add_column(column, justify="right")
    for card in cards:
        set_aside = sum(sum(reasons.values()) for reasons in card["removed"].values())
        numbers = ("documents_kept", "documents_out", "tokens_out", "supervised", "rows")
        table.add_row(
            card["name"],
            *(f"{card[number]:,}" for number in numbers),
            f"{100 * card['fill']:.2f} %",
            f"{sum(card['tasks'].values()):,}",
            f"{card['heldout'].get('documents', 0):,}",
            f"{set_aside:,}",
        )
    _console().print(table)


def print_profile(
    seconds: Mapping[str, Mapping[str, float]], by_clock: Mapping[str, float], megabytes: float
) -> None:
    """Processor seconds by pass and stage, what a pass took by the clock, and megabytes a second."""
    from rich.table import Table

    columns = ("processor s", "MB/s of one core", "s by the clock")
    table = Table("pass", "stage", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right")

    def rate(spent: float) -> str:
        return f"{megabytes / spent:,.2f}" if spent else ""

    for pass_, clock in by_clock.items():
        stages = seconds.get(pass_, {})
        spent = sum(stages.values())
        table.add_row(pass_, "", f"{spent:.2f}" if stages else "", rate(spent), f"{clock:.2f}")
        for stage, part in sorted(stages.items(), key=lambda item: -item[1]):
            table.add_row("", stage, f"{part:.2f}", rate(part), "")
    _console().print(table)


def _console() -> Any:
    from rich.console import Console

    console = Console()
    # As wide as it must be, so that no number is cut.
    return console if console.is_terminal else Console(width=180)


def _histogram(counts: Mapping[str, int]) -> list[list[int]]:
    """`[[reached, documents], ...]`, by the power of two that was reached."""
    return [[int(reached), counts[reached]] for reached in sorted(counts, key=int)]


def _sorted(counts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _sorted(value) if isinstance(value, Mapping) else value
        for key, value in sorted(counts.items())
    }
