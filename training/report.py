"""A run on one page: report.png, and report.html with the same picture inside and the numbers as tables.

Both are made from metrics.jsonl and the newest checkpoint's facts alone, so they can be made again at any time, and
while the run goes on.
"""

import base64
import datetime
import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from training.clock import duration
from training.metrics_log import WALL, read_lines
from training.steps import newest_meta

Series = dict[str, list[tuple[int, float]]]  # by key: (step, value), ascending

_COLORS = ("#2f6fb5", "#d1622b", "#3d8f56", "#8a5aa8", "#b8901c", "#c4527d", "#3a9aa3", "#7a6a5a")
_INK, _FAINT, _GRID = "#22262b", "#8b929b", "#e6e8eb"


def write_report(run_dir: str) -> str:
    """Writes `report.png` and `report.html` into a run directory and returns the page's path.

    Raises:
        ValueError: The run has logged no numbers yet.
    """
    lines = read_lines(run_dir)
    numbers = series(lines)
    if not numbers:
        raise ValueError(f"{run_dir}: no numbers in metrics.jsonl yet, so nothing to report")
    meta = newest_meta(run_dir)
    name = str(run_dir).rstrip("/").rsplit("/", 1)[-1]
    picture = draw(numbers, _resumes(lines), name)
    folder = epath.Path(run_dir)
    (folder / "report.png").write_bytes(picture)
    page = folder / "report.html"
    page.write_text(_page(name, picture, numbers, lines, meta))
    return str(page)


def series(lines: Sequence[Mapping[str, Any]]) -> Series:
    """The numbers of metrics.jsonl as curves. A step logged twice counts as it was logged last."""
    points: dict[str, dict[int, float]] = {}
    for line in lines:
        if "event" in line:
            continue
        for key, value in line.items():
            if key not in ("step", "time") and not key.startswith(WALL) and value is not None:
                points.setdefault(key, {})[line["step"]] = value
    return {key: sorted(curve.items()) for key, curve in points.items()}


def heldout_table(numbers: Series) -> list[dict[str, Any]]:
    """Held-out loss and bits per byte of each stream, first and last."""
    rows = []
    for stream in _streams(numbers, "eval/", "/loss"):
        row: dict[str, Any] = {"stream": stream}
        for metric in ("loss", "bits_per_byte"):
            curve = numbers.get(f"eval/{stream}/{metric}", [])
            row[metric] = (curve[0][1], curve[-1][1]) if curve else None
        row["steps"] = tuple(numbers[f"eval/{stream}/loss"][i][0] for i in (0, -1))
        rows.append(row)
    return rows


def task_table(numbers: Series) -> list[dict[str, Any]]:
    """Scores of tasks that were asked as the run went, first and last."""
    rows = []
    for key, curve in numbers.items():
        name, _, metric = key.removeprefix("eval/").rpartition("/")
        if key.startswith("eval/") and metric not in ("loss", "bits_per_byte"):
            steps, scores = (curve[0][0], curve[-1][0]), (curve[0][1], curve[-1][1])
            rows.append({"task": name, "metric": metric, "scores": scores, "steps": steps})
    return rows


def forgetting_table(numbers: Series) -> list[dict[str, Any]]:
    """The last change in bits per byte against step 0 of each stream that the alarm watches."""
    rows = []
    for stream in _streams(numbers, "forgetting/", "/change"):
        last = {key: numbers[f"forgetting/{stream}/{key}"][-1] for key in ("change", "low", "high")}
        row = {key: value for key, (_, value) in last.items()}
        rows.append({"stream": stream, "step": last["change"][0], **row})
    return rows


def before_and_after(run_dir: str) -> list[str]:
    """The held-out numbers of a run, first and last, a line a stream for the console."""
    read = read_lines(run_dir)
    numbers = series(read)
    rows = heldout_table(numbers)
    width = max((len(row["stream"]) for row in rows), default=0)
    lines = []
    for row in rows:
        (loss, loss_after), (bits, bits_after) = row["loss"], row["bits_per_byte"]
        lines.append(
            f"{row['stream']:<{width}}  loss {loss:.4f} -> {loss_after:.4f}"
            f"  bits per byte {bits:.4f} -> {bits_after:.4f}"
        )
    for row in task_table(numbers):
        before, after = row["scores"]
        first, last = row["steps"]  # a budget may leave out the end
        lines.append(
            f"{row['task']:<{width}}  {row['metric']} {before:.4f} -> {after:.4f}"
            f"  (steps {first} and {last})"
        )
    alarms = [line for line in read if line.get("event") == "forgetting"]
    for line in alarms[-1:]:
        lines.append(
            f"FORGETTING: {len(alarms)} alarm(s), the last at step {line['step']}: {line['stream']} "
            f"{100 * line['change']:+.2f} % bits per byte against step 0"
        )
    return lines


