"""Pages put together anew, about names that nobody has heard: exercises in reading what is there.

A few thousand pages are soon known by heart, and a model that knows them says what it remembers,
of a page that it has never seen as well. Here a text takes the questions of one page, each with a
paragraph of some other page that answers that question, and all of it is told of a new name. What
the answers are can then be known from the text alone, name and order included.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from pydantic import Field

from data.document import draw
from data.split import is_held_out
from data.strict import Config
from data.synthesis.format import Pair
from data.synthesis.passage import Passage

_NAME = "\0"  # where the name stands in a question
_KEPT = 0.5  # chance that a word of a title stays as it is in a new name
_SHORT = 4  # shorter words have no halves


class RecombinedConfig(Config):
    """Texts made of paragraphs of several pages."""

    number: int = Field(default=20_000, ge=1)
    heldout: float = Field(
        ge=0, lt=1, description="share of the pages that the preparation holds out: not used here"
    )


@dataclass(frozen=True)
class _Part:
    """A paragraph with its answer, and the title that both speak of."""

    title: str
    shown: str
    answer: str


def recombined(
    passages: Iterable[Passage], config: RecombinedConfig, dataset: str
) -> Iterator[Passage]:
    """Passages made anew of those of pages that are trained on.

    Args:
        passages: a line with the title, then a line per pair, as `page_passages` makes them. Those
            with a question that does not name the title are not used.
        config: how many, and which pages to leave alone.
        dataset: the `rc_name` of the passages.
    """
    asked: list[tuple[str, ...]] = []
    parts: dict[str, list[_Part]] = {}
    titles: list[str] = []
    for passage in passages:
        title, *lines = passage.text.split("\n")
        named = all(title in pair.question for pair in passage.pairs)
        if is_held_out(passage.group, config.heldout) or not title or not named:
            continue
        titles.append(title)
        kinds = tuple(pair.question.replace(title, _NAME) for pair in passage.pairs)
        asked.append(kinds)
        for kind, shown, pair in zip(kinds, lines, passage.pairs, strict=True):
            parts.setdefault(kind, []).append(_Part(title, shown, pair.answer))
    for i in range(config.number if asked else 0):
        id_ = f"{dataset} {i}"
        name = _new_name(draw(id_, "name"), titles)
        kinds = draw(id_, "questions").choice(asked)
        chosen = [draw(id_, f"part {kind}").choice(parts[kind]) for kind in kinds]
        text = "\n".join([name, *(_renamed(part.shown, part.title, name) for part in chosen)])
        pairs = tuple(
            Pair(kind.replace(_NAME, name), _renamed(part.answer, part.title, name))
            for kind, part in zip(kinds, chosen, strict=True)
        )
        yield Passage(text, pairs, "free-form", dataset, id_)


def _new_name(random: Random, titles: Sequence[str]) -> str:
    """A title in which half of the words are made of halves of two other titles' words."""

    def word() -> str:
        return random.choice(random.choice(titles).split())

    def made(kept: str) -> str:
        head, tail = word(), word()
        if random.random() < _KEPT or min(map(len, (kept, head, tail))) < _SHORT:
            return kept
        return head[: len(head) // 2] + tail[len(tail) // 2 :]

    return " ".join(map(made, random.choice(titles).split()))


def _renamed(text: str, title: str, name: str) -> str:
    """`text` with `name` wherever it says `title`, in upper case where that was."""

    def put(found: re.Match[str]) -> str:
        return name[:1].upper() + name[1:] if found[0][:1].isupper() else name

    return re.sub(re.escape(title), put, text, flags=re.IGNORECASE)
