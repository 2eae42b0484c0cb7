"""Scores of a task from what was chosen or written for each item.

Every metric is a function of weights on the items, so that one definition gives the value and its
bootstrap. `reference_compatible` puts the published rule back where it was a defective one, so that
published numbers can be compared with; see docs/evaluation.md for what differs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.bootstrap import interval
from evaluation.task import Metric

_REFERENCE_BATCH = 4  # the published batch of UNFAIR-ToS, whose ragged gold lists were filled up


@dataclass(frozen=True)
class Outcome:
    """What came of one item.

    Attributes:
        gold: indices of the right options.
        options: what was there to choose from.
        chosen: indices of the options chosen; empty where nothing could be read from a reply.
        group: what it is scored together with.
        kind: type of the question.
        value: score of a written answer, from `evaluation.answers`.
        counts: of a written list: found and right, found, right; None for other answers.
    """

    gold: tuple[int, ...] = ()
    options: tuple[str, ...] = ()
    chosen: tuple[int, ...] = ()
    group: str = ""
    kind: str = ""
    value: float | None = None
    counts: tuple[int, int, int] | None = None


Weighted = Callable[[np.ndarray], float]


def measure(
    metrics: Sequence[Metric],
    outcomes: Sequence[Outcome],
    *,
    reference_compatible: bool = False,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Every metric's value and interval; the first is the main one.

    Metrics with parts (groups, types of questions) give these too, as `name[part]`.
    """
    found: dict[str, dict[str, Any]] = {}
    everything = np.ones(len(outcomes), np.int64)
    for name in metrics:
        for label, value, groups in _parts(name, outcomes, reference_compatible):
            low, high = interval(value, len(outcomes), groups=groups, seed=seed)
            found[label] = {"value": value(everything), "interval": [low, high]}
    return found


def per_item(
    metric: Metric, outcomes: Sequence[Outcome], *, reference_compatible: bool = False
) -> tuple[float | None, ...]:
    """What each item adds to a metric: for F1 over classes, whether it is right."""
    if metric in ("span_f1", "numeric_match", "exact_match"):
        return tuple(outcome.value for outcome in outcomes)
    return tuple(map(float, _right(metric, outcomes, reference_compatible)))


def _parts(
    name: Metric, outcomes: Sequence[Outcome], reference: bool
) -> list[tuple[str, Weighted, list[str] | None]]:
    groups = [outcome.group for outcome in outcomes]
    if name in ("micro_f1", "macro_f1", "weighted_f1"):
        return [(name, _class_f1(outcomes, name), None)]
    if name == "grouped_weighted_f1":
        parts = {}
        for group in dict.fromkeys(groups):
            at = [i for i, g in enumerate(groups) if g == group]
            of_group = _class_f1([outcomes[i] for i in at], "weighted_f1")
            parts[group] = lambda w, at=at, of_group=of_group: of_group(w[at])
        whole = lambda w: float(np.mean([part(w) for part in parts.values()]))  # noqa: E731
        each = [(f"{name}[{group}]", part, groups) for group, part in parts.items()]
        return [(name, whole, groups), *each]
    if name in ("span_f1", "numeric_match", "exact_match"):
        values = np.array([outcome.value or 0.0 for outcome in outcomes])
        found: list[tuple[str, Weighted, list[str] | None]] = [(name, _mean_of(values), None)]
        if name == "span_f1" and not reference:
            counts = np.array([outcome.counts or (0, 0, 0) for outcome in outcomes])
            found.append(("span_f1[all spans]", lambda w: _f1(*(w @ counts)), None))
        return found
    right = np.array(_right(name, outcomes, reference), float)
    found = [(name, _mean_of(right), None)]
    kinds = [outcome.kind for outcome in outcomes]
    if name == "exam_accuracy" and len(set(kinds)) > 1:
        for kind in dict.fromkeys(kinds):
            of_kind = np.array([k == kind for k in kinds], float)
            found.append((f"{name}[{kind or 'no type'}]", _mean_of(right, of_kind), kinds))
    return found


def _right(metric: Metric, outcomes: Sequence[Outcome], reference: bool) -> list[bool]:
    """Whether each item counts as answered."""
    if metric == "set_accuracy":
        golds = [outcome.gold for outcome in outcomes]
        if reference:
            golds = _filled(golds)
        return [bool(set(o.chosen) & set(g)) for o, g in zip(outcomes, golds, strict=True)]
    if metric == "exam_accuracy":
        if reference:  # of a question with one answer, only the first letter was looked at
            return [
                o.chosen[:1] == o.gold if len(o.gold) == 1 else set(o.chosen) == set(o.gold)
                for o in outcomes
            ]
        return [bool(o.chosen) and set(o.chosen) == set(o.gold) for o in outcomes]
    return [bool(set(o.chosen) & set(o.gold)) for o in outcomes]


def _filled(golds: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The published defect: lists of a batch are made equally long with 0, which then counts as gold."""
    filled = []
    for start in range(0, len(golds), _REFERENCE_BATCH):
        batch = golds[start : start + _REFERENCE_BATCH]
        longest = max(map(len, batch))
        filled += [(*gold, *[0] * (longest - len(gold))) for gold in batch]
    return filled


def _mean_of(values: np.ndarray, among: np.ndarray | None = None) -> Weighted:
    def mean(weights: np.ndarray) -> float:
        weights = weights if among is None else weights * among
        return float(weights @ values / max(weights.sum(), 1))

    return mean


def _class_f1(outcomes: Sequence[Outcome], kind: str) -> Weighted:
    """F1 over classes that occur as gold or as chosen.

    A class is an option by its text where all items have the same options, whatever their order, else
    by its place. `micro_f1` of items with one class each is their accuracy.
    """
    without = next((o for o in outcomes if not o.gold or not o.chosen), None)
    if without is not None:
        raise ValueError(
            f"{kind}: an item has no right option ({without.options}); use set_accuracy"
        )
    same = len({frozenset(outcome.options) for outcome in outcomes}) == 1
    labels = [[o.options[i] if same else i for i in (o.gold[0], o.chosen[0])] for o in outcomes]
    classes = {
        label: n for n, label in enumerate(dict.fromkeys(x for pair in labels for x in pair))
    }
    K = len(classes)
    cells = np.array([classes[gold] * K + classes[chosen] for gold, chosen in labels], np.int64)

    def f1(weights: np.ndarray) -> float:
        table = np.bincount(cells, weights=weights, minlength=K * K).reshape(K, K)
        right, gold, chosen = np.diag(table), table.sum(1), table.sum(0)
        if kind == "micro_f1":
            return _f1(right.sum(), chosen.sum(), gold.sum())
        each = 2 * right / np.maximum(gold + chosen, 1)
        seen = gold + chosen > 0
        if kind == "macro_f1":
            return float(each[seen].mean())
        return float(each @ gold / max(gold.sum(), 1))

    return f1


def _f1(right: float, found: float, wanted: float) -> float:
    """Nothing found where nothing was wanted is right."""
    return 1.0 if found + wanted == 0 else float(2 * right / (found + wanted))
