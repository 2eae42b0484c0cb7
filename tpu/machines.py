"""The machines of a launch, seen from here: looks at them, speaks to their workers, gives them back.

A command that does not get through is given again some times: networks, keys and machines that have just come
up take a moment. What fails on a worker itself fails at once.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tpu import gcloud
from tpu.commands import Commands
from tpu.gcloud import GcloudError, Lease, Seen
from tpu.output import Log

TRIES = 2  # connections in a row that fail before a worker counts as dead; each is ten of gcloud's
_PATIENCE = 20  # looks at the machines that fail in a row
_AT_ONCE = 16  # workers spoken to at the same time


@dataclass(frozen=True)
class Worker:
    """One host: its TPU VM, its number there, and its name for people."""

    node: str
    number: int
    name: str


@dataclass
class Machines:
    """The slices of a request.

    Attributes:
        poll: seconds between tries.
        hosts: of each slice, as last seen ready.
    """

    commands: Commands
    log: Log
    poll: float
    hosts: tuple[int, ...] = ()

    def look(self) -> Seen:
        """What there is now; a network that is away for some minutes is waited for.

        Raises:
            GcloudError: gcloud fails again and again.
        """
        for patience in (*(self.poll for _ in range(_PATIENCE)), None):
            try:
                seen = gcloud.look(self.commands.request)
            except GcloudError as error:
                if patience is None or "not installed" in str(error):
                    raise
                self.log.once(f"gcloud does not answer: {error}")
                time.sleep(patience)
            else:
                self.hosts = seen.hosts or self.hosts
                return seen
        raise AssertionError("unreachable")

    @property
    def ready(self) -> bool:
        """Whether all are there now."""
        return self.look().lease is Lease.READY

    @property
    def workers(self) -> list[Worker]:
        """Every host of every slice."""
        several = len(self.hosts) > 1
        return [
            Worker(node, number, f"{node} {number}" if several else f"worker {number}")
            for node, count in zip(self.commands.request.nodes, self.hosts, strict=True)
            for number in range(count)
        ]

    def tell(self, command: list[str]) -> str:
        """What a command for workers prints.

        Raises:
            GcloudError: it failed there, or did not get through after some tries.
        """
        for _ in range(TRIES):
            try:
                return gcloud.must(command)
            except GcloudError as error:
                if error.reached or not self.ready:
                    raise
            time.sleep(self.poll)
        return gcloud.must(command)

    def tell_all(self, command: Callable[[Worker], list[str]]) -> None:
        """Tells every worker, some at a time.

        Raises:
            GcloudError: it failed on one of them.
        """
        waiting = self.workers
        errors: list[GcloudError] = []

        def work() -> None:
            while waiting and not errors:
                try:
                    worker = waiting.pop()
                except IndexError:
                    return
                try:
                    self.tell(command(worker))
                except GcloudError as error:
                    errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(min(_AT_ONCE, len(waiting)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def give_back(self) -> None:
        """Deletes them; they cost money, so a failure is not the last word.

        Raises:
            GcloudError: it failed again and again.
        """
        for patience in (*(self.poll for _ in range(_PATIENCE)), None):
            try:
                gcloud.must(gcloud.delete(self.commands.request))
                return
            except GcloudError as error:
                if self.look().lease is Lease.ABSENT:
                    return
                if patience is None:
                    raise
                self.log.once(f"not deleted, trying again: {error}")
                time.sleep(patience)
