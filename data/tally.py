"""What a stage leaves behind beside its documents: counts, and what it took away with the reason.

A stage is `Iterable[Document] -> Iterable[Document]`. Whatever it does not pass on it hands to
`remove`, so that nothing is lost silently: the counts go to the card, the lines to `set_aside`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data import rows as rows_lib
from data.card import Counts, add_counts
from data.document import Document
from data.sources import SetAside

Stage = Callable[[Iterable[Document]], Iterable[Document]]

EXCERPT = 200


@dataclass
class Tally:
    """What the stages of one partition of one corpus counted.

    Attributes:
        name: the corpus, for messages.
        counts: what the card is made of; added up over partitions.
        set_aside: a line of JSON for every document that was taken away.
        removed: their ids.
    """

    name: str
    counts: Counts = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)
    removed: set[str] = field(default_factory=set)

    def add(self, counts: Mapping[str, Any]) -> None:
        """Adds numbers, as deep as they lie: `add({"tasks": {"nli": 2}})`."""
        add_counts(self.counts, counts)

    def remove(self, document: Document, stage: str, reason: str, excerpt: str = "") -> None:
        """Counts a document as taken away by `stage`, and keeps a line about it.

        `reason` is counted up to its first colon; what follows is about this document alone
        (`near duplicate: of 3f2a...`).
        """
        shown = excerpt or next((turn.text for turn in document.turns), "")[:EXCERPT]
        item = SetAside(self.name, f"document {document.id}", reason, shown)
        self.add({"removed": {stage: {item.kind: 1}}})
        self.removed.add(document.id)
        self.set_aside.append(rows_lib.to_json(asdict(item) | {"stage": stage}))
