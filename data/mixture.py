"""The mixture: which stream gives row n of a run, and which of its rows.

Weights are shares of non-padding tokens. Divided by the tokens a stream has per row they become row weights `w_k`, and
rows are dealt so that after every row n each stream k has given c_k(n) rows with |c_k(n) - ∫₀ⁿ w_k| < 1, for any
number of streams and any schedule. Row n is a function of the streams and the mixture alone; there is no state to save.

Row weights are linear in n on each of a list of intervals, so their integral and its inverse are exact and cheap.
Everything is computed with IEEE basic operations and square roots, whose bits are the same on every machine: hosts with
different processors, and a run resumed elsewhere, deal alike.
"""

import heapq
import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from data.config import MixtureConfig, StreamConfig

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer

METADATA = ("dataset_info.json", "features.json")
# Rows dealt at once, and rows between two kept counts.
BLOCK = 1 << 16
KEPT = 1 << 12
# Intervals that a curved stretch of row weights is cut into, at most; with fewer rows than that, one per row.
PIECES = 1 << 16
# In rows. Far above the rounding of the integrals, far below the slack that the margin of `_Jobs` leaves.
TOLERANCE = 1e-6
FAR = 1 << 48


@dataclass(frozen=True)
class Stream:
    """A finished packed stream.

    Attributes:
        name: its name in the recipe.
        path: the folder written by data.prepare.
        info: its `stream.json`.
    """

    name: str
    path: str
    info: dict[str, Any]

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return self.info["num_rows"]

    @property
    def tokens_per_row(self) -> float:
        """Non-padding tokens in a row, on average."""
        return self.info["tokens"] / self.info["num_rows"]


def open_stream(name: str, path: str) -> Stream:
    """Reads the description of a stream and checks that the folder holds what it says.

    Raises:
        ValueError: the folder is missing or unfinished, a shard is missing or of another size, there are no rows; with
            the stream's name, the path and what to do.
    """
    where = f"stream {name}: {path}"
    folder = epath.Path(path)
    described = folder / "stream.json"
    if not described.exists():
        state = "is unfinished, stream.json is not there" if folder.exists() else "does not exist"
        raise ValueError(f"{where} {state}; run data.prepare to the end, or correct the path")
    try:
        info = json.loads(described.read_text())
    except ValueError as error:
        raise ValueError(f"{where}/stream.json is not JSON: {error}") from error
    if info.get("format") != 1:
        raise ValueError(f"{where}/stream.json has format {info.get('format')}, known is 1")
    missing = [file for file in METADATA if not (folder / file).exists()]
    if missing:
        raise ValueError(
            f"{where} is unfinished, {', '.join(missing)} is not there; run data.prepare again"
        )
    if info["num_rows"] < 1 or info["tokens"] < 1:
        raise ValueError(
            f"{where} has {info['num_rows']} rows with {info['tokens']} tokens; leave the stream out"
        )
    shards = info["shards"]
    if sum(shard["rows"] for shard in shards) != info["num_rows"]:
        raise ValueError(
            f"{where}/stream.json: num_rows is {info['num_rows']}, its shards' rows sum to another"
        )
    # A missing file opens as an empty one on object storage, so sizes are compared before anything is read.
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(lambda shard: _size(folder / shard["file"]), shards))
    for shard, size in zip(shards, sizes, strict=True):
        if size is None:
            raise ValueError(f"{where}: shard {shard['file']} is missing; run data.prepare again")
        if size != shard["bytes"]:
            raise ValueError(
                f"{where}: shard {shard['file']} has {size} bytes, stream.json says {shard['bytes']}; "
                "copy the folder again, or run data.prepare again"
            )
    return Stream(name, path, info)


