"""What is noted of every document, so that copies can be found without the documents themselves.

    surveyor = Surveyor.of(config.clean, corpora=names_in_order, fraction=config.heldout.fraction)
    file = SurveyFile(folder)                                     # one in each reading process
    file.add(surveyor.survey(document, cleaned, "articles"))      # `cleaned` is what `cleaner` gave
    file.close()

`Surveyor.survey` is pure: the same bytes from any process. `verdicts.decide` reads the survey files
of all corpora together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from data.clean.config import CleanConfig
from data.clean.decontaminate import TestItems
from data.clean.record import (
    CONVERSATION,
    COPIES,
    DROPPED,
    HEAD,
    HELD_OUT,
    HIT,
    NO_GROUP,
    SPLIT,
    TRAINED_ON,
    pack_record,
)
from data.clean.signature import minima_of
from data.clean.stages import Cleaned
from data.clean.words import word_hashes
from data.document import Document
from data.split import is_held_out

# Shorter turns ("Thank you!", an instruction) are shared by documents that have nothing else in
# common.
LONG_TURN_WORDS = 32
_NO_HITS = np.zeros(0, HIT)


@dataclass(frozen=True)
class Surveyor:
    """Notes documents under one recipe.

    Attributes:
        ranks: every corpus, with its place in the order in which copies are kept.
        fraction: share of groups held out.
        copies: whether copies are looked for.
        split: whether the held-out split is by near duplicates (some corpus has no groups).
        items: the test items to find, None where there are none.
    """

    ranks: dict[str, int]
    fraction: float
    copies: bool
    split: bool
    items: TestItems | None

    @classmethod
    def of(
        cls, config: CleanConfig, *, corpora: Sequence[str], fraction: float, split: bool = True
    ) -> "Surveyor":
        """The surveyor of a recipe with these corpora, in the recipe's order.

        Raises:
            ValueError: `priority` names a corpus that is not there, or the data of a task of
                `decontaminate` cannot be read.
        """
        unknown = [name for name in config.dedup.priority if name not in corpora]
        if unknown:
            raise ValueError(
                f"clean.dedup.priority: {unknown[0]!r} is none of the corpora ({', '.join(corpora)})"
            )
        order = [*config.dedup.priority, *(n for n in corpora if n not in config.dedup.priority)]
        ranks = {name: rank for rank, name in enumerate(order)}
        items = TestItems.read(config) if config.decontaminate else None
        return cls(ranks, fraction, config.dedup.enabled, split and fraction > 0, items)

    @property
    def needed(self) -> bool:
        """Whether there is anything to look for."""
        return self.copies or self.split or self.items is not None

    def survey(self, document: Document, cleaned: Cleaned, corpus: str) -> bytes:
        """The record of a document as read, given what the cleaners made of it."""
        seen = cleaned.document or document
        turns = [(t.role, word_hashes(t.text)) for t in seen.turns if t.role != "system"]
        prompt = [words for role, words in turns if role not in ("text", "assistant")]
        words = _joined(prompt + [words for role, words in turns if role in ("text", "assistant")])
        parts = [(words, COPIES)] if self.copies else []
        if self.split:
            long_turns = [turn for _, turn in turns if len(turn) >= LONG_TURN_WORDS]
            if len(turns) == 1 or not long_turns:
                parts = [(words, SPLIT | (COPIES if self.copies else 0))]
            else:
                parts += [(turn, SPLIT) for turn in long_turns]
        flags = (0 if document.is_text else CONVERSATION) | (0 if cleaned.document else DROPPED)
        rank, group, exact = self.ranks[corpus], self._side(document), _exact(seen)
        num_prompt = sum(map(len, prompt))
        heads = np.zeros(len(parts), HEAD)
        for i, (part, use) in enumerate(parts):
            heads[i] = (
                document.id.encode(), rank, flags | use, group, exact, _hash64(part.tobytes()),
                minima_of(part), len(words), num_prompt, 0, 0,
            )  # fmt: skip
        hits = _NO_HITS
        if self.items is not None and cleaned.document is not None:
            keys = self.items.hits(seen, [words for _, words in turns])
            hits = np.zeros(len(keys), HIT)
            hits["id"], hits["corpus"], hits["exact"] = document.id.encode(), rank, exact
            hits["group"], hits["key"] = group, keys
        return pack_record(heads, words if self.copies else words[:0], hits)

    def _side(self, document: Document) -> int:
        group = document.meta.get("group")
        if group is None or not self.fraction:
            return NO_GROUP
        return HELD_OUT if is_held_out(str(group), self.fraction) else TRAINED_ON


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.zeros(0, np.uint32)])


def _exact(document: Document) -> int:
    hash_ = blake2b(digest_size=8)
    for turn in document.turns:
        text = " ".join(turn.text.lower().split()).encode()
        hash_.update(f"{turn.role}:{len(text)}:".encode() + text)
    return int.from_bytes(hash_.digest(), "little")


def _hash64(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