def wall_seconds(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Wall time by kind over all of a run's processes, those that were killed included."""
    total: dict[str, float] = {}
    open_account: dict[str, float] = {}  # of a process that has not closed it (yet)
    for line in lines:
        if line.get("event") == "wall":
            for kind, seconds in line["seconds"].items():
                total[kind] = total.get(kind, 0.0) + seconds
            open_account = {}
        elif "event" not in line and any(key.startswith(WALL) for key in line):
            open_account = {k.removeprefix(WALL): v for k, v in line.items() if k.startswith(WALL)}
    for kind, seconds in open_account.items():
        total[kind] = total.get(kind, 0.0) + seconds
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def draw(numbers: Series, resumes: Sequence[int], title: str) -> bytes:
    """The picture, as PNG: loss per stream, held-out bits per byte, learning rate, throughput."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    # No pyplot: it would choose a backend for the whole process.
    figure = Figure(figsize=(12, 7.6), dpi=130, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.04)  # pyright: ignore
    ((loss, heldout), (rate, speed)) = figure.subplots(2, 2)
    names = _streams(numbers, "loss/") or []
    names += [name for name in _streams(numbers, "eval/", "/loss") if name not in names]
    colors = {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}

    if len(names) != 1:
        _curve(loss, numbers.get("loss", []), _INK, "all", width=1.6)
    for name in names:
        _curve(loss, numbers.get(f"loss/{name}", []), colors[name], name)
    _finish(loss, "Training loss", "nats per token")
    metric = "bits_per_byte" if _streams(numbers, "eval/", "/bits_per_byte") else "loss"
    for name in names:
        curve = numbers.get(f"eval/{name}/{metric}", [])
        if curve:
            heldout.plot(
                *zip(*curve, strict=True), color=colors[name], lw=1.8, marker="o", ms=4, label=name
            )
            heldout.annotate(
                f"{curve[-1][1]:.3f}", curve[-1], xytext=(5, 0), textcoords="offset points",
                va="center", fontsize=8, color=colors[name], annotation_clip=False,
            )  # fmt: skip
    _finish(heldout, "Held-out text", "bits per byte" if metric != "loss" else "nats per token")
    _curve(rate, numbers.get("lr", []), _COLORS[0], None, smooth=False)
    _finish(rate, "Learning rate", "")
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter(FuncFormatter(lambda v, _: "0" if v == 0 else f"{v:.1e}"))
    _curve(speed, numbers.get("tokens_per_second", []), _COLORS[2], None)
    said = "Throughput"
    if curve := numbers.get("mfu"):
        said += f" (MFU, median: {100 * _median([v for _, v in curve]):.1f} %)"
    _finish(speed, said, "tokens per second")
    speed.set_ylim(0, 1.1 * max((v for _, v in numbers.get("tokens_per_second", [])), default=1))
    speed.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _count(v)))
    last = max((curve[-1][0] for curve in numbers.values()), default=1)
    for axes in (loss, heldout, rate, speed):
        axes.set_xlim(-0.01 * max(last, 1), 1.02 * max(last, 1))
        axes.set_xlabel("step", color=_FAINT, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for step in resumes:
            axes.axvline(step, color=_FAINT, lw=0.9, ls=(0, (2, 3)), zorder=0)
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold", color=_INK)
    if resumes:
        figure.text(0.99, 0.985, "dotted: resumed", ha="right", va="top", fontsize=9, color=_FAINT)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _curve(
    axes: Any,
    curve: Sequence[tuple[int, float]],
    color: str,
    label: str | None,
    *,
    width: float = 1.4,
    smooth: bool = True,
) -> None:
    """A line; where it is long and noisy, a smoothed one over the faint original."""
    if not curve:
        return
    steps, values = zip(*curve, strict=True)
    marker = {"marker": "o", "ms": 4} if len(curve) < 5 else {}
    if smooth and len(curve) >= 40:
        axes.plot(steps, values, color=color, lw=0.7, alpha=0.22)
        axes.plot(steps, _smooth(values, len(curve) / 40), color=color, lw=width, label=label)
    else:
        axes.plot(steps, values, color=color, lw=width, label=label, **marker)


def _finish(axes: Any, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    if unit:
        axes.set_ylabel(unit, color=_FAINT, fontsize=9)
    axes.grid(axis="y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(colors=_FAINT, labelsize=9, length=0)
    labels = axes.get_legend_handles_labels()[1]
    if labels:
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK, ncols=2 if len(labels) > 4 else 1)
    if not axes.lines:
        axes.text(0.5, 0.5, "nothing logged", transform=axes.transAxes, ha="center", color=_FAINT)
        axes.set_yticks([])


def _smooth(values: Sequence[float], window: float) -> list[float]:
    """Exponential mean over both directions, so that a falling curve is not drawn late."""
    keep = 1 - 1 / max(window, 1.0)

    def one_way(values: Sequence[float]) -> list[tuple[float, float]]:
        total = weight = 0.0
        sums = []
        for value in values:
            total, weight = keep * total + value, keep * weight + 1
            sums.append((total, weight))
        return sums

    # Near an end one direction has seen little, and weighs little.
    both = zip(one_way(values), one_way(values[::-1])[::-1], strict=True)
    return [(a + b) / (v + w) for (a, v), (b, w) in both]


def _page(
    name: str,
    picture: bytes,
    numbers: Series,
    lines: Sequence[Mapping[str, Any]],
    meta: Mapping[str, Any] | None,
) -> str:
    image = base64.b64encode(picture).decode()
    parts = [f"<h1>{html.escape(name)}</h1>", f"<p class=faint>{html.escape(_summary(lines))}</p>"]
    parts.append(f'<img alt="curves" src="data:image/png;base64,{image}">')
    rows = heldout_table(numbers)
    if rows:
        first, last = rows[0]["steps"]
        parts.append(f"<h2>Held-out text, step {first} and step {last}</h2>")
        head = ["stream", "loss before", "after", "bits per byte before", "after", "change"]
        parts.append(_table(head, [_heldout_row(row) for row in rows]))
    if tasks := task_table(numbers):
        parts.append("<h2>Tasks</h2>")
        parts.append(
            _table(["task", "metric", "before", "after", "at steps"], [_task_row(t) for t in tasks])
        )
    if forgetting := forgetting_table(numbers):
        alarms = [line for line in lines if line.get("event") == "forgetting"]
        parts.append("<h2>Forgetting: change in bits per byte against step 0</h2>")
        head = ["stream", "at step", "change", "95 % interval", "alarms"]
        parts.append(_table(head, [_forgetting_row(row, alarms) for row in forgetting]))
    parts += ["<div class=two><div>", "<h2>Run</h2>", _table(None, _facts(numbers, lines, meta))]
    parts += ["</div><div>", "<h2>Wall time</h2>"]
    wall = wall_seconds(lines)
    total = sum(wall.values())
    parts.append(
        _table(
            ["", "time", "share"],
            [[k, duration(v), f"{100 * v / total:.1f} %"] for k, v in wall.items() if v > 0]
            + [["all", duration(total), ""]],
        )
        if total
        else "<p class=faint>not accounted for</p>"
    )
    parts.append("</div></div>")
    events = [line for line in lines if line.get("event") in _TOLD]
    if events:
        parts.append("<h2>Events</h2>")
        parts.append(_table(["when (UTC)", "step", "what"], [_event_row(line) for line in events]))
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}'
        f"</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


_TOLD = (
    "start", "resume", "bad_checkpoint", "preempted", "done", "forgetting", "forgetting_unknown",
    "tasks_left_out",
)  # fmt: skip

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#22262b;max-width:1080px;margin:2.5em auto;padding:0 1.2em}
h1{font-size:1.6em;margin:0}h2{font-size:1.05em;margin:1.8em 0 .5em}.faint{color:#8b929b;margin:.2em 0 1em}
img{width:100%;height:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.28em 1.1em .28em 0;text-align:right;border-bottom:1px solid #e6e8eb;vertical-align:top}
th{color:#8b929b;font-weight:500}td:first-child,th:first-child{text-align:left}
table.facts td{text-align:left}table.facts td:first-child{color:#8b929b}
.two{display:flex;flex-wrap:wrap;gap:0 4em}
""".strip()


def _table(head: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in values) + "</tr>"

    top = cells("th", head) if head else ""
    kind = "" if head else " class=facts"
    return f"<table{kind}>{top}{''.join(cells('td', row) for row in rows)}</table>"


def _heldout_row(row: Mapping[str, Any]) -> list[str]:
    said = [row["stream"]]
    for metric in ("loss", "bits_per_byte"):
        said += [f"{value:.4f}" for value in row[metric]] if row[metric] else ["–", "–"]
    before, after = row["bits_per_byte"] or row["loss"]
    return [*said, f"{100 * (after / before - 1):+.1f} %" if before else "–"]


def _task_row(row: Mapping[str, Any]) -> list[str]:
    scores, (first, last) = (f"{score:.4f}" for score in row["scores"]), row["steps"]
    return [row["task"], row["metric"], *scores, f"{first} and {last}"]


def _forgetting_row(row: Mapping[str, Any], alarms: Sequence[Mapping[str, Any]]) -> list[str]:
    steps = [str(line["step"]) for line in alarms if line["stream"] == row["stream"]]
    ends = f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}"
    change = f"{100 * row['change']:+.2f} %"
    return [row["stream"], str(row["step"]), change, ends, ", ".join(steps) or "none"]


