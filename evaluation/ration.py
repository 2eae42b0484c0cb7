"""How much of its tasks a run asks of itself, so that they take no more than a share of training time.

Two things can give: how many items are asked, and at how many of the evaluations. The items are fixed
once for a run, since a curve over other items each time says nothing; the base at step 0 and the end
are always among what is asked. What compiling takes is not counted, as it is not for training.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

LEAST = 24  # items of a task; with fewer, its curve is noise


@dataclass(frozen=True)
class Ration:
    """What a run asks.

    Attributes:
        items: of each task.
        every: tasks are asked at every so many-th evaluation, the first and the last; 0: never.
    """

    items: dict[str, int]
    every: int

    def is_due(self, evaluation: int, last: int) -> bool:
        """Whether evaluation 0, 1, ... `last` asks tasks."""
        if not self.every:
            return False
        return evaluation in (0, last) or evaluation % self.every == 0


def ration(
    sizes: Mapping[str, int],
    item_seconds: Mapping[str, float],
    *,
    training_seconds: float | None,
    evaluations: int,
    share: float,
) -> Ration:
    """As many items as fit, at as many evaluations as leave each task `LEAST` of them.

    Args:
        sizes: items of each task that there are.
        item_seconds: what one takes.
        training_seconds: what all steps of the run will take; None where nothing is known of it yet,
            which asks the least.
        evaluations: of the run, its step 0 and its end included.
        share: of training time for all tasks together.
    """
    least = {name: min(size, LEAST) for name, size in sizes.items()}
    if training_seconds is None:
        return Ration(least, 1)
    needed = sum(count * item_seconds[name] for name, count in least.items())
    for every in range(1, max(evaluations, 2)):
        asked = sum(Ration({}, every).is_due(i, evaluations - 1) for i in range(evaluations))
        room = share * training_seconds / asked
        if needed <= room:
            return Ration(_filled(sizes, item_seconds, least, room), every)
    return Ration(dict.fromkeys(sizes, 0), 0)


def _filled(
    sizes: Mapping[str, int],
    item_seconds: Mapping[str, float],
    least: Mapping[str, int],
    room: float,
) -> dict[str, int]:
    """Equal time for every task; what one does not need goes to the others."""
    items = dict(least)
    room -= sum(count * item_seconds[name] for name, count in least.items())
    by_need = sorted(sizes, key=lambda name: (sizes[name] - least[name]) * item_seconds[name])
    for place, name in enumerate(by_need):
        part = room / (len(by_need) - place)
        more = min(sizes[name] - least[name], math.floor(part / max(item_seconds[name], 1e-9)))
        items[name] += more
        room -= more * item_seconds[name]
    return items
