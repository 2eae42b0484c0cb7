"""The schedule of a mixture: each stream's row weight over the rows of a run.

Weights in a recipe are shares of non-padding tokens. Divided by the tokens a stream has per row,
and by their sum, they are row weights. These are linear in the row on each of a list of intervals,
so their integral and its inverse are exact and cheap.

Everything is computed with IEEE basic operations and square roots, whose bits are the same on every
machine: hosts with different processors, and a run resumed elsewhere, deal alike.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from data.config import MixtureConfig, StreamConfig
from data.stream import Stream

# Intervals that a curved stretch of row weights is cut into, at most; with fewer rows than that,
# one per row.
PIECES = 1 << 16
# In rows. Far above the rounding of the integrals, far below the slack that the deal's margin
# leaves.
TOLERANCE = 1e-6
FAR = 1 << 48


class RowWeights:
    """Each stream's row weight over the rows of a run: linear on intervals, level after the last.

    Args:
        edges: float64[M + 1], the rows where intervals begin and end, rising from 0.
        left: float64[K, M], row weights where each interval begins.
        right: float64[K, M], row weights where it ends.
    """

    def __init__(self, edges: np.ndarray, left: np.ndarray, right: np.ndarray):
        self.num_streams = len(left)
        length = np.diff(edges)
        if len(length) == 1 and np.array_equal(left, right):
            # Level all over: the rows dealt are the same whatever the length of the run.
            self._edges, self._length = np.zeros(1), np.array([np.inf])
            self._left, self._slope = left, np.zeros_like(left)
            self._before = np.zeros((self.num_streams, 1))
            return
        self._edges, self._length = edges, np.append(length, np.inf)
        self._left = np.concatenate([left, right[:, -1:]], axis=1)
        self._slope = np.concatenate(
            [(right - left) / length, np.zeros((self.num_streams, 1))], axis=1
        )
        self._before = np.zeros((self.num_streams, len(edges)))
        np.cumsum((left + right) * (0.5 * length), axis=1, out=self._before[:, 1:])

    def integral(self, k: int, row: np.ndarray) -> np.ndarray:
        """∫₀ʳᵒʷ w_k, for any number of rows."""
        i = np.searchsorted(self._edges, row, side="right") - 1
        d = row - self._edges[i]
        return self._before[k, i] + d * (self._left[k, i] + 0.5 * d * self._slope[k, i])

    def first_row(self, k: int, value: np.ndarray) -> np.ndarray:
        """The first row, int64, where the integral reaches each of the positive, rising values."""
        i = np.searchsorted(self._before[k], value, side="left") - 1
        c, left = value - self._before[k, i], self._left[k, i]
        root = np.sqrt(np.maximum(left * left + 2 * c * self._slope[k, i], 0))
        with np.errstate(divide="ignore"):
            d = np.minimum(2 * c / (left + root), self._length[i])
        row = np.minimum(self._edges[i] + d, FAR)
        return np.ceil(row - TOLERANCE).astype(np.int64)


def row_weights(
    streams: Sequence[Stream],
    configs: Mapping[str, StreamConfig],
    mixture: MixtureConfig,
    total_rows: int,
) -> RowWeights:
    """The schedule of a recipe as row weights."""
    missing = [stream.name for stream in streams if stream.name not in configs]
    if missing:
        raise ValueError(
            f"streams.{missing[0]}: has no weight in the recipe, which names {', '.join(configs)}"
        )
    chosen = [configs[stream.name] for stream in streams]
    rows = max(total_rows, 1)
    if mixture.schedule == "priority":
        return _priority_decay(streams, chosen, rows)
    points = [
        _points(stream.name, config, mixture)
        for stream, config in zip(streams, chosen, strict=True)
    ]
    progress = sorted({0.0, 1.0}.union(*([p for p, _ in line] for line in points)))
    per_row = np.array([stream.tokens_per_row for stream in streams])[:, None]
    edges, left, right = [0.0], [], []
    for a, b in itertools.pairwise(progress):
        ends = np.array([[_at(line, a), _at(line, b)] for line in points]) / per_row  # (K, 2)
        totals = _total(ends)
        for at, total in zip((a, b), totals, strict=True):
            if total <= 0:
                raise ValueError(
                    f"streams: every weight is 0 at progress {at:g}; some stream must give rows"
                )
        if len(streams) == 1 or totals[0] == totals[1] or _level(ends / totals):
            u = np.array([0.0, 1.0])  # shares move along straight lines
        else:
            u = np.linspace(0, 1, 1 + min(PIECES, max(1, int((b - a) * rows))))
        weights = ends[:, :1] * (1 - u) + ends[:, 1:] * u
        weights = weights / _total(weights)
        edges.extend(((a + (b - a) * u) * rows).tolist()[1:])
        left.append(weights[:, :-1])
        right.append(weights[:, 1:])
    return RowWeights(np.array(edges), np.concatenate(left, axis=1), np.concatenate(right, axis=1))


def _points(name: str, config: StreamConfig, mixture: MixtureConfig) -> list[tuple[float, float]]:
    """A stream's token weight as [(progress, weight), ...]."""
    if not isinstance(config.weight, tuple):
        return [(0.0, config.weight)]
    if mixture.schedule != "piecewise":
        raise ValueError(
            f"streams.{name}.weight: a list of points needs mixture.schedule=piecewise, "
            f"which is {mixture.schedule}"
        )
    at = [progress for progress, _ in config.weight]
    if not at or at != sorted(set(at)):
        raise ValueError(f"streams.{name}.weight: progress must rise from point to point, is {at}")
    return list(config.weight)


