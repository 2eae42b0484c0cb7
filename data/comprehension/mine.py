"""All tasks that can be mined from a text, before caps and sampling."""

from data.comprehension.language import Language
from data.comprehension.mined import Mined, Section
from data.comprehension.vocabulary import Vocabulary

__all__ = ["Mined", "Section", "mine"]


def mine(text: str, language: Language, vocabulary: Vocabulary | None) -> list[Mined]:
    """Every task that `text` holds, in text order; none where nothing is found."""
    raise NotImplementedError
