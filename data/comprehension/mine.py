"""All tasks that can be mined from a text, before caps and sampling."""

from operator import attrgetter

from data.comprehension.keywords import mine_keywords
from data.comprehension.language import Language
from data.comprehension.mined import Mined, Section
from data.comprehension.questions import mine_questions
from data.comprehension.reading import Reading, read
from data.comprehension.relations import mine_relations
from data.comprehension.sections import mine_sections
from data.comprehension.statements import mine_statements
from data.comprehension.vocabulary import Vocabulary

__all__ = ["Mined", "Section", "mine"]


def mine(text: str, language: Language, vocabulary: Vocabulary | None) -> list[Mined]:
    """Every task that `text` holds, in text order; none where nothing is found."""
    return mine_reading(read(text, language), vocabulary)


def mine_reading(reading: Reading, vocabulary: Vocabulary | None) -> list[Mined]:
    """`mine` for a text whose sentences are known already."""
    opened: dict[int, int] = {}
    found = [*mine_relations(reading, opened)]
    if vocabulary is not None:
        found += mine_keywords(reading, vocabulary, opened)
    found += mine_statements(reading, opened)
    found += mine_questions(reading, opened)
    found += mine_sections(reading)
    unique = {(task.family, task.label, task.pair): task for task in found}
    return sorted(unique.values(), key=attrgetter("spans"))
