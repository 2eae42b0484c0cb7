"""Near duplicates on Apache Beam: the pairs that `clean/dedup.py` finds on one machine.

Documents are grouped by the keys of their bands (`GroupByKey`), the pairs of a group are made
distinct, each pair gets what was noted of its two documents (`CoGroupByKey`), and is compared. What
is the same as on one machine: who is a candidate (`candidates`), what is compared (`agreement`,
`alike`), and the order in which pairs are settled, which stays with the machine that started the
job; it needs some 100 bytes of memory, and 700 on disk, for each document.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from data import rows as rows_lib
from data.clean.dedup import FindPairs, alike, candidates
from data.clean.record import CONVERSATION, COPIES, HEAD, Table
from data.clean.signature import MARGIN, agreement, band_keys, band_rows

# Pairs of so many documents go to one file.
BLOCK = 1 << 16

Noted = tuple[bytes, bytes, int]  # minima, words, number of prompt words


@dataclass(frozen=True)
class _Share:
    """The notes of one partition, and a file with the places of its documents."""

    notes: str
    places: str


def pair_finder(
    make_pipeline: Callable[[], Any], notes: Sequence[str], threshold: float, work: str
) -> FindPairs:
    """What `find_copies` takes instead of finding pairs itself.

    Args:
        make_pipeline: a new Beam pipeline.
        notes: folders of the survey files, in the order in which the table has them.
        threshold: exact Jaccard from which on documents are near duplicates.
        work: a folder that all machines reach.
    """
    calls = iter(range(1 << 30))

    def find_pairs(table: Table, rows: np.ndarray) -> Iterator[tuple[int, int]]:
        if len(rows) < 2:
            return
        folder = f"{work}/pairs-{next(calls)}"
        conversation = bool(table.heads["flags"][rows[0]] & CONVERSATION)
        shares = _write_places(table, rows, notes, folder)
        with make_pipeline() as pipeline:
            _build(pipeline, shares, conversation, threshold, folder)
        for block in range(-(-len(rows) // BLOCK)):
            path = epath.Path(f"{folder}/block-{block:07d}.npy")
            if path.exists():
                with path.open("rb") as file:
                    yield from map(tuple, np.load(file).tolist())

    return find_pairs


def _write_places(
    table: Table, rows: np.ndarray, notes: Sequence[str], folder: str
) -> list[_Share]:
    """For every survey file, where the words of its documents start and the documents' places."""
    files, starts = table.column("file", rows), table.column("start", rows)
    shares = []
    for k, path in enumerate(notes):
        places = np.flatnonzero(files == k)
        order = np.argsort(starts[places])
        found = np.stack([starts[places][order].astype(np.int64), places[order]])
        share = _Share(path, f"{folder}/places-{k:07d}.npy")
        with rows_lib.whole_file(share.places) as local, local.open("wb") as file:
            np.save(file, found)
        shares.append(share)
    return shares


def _build(
    pipeline: Any, shares: list[_Share], conversation: bool, threshold: float, folder: str
) -> None:
    import apache_beam as beam

    noted = (
        pipeline
        | beam.Create(shares)
        | beam.Reshuffle()
        | "read notes" >> beam.FlatMap(_read_notes)
    )
    pairs = (
        noted
        | "bands" >> beam.FlatMap(_bands, band_rows(threshold))
        | "by band" >> beam.GroupByKey()
        | "candidates" >> beam.FlatMap(_candidates)
        | beam.Distinct()
    )
    with_earlier = (
        {"noted": noted, "later": pairs}
        | "by earlier" >> beam.CoGroupByKey()
        | "attach earlier" >> beam.FlatMap(_attach)
    )
    _ = (
        {"noted": noted, "earlier": with_earlier}
        | "by later" >> beam.CoGroupByKey()
        | "compare" >> beam.FlatMap(_compare, conversation, threshold)
        | "by block" >> beam.GroupByKey()
        | "write" >> beam.Map(_write_block, folder)
    )


def _read_notes(share: _Share) -> Iterator[tuple[int, Noted]]:
    """The documents of one survey file that take part, by their places."""
    with epath.Path(share.places).open("rb") as file:
        starts, places = np.load(file)
    heads = np.frombuffer((epath.Path(share.notes) / "heads").read_bytes(), HEAD)
    words = np.frombuffer((epath.Path(share.notes) / "words").read_bytes(), "<u4")
    heads = heads[(heads["flags"] & COPIES != 0) & (heads["num_words"] > 0)]
    at = np.searchsorted(starts, heads["start"])
    for head, i in zip(heads, at.tolist(), strict=True):
        start, number = int(head["start"]), int(head["num_words"])
        if i < len(starts) and starts[i] == start:
            noted = head["minima"].tobytes(), words[start : start + number].tobytes()
            yield int(places[i]), (*noted, int(head["prompt_words"]))


def _bands(item: tuple[int, Noted], rows: int) -> Iterator[tuple[int, int]]:
    place, (minima, _, _) = item
    for key in band_keys(np.frombuffer(minima, "<u4")[None], rows)[0].tolist():
        yield key - (1 << 63), place  # as a signed number, which Beam's integers are


def _candidates(group: tuple[int, Iterable[int]]) -> Iterator[tuple[int, int]]:
    """Pairs (earlier, later) of the documents in one group."""
    places = np.sort(np.fromiter(group[1], np.int64))
    earlier, later = candidates(np.zeros(len(places), np.int64))
    yield from zip(places[earlier].tolist(), places[later].tolist(), strict=True)


def _attach(group: tuple[int, Any]) -> Iterator[tuple[int, tuple[int, Noted]]]:
    place, found = group
    for noted in found["noted"]:
        for later in found["later"]:
            yield later, (place, noted)


def _compare(
    group: tuple[int, Any], conversation: bool, threshold: float
) -> Iterator[tuple[int, tuple[int, int]]]:
    """The pairs of a later document that are copies, by block."""
    place, found = group
    for minima, words, prompt_words in found["noted"]:
        this = np.frombuffer(words, "<u4"), prompt_words
        for earlier, (other_minima, other_words, other_prompt_words) in found["earlier"]:
            near = agreement(np.frombuffer(minima, "<u4"), np.frombuffer(other_minima, "<u4"))
            other = np.frombuffer(other_words, "<u4"), other_prompt_words
            if near >= threshold - MARGIN and alike(other, this, conversation, threshold):
                yield place // BLOCK, (place, earlier)


def _write_block(group: tuple[int, Iterable[tuple[int, int]]], folder: str) -> None:
    block, pairs = group
    path = f"{folder}/block-{block:07d}.npy"
    with rows_lib.whole_file(path) as local, local.open("wb") as file:
        np.save(file, np.array(sorted(pairs), np.int64))
