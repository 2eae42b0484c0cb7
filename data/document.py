"""The record that every stage of `data` passes on: a document, its identity, choices about it.

* A plain text is one turn with role `text`; a conversation has roles `system`, `user`, `assistant`.
* The id is the hash of the document **as read**, before any cleaning; later stages keep it. Equal
  documents share an id, so nothing may take it for a unique key.
* Every random choice about a document is seeded by (id, name of the choice) alone: not by its place
  in a listing, the number of workers or Python's hash seed; and no two choices share a draw.
"""

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

ROLES = ("text", "system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """One turn of a document. `role` is one of `ROLES`."""

    role: str
    text: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role: {self.role!r} is none of {', '.join(ROLES)}")


@dataclass(frozen=True)
class Document:
    """A text or a conversation, where it came from, and what is known about it.

    `source` is the place it was read from (`file:line`). Keys of `meta`: `source_id` (the user's
    own id), `group`, `title`; stages add `parent`, `tasks`, `span`.
    """

    id: str
    turns: tuple[Turn, ...]
    source: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def is_text(self) -> bool:
        """Whether this is running text only, with no conversation in it."""
        return all(turn.role == "text" for turn in self.turns)

    @property
    def num_bytes(self) -> int:
        """Bytes of its texts in UTF-8."""
        texts = [turn.text for turn in self.turns]
        return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)

    def to_json(self) -> str:
        """One line of JSON without its newline; equal documents give equal bytes."""
        record = {
            "id": self.id,
            "turns": [{"role": turn.role, "text": turn.text} for turn in self.turns],
            "source": self.source,
            "meta": {key: self.meta[key] for key in sorted(self.meta)},
        }
        return json.dumps(record, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> "Document":
        """The document that `to_json` wrote."""
        record = json.loads(line)
        turns = tuple(Turn(turn["role"], turn["text"]) for turn in record["turns"])
        return cls(record["id"], turns, record["source"], record["meta"])


def document_id(turns: Iterable[Turn]) -> str:
    """24 hexadecimal digits that stand for the roles and texts of `turns`, and nothing else."""
    hash_ = hashlib.blake2b(digest_size=12)
    for turn in turns:
        text = turn.text.encode()
        # The length separates the turns: ("ab", "c") and ("a", "bc") are different documents.
        hash_.update(f"{turn.role}:{len(text)}:".encode())
        hash_.update(text)
    return hash_.hexdigest()


def draw(document_id: str, choice: str) -> random.Random:
    """The random generator for one named choice about one document."""
    digest = hashlib.blake2b(f"{choice}\0{document_id}".encode(), digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))


def uniform(document_id: str, choice: str) -> float:
    """One number in `[0, 1)` for one named choice: `draw` where no generator is needed, faster."""
    digest = hashlib.blake2b(f"{choice}\0{document_id}".encode(), digest_size=7).digest()
    return (int.from_bytes(digest, "big") >> 3) / (1 << 53)


def partition_of(document_id: str, num_partitions: int) -> int:
    """The partition in `[0, num_partitions)` that a document belongs to, by the hash of its id."""
    digest = hashlib.blake2b(f"partition\0{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % num_partitions
