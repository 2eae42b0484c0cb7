"""Questions about facts: those that training sees, and those that measure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from data.document import Document, Turn, document_id
from evaluation.testbed.articles import write_article
from evaluation.testbed.domain import NAME, Domain, Entity

Kind = Literal["cloze", "seen", "unseen"]


@dataclass(frozen=True)
class Item:
    """One measurement: what stands before, the values that may follow, the right one.

    Attributes:
        entity: its name; intervals are drawn over entities.
        attribute: what is asked.
        kind: cloze (an article up to the value), seen (a question wording that training has for
            other entities), unseen (a wording that training never has).
        prompt: what the model is given: an article's beginning, or a question.
        values: of the attribute.
        right: which of them it is.
    """

    entity: str
    attribute: str
    kind: Kind
    prompt: str
    values: tuple[str, ...]
    right: int


def question_documents(domain: Domain, entities: Iterable[Entity]) -> Iterator[Document]:
    """Every fact of the entities in every wording of its question, as a conversation each."""
    for entity in entities:
        for attribute, patterns in domain.wording.attributes.items():
            for question in patterns.asked:
                turns = (
                    Turn("user", question.replace(NAME, entity.name)),
                    Turn("assistant", entity.facts[attribute]),
                )
                source = f"testbed:{entity.name}/{attribute}"
                yield Document(document_id(turns), turns, source)


def make_items(domain: Domain, entities: Iterable[Entity], seed: int) -> list[Item]:
    """The measurements of the entities: every fact as a cloze, and once in every way of asking.

    The cloze is taken from wording 0, which every variant reads. Of the seen and the unseen question
    wordings each fact takes one, going round.
    """
    items = []
    for number, entity in enumerate(entities):
        for kind in domain.wording.articles:
            article = write_article(domain.wording, entity, kind, 0, seed)
            for attribute, place in article.cloze.items():
                prompt = article.text[:place].rstrip()
                items.append(_item(domain, entity, attribute, "cloze", prompt))
        for attribute, patterns in domain.wording.attributes.items():
            ways: dict[Kind, tuple[str, ...]] = {"seen": patterns.asked, "unseen": patterns.unseen}
            for way, wordings in ways.items():
                if wordings:
                    question = wordings[number % len(wordings)].replace(NAME, entity.name)
                    items.append(_item(domain, entity, attribute, way, question))
    return items


def _item(domain: Domain, entity: Entity, attribute: str, kind: Kind, prompt: str) -> Item:
    values = domain.wording.attributes[attribute].values
    return Item(entity.name, attribute, kind, prompt, values, values.index(entity.facts[attribute]))
