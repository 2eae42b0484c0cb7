"""The language a document is in, from its beginning; kept as `meta.language`, an ISO 639 code.

py3langid looks at some hundred characters (140 languages). `und` says that they are too few to tell.
Documents are dropped for their language only where a recipe names those to keep.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from data.clean.config import LanguageConfig
from data.document import Document

UNKNOWN = "und"
# "Is septo-optic dysplasia inherited?" is Latin with a probability of 0.13.
UNSURE = 0.3
# Chinese written in a dialect is told apart by chance where a text is short.
_SAME = {"wuu": "zh", "yue": "zh"}


def identifier(config: LanguageConfig) -> Callable[[Document], tuple[Document, str | None]]:
    """A function that notes a document's language, and gives the reason why it goes, if it does."""

    def identify(document: Document) -> tuple[Document, str | None]:
        code, probability = language_of(document, config.characters)
        unwanted = config.keep and code not in (*config.keep, UNKNOWN)
        if unwanted and probability >= config.min_probability:
            return document, code
        return replace(document, meta={**document.meta, "language": code}), None

    return identify


def language_of(document: Document, characters: int) -> tuple[str, float]:
    """The language of a document's first characters, and how likely it is."""
    text = ""
    for turn in document.turns:
        if turn.role != "system" and len(text) < characters:
            text += turn.text.lstrip()[: characters - len(text)] + "\n"
    code, probability = _identifier().classify(text.strip())
    if probability < UNSURE:
        return UNKNOWN, probability
    return _SAME.get(str(code), str(code)), probability


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
