"""What a reader gives in the place of a row that it cannot read."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Broken:
    """A row, or a whole file, that cannot be read. `reason` is general up to its colon."""

    reason: str
    excerpt: str


Item = tuple[str, dict[str, Any] | Broken]  # place ("file:line"), row
Numbered = tuple[int, dict[str, Any] | Broken]  # line, row
