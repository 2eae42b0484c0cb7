"""From streams on disk to batches on the devices.

Batch i of a run holds its rows i·B to (i + 1)·B. Which stream gives a row and its position there
comes from the `Deal`; the position becomes a row on disk by a permutation drawn from (seed, stream,
epoch), so any row is reached at once. A process reads the rows, and keeps the columns, that its own
devices hold under the batch's sharding and no others; where a tensor or sequence axis crosses
hosts, several processes read the same rows.

Grain's threads read batches ahead, and one more thread moves them to the devices, so the training
loop takes batches that are already there.
"""

import functools
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from data.mixture import Deal
from data.plan import HeldOutPlan, RunPlan
from data.stream import Stream, open_stream

# Of the stream's description, what decides its rows; `fingerprint` covers the shards and the card.
KEPT_FACTS = ("fingerprint", "num_rows", "tokens", "seq_len", "tokenizer")
READ_THREADS = 4
# Small batches are read several at a time: a read of the TFDS source costs a thread per shard,
# whatever it reads.
READ_ROWS = 256

Index = tuple[slice, ...]


class Batch(TypedDict):
    """A step's rows: tokens and segment_ids int32[B, T], loss_mask bool[B, T], stream int32[B]."""

    tokens: jax.Array
    segment_ids: jax.Array
    loss_mask: jax.Array
    stream: jax.Array


def batches(
    streams: Sequence[Stream],
    deal: Deal,
    *,
    seed: int,
    global_batch_rows: int,
    start_row: int,
    stop_row: int,
    mesh: Mesh,
    spec: PartitionSpec,
    prefetch: int,
) -> Generator[Batch, None, None]:
    """The batches of the rows `start_row` to `stop_row` of a run, in order.

    Args:
        streams: the run's streams, in the order that `deal` was made with.
        deal: which stream gives which row.
        seed: the run's; with a stream's name and the epoch it decides the order of the rows.
        global_batch_rows: B, rows of a batch over all processes.
        start_row: the first row; any row, whatever batch size led to it.
        stop_row: where to end; a whole number of batches later.
        mesh: the devices, of all processes.
        spec: how [B, T] lies on the mesh; `stream` [B] follows its first entry.
        prefetch: batches on the devices ahead of the one in use.

    Yields:
        Batches of arrays over the whole mesh. Close the iterator to end its threads early.

    Raises:
        ValueError: sizes that do not divide, or a stream that cannot be read; also for errors in
            the threads.
    """
    if [stream.name for stream in streams] != deal.names:
        raise ValueError(
            f"streams: {[stream.name for stream in streams]} are not the deal's, {deal.names}"
        )
    if global_batch_rows < 1 or (stop_row - start_row) % global_batch_rows or stop_row < start_row:
        raise ValueError(
            f"train.global_batch_rows: {global_batch_rows} does not divide the rows {start_row} "
            f"to {stop_row}; end the run on a whole batch"
        )
    layout = _Layout.of(mesh, spec, (global_batch_rows, streams[0].info["seq_len"]))
    plan = RunPlan(streams, deal, seed, global_batch_rows, start_row, stop_row)
    return _on_devices(_LocalBatches(plan, layout), layout, prefetch)


def has_heldout(path: str) -> bool:
    """Whether a stream's folder holds text to measure on; a small corpus may have none."""
    return (epath.Path(path) / "heldout" / "stream.json").exists()


def heldout_batches(
    path: str, *, batch_rows: int, max_rows: int | None, mesh: Mesh, spec: PartitionSpec
) -> Iterator[Batch]:
    """Held-out rows to measure on: always the same ones, in the order they lie on disk.

    Args:
        path: a packed stream, `<out_dir>/<corpus>/heldout`.
        batch_rows: B, rows of a batch over all processes.
        max_rows: take so many rows, spread evenly over the stream. None: all.
        mesh: the devices, of all processes.
        spec: how [B, T] lies on the mesh.

    Yields:
        Batches; the last is filled up with empty rows (segment_ids 0 and loss_mask false). `stream`
        is 0.

    Raises:
        ValueError: as `batches`.
    """
    if batch_rows < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError(
            f"heldout: batch_rows {batch_rows} and max_rows {max_rows} must be at least 1"
        )
    stream = open_stream("heldout", path)
    layout = _Layout.of(mesh, spec, (batch_rows, stream.info["seq_len"]))
    plan = HeldOutPlan(stream, batch_rows, min(stream.num_rows, max_rows or stream.num_rows))
    return _on_devices(_LocalBatches(plan, layout), layout, prefetch=1)


