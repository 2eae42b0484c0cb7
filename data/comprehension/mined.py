"""The records that mining hands on: a mined task and a section of a text."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A titled part of a text: the characters `start:stop` of it, title line not included.

    `title` is None for what stands before the first title.
    """

    title: str | None
    start: int
    stop: int


@dataclass(frozen=True)
class Mined:
    """One task found in a text.

    Attributes:
        family: nli, cause, paraphrase, keyword, definition, topic, question or section.
        label: the sub-category. nli: entail, contradict, neutral; cause: cause_effect,
            effect_cause; paraphrase: similar, different; question: definition, number, cause; the
            other families: the family's name.
        slots: what the templates are filled with. nli: premise, hypothesis, connective; cause:
            cause, effect, connective; paraphrase: first, second, connective; keyword: sentence,
            keywords (joined by the language's comma); definition: term, verb, definition; topic:
            sentence, verb, topic; question: question, answer; section: title, body.
        spans: character spans in the text of what the slots quote.
        pair: equal for tasks made of the same two spans (entail and cause_effect, contradict and
            different); a finished text shows one of them.
    """

    family: str
    label: str
    slots: Mapping[str, str]
    spans: tuple[tuple[int, int], ...]
    pair: str
