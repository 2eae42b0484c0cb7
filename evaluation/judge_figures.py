"""Wins, ties and losses of a pairwise comparison, with bootstrap intervals over the pairs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

Outcome = Literal["win", "tie", "loss", "unparsed"]
_POINTS = {"first": (10, 0), "second": (0, 10), "equal": (5, 5)}


@dataclass(frozen=True)
class Share:
    """A share of the pairs that have an outcome, with the middle 95 % of its bootstrap draws."""

    count: float
    share: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Figures:
    """What became of the pairs, from the first model's side.

    Attributes:
        pairs: all, those without an outcome included.
        unparsed: without an outcome: a verdict could not be read.
        win, tie, loss: of the others.
        score: wins and half of the ties.
        groups: the same by group, where the questions have groups.
    """

    pairs: int
    unparsed: int
    win: Share
    tie: Share
    loss: Share
    score: Share
    groups: dict[str, "Figures"]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def outcome_of(verdicts: Sequence[str | None]) -> Outcome:
    """Both orders' verdicts added up: ten points to the better, five to each of equals.

    One that could not be read leaves the pair without an outcome: half of a comparison is the
    judge's liking for a place as much as for an answer.
    """
    if None in verdicts:
        return "unparsed"
    points = np.sum([_POINTS[verdict] for verdict in verdicts if verdict], axis=0)
    return "win" if points[0] > points[1] else "loss" if points[0] < points[1] else "tie"


def figures(
    outcomes: Sequence[tuple[str, Outcome]], *, draws: int = 2000, seed: int = 0
) -> Figures:
    """Shares of (group, outcome) pairs.

    Args:
        outcomes: one for each pair; an empty group is none.
        draws: of the bootstrap.
        seed: of the bootstrap.
    """
    counts = Counter(outcome for _, outcome in outcomes)
    known = [outcome for _, outcome in outcomes if outcome != "unparsed"]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, max(len(known), 1), (draws, len(known)))

    def share(worth: dict[str, float]) -> Share:
        values = np.array([worth.get(outcome, 0.0) for outcome in known])
        if not len(values):
            return Share(0, float("nan"), (0.0, 1.0))
        low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
        return Share(float(values.sum()), float(values.mean()), (float(low), float(high)))

    groups = sorted({group for group, _ in outcomes if group})
    return Figures(
        len(outcomes),
        counts["unparsed"],
        share({"win": 1.0}),
        share({"tie": 1.0}),
        share({"loss": 1.0}),
        share({"win": 1.0, "tie": 0.5}),
        {
            group: figures([("", o) for g, o in outcomes if g == group], draws=draws, seed=seed)
            for group in groups
        },
    )


def shown(
    found: Figures, names: Sequence[str], identical: int, agreement: tuple[int, int, int]
) -> str:
    """The figures as a person reads them."""
    both, agreeing, for_first = agreement
    lines = [f"{names[0]} against {names[1]}: {found.pairs} pairs", *_table(found, "")]
    for group, part in found.groups.items():
        lines += [f"{group}: {part.pairs} pairs", *_table(part, "  ")]
    if identical:
        lines.append(f"answered alike, counted as ties without asking: {identical}")
    if found.unparsed:
        lines.append(f"without a verdict that can be read, counted nowhere: {found.unparsed}")
    if both:
        lines.append(
            f"both orders agree on {agreeing} of {both} pairs; {for_first} of {2 * both} verdicts "
            "are for whoever stood first"
        )
    return "\n".join(lines)


def _table(found: Figures, indent: str) -> list[str]:
    lines = []
    for name in (*get_args(Outcome)[:3], "score"):
        share: Share = getattr(found, name)
        low, high = (100 * end for end in share.interval)
        lines.append(
            f"{indent}{name:<6} {share.count:6g}  {100 * share.share:5.1f} %  (95 %: {low:.1f} to {high:.1f})"
        )
    return lines