def _event_row(line: Mapping[str, Any]) -> list[str]:
    when = datetime.datetime.fromtimestamp(line["time"], datetime.UTC)
    rest = ", ".join(
        f"{key} {value}" for key, value in line.items() if key not in ("event", "time", "step")
    )
    said = line["event"].replace("_", " ") + (f": {rest}" if rest else "")
    return [when.strftime("%Y-%m-%d %H:%M:%S"), str(line.get("step", "")), said]


def _summary(lines: Sequence[Mapping[str, Any]]) -> str:
    steps = max((line["step"] for line in lines if "event" not in line), default=0)
    ends = ("start", "resume", "preempted", "done")
    last = next((line["event"] for line in reversed(lines) if line.get("event") in ends), None)
    state = {"done": "done", "preempted": "stopped, to be resumed"}.get(last or "", "not finished")
    return f"step {steps}, {state}"


def _facts(
    numbers: Series, lines: Sequence[Mapping[str, Any]], meta: Mapping[str, Any] | None
) -> list[list[str]]:
    """What the checkpoint and the log say of the run; what they do not say is left out."""
    facts = []
    if meta is not None:
        sizes = [math.prod(s) for k, (s, _) in meta["arrays"].items() if k.startswith("params/")]
        facts.append(["parameters", f"{sum(sizes):,}"])
        shape = meta.get("model") or {}
        keys = ("num_layers", "embed_dim", "mlp_dim", "num_heads", "num_kv_heads", "vocab_size")
        facts += [[key.replace("_", " "), f"{shape[key]:,}"] for key in keys if key in shape]
        recipe = meta.get("recipe") or {}
        train, optimizer = recipe.get("train") or {}, recipe.get("optimizer") or {}
        if "global_batch_rows" in train and "seq_len" in train:
            rows, length = train["global_batch_rows"], train["seq_len"]
            facts.append(["batch", f"{rows} rows of {length} tokens"])
        if "peak_lr" in optimizer:
            said = f"{optimizer['peak_lr']:g}, {optimizer.get('schedule', '')}"
            facts.append(["peak learning rate", said.rstrip(", ")])
        if "rows" in meta:
            facts.append([f"rows given at step {meta['step']}", f"{meta['rows']:,}"])
        facts.append(["jax", str((meta.get("versions") or {}).get("jax", "?"))])
    for key, name in (("tokens_per_second", "tokens per second, median"), ("mfu", "MFU, median")):
        if curve := numbers.get(key):
            middle = _median([value for _, value in curve])
            facts.append([name, f"{100 * middle:.1f} %" if key == "mfu" else f"{middle:,.0f}"])
    restarts = sum(line.get("event") == "resume" for line in lines)
    facts.append(["restarts", str(restarts)])
    return facts


def _streams(numbers: Series, prefix: str, suffix: str = "") -> list[str]:
    return [
        key.removeprefix(prefix).removesuffix(suffix)
        for key in numbers
        if key.startswith(prefix) and key.endswith(suffix)
    ]


def _resumes(lines: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({line["step"] for line in lines if line.get("event") == "resume"})


def _median(values: Sequence[float]) -> float:
    middle = sorted(values)
    half = len(middle) // 2
    return middle[half] if len(middle) % 2 else (middle[half - 1] + middle[half]) / 2


def _count(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