def open_streams(
    configs: Mapping[str, StreamConfig], *, seq_len: int, tokenizer: "Tokenizer | None"
) -> list[Stream]:
    """Opens the streams of a run, in the recipe's order.

    Args:
        configs: the recipe's streams by name.
        seq_len: tokens per row that the run asks for.
        tokenizer: the run's; its fingerprint must be the one the streams were packed with. None: not compared.

    Raises:
        ValueError: as `open_stream`, or a stream was packed with another seq_len or tokenizer.
    """
    streams = [open_stream(name, config.path) for name, config in configs.items()]
    for stream in streams:
        where = f"stream {stream.name}: {stream.path}"
        if stream.info["seq_len"] != seq_len:
            raise ValueError(
                f"{where} has rows of {stream.info['seq_len']} tokens, train.seq_len is {seq_len}; "
                "set it to that, or prepare the stream with this seq_len"
            )
        if tokenizer is not None and stream.info["tokenizer"] != tokenizer.fingerprint:
            raise ValueError(
                f"{where} was packed with the tokenizer {stream.info['tokenizer']}, this run's ({tokenizer.path}) is "
                f"{tokenizer.fingerprint}; name the tokenizer beside the stream, or prepare it with this one"
            )
    return streams


class Deal:
    """The dealing of a whole run: which stream gives row n, and which of its rows. A pure function of its arguments.

    The table behind it is made as far as it is asked for (about 0.3 µs and one byte a row).

    Args:
        streams: the run's streams; at most 256.
        configs: their weights or priorities, by name.
        mixture: the schedule.
        total_rows: rows of the whole run, progress 1 of the schedule.
        start_row: where a changed mixture takes over from another; rows before it are not this deal's.
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
                f"start_counts: {list(start_counts)} is not one count for each of {len(streams)} streams"
            )
        self.names = [stream.name for stream in streams]
        self.total_rows = total_rows
        self.start_row = start_row
        self.start_counts = np.asarray(start_counts, np.int64)
        self._streams = list(streams)
        self._weights = _row_weights(streams, configs, mixture, total_rows)
        self._lock = threading.Lock()
        self._jobs = _Jobs(self._weights, start_row)
        self._table = np.empty(
            total_rows - start_row, np.uint8
        )  # the system gives its pages as they are written
        self._dealt = 0
        self._kept = np.zeros(((total_rows - start_row) // KEPT + 1, len(streams)), np.int64)
        self._kept[0] = self.start_counts

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows `start` to `stop` of the run.

        Returns:
            The stream of each, uint8[n], and its position in that stream's endless order, int64[n]: epoch
            `position // num_rows`, place in it `position % num_rows`.
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
        """Rows given by each stream before `row`, int64[K]; less than 1 from `planned(row)` at every row."""
        if not self.start_row <= row <= self.total_rows:
            raise ValueError(f"row {row} is not within {self.start_row} to {self.total_rows}")
        self._extend(row)
        kept, rest = divmod(row - self.start_row, KEPT)
        tail = self._table[kept * KEPT : kept * KEPT + rest]
        return self._kept[kept] + np.bincount(tail, minlength=len(self.names))

    def planned(self, row: int) -> np.ndarray:
        """The integral of the row weights up to `row`, float64[K], counted on from `start_counts`."""
        at = np.array([self.start_row, row], np.float64)
        sums = [self._weights.integral(k, at) for k in range(len(self.names))]
        return np.array(
            [count + (b - a) for count, (a, b) in zip(self.start_counts, sums, strict=True)]
        )

    def summary(self) -> list[dict[str, Any]]:
        """What the whole run takes of each stream, for --dry-run.

        Returns:
            Per stream: name, rows, tokens, supervised, padding (tokens are a row's average times the rows), share of
            all tokens, epochs.
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

    This is Tijdeman's chairman assignment (Discrete Mathematics 32, 1980). The j-th row of a stream is a job: it may be
    dealt once the integral W reaches j + margin and must be by the time it reaches j + 1 - margin, so the count stays
    within 1 - margin of W. With a margin of up to 1/(2K - 2) all K streams' jobs can be dealt one per row, and then
    taking the released job with the earliest deadline does it. Ours is a little less, which leaves room for rounding.
    """

    def __init__(self, weights: "_RowWeights", start_row: int):
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


class _RowWeights:
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
        """The first row, int64, at which the integral reaches each of the positive, rising values."""
        i = np.searchsorted(self._before[k], value, side="left") - 1
        c, left = value - self._before[k, i], self._left[k, i]
        root = np.sqrt(np.maximum(left * left + 2 * c * self._slope[k, i], 0))
        with np.errstate(divide="ignore"):
            d = np.minimum(2 * c / (left + root), self._length[i])
        row = np.minimum(self._edges[i] + d, FAR)
        return np.ceil(row - TOLERANCE).astype(np.int64)


def _row_weights(
    streams: Sequence[Stream],
    configs: Mapping[str, StreamConfig],
    mixture: MixtureConfig,
    total_rows: int,
) -> _RowWeights:
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
    return _RowWeights(np.array(edges), np.concatenate(left, axis=1), np.concatenate(right, axis=1))


def _points(name: str, config: StreamConfig, mixture: MixtureConfig) -> list[tuple[float, float]]:
    """A stream's token weight as [(progress, weight), ...]."""
    if not isinstance(config.weight, tuple):
        return [(0.0, config.weight)]
    if mixture.schedule != "piecewise":
        raise ValueError(
            f"streams.{name}.weight: a list of points needs mixture.schedule=piecewise, which is {mixture.schedule}"
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
) -> _RowWeights:
    """The expected shares of drawing rows without replacement, a stream's rows each with its priority.

    HuatuoGPT-II's one-stage schedule. In latent time s a row of priority π is still there with probability exp(-π s), so
    progress is 1 - Σ a_k exp(-π_k s), where a_k is the stream's part of the pool of rows × epochs. What a stream has
    given at each of many points of progress follows exactly; between two points its share is level. The pool is drawn
    over the whole run, whatever the run's length.
    """
    for stream, config in zip(streams, configs, strict=True):
        if config.priority is None:
            raise ValueError(
                f"streams.{stream.name}.priority: missing; mixture.schedule=priority needs it"
            )
        if isinstance(config.weight, tuple):
            raise ValueError(
                f"streams.{stream.name}.weight: points need mixture.schedule=piecewise, not priority"
            )
    pool = np.array(
        [[s.num_rows * (c.epochs or 1.0)] for s, c in zip(streams, configs, strict=True)]
    )
    part = pool / _total(pool)
    priority = np.array([[c.priority] for c in configs], np.float64)
    priority = priority / priority.min()
    progress = np.linspace(0, 1, 1 + min(rows, PIECES))
    low, high = (
        np.zeros_like(progress),
        np.full_like(progress, 64.0),
    )  # exp(-64) of the pool is no row
    for _ in range(64):
        middle = 0.5 * (low + high)
        early = 1 - _total(part * _exp(-priority * middle)) < progress
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    remaining = part * _exp(-priority * high)  # (K, M + 1)
    remaining[:, :1], remaining[:, -1:] = part, 0
    given = np.maximum(remaining[:, :-1] - remaining[:, 1:], 0)
    share = given / _total(given)
    return _RowWeights(progress * rows, share, share)


def _level(shares: np.ndarray) -> bool:
    """Whether the shares at both ends of an interval are the same."""
    return bool(np.array_equal(shares[:, 0], shares[:, 1]))


def _total(values: np.ndarray) -> np.ndarray:
    """Sum over the streams, one after the other: the order of numpy's own sums differs between machines."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _exp(x: np.ndarray) -> np.ndarray:
    """Exp of non-positive numbers, to 1e-12, by sums and products alone: libraries differ in the last bits."""
    x = np.maximum(x, -745.0) / 1024
    power = np.ones_like(x)
    for n in range(16, 0, -1):
        power = 1 + x / n * power
    for _ in range(10):
        power = power * power
    return power


def _size(path: epath.Path) -> int | None:
    """Bytes of a file, None when it is not there."""
    try:
        return path.stat().length
    except FileNotFoundError:
        return None
