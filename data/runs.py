"""Sorted runs: how documents are dealt to buckets and read back sorted, whatever came first.

Lines are gathered until 64 MB are full, sorted and written as a *run*: one file with one compressed
frame per bucket. Reading a bucket back merges its frames of all runs, so documents come sorted by
id, then by content, whatever the inputs were, and neither step holds more than a run.
"""

import heapq
import io
import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from data.document import Document, partition_of
from data.rows import read_lines as read_text_lines
from data.rows import write_lines

BUCKETS = 64
RUN_BYTES = 64 << 20
# A frame read back needs its window in memory, times the number of runs; a small one costs a few
# percent of disk.
WINDOW_LOG = 18
MAX_OPEN_RUNS = 256


class Dealer:
    """Writes documents into the runs of one folder, dealt to buckets by the hash of their id."""

    def __init__(self, folder: str | os.PathLike, num_buckets: int, run_bytes: int = RUN_BYTES):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        for stale in self._folder.glob("run-*"):
            stale.unlink()
        self._num_buckets = num_buckets
        self._run_bytes = run_bytes
        self._lines: list[list[bytes]] = [[] for _ in range(num_buckets)]
        self._held = 0
        self._num_runs = 0

    def add(self, document: Document) -> None:
        """Deals one document. Lone surrogates were set aside before: they are not text."""
        bucket = partition_of(document.id, self._num_buckets)
        self.add_line(bucket, document.to_json().encode())

    def add_line(self, bucket: int, line: bytes) -> None:
        """Puts one line, without its newline, into a bucket."""
        self._lines[bucket].append(line)
        self._held += len(line) + 64
        if self._held >= self._run_bytes:
            self._write_run()

    def close(self) -> None:
        """Writes what is left."""
        self._write_run()

    def _write_run(self) -> None:
        if not self._held:
            return
        # Every line begins with {"id": "...", so the order of the lines is that of the ids.
        _write_run(self._folder / f"run-{self._num_runs:05d}.zst", (sorted(b) for b in self._lines))
        self._lines = [[] for _ in range(self._num_buckets)]
        self._held = 0
        self._num_runs += 1


@dataclass(frozen=True)
class Run:
    """One run file: where the frame of each bucket begins and ends.

    Without offsets it is one sorted file of the lines of one bucket, as `write_sorted` makes it,
    local or remote.
    """

    path: str
    offsets: tuple[int, ...] = ()
    bucket: int = 0


def find_runs(folders: Iterable[str | os.PathLike]) -> list[Run]:
    """The runs in some folders that a `Dealer` has closed."""
    paths = sorted(path for folder in folders for path in Path(folder).glob("run-*.zst"))
    return [Run(str(path), _read_offsets(path)) for path in paths]


def write_sorted(path: str | os.PathLike, lines: Iterable[bytes]) -> None:
    """Sorts lines (without newlines), however many, into one file, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="lectern-sort-") as folder:
        dealer = Dealer(folder, 1)
        for line in lines:
            dealer.add_line(0, line)
        dealer.close()
        merged = (line.decode().rstrip("\n") for line in read_lines(find_runs([folder]), [0]))
        write_lines(path, merged)


def read_lines(runs: Sequence[Run], buckets: Sequence[int]) -> Iterator[bytes]:
    """Lines of some buckets (one JSON document each), sorted, over all runs."""
    streams = [_read_frame(run, bucket) for run in runs for bucket in buckets]
    if len(streams) <= MAX_OPEN_RUNS:
        yield from heapq.merge(*streams)
        return
    # Too many to hold open: merge groups of them into longer runs first.
    with tempfile.TemporaryDirectory(dir=Path(runs[0].path).parent, prefix=".merge-") as folder:
        longer = []
        for i in range(0, len(streams), MAX_OPEN_RUNS):
            path = Path(folder) / f"run-{i:09d}.zst"
            _write_run(path, [heapq.merge(*streams[i : i + MAX_OPEN_RUNS])])
            longer.append(Run(str(path), _read_offsets(path)))
        yield from read_lines(longer, [0])


def _write_run(path: Path, buckets: Iterable[Iterable[bytes]]) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=WINDOW_LOG)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    offsets = [0]
    with open(temporary, "wb") as file:
        for lines in buckets:
            compressor = zstandard.ZstdCompressor(compression_params=parameters)
            with compressor.stream_writer(file, closefd=False) as writer:
                for line in lines:
                    writer.write(line + b"\n" if not line.endswith(b"\n") else line)
            offsets.append(file.tell())
    path.with_suffix(".json").write_text(json.dumps(offsets))
    os.replace(temporary, path)


def _read_offsets(path: Path) -> tuple[int, ...]:
    return tuple(json.loads(path.with_suffix(".json").read_text()))


def _read_frame(run: Run, bucket: int) -> Iterator[bytes]:
    if not run.offsets:
        if run.bucket == bucket:
            for line in read_text_lines(run.path):
                yield line.encode() + b"\n"
        return
    start, stop = run.offsets[bucket], run.offsets[bucket + 1]
    if stop == start:
        return
    # The reader does not stop at the end of a frame by itself, so it is shown that frame alone.
    with (
        open(run.path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as whole,
        whole[start:stop] as frame,
        zstandard.ZstdDecompressor().stream_reader(frame) as reader,
    ):
        yield from io.BufferedReader(reader, 1 << 16)
