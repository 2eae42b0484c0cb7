"""The figures of the comparison: shares over held-out entities, with bootstrap intervals.

An entity is drawn with all its facts and all seeds of a variant, since neither is independent of
the entity.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.testbed.compare import Cell, Comparison, measure_at, read_result
from evaluation.testbed.config import TestbedConfig, Variant, Wordings
from evaluation.testbed.domain import load_wording
from evaluation.testbed.measure import Answer

# Figure -> (kind of item, what counts, whether over memorised facts only).
FIGURES: dict[str, tuple[str, str, bool]] = {
    "memorised": ("cloze", "first", False),
    "answerable": ("seen", "greedy", False),
    "answerable_unseen": ("unseen", "greedy", False),
    "ranks_first": ("seen", "first", False),
    "ranks_first_unseen": ("unseen", "first", False),
    "answerable_given_memorised": ("seen", "greedy", True),
    "answerable_unseen_given_memorised": ("unseen", "greedy", True),
}
HEADLINE = "answerable_given_memorised"


@dataclass(frozen=True)
class Figure:
    """A share, the middle 95 % of its bootstrap over entities, and the facts that it is over.

    `value` and `interval` are None where there is no such fact.
    """

    value: float | None
    interval: tuple[float, float] | None
    facts: int


@dataclass(frozen=True)
class Line:
    """One variant in one comparison.

    Attributes:
        variant, wordings: which.
        seeds: of its runs.
        budget: tokens asked for, the same for the whole comparison.
        tokens: tokens given, padding left out, by seed.
        under: whether a run has memorised less than asked for at the cap.
        figures: by the names of `FIGURES`.
        mean_rank: of the right value among its attribute's, in a seen and in an unseen wording.
        attributes: answerable given memorised by attribute.
        loss: of every stream at the end, mean over seeds.
        cpu_seconds, seconds: of training and measuring, all seeds and budgets together.
    """

    variant: Variant
    wordings: Wordings
    seeds: tuple[int, ...]
    budget: int
    tokens: tuple[int, ...]
    under: bool
    figures: dict[str, Figure]
    mean_rank: dict[str, float | None]
    attributes: dict[str, float | None]
    loss: dict[str, float]
    cpu_seconds: float
    seconds: float


def lines_of(config: TestbedConfig, comparisons: Sequence[Comparison]) -> list[Line]:
    """One line for each variant and number of wordings, the main one first."""
    out = Path(config.out_dir)
    ordered = sorted(comparisons, key=lambda c: c.wordings != config.main_wordings)
    return [
        _line(config, out, comparison, variant)
        for comparison in ordered
        for variant in config.variants
    ]


def chance(config: TestbedConfig) -> float:
    """Share of right answers of one who draws among an attribute's values."""
    attributes = load_wording(config.domain.wording).attributes.values()
    return float(np.mean([1 / len(attribute.values) for attribute in attributes]))


def to_json(config: TestbedConfig, lines: Sequence[Line]) -> dict[str, Any]:
    """All of it for `figures.json`."""
    return {
        "settings": config.model_dump(mode="json"),
        "chance": chance(config),
        "headline": HEADLINE,
        "lines": [asdict(line) for line in lines],
    }


def bootstrap(
    right: np.ndarray, count: np.ndarray, *, draws: int, seed: int = 0
) -> tuple[float, float]:
    """The middle 95 % of sum(right) / sum(count) over entities drawn with replacement.

    Draws in which nothing is counted are left out.
    """
    drawn = np.random.default_rng(seed).integers(0, len(right), (draws, len(right)))
    rights, counts = right[drawn].sum(1), count[drawn].sum(1)
    shares = rights[counts > 0] / counts[counts > 0]
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def figures_of(runs: Sequence[Sequence[Answer]], *, draws: int) -> dict[str, Figure]:
    """The figures of a variant from the answers of its runs, one for each seed."""
    figures = {}
    for name, (kind, counted, given) in FIGURES.items():
        right: defaultdict[str, int] = defaultdict(int)
        count: defaultdict[str, int] = defaultdict(int)
        for found in runs:
            known = _memorised(found)
            for answer in found:
                if answer.kind != kind:
                    continue
                count[answer.entity] += 0  # an entity without a memorised fact may be drawn too
                right[answer.entity] += 0
                if not given or (answer.entity, answer.attribute) in known:
                    count[answer.entity] += 1
                    right[answer.entity] += (
                        answer.greedy if counted == "greedy" else (answer.rank == 1)
                    )
        rights, counts = np.array([*right.values()]), np.array([*count.values()])
        total = int(counts.sum()) if len(counts) else 0
        figures[name] = (
            Figure(float(rights.sum() / total), bootstrap(rights, counts, draws=draws), total)
            if total
            else Figure(None, None, 0)
        )
    return figures


def _line(config: TestbedConfig, out: Path, comparison: Comparison, variant: Variant) -> Line:
    cells = [cell for cell in comparison.cells if cell.variant == variant]
    found = [_read(out, cell, comparison.budget) for cell in cells]
    runs = [[Answer(*answer) for answer in measure["answers"]] for measure in found]
    memorised = [figures_of([run], draws=10)["memorised"].value or 0.0 for run in runs]
    everything = [
        measure for cell in cells for measure in (read_result(out, cell) or {})["measures"].values()
    ]
    names = {name for measure in found for name in measure["loss"]}
    return Line(
        variant,
        comparison.wordings,
        tuple(cell.seed for cell in cells),
        comparison.budget,
        tuple(measure["tokens"] for measure in found),
        min(memorised) < config.run.memorised,
        figures_of(runs, draws=config.draws),
        {kind: _mean_rank(runs, kind) for kind in ("seen", "unseen")},
        _by_attribute(runs),
        {
            name: float(np.mean([m["loss"][name] for m in found if name in m["loss"]]))
            for name in sorted(names)
        },
        sum(measure["cpu_seconds"] for measure in everything),
        sum(measure["seconds"] for measure in everything),
    )


def _read(out: Path, cell: Cell, budget: int) -> dict[str, Any]:
    measure = measure_at(out, cell, budget)
    if measure is None:
        raise ValueError(f"{out}/runs/{cell.name}: no measure at {budget} tokens; run it again")
    return measure


def _memorised(found: Sequence[Answer]) -> set[tuple[str, str]]:
    return {(a.entity, a.attribute) for a in found if a.kind == "cloze" and a.rank == 1}


def _mean_rank(runs: Sequence[Sequence[Answer]], kind: str) -> float | None:
    ranks = [a.rank for found in runs for a in found if a.kind == kind]
    return float(np.mean(ranks)) if ranks else None


def _by_attribute(runs: Sequence[Sequence[Answer]]) -> dict[str, float | None]:
    greedy: defaultdict[str, list[bool]] = defaultdict(list)
    for found in runs:
        known = _memorised(found)
        for a in found:
            if a.kind == "seen":
                greedy[a.attribute] += [a.greedy] if (a.entity, a.attribute) in known else []
    return {name: float(np.mean(values)) if values else None for name, values in greedy.items()}
