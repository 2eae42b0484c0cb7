"""Articles about an entity: every wording of a kind tells the same facts in other sentences."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from data.document import Document, Turn, document_id, draw
from evaluation.testbed.domain import NAME, VALUE, Domain, Entity, Wording

# Chances of the ways to tell a fact: plainly, as a reason, or plainly with what follows from it.
_PLAIN, _BECAUSE = 0.55, 0.75
_OPENED = 0.4  # chance that a later sentence begins with a connective


@dataclass(frozen=True)
class Article:
    """One wording of one kind of article about one entity.

    Attributes:
        entity: whom it is about.
        kind: of article.
        wording: its number, from 0.
        title: the entity's name, the first line of `text`.
        text: title line and sentences.
        cloze: attribute to the place in `text` where its value is told first.
    """

    entity: Entity
    kind: str
    wording: int
    title: str
    text: str
    cloze: dict[str, int]

    def document(self) -> Document:
        """The article as a document of a corpus, its title in `meta`."""
        turns = (Turn("text", self.text),)
        source = f"testbed:{self.entity.name}/{self.kind}/{self.wording}"
        return Document(document_id(turns), turns, source, {"title": self.title})


def write_article(wording: Wording, entity: Entity, kind: str, number: int, seed: int) -> Article:
    """Wording `number` of a kind of article: order of the facts, patterns and connectives are drawn."""
    random = draw(f"{entity.name} {kind} {number}", f"article {seed}")
    order = random.sample(wording.articles[kind], len(wording.articles[kind]))
    text = f"{entity.name}\n"
    cloze: dict[str, int] = {}
    for at, attribute in enumerate(order):
        patterns, value = wording.attributes[attribute], entity.facts[attribute]
        way = random.random()
        chosen = random.choice(patterns.because if _PLAIN <= way < _BECAUSE else patterns.told)
        opened = at > 0 and random.random() < _OPENED
        opener = random.choice(wording.openers)
        sentence = chosen.replace(NAME, entity.name)
        if opened:
            first = sentence if chosen.startswith((NAME, VALUE)) else _small(sentence)
            sentence = opener + first
        start = len(text) + sentence.index(VALUE)
        text += sentence.replace(VALUE, value) + " "
        cloze[attribute] = start
        if way >= _BECAUSE:
            follows = random.choice(patterns.follows)
            text += follows.replace(NAME, entity.name).replace(VALUE, value) + " "
    return Article(entity, kind, number, entity.name, text.rstrip(), cloze)


def write_articles(
    domain: Domain, entities: Iterable[Entity], wordings: Iterable[int], seed: int
) -> Iterator[Article]:
    """Every kind of article about the entities, wording by wording."""
    entities = list(entities)
    for number in wordings:
        for entity in entities:
            for kind in domain.wording.articles:
                yield write_article(domain.wording, entity, kind, number, seed)


def _small(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
