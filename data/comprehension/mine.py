"""All tasks that can be mined from a text, before caps and sampling."""

from data.comprehension.language import Language
from data.comprehension.mined import Mined, Section
from data.comprehension.reading import read
from data.comprehension.relations import mine_relations
from data.comprehension.vocabulary import Vocabulary

__all__ = ["Mined", "Section", "mine"]


def mine(text: str, language: Language, vocabulary: Vocabulary | None) -> list[Mined]:
    """Every task that `text` holds, in text order; none where nothing is found."""
    reading = read(text, language)
    found = [*mine_relations(reading)]
    unique = {(task.family, task.label, task.pair): task for task in found}
    return sorted(unique.values(), key=lambda task: (task.spans, task.family, task.label))
