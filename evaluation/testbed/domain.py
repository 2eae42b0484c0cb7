"""A generated domain: things with known facts, and the sentences that tell and ask them.

All wording lies in YAML. Every draw is named and seeded (`data.document.draw`), so a domain is a
function of its file, its seed and its size.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.document import draw

HERE = Path(__file__).resolve().parent
NAME, VALUE = "{name}", "{value}"


class Attribute(BaseModel):
    """One relation: its values, and the sentence patterns about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    values: tuple[str, ...] = Field(min_length=2)
    told: tuple[str, ...] = Field(min_length=1)
    because: tuple[str, ...] = Field(min_length=1)
    follows: tuple[str, ...] = Field(min_length=1)
    asked: tuple[str, ...] = Field(min_length=1, description="question wordings seen in training")
    unseen: tuple[str, ...] = Field(default=(), description="question wordings never trained on")

    @model_validator(mode="after")
    def _patterns_are_whole(self) -> "Attribute":
        for pattern in (*self.told, *self.because, *self.follows):
            if pattern.count(VALUE) != 1 or NAME not in pattern:
                raise ValueError(f"pattern {pattern!r}: needs {NAME} and {VALUE} once")
        for question in (*self.asked, *self.unseen):
            if VALUE in question or NAME not in question:
                raise ValueError(f"question {question!r}: needs {NAME} and no {VALUE}")
        return self


class NameParts(BaseModel):
    """What names are put together from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: tuple[str, ...]
    middle: tuple[str, ...]
    last: tuple[str, ...]


class Wording(BaseModel):
    """A domain's file: names, sentence openers, kinds of article, attributes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: NameParts
    openers: tuple[str, ...] = Field(min_length=1)
    articles: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Attribute]

    @model_validator(mode="after")
    def _articles_tell_every_attribute_once(self) -> "Wording":
        told = sorted(itertools.chain(*self.articles.values()))
        if told != sorted(self.attributes):
            raise ValueError(
                f"articles: they tell {told}, but the attributes are {sorted(self.attributes)}; "
                "every attribute belongs to one kind of article"
            )
        return self


@dataclass(frozen=True)
class Entity:
    """A thing and its facts: attribute to value. The facts of `held_out` ones are never asked in training."""

    name: str
    facts: Mapping[str, str]
    held_out: bool


@dataclass(frozen=True)
class Domain:
    """The entities of a domain with their wording."""

    wording: Wording
    entities: tuple[Entity, ...]

    @property
    def taught(self) -> list[Entity]:
        """Those whose facts training may ask about."""
        return [entity for entity in self.entities if not entity.held_out]

    @property
    def held_out(self) -> list[Entity]:
        """Those that appear as raw articles only."""
        return [entity for entity in self.entities if entity.held_out]


@functools.cache
def load_wording(name: str) -> Wording:
    """The wording in a file of this folder (`pharmacopoeia`, `towns`) or at a path of its own.

    Raises:
        ValueError: the file is not there or is no wording.
    """
    path = HERE / f"{name}.yaml" if "/" not in name and not name.endswith(".yaml") else Path(name)
    if not path.exists():
        raise ValueError(f"wording: {path} does not exist; name a YAML as pharmacopoeia.yaml is")
    return Wording.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def make_domain(wording: Wording, *, num_entities: int, held_out: float, seed: int) -> Domain:
    """Entities with drawn names and facts, `held_out` of them kept from all questions.

    The values of an attribute occur equally often (but for the remainder), in the taught part and
    in the held-out part alike, so that the commonest value is no better a guess than any other.

    Raises:
        ValueError: there are fewer names than entities, or a part would be empty.
    """
    parts = wording.names
    names = ["".join(name) for name in itertools.product(parts.first, parts.middle, parts.last)]
    if num_entities > len(names):
        raise ValueError(
            f"entities: {num_entities} is more than the {len(names)} names that the wording has"
        )
    key = f"domain {seed}"
    draw(key, "names").shuffle(names)
    num_held = round(num_entities * held_out)
    if not 0 < num_held < num_entities:
        raise ValueError(
            f"held_out: {held_out} of {num_entities} entities leaves {num_held} of them held out; "
            "both parts need at least one"
        )
    columns: dict[str, list[str]] = {}
    for attribute, told in wording.attributes.items():
        columns[attribute] = [
            *_dealt(told.values, num_held, key, f"{attribute} held out"),
            *_dealt(told.values, num_entities - num_held, key, f"{attribute} taught"),
        ]
    entities = [
        Entity(name, {a: column[i] for a, column in columns.items()}, held_out=i < num_held)
        for i, name in enumerate(names[:num_entities])
    ]
    return Domain(wording, tuple(sorted(entities, key=lambda entity: entity.name)))


def _dealt(values: Sequence[str], count: int, key: str, choice: str) -> list[str]:
    random = draw(key, choice)
    order = random.sample(values, len(values))
    dealt = [order[i % len(order)] for i in range(count)]
    random.shuffle(dealt)
    return dealt
