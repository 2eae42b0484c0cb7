"""Processor seconds by stage, for `--profile`.

Stages are generators that pull from each other, so the time inside one is counted without what it
waits for: entering a stage stops the count of the one that asked.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Clock:
    """Adds up the processor time of one process, by stage.

    Attributes:
        seconds: stage to seconds, the time of the stages it pulls from not included.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what happens in the block for `name`."""
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def through(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time that making them takes is counted for `name`."""
        iterator = iter(items)
        while True:
            self._enter(name)
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._leave()
            yield item

    def _enter(self, name: str) -> None:
        self._charge()
        self._running.append(name)

    def _leave(self) -> None:
        self._charge()
        self._running.pop()

    def _charge(self) -> None:
        now = time.process_time()
        if self._running:
            name = self._running[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
