"""The report as Markdown tables, for a model card."""

from collections.abc import Mapping, Sequence
from typing import Any

KIND_NAMES = {
    "domain": "domain",
    "prose": "general prose",
    "instructions": "general instructions",
    "other": "other",
}


def markdown(found: Mapping[str, Any]) -> str:
    """Held-out text, tasks and the safety matrix, with what a reader must know before them."""
    labels = [m["label"] for m in found["models"]]
    parts = ["## Adaptation: what was gained and what it cost", _models(found)]
    parts += [f"> {line}" for line in found["warnings"]]
    if found["losses"]:
        parts += [
            "### Held-out text, bits per byte",
            "Intervals are 95 % bootstrap over the same held-out rows; the change is relative to the base.",
            _losses(found, labels),
        ]
    for name, title in (
        ("tasks", "Tasks"),
        ("finetuned", "Tasks after tuning on their train split"),
    ):
        if found[name]:
            parts += [
                f"### {title}",
                "Intervals are 95 % bootstrap; differences are taken item by item. "
                "† older than the corpus; ‡ rows written for this project.",
                _tasks(found[name], labels),
            ]
    if found["contamination"]:
        parts += ["### Test items found in the corpora", _contamination(found["contamination"])]
    if found["safety"]:
        parts += ["### Declined requests, by template", found["safety"]["about"].strip()]
        parts += [_safety(found["safety"], labels)]
    if found["missing"]:
        parts += ["### Not measured", "\n".join(f"- {line}" for line in found["missing"])]
    return "\n\n".join(parts) + "\n"


def percent(value: float, *, places: int = 1) -> str:
    """A share with its sign: +1.2 %."""
    return f"{100 * value:+.{places}f} %"


def change_text(change: Mapping[str, Any], *, points: bool = False) -> str:
    """A difference with its interval; ≈ marks one that the interval does not tell from zero."""
    unit = "" if points else " %"
    value = f"{100 * change['value']:+.1f}{unit}"
    return f"{'' if change['clear'] else '≈ '}{value} ({ends_text(change)})"


def ends_text(change: Mapping[str, Any]) -> str:
    """The interval of a difference, in per cent or points."""
    if change["low"] is None:
        return "too few rows for an interval"
    return f"{100 * change['low']:+.1f} to {100 * change['high']:+.1f}"


def score_text(score: Mapping[str, Any]) -> str:
    """A score in percent with its interval."""
    low, high = score["interval"]
    before = f", untuned {100 * score['prompted']['value']:.1f}" if "prompted" in score else ""
    return f"{100 * score['value']:.1f} ({100 * low:.1f}–{100 * high:.1f}){before}"


def marks(task: Mapping[str, Any]) -> str:
    """What a reader must know of a task."""
    return ("†" if task["older"] else "") + ("‡" if task["fixture"] else "")


def _models(found: Mapping[str, Any]) -> str:
    rows = []
    for m in found["models"]:
        step = f", step {m['step']:,}" if m["step"] is not None else ""
        bos = "with BOS" if m["facts"]["add_bos"] else "without BOS"
        rows.append(f"- **{m['label']}**: `{m['model']}`{step}, texts {bos}")
    return "\n".join(rows)


def _losses(found: Mapping[str, Any], labels: Sequence[str]) -> str:
    others = labels[1:]
    head = ["text", "base"] + [c for label in others for c in (label, "change")]
    rows = []
    for group in found["kinds"]:
        row = [f"**{KIND_NAMES[group['kind']]}**", f"{group['base']:.4f}"]
        for label in others:
            model = group["models"][label]
            row += [f"{model['bits_per_byte']:.4f}", change_text(model["change"])]
        rows.append(row)
    for stream in found["losses"]:
        row = [f"{stream['stream']} ({KIND_NAMES[stream['kind']]})"]
        row.append(f"{stream['base']['bits_per_byte']:.4f}")
        for label in others:
            model = stream["models"].get(label)
            row += (
                [f"{model['bits_per_byte']:.4f}", change_text(model["change"])]
                if model
                else ["–", "–"]
            )
        rows.append(row)
    return _table(head, rows)


def _tasks(tasks: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    others = labels[1:]
    head = ["task", "of", "metric", "items", "base"]
    head += [c for label in others for c in (label, "difference")]
    rows = []
    for task in tasks:
        scores = task["scores"]
        first = next(iter(scores.values()))
        row = [f"{task['task']}{marks(task)}", task["group"], task["metric"], f"{first['items']:,}"]
        row.append(score_text(scores[labels[0]]) if labels[0] in scores else "–")
        for label in others:
            score = scores.get(label)
            row.append(score_text(score) if score else "–")
            has = score and "difference" in score
            row.append(change_text(score["difference"], points=True) if has else "–")
        rows.append(row)
    return _table(head, rows)


def _contamination(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["task", "stream", "test items", "found", "documents taken out"]
    return _table(
        head,
        [
            [
                r["task"],
                r["stream"],
                *(f"{r[key] or 0:,}" for key in ("items", "found", "documents")),
            ]
            for r in rows
        ],
    )


def _safety(safety: Mapping[str, Any], labels: Sequence[str]) -> str:
    head = [
        "template",
        *(f"{label}: {kind}" for label in labels for kind in ("to decline", "harmless")),
    ]
    rows = []
    for template in safety["rates"][labels[0]]:
        row = [template]
        for label in labels:
            both = safety["rates"][label][template]
            row += [
                f"{both[kind]['declined']} of {both[kind]['asked']}"
                for kind in ("decline", "answer")
            ]
        rows.append(row)
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])
