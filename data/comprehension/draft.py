"""A document on its way to finished texts: divided by its estimated length, mined, composed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.comprehension.chunk import Part, by_length, by_section
from data.comprehension.compose import Passage, ask, compose
from data.comprehension.config import ComprehensionConfig
from data.comprehension.language import Language
from data.comprehension.mine import mine_reading
from data.comprehension.page import Task
from data.comprehension.reading import read
from data.comprehension.sections import split_sections
from data.comprehension.select import select
from data.comprehension.sentences import split_sentences
from data.comprehension.templates import Templates
from data.comprehension.vocabulary import Vocabulary
from data.document import Document

# Slices of a document that its tokens are estimated by: so many, of so many characters.
SLICES, SLICE_CHARS = 4, 256
# An estimate is not trusted by more than this.
MARGIN = 1.04
# What stands around a text and its tasks has about so many characters.
FRAME_CHARS = 200
MIN_PART = 64


@dataclass(frozen=True)
class Draft:
    """A text that may still be too long.

    Attributes:
        document: as it would go out.
        part: what is read of the document that it is made of.
        passage: the same as text.
        tasks: every mined task that it might have; the first `kept` are asked.
        left_out: how many were left out before, by reason.
    """

    document: Document
    part: Part
    passage: Passage
    tasks: tuple[Task, ...]
    kept: int
    left_out: Mapping[str, int]

    @property
    def num_chars(self) -> int:
        """Characters of its turns."""
        return sum(len(turn.text) for turn in self.document.turns)


@dataclass(frozen=True)
class Source:
    """A document that can be composed, and what that takes.

    Attributes:
        document: as it was read.
        text: its text.
        title: its title, None if it has none.
        body: where the text under the title's line begins; 0 where there is no such line.
        language: the rules it is mined by.
        templates: what is said around it.
        vocabulary: whose words are its keywords.
    """

    document: Document
    text: str
    title: str | None
    body: int
    language: Language
    templates: Templates
    vocabulary: Vocabulary | None

    def sentences(self, text: str) -> list[tuple[int, int]]:
        """Spans of the sentences of a piece of its text."""
        return split_sentences(text, self.language)


class Drafter:
    """Makes drafts of documents under one recipe.

    Args:
        config: what is made.
        seq_len: tokens that a finished text may have.
        count: gives the number of tokens of texts, all together.
        system: system prompt of conversations.
    """

    def __init__(
        self,
        config: ComprehensionConfig,
        seq_len: int,
        count: Callable[[Sequence[str]], int],
        system: str | None,
    ) -> None:
        self._config, self._seq_len, self._count = config, seq_len, count
        self._system = system

    def drafts(self, source: Source) -> list[Draft]:
        """The texts that a document becomes, if its estimated length is right."""
        text, config = source.text, self._config
        ratio = None
        # Prose has four characters to a token, scripts that the tokenizer hardly knows have one.
        if len(text) + 1.5 * (len(text.encode()) - len(text)) > 2 * self._seq_len:
            ratio = self._tokens_per_char(text)
        long = ratio is not None and len(text) * ratio > self._seq_len * config.read_share
        parts = [Part(0, len(text), source.title, source.body)]
        if config.sections == "always":
            parts = _sections(source)
        if ratio is None or not long:
            return self._numbered(source, parts, ratio)
        limit = self.limit(ratio)
        if config.sections == "long":
            parts = _sections(source, limit)
        return self.divided(source, parts, limit, ratio)

    def limit(self, ratio: float) -> int:
        """Characters that are read in one text, at so many tokens for a character."""
        return int(self._seq_len * self._config.read_share / (ratio * MARGIN))

    def divided(
        self, source: Source, parts: Sequence[Part], limit: int, ratio: float
    ) -> list[Draft]:
        """Drafts of parts of at most `limit` characters.

        Raises:
            ValueError: rows are too short for any reading comprehension.
        """
        if limit < MIN_PART:
            raise ValueError(
                f"seq_len: {self._seq_len} tokens are too few for reading comprehension of "
                f"{source.document.source}, which would be divided into parts of {limit} "
                "characters; take a longer seq_len"
            )
        pieces = [
            p for part in parts for p in by_length(source.text, part, limit, source.sentences)
        ]
        return self._numbered(source, pieces, ratio)

    def shorter(self, source: Source, draft: Draft, over: float) -> Draft:
        """The draft without so many of its last tasks that it is `over` characters shorter."""
        kept = draft.kept
        while kept and over > 0:
            kept -= 1
            over -= _num_chars(draft.tasks[kept])
        return self._finished(source, draft, kept)

    def _finished(self, source: Source, draft: Draft, kept: int) -> Draft:
        """The draft with its first `kept` tasks; as mere text where that leaves nothing to ask."""
        composed = compose(
            draft.passage, draft.tasks[:kept], source.templates, self._config, self._system
        )
        meta: dict[str, Any] = {
            **source.document.meta,
            "parent": source.document.id,
            "span": [draft.part.start, draft.part.stop],
            "layout": composed.layout,
            "tasks": composed.tasks,
            "read": composed.read,
        }
        if draft.part.title and draft.part.title != source.title:
            meta["section"] = draft.part.title
        document = Document(draft.passage.id, composed.turns, source.document.source, meta)
        return Draft(document, draft.part, draft.passage, draft.tasks, kept, draft.left_out)

    def _tokens_per_char(self, text: str) -> float:
        step = max(1, (len(text) - SLICE_CHARS) // (SLICES - 1))
        slices = [text[at : at + SLICE_CHARS] for at in range(0, step * SLICES, step)]
        slices = [piece for piece in slices if piece]
        return self._count(slices) / sum(map(len, slices))

    def _numbered(self, source: Source, parts: Sequence[Part], ratio: float | None) -> list[Draft]:
        """A draft of every part that there is something to ask about, or of all parts if several."""
        drafts = []
        for n, part in enumerate(parts):
            id = source.document.id if len(parts) == 1 else f"{source.document.id}#{n}"
            draft = self._draft(source, part, id)
            kept = len(draft.tasks)
            if ratio:
                chars = FRAME_CHARS + len(draft.passage.text) + sum(map(_num_chars, draft.tasks))
                while kept and chars * ratio * MARGIN > self._seq_len:
                    kept -= 1
                    chars -= _num_chars(draft.tasks[kept])
            drafts.append(self._finished(source, draft, kept))
        if len(parts) == 1 and _nothing_to_ask(drafts[0]):
            return []
        return drafts

    def _draft(self, source: Source, part: Part, id: str) -> Draft:
        text = source.text[part.start : part.stop]
        body = part.body - part.start
        # The title is there for mining to see, but nothing is mined from it: it may be asked for.
        reading = read(text, source.language)
        sentences = [(item.start, item.stop) for item in reading.sentences if item.start >= body]
        mined = [
            task for task in mine_reading(reading, source.vocabulary) if task.spans[0][0] >= body
        ]
        chosen, left_out = select(mined, id, self._config, text, sentences)
        tasks = ask(chosen, id, text, source.templates, self._config)
        passage = Passage(id, text, part.title, body, sentences)
        return Draft(source.document, part, passage, tuple(tasks), len(tasks), left_out)


def _nothing_to_ask(draft: Draft) -> bool:
    """Whether a document would only get a heading, or is one sentence without a title."""
    if draft.document.meta["layout"] == "raw":
        return True
    return not (draft.tasks or draft.passage.title or len(draft.passage.sentences) > 1)


def _num_chars(task: Task) -> int:
    return len(task.question) + len(task.answer) + 3


def _sections(source: Source, fill: int = 0) -> list[Part]:
    """A part for each section, under its title; the first goes by the document's title.

    Sections that have at most `fill` characters together are one part.
    """
    found = split_sections(source.text, source.language)
    if not any(section.title for section in found):
        return [Part(0, len(source.text), source.title, source.body)]
    first, *others = by_section(source.text, found, fill)
    if source.title:
        first = Part(0, first.stop, source.title, source.body)
    return [first, *others]
