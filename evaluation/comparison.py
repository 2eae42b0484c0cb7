"""How far apart two models are, and how sure that is: what the report's differences are made of.

Both models are measured on the same rows and the same items, so the difference is taken row by row
and resampled so (a paired bootstrap). Where the pieces do not correspond (held-out text packed anew
for another tokenizer; a metric that no single item has a score of) the two intervals are combined as
if the measurements were independent, which is wider, and the result says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.bootstrap import FEW
from evaluation.forgetting import paired_change
from evaluation.results import TaskResult

_DRAWS = 2000


@dataclass(frozen=True)
class Difference:
    """A model's figure less the base's, with its 95 % interval.

    Attributes:
        value: absolute for scores, relative for bits per byte.
        low: lower end; None where there are too few pieces for an interval.
        high: upper end, or None.
        paired: whether rows or items were compared one by one.
    """

    value: float
    low: float | None
    high: float | None
    paired: bool

    @property
    def is_clear(self) -> bool:
        """Whether there is an interval and it leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Rows:
    """Held-out text row by row: nats float64[rows], bytes int64[rows]."""

    nats: np.ndarray
    num_bytes: np.ndarray

    @property
    def bits_per_byte(self) -> float:
        """Over all rows."""
        return float(self.nats.sum() / (math.log(2) * self.num_bytes.sum()))


def loss_change(base: Rows, model: Rows) -> Difference:
    """The relative change in bits per byte."""
    paired = np.array_equal(base.num_bytes, model.num_bytes)
    if min(np.count_nonzero(rows.num_bytes) for rows in (base, model)) < FEW:
        change = model.bits_per_byte / base.bits_per_byte - 1
        return Difference(change, None, None, paired)
    if paired:
        return Difference(*paired_change(model.nats, base.nats), paired=True)
    # The spread of a ratio of two independent figures.
    draws = [_bits(rows, seed) for seed, rows in enumerate((base, model))]
    low, high = np.quantile(draws[1] / draws[0] - 1, [0.025, 0.975])
    value = model.bits_per_byte / base.bits_per_byte - 1
    return Difference(value, float(low), float(high), paired=False)


def score_difference(base: TaskResult, model: TaskResult) -> Difference:
    """The difference of the main metric.

    Raises:
        ValueError: the two results are not of the same task, metric and items.
    """
    for name in ("task", "metric", "definition", "items", "reference_compatible"):
        if getattr(base, name) != getattr(model, name):
            raise ValueError(
                f"task {base.task}: {name} is {getattr(base, name)!r} for {base.model} and "
                f"{getattr(model, name)!r} for {model.model}; these scores do not compare"
            )
    value = model.value - base.value
    scores = _scores(base), _scores(model)
    if base.ids != model.ids or scores[0] is None or scores[1] is None:
        below = math.hypot(model.value - model.interval[0], base.interval[1] - base.value)
        above = math.hypot(model.interval[1] - model.value, base.value - base.interval[0])
        return Difference(value, value - below, value + above, paired=False)
    gains = scores[1] - scores[0]
    drawn = np.random.default_rng(0).multinomial(
        len(gains), np.full(len(gains), 1 / len(gains)), _DRAWS
    )
    low, high = np.quantile(drawn @ gains / len(gains), [0.025, 0.975])
    return Difference(value, float(low), float(high), paired=True)


def wilson(count: int, asked: int) -> tuple[float, float]:
    """The 95 % interval of a share, good for few and for none of few (Wilson, 1927)."""
    if not asked:
        return 0.0, 1.0
    z, share = 1.959964, count / asked
    middle = share + z * z / (2 * asked)
    spread = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    whole = 1 + z * z / asked
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)


def share_difference(base: Sequence[bool], model: Sequence[bool]) -> Difference:
    """The difference of two shares over the same requests, in the same order."""
    gains = np.array(model, float) - np.array(base, float)
    drawn = np.random.default_rng(0).multinomial(
        len(gains), np.full(len(gains), 1 / len(gains)), _DRAWS
    )
    low, high = np.quantile(drawn @ gains / len(gains), [0.025, 0.975])
    return Difference(float(gains.mean()), float(low), float(high), paired=True)


def _scores(result: TaskResult) -> np.ndarray | None:
    """Each item's score, where the metric is their mean."""
    if not result.per_item or None in result.per_item:
        return None
    scores = np.array(result.per_item, float)
    return scores if math.isclose(scores.mean(), result.value, abs_tol=1e-6) else None


def _bits(rows: Rows, seed: int) -> np.ndarray:
    full = rows.num_bytes > 0
    nats, sizes = rows.nats[full], rows.num_bytes[full]
    drawn = np.random.default_rng(seed).multinomial(
        len(nats), np.full(len(nats), 1 / len(nats)), _DRAWS
    )
    return (drawn @ nats) / (math.log(2) * (drawn @ sizes))
