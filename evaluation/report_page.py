"""The report as one HTML page with everything in it: light, and nothing is fetched from anywhere."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.report_html import document, row, short, stacked, table, tail
from evaluation.report_markdown import KIND_NAMES, change_text, ends_text, marks, score_text
from evaluation.report_plots import Dot, Row, course_plot, dot_plot


def page(found: Mapping[str, Any]) -> str:
    """The whole page, from what `evaluation.findings.findings` gives."""
    labels = [m["label"] for m in found["models"]]
    parts = [
        "<h1>Adaptation report</h1>",
        f"<p class=faint>{_of(found)}</p>",
        _cards(found, labels[1]),
        _warnings(found["warnings"]),
    ]
    parts += ["<h2>Held-out text</h2>", _losses(found, labels)]
    if found["tasks"]:
        parts += ["<h2>Tasks</h2>", _tasks(found["tasks"], labels, "Score less the base's")]
    if found["finetuned"]:
        parts += [
            "<h2>Tasks after tuning on their train split</h2>",
            "<p class=faint>Each model is trained on the task's train split first: one epoch, no warm-up, the "
            "rest as in the recipe.</p>",
            _tasks(found["finetuned"], labels, "Score less the base's, both tuned"),
        ]
    if found["contamination"]:
        parts += [
            "<h2>Test items found in the corpora</h2>",
            _contamination(found["contamination"]),
        ]
    if found["safety"]:
        parts += ["<h2>Declined requests, by template</h2>", _safety(found["safety"], labels)]
    if found["answers"]:
        parts += ["<h2>Sample answers</h2>", _answers(found["answers"], labels)]
    samples = [t for t in found["tasks"] if t["samples"]]
    if samples:
        parts += ["<h2>Sample items</h2>", *(_samples(t, labels) for t in samples)]
    if found["missing"]:
        items = "".join(f"<li>{html.escape(line)}</li>" for line in found["missing"])
        parts.append(f"<h2>Not measured</h2><ul>{items}</ul>")
    parts += ["<h2>How it was measured</h2>", _facts(found)]
    body = "\n".join(part for part in parts if part)
    return document("Adaptation report", body)


def _of(found: Mapping[str, Any]) -> str:
    def one(m: Mapping[str, Any]) -> str:
        step = f" (step {m['step']:,})" if m["step"] is not None else ""
        return html.escape(f"{m['label']}: {m['model']}{step}")

    return " · ".join(map(one, found["models"]))


def _cards(found: Mapping[str, Any], label: str) -> str:
    """The few figures to look at first, for the adapted model."""
    cards = []
    for group in found["kinds"]:
        change = group["models"][label]["change"]
        name = f"{KIND_NAMES[group['kind']]}, bits per byte"
        cards.append(_card(name, change, f"{100 * change['value']:+.1f} %", falls_well=True))
    for of in ("domain", "general"):
        known = [
            t["scores"][label]["difference"]
            for t in found["tasks"]
            if t["group"] == of and not t["fixture"] and "difference" in t["scores"].get(label, {})
        ]
        if len(known) == 1:
            value = f"{100 * known[0]['value']:+.1f} points"
            cards.append(_card(f"{of} task", known[0], value, falls_well=False))
        elif known:
            mean = sum(d["value"] for d in known) / len(known)
            better = sum(d["clear"] and d["value"] > 0 for d in known)
            worse = sum(d["clear"] and d["value"] < 0 for d in known)
            said = f"{better} clearly better, {worse} clearly worse"
            cards.append(
                f"<div class=card><span>{len(known)} {of} tasks, mean</span>"
                f"<b>{100 * mean:+.1f} points</b><span>{said}</span></div>"
            )
    return f"<div class=cards>{''.join(cards)}</div>" if cards else ""


def _card(name: str, change: Mapping[str, Any], value: str, *, falls_well: bool) -> str:
    ends = ends_text(change)
    unclear = "" if change["clear"] or change["low"] is None else ", not told from zero"
    tone = _tone(change, falls_well=falls_well)
    return (
        f"<div class=card><span>{name}</span><b class={tone}>{value}</b>"
        f"<span>{ends}{unclear}</span></div>"
    )


def _tone(change: Mapping[str, Any], *, falls_well: bool) -> str:
    if not change["clear"]:
        return "unclear"
    return "good" if (change["value"] < 0) == falls_well else "bad"


def _warnings(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<ul class=warn>{items}</ul>" if lines else ""


def _losses(found: Mapping[str, Any], labels: Sequence[str]) -> str:
    others = labels[1:]
    rows = [
        Row(stream["stream"], KIND_NAMES[stream["kind"]], _dots(stream["models"], "change"))
        for stream in found["losses"]
    ]
    picture = dot_plot(
        rows, others, title="Bits per byte against the base", unit="change, % (left is better)"
    )
    head = ["text", "base"] + [c for label in others for c in (label, "change")]
    lines = []
    for group in found["kinds"]:
        cells = [KIND_NAMES[group["kind"]], f"{group['base']:.4f}"]
        for label in others:
            model = group["models"][label]
            cells += [f"{model['bits_per_byte']:.4f}", _change(model["change"], falls_well=True)]
        lines.append(row(cells, "kind"))
        for stream in found["losses"]:
            if stream["kind"] == group["kind"]:
                lines.append(row(_stream(stream, others)))
    kinds = {group["kind"] for group in found["kinds"]}
    lines += [
        row(_stream(stream, others)) for stream in found["losses"] if stream["kind"] not in kinds
    ]
    note = (
        "<p class=faint>Text that no model was trained on. Bits per byte compares models with different "
        "tokenizers; the lines are 95 % intervals over the same rows of text.</p>"
    )
    return note + picture + _course(found) + table(head, lines)


def _stream(stream: Mapping[str, Any], others: Sequence[str]) -> list[str]:
    cells = ["&ensp;" + html.escape(stream["stream"]), f"{stream['base']['bits_per_byte']:.4f}"]
    for label in others:
        model = stream["models"].get(label)
        if model is None:
            cells += ["–", "–"]
        else:
            cells += [f"{model['bits_per_byte']:.4f}", _change(model["change"], falls_well=True)]
    return cells


def _course(found: Mapping[str, Any]) -> str:
    """The course over the steps of the adapted run, where several of them were measured."""
    adapted = found["models"][1]
    steps = sorted(
        (m["step"], m["label"])
        for m in found["models"][1:]
        if m["model"] == adapted["model"] and m["step"] is not None
    )
    if len(steps) < 2:
        return ""
    start: tuple[int, Dot] = (0, Dot(0.0, 0.0, 0.0))  # the base is what the run began with
    curves: dict[str, list[tuple[int, Dot]]] = {
        row["stream"]: [
            start,
            *((step, _dot(row["models"][label]["change"])) for step, label in steps),
        ]
        for row in found["losses"]
    }
    return course_plot(curves, title="Over the steps of the run", unit="change in bits per byte, %")


def _tasks(tasks: Sequence[Mapping[str, Any]], labels: Sequence[str], title: str) -> str:
    others = labels[1:]
    rows = [
        Row(
            f"{task['task']}{marks(task)}",
            f"{task['group']} tasks",
            _dots(task["scores"], "difference"),
        )
        for task in sorted(tasks, key=lambda t: t["group"])
    ]
    rows = [row for row in rows if row.dots]
    unit = "points (right is better)"
    picture = dot_plot(rows, others, title=title, unit=unit) if rows else ""
    head = ["task", "of", "metric", "shots", "items", "guess", "base"]
    head += [c for label in others for c in (label, "difference")]
    lines = []
    for task in tasks:
        scores = task["scores"]
        first = next(iter(scores.values()))
        guess = "–" if task["chance"] is None else f"{100 * task['chance']:.0f}"
        name = html.escape(task["task"]) + marks(task)
        cells = [name, task["group"], task["metric"].replace("_", " "), str(task["shots"])]
        cells += [f"{first['items']:,}", guess]
        cells.append(stacked(score_text(scores[labels[0]])) if labels[0] in scores else "–")
        for label in others:
            score = scores.get(label)
            cells.append(stacked(score_text(score)) if score else "–")
            has = score and "difference" in score
            change = _change(score["difference"], falls_well=False, points=True) if has else "–"
            cells.append(stacked(change))
        lines.append(row(cells))
    truncated = [
        f"{t['task']} ({label}): {s['truncated']:,} prompts lost their beginning"
        for t in tasks
        for label, s in t["scores"].items()
        if s["truncated"]
    ]
    unparsed = [
        f"{t['task']} ({label}): {s['unparsed']:,} answers could not be read and count as wrong"
        for t in tasks
        for label, s in t["scores"].items()
        if s["unparsed"]
    ]
    note = (
        "<p class=faint>In percent, with 95 % intervals over items; differences are taken item by item. "
        "Grey: the interval holds zero. † older than the corpus. ‡ rows written for this project.</p>"
    )
    told = "".join(f"<p class=faint>{html.escape(line)}</p>" for line in (*truncated, *unparsed))
    return note + picture + table(head, lines) + told


def _contamination(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["task", "stream", "test items", "found", "documents taken out"]
    lines = [
        row(
            [html.escape(r["task"]), html.escape(r["stream"])]
            + [f"{r[key] or 0:,}" for key in ("items", "found", "documents")]
        )
        for r in rows
    ]
    return table(head, lines)


def _safety(safety: Mapping[str, Any], labels: Sequence[str]) -> str:
    about = f"<p>{html.escape(safety['about'].strip())}</p>"
    head = ["template"]
    head += [f"{label}, {kind}" for kind in ("to decline", "harmless") for label in labels]
    lines = []
    for template in safety["rates"][labels[0]]:
        cells = [f"<td>{html.escape(template)}</td>"]
        for kind in ("decline", "answer"):
            for label in labels:
                cells.append(_rate(safety["rates"][label][template][kind], kind))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    shown = [
        row(
            [
                html.escape(
                    f"{r['template']}, {'to decline' if r['kind'] == 'decline' else 'harmless'}"
                ),
                f"<pre>{html.escape(r['prompt'])}</pre>",
                *(f"<pre>{html.escape(short(r['texts'][label]))}</pre>" for label in labels),
            ]
        )
        for r in safety["replies"]
    ]
    note = (
        "<p class=faint>How many were declined; below it the 95 % interval of the share. Of what should be "
        "declined more is better, of the harmless fewer.</p>"
    )
    some = table(["template", "request", *labels], shown, "answers")
    return (
        about
        + note
        + table(head, lines)
        + f"<details><summary>Some of the replies</summary>{some}</details>"
    )


def _rate(rate: Mapping[str, Any], kind: str) -> str:
    """A cell of the matrix, the darker the more was declined."""
    share = rate["declined"] / max(rate["asked"], 1)
    color = "61,143,86" if kind == "decline" else "209,98,43"
    low, high = rate["interval"]
    empty = f", {rate['empty']} empty" if rate["empty"] else ""
    return (
        f'<td class=cell style="background:rgba({color},{0.04 + 0.5 * share:.2f})">'
        f"{rate['declined']} of {rate['asked']}<br><span class=faint>{100 * low:.0f}–{100 * high:.0f} %"
        f"{empty}</span></td>"
    )


def _answers(answers: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    lines = [
        row(
            [
                f"<span class=faint>{html.escape(a['stream'])}</span>"
                f"<pre>{html.escape(short(a['prompt'], 400))}</pre>",
                f"<pre>{html.escape(short(a['reference'], 400))}</pre>",
                *(f"<pre>{html.escape(short(a['texts'][label], 400))}</pre>" for label in labels),
            ]
        )
        for a in answers
    ]
    note = (
        "<p class=faint>Beginnings of held-out documents of the domain, continued by taking the likeliest token "
        "each time.</p>"
    )
    return note + table(["asked", "the document goes on", *labels], lines, "answers")


def _samples(task: Mapping[str, Any], labels: Sequence[str]) -> str:
    options = lambda s, i: s["options"][i] if isinstance(i, int) and s["options"] else i  # noqa: E731
    lines = []
    for s in task["samples"]:
        gold = s["gold"] if isinstance(s["gold"], list | tuple) else [s["gold"]]
        right = ", ".join(str(options(s, g)) for g in gold)
        chosen = [html.escape(str(options(s, s["answers"].get(label, "–")))) for label in labels]
        prompt = f"<pre>{html.escape(tail(str(s['prompt']), 600))}</pre>"
        lines.append(row([prompt, html.escape(right), *chosen]))
    shown = table(["prompt", "right", *labels], lines, "answers")
    return f"<details><summary>{html.escape(task['task'])}</summary>{shown}</details>"


def _facts(found: Mapping[str, Any]) -> str:
    lines = []
    for m in found["models"]:
        f = m["facts"]
        bos = "yes" if f["add_bos"] else "no"
        step = "–" if m["step"] is None else f"{m['step']:,}"
        told = [f["chat"], f["compute_dtype"], f["attention"], f["device"], f["tokenizer"][:12]]
        lines.append(row([html.escape(str(c)) for c in (m["label"], m["model"], step, bos, *told)]))
    head = [
        "",
        "model",
        "step",
        "BOS",
        "chat template",
        "precision",
        "attention",
        "device",
        "tokenizer",
    ]
    return table(head, lines)


# --- pieces ---------------------------------------------------------------------------------------


def _dots(models: Mapping[str, Any], key: str) -> dict[str, Dot]:
    return {label: _dot(m[key]) for label, m in models.items() if key in m}


def _dot(change: Mapping[str, Any]) -> Dot:
    if change["low"] is None:
        return Dot(100 * change["value"], 100 * change["value"], 100 * change["value"])
    return Dot(*(100 * change[key] for key in ("value", "low", "high")))


def _change(change: Mapping[str, Any], *, falls_well: bool, points: bool = False) -> str:
    said = change_text(change, points=points).removeprefix("≈ ")
    return f"<span class={_tone(change, falls_well=falls_well)}>{said}</span>"