def fingerprint(streams: Sequence[Stream]) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps of its data, by stream in the run's order.

    It goes to JSON and back unchanged. Paths are left out: a folder that was moved holds the same
    rows.
    """
    return {stream.name: {key: stream.info[key] for key in KEPT_FACTS} for stream in streams}


@dataclass(frozen=True)
class _Layout:
    """What of a batch [B, T] this process holds.

    Attributes:
        shape: (B, T).
        sharding: of [B, T].
        row_sharding: of [B].
        rows: int64[n], rising: the rows that its devices hold, each once.
        columns: the columns that they hold.
    """

    shape: tuple[int, int]
    sharding: NamedSharding
    row_sharding: NamedSharding
    rows: np.ndarray
    columns: slice

    @classmethod
    def of(cls, mesh: Mesh, spec: PartitionSpec, shape: tuple[int, int]) -> "_Layout":
        """The layout for this process's devices."""
        entries = (*spec, None, None)[:2]
        for dim, name in enumerate(("rows", "seq_len")):
            axes = entries[dim] or ()
            ways = int(
                np.prod([mesh.shape[a] for a in ((axes,) if isinstance(axes, str) else axes)])
            )
            if shape[dim] % ways:
                raise ValueError(
                    f"batch {name}: {shape[dim]} does not divide by {ways}, the product of the "
                    f"mesh axes {axes}; change the batch size, seq_len or the mesh"
                )
        sharding = NamedSharding(mesh, spec)
        indices = [
            i for i in sharding.addressable_devices_indices_map(shape).values() if i is not None
        ]
        rows, columns = held(indices, shape)
        return cls(shape, sharding, NamedSharding(mesh, PartitionSpec(entries[0])), rows, columns)

    def arrays(self, local: dict[str, np.ndarray]) -> Batch:
        """The global arrays, from this process's part of them."""
        return {
            name: jax.make_array_from_callback(
                self.shape[: value.ndim],
                self.sharding if value.ndim == 2 else self.row_sharding,
                functools.partial(part, value, self.rows, self.columns, self.shape),  # pyright: ignore[reportArgumentType]
                dtype=value.dtype,
            )
            for name, value in local.items()
        }  # type: ignore[return-value]


def held(indices: Iterable[Index], shape: tuple[int, int]) -> tuple[np.ndarray, slice]:
    """The rows, int64[n] rising, and the columns that devices with these indices of [B, T] hold."""
    ranges = {
        tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True)) for index in indices
    }
    rows = np.unique(np.concatenate([np.arange(*row) for row, _ in ranges]))
    columns = [column for _, column in ranges]
    return rows, slice(min(start for start, _ in columns), max(stop for _, stop in columns))


def part(
    local: np.ndarray, rows: np.ndarray, columns: slice, shape: tuple[int, int], index: Index
) -> np.ndarray:
    """One device's part, by its global index, of a process's array of these rows and columns."""
    start, stop, _ = index[0].indices(shape[0])
    place = int(np.searchsorted(rows, start))
    taken = local[place : place + stop - start]
    if local.ndim == 1:
        return taken
    start, stop, _ = index[1].indices(shape[1])
    return taken[:, start - columns.start : stop - columns.start]


class _LocalBatches:
    """This process's part of the batches, some at a time, by number: what Grain's threads read."""

    def __init__(self, plan: RunPlan | HeldOutPlan, layout: _Layout):
        self._plan = plan
        self._rows, self._columns = layout.rows, layout.columns
        self._group = max(1, READ_ROWS // len(self._rows))
        self._sources = [_open_rows(stream) for stream in plan.streams]

    def __len__(self) -> int:
        return -(-len(self._plan) // self._group)

    def __getitem__(self, index: int) -> list[dict[str, np.ndarray]]:
        numbers = range(index * self._group, min((index + 1) * self._group, len(self._plan)))
        wanted = [self._plan.wanted(number, self._rows) for number in numbers]
        read = self._read(
            np.concatenate([w.stream for w in wanted]), np.concatenate([w.row for w in wanted])
        )
        split = {name: np.split(values, len(numbers)) for name, values in read.items()}
        return [dict(zip(split, batch, strict=True)) for batch in zip(*split.values(), strict=True)]

    def _read(self, streams: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Rows on disk, -1 for an empty one, of the given streams."""
        shape = (len(rows), self._columns.stop - self._columns.start)
        local = {
            "tokens": np.zeros(shape, np.int32),
            "segment_ids": np.zeros(shape, np.int32),
            "loss_mask": np.zeros(shape, np.bool_),
        }
        for k, (stream, source) in enumerate(zip(self._plan.streams, self._sources, strict=True)):
            (at,) = np.nonzero((streams == k) & (rows >= 0))
            try:
                found = source.__getitems__(rows[at].tolist())
            except Exception as error:
                raise ValueError(
                    f"stream {stream.name}: {stream.path} cannot be read ({error}); "
                    "copy the folder again, or run data.prepare again"
                ) from error
            for name, values in local.items():
                for n, row in zip(at, found, strict=True):
                    values[n] = row[name][self._columns]
        return local | {"stream": streams}


def _open_rows(stream: Stream) -> Any:
    """The TFDS data source of a stream's rows."""
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(stream.path).as_data_source("train")  # pyright: ignore[reportCallIssue]
    if len(source) != stream.num_rows:
        raise ValueError(
            f"stream {stream.name}: {stream.path}/dataset_info.json has {len(source)} rows, "
            f"stream.json {stream.num_rows}; run data.prepare again"
        )
    return source


def _on_devices(
    source: _LocalBatches, layout: _Layout, prefetch: int
) -> Generator[Batch, None, None]:
    """Batches on the devices, made ahead by threads that end with the iterator."""
    import grain

    ahead: queue.Queue[Batch | BaseException | None] = queue.Queue(max(1, prefetch))
    closed = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not closed.is_set():
            try:
                return ahead.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        options = grain.ReadOptions(
            num_threads=min(READ_THREADS, prefetch + 1), prefetch_buffer_size=prefetch + 1
        )
        reader = iter(grain.MapDataset.source(source).to_iter_dataset(options))
        try:
            for group in reader:
                for local in group:
                    if closed.is_set():
                        return
                    put(layout.arrays(local))
            put(None)
        except BaseException as error:  # the consumer raises it
            put(error)
        finally:
            reader.close()

    def consume() -> Generator[Batch, None, None]:
        thread = threading.Thread(target=work, name="batches", daemon=True)
        thread.start()
        try:
            while (item := ahead.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()
            thread.join()

    return consume()
