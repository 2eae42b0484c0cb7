"""A text with its pairs, as a row of the tuning collection."""

from dataclasses import dataclass
from typing import Any

from data.synthesis.format import Pair


@dataclass(frozen=True)
class Passage:
    """A text with its pairs. `kind` is the published `QA_type`; `dataset` its `rc_name`."""

    text: str
    pairs: tuple[Pair, ...]
    kind: str
    dataset: str
    group: str

    def to_row(self) -> dict[str, Any]:
        """A row of the tuning collection."""
        return {
            "context": self.text,
            "QA_list": [{"Q": pair.question, "A": pair.answer} for pair in self.pairs],
            "QA_type": self.kind,
            "rc_name": self.dataset,
            "group": self.group,
        }
