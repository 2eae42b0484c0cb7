"""The comparison for people: a Markdown table and a picture."""

from collections.abc import Sequence
from pathlib import Path

from evaluation.testbed.config import TestbedConfig
from evaluation.testbed.figures import HEADLINE, Figure, Line, chance

_ORDER = (
    "memorised",
    "answerable",
    "answerable_unseen",
    "ranks_first",
    "ranks_first_unseen",
    "answerable_given_memorised",
    "answerable_unseen_given_memorised",
)


def table(config: TestbedConfig, lines: Sequence[Line]) -> str:
    """A Markdown table for every number of wordings, the main one first."""
    domain = config.domain
    held = round(domain.entities * domain.held_out)
    text = [
        f"{held} of {domain.entities} entities are read as raw articles only; shares of their facts, "
        f"with 95 % bootstrap intervals over entities. Chance among an attribute's values: "
        f"{chance(config):.2f}."
    ]
    for wordings in dict.fromkeys(line.wordings for line in lines):
        group = [line for line in lines if line.wordings == wordings]
        seeds, plural = len(group[0].seeds), "" if wordings == 1 else "s"
        text += [
            "",
            f"### {wordings} wording{plural} of an article, {seeds} "
            f"seed{'' if seeds == 1 else 's'}, {group[0].budget:,} tokens each",
            "",
            "| variant | memorised | answerable | in a wording never seen | ranks first; mean rank | "
            "in a wording never seen | **answerable given memorised** | in a wording never seen |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for line in group:
            cells = [_cell(line.figures[name]) + _rank(line, name) for name in _ORDER]
            mark = " ¹" if line.under else ""
            text.append(f"| {line.variant}{mark} | " + " | ".join(cells) + " |")
        if any(line.under for line in group):
            text += [
                "",
                f"¹ a run has memorised less than {config.run.memorised:.0%} at the cap of "
                f"{config.run.budgets[-1]:,} tokens.",
            ]
    return "\n".join(text) + "\n"


def picture(config: TestbedConfig, lines: Sequence[Line], path: Path) -> None:
    """Bars of both figures by variant, and the headline over the number of wordings."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    main = [line for line in lines if line.wordings == config.main_wordings]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.6), layout="constrained", width_ratios=(3, 2)
    )
    bars = {
        "memorised": ("memorised", "#9aa5b1"),
        "answerable given memorised": (HEADLINE, "#2f6fb0"),
        "the same, a wording never seen": ("answerable_unseen_given_memorised", "#8fbce6"),
    }
    for offset, (label, (name, colour)) in enumerate(bars.items()):
        found = [line.figures[name] for line in main]
        left.bar(
            [i + (offset - 1) * 0.27 for i in range(len(main))],
            [figure.value or 0 for figure in found],
            0.25,
            yerr=_whiskers(found),
            label=label,
            color=colour,
            error_kw={"elinewidth": 1},
        )
    left.set_xticks(range(len(main)), [line.variant.replace("_", "\n") for line in main])
    left.set_title(f"{config.main_wordings} wordings, {len(config.seeds)} seeds")
    order = sorted(config.wordings, key=lambda w: (isinstance(w, str), w))
    for variant in config.variants:
        of = {line.wordings: line for line in lines if line.variant == variant}
        found = [of[wordings].figures[HEADLINE] for wordings in order]
        right.errorbar(
            range(len(order)),
            [figure.value if figure.value is not None else float("nan") for figure in found],
            yerr=_whiskers(found),
            marker="o",
            capsize=2,
            label=variant,
        )
    right.set_xticks(range(len(order)), [str(wordings) for wordings in order])
    right.set_xlabel("wordings of an article")
    right.set_title("answerable given memorised")
    for axes in (left, right):
        axes.axhline(chance(config), color="black", linewidth=0.8, linestyle=":", label="chance")
        axes.set_ylim(0, 1.05)
        # Below, where no bar can be hidden.
        axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _cell(figure: Figure) -> str:
    if figure.value is None or figure.interval is None:
        return "–"
    low, high = figure.interval
    return f"{figure.value:.2f} ({low:.2f}–{high:.2f})"


def _rank(line: Line, name: str) -> str:
    kind = {"ranks_first": "seen", "ranks_first_unseen": "unseen"}.get(name)
    rank = line.mean_rank[kind] if kind else None
    return "" if rank is None else f"; {rank:.1f}"


def _whiskers(found: Sequence[Figure]) -> list[list[float]]:
    sides: list[list[float]] = [[], []]
    for figure in found:
        value = figure.value or 0.0
        low, high = figure.interval or (value, value)
        sides[0].append(max(value - low, 0.0))
        sides[1].append(max(high - value, 0.0))
    return sides
