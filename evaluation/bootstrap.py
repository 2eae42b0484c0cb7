"""How sure a score is: the middle 95 % of scores over items drawn anew, with replacement."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

DRAWS = 1000
# With fewer pieces than these there is no interval: draws of so few are the same ones over and over, and
# their spread says less than it seems to.
FEW = 8


def interval(
    value: Callable[[np.ndarray], float],
    num_items: int,
    *,
    groups: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of a score.

    Args:
        value: the score when item i counts `weights[i]` times; `weights` int64[n].
        num_items: n.
        groups: of the items, for scores that are means over groups: every group keeps its size,
            because the groups are the same questions each time and only their items are a sample.
        draws: how many.
        seed: of the draws; equal seeds give two models the same items, so they can be compared.
    """
    rng = np.random.default_rng(seed)
    of = list(groups or ())
    places = {g: np.flatnonzero([x == g for x in of]) for g in dict.fromkeys(of)}
    members = list(places.values()) or [np.arange(num_items)]
    found = []
    for _ in range(draws):
        weights = np.zeros(num_items, np.int64)
        for at in members:
            weights[at] = np.bincount(rng.integers(0, len(at), len(at)), minlength=len(at))
        found.append(value(weights))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