def _at(line: Sequence[tuple[float, float]], progress: float) -> float:
    """A token weight at a point of the run: linear between points, level outside of them."""
    if progress <= line[0][0]:
        return line[0][1]
    for (a, left), (b, right) in itertools.pairwise(line):
        if progress <= b:
            u = (progress - a) / (b - a)
            return left * (1 - u) + right * u
    return line[-1][1]


def _priority_decay(
    streams: Sequence[Stream], configs: Sequence[StreamConfig], rows: int
) -> RowWeights:
    """The expected shares of drawing rows without replacement, each with its stream's priority.

    HuatuoGPT-II's one-stage schedule. In latent time s a row of priority π is still there with
    probability exp(-π s), so progress is 1 - Σ a_k exp(-π_k s), where a_k is the stream's part of
    the pool of rows × epochs. What a stream has given at each of many points of progress follows
    exactly; between two points its share is level. The pool is drawn over the whole run, whatever
    the run's length.
    """
    for stream, config in zip(streams, configs, strict=True):
        if config.priority is None:
            raise ValueError(
                f"streams.{stream.name}.priority: missing; mixture.schedule=priority needs it"
            )
        if isinstance(config.weight, tuple):
            raise ValueError(
                f"streams.{stream.name}.weight: points need mixture.schedule=piecewise, "
                "not priority"
            )
    pool = np.array(
        [[s.num_rows * (c.epochs or 1.0)] for s, c in zip(streams, configs, strict=True)]
    )
    part = pool / _total(pool)
    priority = np.array([[c.priority] for c in configs], np.float64)
    priority = priority / priority.min()
    progress = np.linspace(0, 1, 1 + min(rows, PIECES))
    # exp(-64) of the pool is no row.
    low, high = np.zeros_like(progress), np.full_like(progress, 64.0)
    for _ in range(64):
        middle = 0.5 * (low + high)
        early = 1 - _total(part * _exp(-priority * middle)) < progress
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    remaining = part * _exp(-priority * high)  # (K, M + 1)
    remaining[:, :1], remaining[:, -1:] = part, 0
    given = np.maximum(remaining[:, :-1] - remaining[:, 1:], 0)
    share = given / _total(given)
    return RowWeights(progress * rows, share, share)


def _level(shares: np.ndarray) -> bool:
    """Whether the shares at both ends of an interval are the same."""
    return bool(np.array_equal(shares[:, 0], shares[:, 1]))


def _total(values: np.ndarray) -> np.ndarray:
    """Sum over the streams, one after the other: numpy's own order differs between machines."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _exp(x: np.ndarray) -> np.ndarray:
    """Exp of non-positive numbers, to 1e-12, without a library: these differ in the last bits."""
    x = np.maximum(x, -745.0) / 1024
    power = np.ones_like(x)
    for n in range(16, 0, -1):
        power = 1 + x / n * power
    for _ in range(10):
        power = power * power
    return power
