"""Test items in the corpora: found wherever they are, removed before anything is trained on them.

What counts is a run of words (case, spacing and punctuation folded, `words.py`):

* a *question* of 13 words or more by any 13 of them in a row, a shorter one whole;
* a question of fewer than 5 words only where it is a sentence of its own, or where one of the
  item's answers is in the document too;
* a *context* (the passage that is asked about) only where the item's answer or conclusion is there
  too: a passage alone gives nothing away. Documents with a context and no answer stay, counted.
* Runs in more than 10 different documents are common phrases; they are ignored, and the card lists
  them. So are runs that more than 10 items of one task share: the words of its prompt.

`TestItems.hits` is pure and linear in the text: what a document has in common with the items.
`find_contaminated` decides over the hits of all documents, since only then it is known what is
common.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.benchmarks import Item, Source, read_task
from data.clean.config import CleanConfig, ContaminationConfig
from data.clean.words import ngrams, runs, runs_at, spread, word_hashes, words_of
from data.document import Document

QUESTION, SHORT, CONTEXT, ANSWER = range(4)
# Set in a hit on a SHORT question that is a sentence of its own.
ALONE = np.uint32(1 << 31)
# "dresser": a question of fewer words is no sentence.
SENTENCE_WORDS = 3
# Answers that many items share are labels (yes, no, maybe), and give nothing away.
LABEL_SHARE = 0.01
# Words by which it is told whether a short item may begin somewhere.
_START = 3
_MARK = 0x5EC7A4D1
LISTED = 20

_OPENS, _CLOSES = frozenset(".!?:;\n\"'“”‘(。！？：；「《"), frozenset(".!?\n\"'”’)。！？」》")


@dataclass(frozen=True)
class TestItems:
    """The items of some tasks, laid out for looking up.

    Attributes:
        tasks: their names.
        sources: where the items of each task were read from, and how many there are.
        ids: the id of every item.
        task: int[items], the task of each.
        texts: of each item, the texts that runs were taken from.
        keys: uint64[K], sorted: one for each run of words.
        first: int[K + 1]: where the uses of each run begin.
        uses: of all runs, in the order of keys: item, kind, text and place of the run in it.
        lengths: the lengths of runs that there are.
        sieve: bool[2^n]: whether a key with these low bits may be there.
        starts: uint64[S], sorted: the first words of items that are looked for whole.
        start_sieve: bool[2^m], of them.
    """

    __test__ = False  # not a test, whatever its name

    tasks: tuple[str, ...]
    sources: Mapping[str, Any]
    ids: tuple[str, ...]
    task: np.ndarray
    texts: tuple[tuple[str, ...], ...]
    keys: np.ndarray = field(repr=False)
    first: np.ndarray = field(repr=False)
    uses: np.ndarray = field(repr=False)
    lengths: tuple[int, ...]
    sieve: np.ndarray = field(repr=False)
    starts: np.ndarray = field(repr=False)
    start_sieve: np.ndarray = field(repr=False)

    @classmethod
    def read(cls, config: CleanConfig) -> "TestItems":
        """The items of the tasks that the recipe names.

        Raises:
            ValueError: the data of a task cannot be read, or has no items.
        """
        items: dict[str, list[Item]] = {}
        sources: dict[str, Any] = {}
        for i, named in enumerate(config.decontaminate):
            try:
                source, read = read_task(named.task, path=named.path, source=named.source)
                items[named.task] = list(read)
            except ValueError as error:
                raise ValueError(f"clean.decontaminate[{i}]: {error}") from error
            sources[named.task] = _described(source, items[named.task])
        return cls.of(items, config.contamination, sources)

    @classmethod
    def of(
        cls,
        items: Mapping[str, Sequence[Item]],
        config: ContaminationConfig,
        sources: Mapping[str, Any] | None = None,
    ) -> "TestItems":
        """The items of some tasks, by the name of the task."""
        uses: list[np.ndarray] = []
        keys: list[np.ndarray] = []
        ids, task, texts = [], [], []
        for number, of_task in enumerate(items.values()):
            first = len(ids)
            labels = _labels(of_task)
            for item in of_task:
                parts = _parts(item, labels)
                for place, (kind, text) in enumerate(parts):
                    found, made = _runs(len(ids), kind, place, text, config)
                    uses.append(found)
                    keys.append(made)
                ids.append(item.id)
                task.append(number)
                texts.append(tuple(text for _, text in parts))
            start = next((i for i, r in enumerate(uses) if len(r) and r["item"][0] >= first), 0)
            _drop_prompt(uses, keys, start, config)
        all_runs = np.concatenate([np.zeros(0, _USE), *uses])
        all_keys = np.concatenate([np.zeros(0, np.uint64), *keys])
        order = np.lexsort((all_runs["place"], all_runs["kind"], all_runs["item"], all_keys))
        unique, first_use = np.unique(all_keys[order], return_index=True)
        longest = int(all_runs["length"].max(initial=0))
        starts = [
            ngrams(word_hashes(texts[of["item"][0]][of["text"][0]])[:_START], _START)
            for of in uses
            if len(of) and _START < of["length"][0] < longest
        ]
        starts = np.unique(np.concatenate([np.zeros(0, np.uint64), *starts]))
        return cls(
            tuple(items), dict(sources or {}), tuple(ids), np.array(task, np.int64), tuple(texts),
            unique, np.r_[first_use, len(order)], all_runs[order],
            tuple(sorted(set(all_runs["length"].tolist()))),
            _sieve(unique), starts, _sieve(starts),
        )  # fmt: skip

    def hits(self, document: Document, turns: Sequence[np.ndarray]) -> np.ndarray:
        """uint32: the runs that a document has in common with items; `turns` are word hashes."""
        found = np.unique(self._find(_behind_each_other(turns)))
        if not len(found):
            return np.zeros(0, np.uint32)
        uses = [self.uses[self.first[key] : self.first[key + 1]] for key in found]
        # An answer ("the heart") is in many documents: it matters beside what it answers.
        open_items = {int(u["item"]) for of in uses for u in of if u["kind"] in (SHORT, CONTEXT)}
        hits = []
        for key, of in zip(found.tolist(), uses, strict=True):
            if all(u["kind"] == ANSWER and int(u["item"]) not in open_items for u in of):
                continue
            short = next((u for u in of if u["kind"] == SHORT), None)
            alone = short is not None and self._is_sentence(document, short)
            hits.append(key | int(ALONE) if alone else key)
        return np.array(hits, np.uint32)

    def run(self, key: int) -> tuple[str, str]:
        """The task and the words of a run."""
        use = self.uses[self.first[key]]
        words = words_of(self.texts[use["item"]][use["text"]])
        shown = " ".join(words[use["place"] : use["place"] + use["length"]])
        return self.tasks[self.task[use["item"]]], shown

    def _find(self, words: np.ndarray) -> np.ndarray:
        """Places in `keys` of the runs that a text has."""
        words, longest = spread(words), max(self.lengths, default=0)
        starts = runs(words, _START)
        found = []
        for length in self.lengths:
            if length <= _START or length == longest:
                of_length = starts if length == _START else runs(words, length)
                found.append(_keys(of_length, length))
        # Few places begin as a short item does: only they are looked at for every length.
        between = [n for n in self.lengths if _START < n < longest]
        places = np.flatnonzero(_among(starts, self.starts, self.start_sieve))
        for length, _, of_length in runs_at(words, places, max(between)) if len(places) else ():
            if length in between:
                found.append(_keys(of_length, length))
        return self._lookup(np.concatenate(found)) if found else np.zeros(0, np.int64)

    def _lookup(self, keys: np.ndarray) -> np.ndarray:
        keys = keys[_among(keys, self.keys, self.sieve)]
        return np.searchsorted(self.keys, keys)

    def _is_sentence(self, document: Document, use: np.void) -> bool:
        words = words_of(self.texts[use["item"]][use["text"]])
        if len(words) < SENTENCE_WORDS:
            return False
        pattern = re.compile(r"[\W_]{0,40}".join(map(re.escape, words)), re.IGNORECASE)
        for turn in document.turns:
            for match in pattern.finditer(turn.text):
                before = turn.text[max(0, match.start() - 4) : match.start()]
                after = turn.text[match.end() : match.end() + 4]
                opens = (match.start() < 4 and not before.strip()) or _OPENS & set(before)
                closes = not after.strip() or _CLOSES & set(after)
                if opens and closes:
                    return True
        return False


@dataclass(frozen=True)
class Contaminated:
    """The documents that hold test items, and what the card says.

    Attributes:
        id: their ids.
        corpus: the rank of the corpus of each.
        item: the item that each holds (the first of several).
        counts: by corpus and task, for the card.
    """

    id: np.ndarray
    corpus: np.ndarray
    item: np.ndarray
    counts: dict[str, dict[str, Any]]


def find_contaminated(
    hits: np.ndarray, items: TestItems, config: ContaminationConfig, names: Mapping[int, str]
) -> Contaminated:
    """Which documents go, given the hits (`record.HIT`) of all documents trained on."""
    hits = np.sort(np.unique(hits), order=["corpus", "id", "key"])
    keys = (hits["key"] & ~ALONE).astype(np.int64)
    pairs = np.unique(np.stack([keys.astype(np.uint64), hits["exact"]], axis=1), axis=0)
    run, documents = np.unique(pairs[:, 0].astype(np.int64), return_counts=True)
    common = {
        int(key): int(number)
        for key, number in zip(run, documents, strict=True)
        if number > config.max_documents
        and any(u["kind"] != ANSWER for u in items.uses[items.first[key] : items.first[key + 1]])
    }
    counts = {name: _no_counts(items) for name in names.values()}
    gone: list[tuple[bytes, int, int]] = []
    for of in _by_document(hits):
        corpus, id_ = int(of["corpus"][0]), bytes(of["id"][0])
        held, contexts = _judge(of, items, common)
        found = counts[names[corpus]]
        for item in held:
            found[items.tasks[items.task[item]]]["found"].add(item)
        for task in sorted({items.tasks[items.task[item]] for item in held}):
            found[task]["documents"] += 1
        if held:
            gone.append((id_, corpus, min(held)))
        else:
            for task in sorted({items.tasks[items.task[item]] for item in contexts}):
                found[task]["context_only"] += 1
    for key, number in sorted(common.items(), key=lambda pair: (-pair[1], pair[0])):
        task, words = items.run(key)
        for found in counts.values():
            found[task]["common_runs"] += 1
            if len(found[task]["common"]) < LISTED:
                found[task]["common"].append({"words": words, "documents": number})
    for found in counts.values():
        for of_task in found.values():
            of_task["found"] = len(of_task["found"])
    return Contaminated(
        np.array([id_ for id_, _, _ in gone], "S24"),
        np.array([corpus for _, corpus, _ in gone], np.int64),
        np.array([item for _, _, item in gone], np.int64),
        counts,
    )


_USE = np.dtype(
    [("item", "<u4"), ("kind", "u1"), ("text", "<u2"), ("place", "<u4"), ("length", "<u2")]
)


def _behind_each_other(turns: Sequence[np.ndarray]) -> np.ndarray:
    """The words of all turns, with a mark between them that no run holds."""
    if len(turns) == 1:
        return turns[0]
    mark = np.array([_MARK], np.uint32)
    return np.concatenate([np.zeros(0, np.uint32), *(p for turn in turns for p in (turn, mark))])


def _no_counts(items: TestItems) -> dict[str, Any]:
    return {
        task: {
            **items.sources.get(task, {}),
            "found": set(),
            "documents": 0,
            "context_only": 0,
            "common_runs": 0,
            "common": [],
        }
        for task in items.tasks
    }


def _judge(
    of: np.ndarray, items: TestItems, common: Mapping[int, int]
) -> tuple[set[int], set[int]]:
    """The items that a document holds, and those whose context it has without an answer."""
    held, short, contexts, answered = set(), set(), set(), set()
    for hit in of["key"]:
        key = int(hit & ~ALONE)
        for use in items.uses[items.first[key] : items.first[key + 1]]:
            item, kind = int(use["item"]), int(use["kind"])
            if kind == ANSWER:
                answered.add(item)
            elif key in common:
                continue
            elif kind == QUESTION or (kind == SHORT and hit & ALONE):
                held.add(item)
            else:
                (short if kind == SHORT else contexts).add(item)
    return held | ((short | contexts) & answered), contexts - answered


def _by_document(hits: np.ndarray) -> Iterator[np.ndarray]:
    if not len(hits):
        return
    new = (hits["id"][1:] != hits["id"][:-1]) | (hits["corpus"][1:] != hits["corpus"][:-1])
    starts = np.r_[0, np.flatnonzero(new) + 1, len(hits)]
    for start, stop in itertools.pairwise(starts):
        yield hits[start:stop]


def _parts(item: Item, labels: set[str]) -> list[tuple[int, str]]:
    """The texts of an item that are looked for."""
    parts = [(QUESTION, text) for text in item.questions]
    if item.context:
        parts.append((CONTEXT, item.context))
    if item.context or any(len(words_of(text)) for text in item.questions):
        evidence = [item.conclusion] if item.conclusion else []
        evidence += [answer for answer in item.answers if _folded(answer) not in labels]
        parts += [(ANSWER, text) for text in evidence]
    return [(kind, text) for kind, text in parts if words_of(text)]


def _labels(items: Sequence[Item]) -> set[str]:
    """Answers that more items have than chance would give, and options that all items have."""
    number: dict[str, int] = {}
    for item in items:
        for answer in {_folded(answer) for answer in item.answers}:
            number[answer] = number.get(answer, 0) + 1
    labels = {answer for answer, n in number.items() if n > 1 and n > LABEL_SHARE * len(items)}
    if len({item.options for item in items}) == 1:
        labels |= {_folded(option) for option in items[0].options}
    return labels


def _folded(text: str) -> str:
    return " ".join(words_of(text))


def _runs(
    item: int, kind: int, text: int, words: str, config: ContaminationConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The runs of words of one text, and their keys."""
    hashes = word_hashes(words)
    length = min(config.ngram, len(hashes))
    keys = _keys(ngrams(hashes, length), length)
    if kind == QUESTION and len(hashes) < config.min_words:
        kind = SHORT
    uses = np.zeros(len(keys), _USE)
    uses["item"], uses["kind"], uses["text"], uses["length"] = item, kind, text, length
    uses["place"] = np.arange(len(keys))
    return uses, keys


