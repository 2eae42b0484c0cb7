"""The report's pictures, as SVG text: differences to the base as dots with intervals, and their course over steps."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLORS = ("#2f6fb5", "#d1622b", "#3d8f56", "#8a5aa8", "#b8901c", "#c4527d")
INK, FAINT, GRID = "#22262b", "#7b838c", "#e6e8eb"


@dataclass(frozen=True)
class Dot:
    """A difference to the base with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One line of a dot plot: what it is of, and a dot for each model that has one."""

    name: str
    group: str
    dots: dict[str, Dot]


def dot_plot(rows: Sequence[Row], models: Sequence[str], *, title: str, unit: str) -> str:
    """Differences to the base, which is the line at zero; groups are set apart.

    Args:
        rows: from top to bottom; those of a group stand together.
        models: their order, hence their colours.
        title: above.
        unit: of the horizontal axis.
    """
    figure, axes = _figure(9.2, 1.15 + 0.34 * len(rows) + 0.3 * len({row.group for row in rows}))
    axes.axvline(0, color=INK, lw=1.1, zorder=1)
    place, ticks, names = 0.0, [], []
    before = None
    for row in rows:
        if row.group != before:
            place -= 0.55 if before is None else 0.9
            axes.annotate(
                row.group, (0, place), xycoords=("axes fraction", "data"), xytext=(-6, 0),
                textcoords="offset points", ha="right", va="center", fontsize=8.5, color=FAINT,
                fontstyle="italic",
            )  # fmt: skip
            before = row.group
        place -= 1.0
        ticks.append(place)
        names.append(row.name)
        shown = [model for model in models if model in row.dots]
        for i, model in enumerate(shown):
            dot, color = row.dots[model], COLORS[models.index(model) % len(COLORS)]
            at = place + 0.22 * ((len(shown) - 1) / 2 - i)
            axes.plot([dot.low, dot.high], [at, at], color=color, lw=2.2, solid_capstyle="round")
            axes.plot([dot.value], [at], "o", color=color, ms=5.5, mec="white", mew=0.8, zorder=3)
    for i, model in enumerate(models):
        axes.plot([], [], "o-", color=COLORS[i % len(COLORS)], ms=5, lw=2, label=model)
    axes.set_yticks(ticks, names)
    axes.set_ylim(place - 0.7, 0.1)
    _finish(axes, title)
    axes.set_xlabel(unit, color=FAINT, fontsize=9)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.tick_params(axis="y", colors=INK)
    if len(models) > 1:
        axes.legend(
            frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), labelcolor=INK,
            ncols=min(len(models), 4), borderaxespad=0.2, columnspacing=1.2,
        )  # fmt: skip
    return _svg(figure)


def course_plot(
    curves: dict[str, list[tuple[int, Dot]]], *, title: str, unit: str, limit: float | None = None
) -> str:
    """Differences to the base over a run's steps, a curve each with its interval as a band.

    Args:
        curves: by name: (step, difference), ascending.
        title: above.
        unit: of the vertical axis.
        limit: drawn as a dashed line where there is one.
    """
    figure, axes = _figure(9.2, 3.6)
    axes.axhline(0, color=INK, lw=1.1, zorder=1)
    if limit is not None:
        axes.axhline(limit, color=FAINT, lw=0.9, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            "forgetting limit", (1, limit), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", ha="right", fontsize=8, color=FAINT,
        )  # fmt: skip
    for i, (name, curve) in enumerate(curves.items()):
        steps, dots = zip(*curve, strict=True)
        color = COLORS[i % len(COLORS)]
        axes.fill_between(
            steps, [d.low for d in dots], [d.high for d in dots], color=color, alpha=0.15, lw=0
        )
        axes.plot(steps, [d.value for d in dots], "o-", color=color, lw=1.8, ms=4.5, label=name)
    _finish(axes, title)
    axes.set_ylabel(unit, color=FAINT, fontsize=9)
    axes.set_xlabel("step", color=FAINT, fontsize=9)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, ncols=min(len(curves), 4))
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    # No pyplot: it would choose a backend for the whole process.
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    return figure, figure.subplots()


def _finish(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=FAINT, labelsize=9, length=0)


def _svg(figure: Any) -> str:
    """The `<svg>` element alone, to stand in a page; the same figure gives the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "path"}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]
