"""What each document goes through by itself before it is converted, and how cleaning is called.

For the pipeline, in order:

1. **Read** (any process): `clean = cleaner(config)`; `cleaned = clean(document)` for a document as read.
   Then `record = surveyor.survey(document, cleaned, corpus)` (`survey.py`), and the record goes to a
   `record.SurveyFile` of that process, or on as an element of a Beam collection. Held-out documents stay as
   they were read; all others go on as `cleaned.document`, or not at all.
2. **Decide** (once, out of core): `verdicts.decide` says which documents are held out, which hold
   test items and which are copies of another, of those that survived step 1.
3. **Partition** (any process): `cleaners(config, tally=tally)`, then `Verdicts(folder).stage(corpus,
   tally)`, on the documents trained on. Both count what they take away, with the reason.

`cleaner` is a pure function of the document. `cleaners` are the same functions as stages, in order.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from data.card import Counts, add_counts
from data.clean.config import CleanConfig
from data.clean.language import identifier
from data.clean.normalize import normalizer
from data.clean.personal import masker
from data.clean.quality import judge
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
    steps = _steps(config)

    def clean(document: Document) -> Cleaned:
        total: Counts = {}
        for step in steps:
            done = step(document)
            add_counts(total, done.counts)
            if done.document is None:
                return Cleaned(None, done.stage, done.reason, total)
            document = done.document
        return Cleaned(document, counts=total)

    return clean


def cleaners(config: CleanConfig, *, tally: Tally) -> list[Stage]:
    """The stages that look at one document at a time: normalize, language, quality, personal.

    Stages that the recipe turns off are not in the list. A stage's `__name__` is its name in the
    card.
    """
    return [_stage(step, tally) for step in _steps(config)]


def _stage(step: Callable[[Document], Cleaned], tally: Tally) -> Stage:
    def stage(documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            done = step(document)
            tally.add(done.counts)
            if done.document is None:
                tally.remove(document, done.stage, done.reason)
            else:
                yield done.document

    stage.__name__ = step.__name__
    return stage


def _steps(config: CleanConfig) -> list[Callable[[Document], Cleaned]]:
    steps: list[Callable[[Document], Cleaned]] = []
    if config.normalize.enabled:
        steps.append(_normalize_step(config))
    if config.language.enabled:
        steps.append(_language_step(config))
    if config.quality.enabled:
        steps.append(_quality_step(config))
    if config.personal.emails or config.personal.phones or config.personal.ids:
        steps.append(_personal_step(config))
    return steps


def _normalize_step(config: CleanConfig) -> Callable[[Document], Cleaned]:
    put_in_order = normalizer(config.normalize)

    def normalize(document: Document) -> Cleaned:
        done, counts = put_in_order(document)
        if done is not document:
            if any(not turn.text for turn in done.turns if turn.role != "system"):
                return Cleaned(None, "normalize", "nothing left", {})
            if any(not turn.text for turn in done.turns):
                done = replace(done, turns=tuple(turn for turn in done.turns if turn.text))
        return Cleaned(done, counts={"cleaned": counts} if counts else {})

    return normalize


def _language_step(config: CleanConfig) -> Callable[[Document], Cleaned]:
    identify = identifier(config.language)

    def language(document: Document) -> Cleaned:
        done, dropped = identify(document)
        if dropped:
            return Cleaned(None, "language", dropped)
        return Cleaned(done, counts={"languages": {done.meta["language"]: 1}})

    return language


def _quality_step(config: CleanConfig) -> Callable[[Document], Cleaned]:
    reason_of = judge(config.quality)

    def quality(document: Document) -> Cleaned:
        reason = reason_of(document)
        return Cleaned(None, "quality", reason) if reason else Cleaned(document)

    return quality


def _personal_step(config: CleanConfig) -> Callable[[Document], Cleaned]:
    mask = masker(config.personal)

    def personal(document: Document) -> Cleaned:
        done, counts = mask(document)
        return Cleaned(done, counts={"cleaned": {"personal": counts}} if counts else {})

    return personal
