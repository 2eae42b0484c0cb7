"""The languages that mining knows: one file of `connectives/` each, and no code."""

import functools
from pathlib import Path

FOLDER = Path(__file__).parent / "connectives"


@functools.cache
def languages() -> tuple[str, ...]:
    """Codes of the languages that have a file."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
