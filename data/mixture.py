"""The mixture: which stream gives row n of a run, and which of its rows.

Rows are dealt by the row weights `w_k` of the schedule (`schedule.py`) so that after every row n
each stream k has given c_k(n) rows with |c_k(n) - ∫₀ⁿ w_k| < 1, for any number of streams and any
schedule. Row n is a function of the streams and the mixture alone; there is no state to save.
"""

import heapq
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.config import MixtureConfig, StreamConfig
from data.schedule import TOLERANCE, RowWeights, row_weights
from data.stream import Stream

# Rows dealt at once, and rows between two kept counts.
BLOCK = 1 << 16
KEPT = 1 << 12


class Deal:
    """The dealing of a whole run: which stream gives row n, and which of its rows.

    A pure function of its arguments. The table behind it is made as far as it is asked for (about
    0.3 µs and one byte a row).

    Args:
        streams: the run's streams; at most 256.
        configs: their weights or priorities, by name.
        mixture: the schedule.
        total_rows: rows of the whole run, progress 1 of the schedule.
        start_row: where a changed mixture takes over from another; rows before it are not this
            deal's.
        start_counts: rows that each stream had given by then, 0 for a new one.

    Raises:
        ValueError: a schedule that cannot be, with the field's name.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        configs: Mapping[str, StreamConfig],
        mixture: MixtureConfig,
        total_rows: int,
        *,
        start_row: int = 0,
        start_counts: Sequence[int] | None = None,
    ):
        if not 1 <= len(streams) <= 256:
            raise ValueError(f"streams: {len(streams)} of them; a run mixes 1 to 256")
        if not 0 <= start_row <= total_rows:
            raise ValueError(f"start_row: {start_row} is not within the run's {total_rows} rows")
        if start_counts is None:
            if start_row:
                raise ValueError(
                    f"start_counts: needed, one count per stream, to start at row {start_row}"
                )
            start_counts = [0] * len(streams)
        if len(start_counts) != len(streams) or min(start_counts) < 0:
            raise ValueError(
                f"start_counts: {list(start_counts)} is not one count for each of {len(streams)} "
                "streams"
            )
        self.names = [stream.name for stream in streams]
        self.total_rows = total_rows
        self.start_row = start_row
        self.start_counts = np.asarray(start_counts, np.int64)
        self._streams = list(streams)
        self._weights = row_weights(streams, configs, mixture, total_rows)
        self._lock = threading.Lock()
        self._jobs = _Jobs(self._weights, start_row)
        # The system gives its pages as they are written.
        self._table = np.empty(total_rows - start_row, np.uint8)
        self._dealt = 0
        self._kept = np.zeros(((total_rows - start_row) // KEPT + 1, len(streams)), np.int64)
        self._kept[0] = self.start_counts

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows `start` to `stop` of the run.

        Returns:
            The stream of each, uint8[n], and its position in that stream's endless order, int64[n]:
            epoch `position // num_rows`, place in it `position % num_rows`.
        """
        if not self.start_row <= start <= stop <= self.total_rows:
            raise ValueError(
                f"rows {start} to {stop} are not within {self.start_row} to {self.total_rows}"
            )
        counts = self.counts(start)
        self._extend(stop)
        dealt = self._table[start - self.start_row : stop - self.start_row]
        positions = np.empty(len(dealt), np.int64)
        for k, count in enumerate(counts):
            (at,) = np.nonzero(dealt == k)
            positions[at] = count + np.arange(len(at))
        return dealt.copy(), positions

    def counts(self, row: int) -> np.ndarray:
        """Rows given by each stream before `row`, int64[K]; less than 1 from `planned(row)`."""
        if not self.start_row <= row <= self.total_rows:
            raise ValueError(f"row {row} is not within {self.start_row} to {self.total_rows}")
        self._extend(row)
        kept, rest = divmod(row - self.start_row, KEPT)
        tail = self._table[kept * KEPT : kept * KEPT + rest]
        return self._kept[kept] + np.bincount(tail, minlength=len(self.names))

    def planned(self, row: int) -> np.ndarray:
        """The integral of the row weights up to `row`, float64[K], on top of `start_counts`."""
        at = np.array([self.start_row, row], np.float64)
        sums = [self._weights.integral(k, at) for k in range(len(self.names))]
        return np.array(
            [count + (b - a) for count, (a, b) in zip(self.start_counts, sums, strict=True)]
        )

    def summary(self) -> list[dict[str, Any]]:
        """What the whole run takes of each stream, for --dry-run.

        Returns:
            Per stream: name, rows, tokens, supervised, padding (tokens are a row's average times
            the rows), share of all tokens, epochs.
        """
        lines = []
        for stream, count in zip(self._streams, self.counts(self.total_rows).tolist(), strict=True):
            tokens = round(count * stream.tokens_per_row)
            lines.append(
                {
                    "name": stream.name,
                    "rows": count,
                    "tokens": tokens,
                    "supervised": round(count * stream.info["supervised"] / stream.num_rows),
                    "padding": count * stream.info["seq_len"] - tokens,
                    "epochs": count / stream.num_rows,
                }
            )
        total = sum(line["tokens"] for line in lines)
        for line in lines:
            line["share"] = line["tokens"] / total if total else 0.0
        return lines

    def _extend(self, row: int) -> None:
        """Deals on until the rows before `row` are in the table."""
        with self._lock:
            while self._dealt < row - self.start_row:
                first = self._dealt
                last = min(first + BLOCK, len(self._table))
                self._table[first:last] = self._jobs.deal(last - first)
                for kept in range(first // KEPT, last // KEPT):
                    part = self._table[kept * KEPT : (kept + 1) * KEPT]
                    self._kept[kept + 1] = self._kept[kept] + np.bincount(
                        part, minlength=len(self.names)
                    )
                self._dealt = last


class _Jobs:
    """Deals rows so that every stream stays less than one row from its integral.

    This is Tijdeman's chairman assignment (Discrete Mathematics 32, 1980). The j-th row of a stream
    is a job: it may be dealt once the integral W reaches j + margin and must be by the time it
    reaches j + 1 - margin, so the count stays within 1 - margin of W. With a margin of up to
    1/(2K - 2) all K streams' jobs can be dealt one per row, and then taking the released job with
    the earliest deadline does it. Ours is a little less, which leaves room for rounding.
    """

    def __init__(self, weights: RowWeights, start_row: int):
        self._weights = weights
        self._row = start_row
        num_streams = weights.num_streams
        self._margin = 1 / (2 * num_streams)
        start = np.array([start_row], np.float64)
        self._base = [float(weights.integral(k, start)[0]) for k in range(num_streams)]
        self._released = [0] * num_streams
        self._heap: list[int] = []  # deadline * 256 + stream

    def deal(self, num_rows: int) -> np.ndarray:
        """The streams of the next `num_rows` rows, uint8."""
        first, last = self._row, self._row + num_rows
        keys, releases = [], []
        for k, base in enumerate(self._base):
            reached = self._weights.integral(k, np.array([last + TOLERANCE]))[0] - base
            stop = max(int(np.floor(reached - self._margin)) + 1, self._released[k])
            jobs = base + np.arange(self._released[k], stop, dtype=np.float64)
            self._released[k] = stop
            release = self._weights.first_row(k, jobs + self._margin)
            deadline = self._weights.first_row(k, jobs + (1 - self._margin))
            releases.append(np.clip(release, first + 1, last) - (first + 1))
            keys.append(deadline << 8 | k)
        released_at = np.concatenate(releases)
        ordered = iter(np.concatenate(keys)[np.argsort(released_at, kind="stable")].tolist())
        heap, push, pop, push_pop = self._heap, heapq.heappush, heapq.heappop, heapq.heappushpop
        dealt = []
        deal = dealt.append
        for released in np.bincount(released_at, minlength=num_rows).tolist():
            if released == 1:
                deal(push_pop(heap, next(ordered)))
            elif released == 0:
                deal(pop(heap))
            else:
                for _ in range(released - 1):
                    push(heap, next(ordered))
                deal(push_pop(heap, next(ordered)))
        self._row = last
        return (np.array(dealt, np.int64) & 255).astype(np.uint8)
