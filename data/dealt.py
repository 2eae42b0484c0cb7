"""A line of a corpus under way: a document as it was read, with what cleaning made of it.

Which documents are held out is known only when all have been looked at, and those stay as they were
read; so a line carries both. Cleaning mostly changes little: what is equal is not written twice.
"""

import json
from dataclasses import dataclass

from data.clean.stages import Cleaned
from data.document import Document, Turn


@dataclass(frozen=True)
class Dealt:
    """A document as read, and as cleaned (None: it has not been cleaned yet)."""

    document: Document
    cleaned: Cleaned | None = None

    def to_line(self) -> bytes:
        """One line of JSON without its newline. It begins with the id, so lines sort by id."""
        line = self.document.to_json()
        if self.cleaned is None:
            return line.encode()
        read, kept = self.document, self.cleaned.document
        said: dict[str, object] = {"counts": self.cleaned.counts}
        if kept is None:
            said |= {"stage": self.cleaned.stage, "reason": self.cleaned.reason}
        else:
            if kept.turns != read.turns:
                said["turns"] = [[turn.role, turn.text] for turn in kept.turns]
            if kept.meta != read.meta:
                said["meta"] = {key: kept.meta[key] for key in sorted(kept.meta)}
        cleaned = json.dumps(said, ensure_ascii=False, sort_keys=True)
        return f'{line[:-1]}, "cleaned": {cleaned}}}'.encode()

    @classmethod
    def from_line(cls, line: bytes) -> "Dealt":
        """What `to_line` wrote."""
        record = json.loads(line)
        turns = tuple(Turn(turn["role"], turn["text"]) for turn in record["turns"])
        document = Document(record["id"], turns, record["source"], record["meta"])
        said = record.get("cleaned")
        if said is None:
            return cls(document)
        if "stage" in said:
            return cls(document, Cleaned(None, said["stage"], said["reason"], said["counts"]))
        if "turns" in said:
            turns = tuple(Turn(role, text) for role, text in said["turns"])
        kept = Document(document.id, turns, document.source, said.get("meta", document.meta))
        return cls(document, Cleaned(kept, counts=said["counts"]))
