"""Processor seconds by stage, for `--profile`.

Stages are generators that pull from each other, so the time inside one is counted without what it
waits for: entering a stage stops the count of the one that asked. Asking for processor time takes
longer than many a stage takes for a document, so stages are timed by the clock, and share the
processor time of the whole.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Clock:
    """Adds up the time of one process, by stage, from when it is made."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0
        self._began = time.process_time()

    @property
    def seconds(self) -> dict[str, float]:
        """Stage to processor seconds, the time of the stages it pulls from not included."""
        processor = time.process_time() - self._began
        scale = processor / max(sum(self._spent.values()), 1e-9)
        return {name: spent * scale for name, spent in self._spent.items()}

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
        now = time.perf_counter()
        if self._running:
            name = self._running[-1]
            self._spent[name] = self._spent.get(name, 0.0) + now - self._since
        self._since = now
