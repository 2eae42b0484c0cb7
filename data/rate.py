"""How fast a server may be asked, and when to ask again."""

import email.utils
import random
import threading
import time
from collections.abc import Callable, Mapping

MAX_BACKOFF_S = 60.0


class Bucket:
    """Holds a rate: so much flows in a second, and what is taken must be there.

    Args:
        per_minute: the rate; None is no limit.
        clock: seconds.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic):
        self._rate = None if per_minute is None else per_minute / 60
        self._clock = clock
        self._level = self._most = max(1.0, self._rate or 0.0)  # a second's worth may go at once
        self._at = clock()
        self._lock = threading.Lock()

    def take(self, amount: float) -> float:
        """Takes `amount` and says how many seconds to wait before using it.

        More than is there is owed: whoever comes next waits for it to flow in.
        """
        if self._rate is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._level = min(self._most, self._level + (now - self._at) * self._rate)
            self._at = now
            self._level -= amount
            return max(0.0, -self._level / self._rate)

    def give_back(self, amount: float) -> None:
        """Returns what was taken and not used (or takes more, where it is negative)."""
        with self._lock:
            self._level += amount


def backoff(first: float, attempt: int) -> float:
    """Seconds before try `attempt + 2`: drawn between half and all of `first` doubled each time."""
    return min(MAX_BACKOFF_S, first * 2**attempt) * random.uniform(0.5, 1.0)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` asks for, given in seconds or as a date; None where it does not."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError):
        return None
