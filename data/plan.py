"""Which rows on disk make a batch, of a run or of a measurement: from its number alone."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.mixture import Deal
from data.stream import Stream


@dataclass(frozen=True)
class Wanted:
    """Rows to read for a batch: of each its stream and its row on disk, -1 for an empty one."""

    stream: np.ndarray
    row: np.ndarray


class RunPlan:
    """Which rows on disk make batch i of a run."""

    def __init__(
        self,
        streams: Sequence[Stream],
        deal: Deal,
        seed: int,
        batch_rows: int,
        start_row: int,
        stop_row: int,
    ):
        self.streams = streams
        self._deal, self._seed, self._batch_rows, self._start = deal, seed, batch_rows, start_row
        self._num_batches = (stop_row - start_row) // batch_rows

    def __len__(self) -> int:
        return self._num_batches

    def wanted(self, batch: int, rows: np.ndarray) -> Wanted:
        """The given rows, int64[n] within the batch, of batch `batch`."""
        first = self._start + batch * self._batch_rows
        given, positions = self._deal.rows(first, first + self._batch_rows)
        given, positions = given[rows], positions[rows]
        on_disk = np.empty(len(rows), np.int64)
        for k in np.unique(given):
            at = given == k
            on_disk[at] = shuffled(self.streams[k], self._seed, positions[at])
        return Wanted(given.astype(np.int32), on_disk)


class HeldOutPlan:
    """Which rows on disk make batch i of a measurement."""

    def __init__(self, stream: Stream, batch_rows: int, num_rows: int):
        self.streams = [stream]
        self._batch_rows, self._num_rows = batch_rows, num_rows

    def __len__(self) -> int:
        return -(-self._num_rows // self._batch_rows)

    def wanted(self, batch: int, rows: np.ndarray) -> Wanted:
        """The given rows, int64[n] within the batch, of batch `batch`; -1 behind the last."""
        place = batch * self._batch_rows + rows
        on_disk = place * self.streams[0].num_rows // self._num_rows
        return Wanted(np.zeros(len(rows), np.int32), np.where(place < self._num_rows, on_disk, -1))


def shuffled(stream: Stream, seed: int, positions: np.ndarray) -> np.ndarray:
    """The rows on disk, int64[n], at positions of the stream's endless order.

    Every epoch is a permutation of all rows, another one each time.
    """
    from grain.experimental import index_shuffle

    last = stream.num_rows - 1
    rows = np.empty(len(positions), np.int64)
    for n, position in enumerate(positions.tolist()):
        epoch, place = divmod(position, stream.num_rows)
        rows[n] = index_shuffle(place, last, _epoch_seed(seed, stream.name, epoch), 4)
    return rows


@functools.lru_cache(maxsize=4096)
def _epoch_seed(seed: int, name: str, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}\0{epoch}".encode()).digest()[:4], "big")
