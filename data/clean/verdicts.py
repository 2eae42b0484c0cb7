"""What becomes of every document, decided once over all corpora and read by every process.

    decide(folders, surveyor, config, out)                 # once; `out` is a folder
    verdicts = Verdicts(out)                               # in each process; looked up on disk
    verdicts.is_held_out(document)
    stage = verdicts.stage("articles", tally)              # after the cleaners
    verdicts.contamination("articles")                     # for the card

The order of decisions: what is held out; which of the others hold test items; which of the rest are
copies of held-out documents or of each other. So a document that goes as a copy always has one that
stays.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data import split as split_lib
from data.clean.config import CleanConfig
from data.clean.decontaminate import Contaminated, TestItems, find_contaminated
from data.clean.dedup import Copies, FindPairs, find_copies
from data.clean.record import HELD_OUT, NO_GROUP, Table
from data.clean.survey import Surveyor
from data.document import Document
from data.split import Split
from data.tally import Stage, Tally

_DUPLICATE, _NEAR, _OF_HELD_OUT, _NEAR_OF_HELD_OUT, _AGAIN, _ITEM = range(6)
_REASONS = (
    "duplicate",
    "near duplicate",
    "duplicate of held-out",
    "near duplicate of held-out",
    "duplicate",  # read more than once: all but the first go
)
_VERDICT = np.dtype([("corpus", "<u2"), ("id", "S24"), ("reason", "u1"), ("of", "S48")])


def decide(
    folders: Iterable[str | os.PathLike],
    surveyor: Surveyor,
    config: CleanConfig,
    out: str | os.PathLike,
    find_pairs: FindPairs | None = None,
) -> None:
    """Decides about all documents of some survey files, and writes the folder `out`.

    Takes about 100 bytes of memory a document; the rest lies beside `out` while it works.
    """
    out = Path(out)
    work = out.with_name(f".{out.name}.work")
    for folder in (out, work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    table = Table(folders, work)
    split = Split(surveyor.fraction)
    if surveyor.split:
        split = split_lib.decide(table.heads, surveyor.fraction)
    held = _held_out(table.heads, split)
    gone = np.zeros(len(table.heads), np.bool_)
    verdicts = [np.zeros(0, _VERDICT)]
    contamination: Mapping[str, Any] = {}
    if surveyor.items is not None:
        trained = table.hits[~_held_out(table.hits, split)]
        names = {rank: name for name, rank in surveyor.ranks.items()}
        found = find_contaminated(trained, surveyor.items, config.contamination, names)
        contamination = found.counts
        verdicts.append(_of_items(found, surveyor.items))
        gone = _rows_of(table, found) & ~held
    if surveyor.copies:
        copies = find_copies(table, held, gone, config.dedup.threshold, work, find_pairs)
        verdicts.append(_of_copies(table, copies, held))
    merged = np.concatenate(verdicts)
    np.save(out / "verdicts.npy", merged[np.lexsort((merged["id"], merged["corpus"]))])
    told = {"split": asdict(split), "ranks": surveyor.ranks, "contamination": contamination}
    (out / "verdicts.json").write_text(json.dumps(told))
    del table
    shutil.rmtree(work)


class Verdicts:
    """What `decide` wrote, opened by a process."""

    def __init__(self, folder: str | os.PathLike):
        told = json.loads((Path(folder) / "verdicts.json").read_text())
        self._ranks: dict[str, int] = told["ranks"]
        self._contamination: dict[str, Any] = told["contamination"]
        self.split = Split(**told["split"])
        table = np.load(Path(folder) / "verdicts.npy", mmap_mode="r")
        self._of: dict[str, np.ndarray] = {}
        for name, rank in self._ranks.items():
            low, high = np.searchsorted(table["corpus"], [rank, rank + 1])
            self._of[name] = table[low:high]
        self._ids = {name: np.ascontiguousarray(rows["id"]) for name, rows in self._of.items()}

    def is_held_out(self, document: Document) -> bool:
        """Whether a document is kept from training."""
        return self.split.is_held_out(document)

    def contamination(self, corpus: str) -> dict[str, Any]:
        """For the card: by task, what was found in a corpus."""
        return self._contamination.get(corpus, {})

    def stage(self, corpus: str, tally: Tally) -> Stage:
        """Takes away the documents of one partition that are to go, with the reason."""

        def copies(documents: Iterable[Document]) -> Iterator[Document]:
            seen: set[str] = set()  # of those that were read more than once
            for document in documents:
                found = self._find(corpus, document.id)
                if found is None or (found[0] == _AGAIN and document.id not in seen):
                    seen.update([document.id] if found is not None else [])
                    yield document
                    continue
                reason, of = found
                if reason == _ITEM:
                    task, _, item = of.partition(":")
                    tally.remove(document, "decontaminate", f"{task}: item {item}")
                else:
                    tally.remove(document, "dedup", f"{_REASONS[reason]}: of {of}")

        return copies

    def _find(self, corpus: str, id_: str) -> tuple[int, str] | None:
        ids, key = self._ids[corpus], id_.encode()
        at = int(np.searchsorted(ids, key))
        if at == len(ids) or ids[at] != key:
            return None
        row = self._of[corpus][at]
        return int(row["reason"]), bytes(row["of"]).decode(errors="ignore")


def _held_out(records: np.ndarray, split: Split) -> np.ndarray:
    """bool[N]: which heads or hits are of held-out documents."""
    if not split.fraction:
        return np.zeros(len(records), np.bool_)
    groups = np.ascontiguousarray(records["group"])
    held = groups == HELD_OUT
    for row in np.flatnonzero(groups == NO_GROUP).tolist():
        held[row] = split.is_id_held_out(bytes(records["id"][row]).decode())
    return held


def _of_items(found: Contaminated, items: TestItems) -> np.ndarray:
    rows = np.zeros(len(found.id), _VERDICT)
    rows["corpus"], rows["id"], rows["reason"] = found.corpus, found.id, _ITEM
    for row, item in zip(rows, found.item.tolist(), strict=True):
        row["of"] = f"{items.tasks[items.task[item]]}:{items.ids[item]}".encode()
    return rows


def _rows_of(table: Table, found: Contaminated) -> np.ndarray:
    """bool[N]: the rows of the table that are of these documents. It is sorted by id."""
    rows = np.zeros(len(table.heads), np.bool_)
    ids = table.column("id")
    first, last = (np.searchsorted(ids, found.id, side) for side in ("left", "right"))
    for start, stop, corpus in zip(first.tolist(), last.tolist(), found.corpus, strict=True):
        rows[start:stop] |= table.heads["corpus"][start:stop] == corpus
    return rows


def _of_copies(table: Table, copies: Copies, held: np.ndarray) -> np.ndarray:
    rows = np.zeros(len(copies.row), _VERDICT)
    of_held = held[copies.partner]
    rows["corpus"] = table.column("corpus", copies.row)
    rows["id"], rows["of"] = table.column("id", copies.row), table.column("id", copies.partner)
    rows["reason"] = np.where(of_held, _OF_HELD_OUT, _DUPLICATE) + copies.near
    again = (rows["id"] == rows["of"]) & ~of_held
    again &= rows["corpus"] == table.column("corpus", copies.partner)
    rows["reason"][again] = _AGAIN
    return np.unique(rows)  # a document read more than once has several rows, all the same
