"""What each document goes through by itself before it is converted, and how cleaning is called.

For the pipeline, in order:

1. **Read** (any process): `clean = cleaner(config)`; `cleaned = clean(document)` for a document as read.
   Then `record = surveyor.survey(document, cleaned, corpus)` (`survey.py`), and the record goes to a
   `SurveyFile` of that process, or on as an element of a Beam collection. Held-out documents stay as
   they were read; all others go on as `cleaned.document`, or not at all.
2. **Decide** (once, out of core): `verdicts = survey.decide(folder, paths, ...)` says which documents are
   held out, which are copies of another and which are copies of test items, of those that survived
   step 1.
3. **Partition** (any process): `cleaners(config, tally=tally)` and then `verdicts.stage(corpus, tally)`,
   on the documents trained on. Both count what they take away, with the reason.

`cleaner` is a pure function of the document. `cleaners` are the same functions as stages, in order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.clean.config import CleanConfig
from data.document import Document
from data.tally import Stage, Tally


@dataclass(frozen=True)
class Cleaned:
    """What became of a document.

    Attributes:
        document: as it goes on, with the id it was read with; None if it was taken away.
        stage: what took it away: `normalize`, `language` or `quality`.
        reason: why.
        counts: for the card.
    """

    document: Document | None
    stage: str = ""
    reason: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)


def cleaner(config: CleanConfig) -> Callable[[Document], Cleaned]:
    """One pure function for all that is done to a document by itself."""
    raise NotImplementedError


def cleaners(config: CleanConfig, *, tally: Tally) -> list[Stage]:
    """The stages that look at one document at a time: normalize, language, quality, personal.

    Stages that the recipe turns off are not in the list. A stage's `__name__` is its name in the card.
    """
    raise NotImplementedError