def _keys(hashes: np.ndarray, length: int) -> np.ndarray:
    """The keys of runs of one length, given their hashes; other lengths have other keys."""
    return hashes + np.uint64(length * 0x9E3779B97F4A7C15 % 2**64)


def _sieve(keys: np.ndarray) -> np.ndarray:
    """bool[2^n], true where a key has these low bits; 16 places or more for every key."""
    sieve = np.zeros(1 << max(16, (16 * len(keys)).bit_length()), np.bool_)
    sieve[(keys & np.uint64(len(sieve) - 1)).astype(np.int64)] = True
    return sieve


def _among(keys: np.ndarray, known: np.ndarray, sieve: np.ndarray) -> np.ndarray:
    """bool[N]: which keys are among the known ones (sorted, with their sieve)."""
    may = sieve[(keys & np.uint64(len(sieve) - 1)).astype(np.int64)]
    if may.any():
        at = np.minimum(np.searchsorted(known, keys[may]), len(known) - 1)
        may[may] = known[at] == keys[may]
    return may


def _drop_prompt(
    uses: list[np.ndarray], keys: list[np.ndarray], start: int, config: ContaminationConfig
) -> None:
    """Takes away the runs that many items of a task share, but never all of a text's."""
    unique, number = np.unique(
        np.concatenate([np.zeros(0, np.uint64), *map(np.unique, keys[start:])]), return_counts=True
    )
    shared = unique[number > config.max_documents]
    if not len(shared):
        return
    for i in range(start, len(uses)):
        if len(keys[i]) > 1 and uses[i]["kind"][0] in (QUESTION, CONTEXT):
            own = ~np.isin(keys[i], shared)
            if own.any():
                uses[i], keys[i] = uses[i][own], keys[i][own]


def _described(source: Source, items: Sequence[Item]) -> dict[str, Any]:
    return {"source": source.shown, "items": len(items)}
