"""A document's tokens with their loss mask, and documents that bring theirs along.

A stage that has to know how long its texts are tokenizes them; `encode_documents` then takes the
tokens from the document, so that no text is tokenized twice.
"""

from dataclasses import dataclass, field

import numpy as np

from data.document import Document, Turn


@dataclass(frozen=True)
class Encoded:
    """A document as one segment.

    Attributes:
        tokens: int32 `[n]`.
        supervised: bool `[n]`, whether a token is a target. The first never is: nothing comes
            before it.
    """

    tokens: np.ndarray
    supervised: np.ndarray


@dataclass(frozen=True)
class EncodedDocument(Document):
    """A document with the tokens of its turns; otherwise it is a document as any other.

    Attributes:
        encoded: its tokens.
        encoded_turns: the turns that were tokenized. A stage that puts other turns into a copy of
            the document leaves the tokens of the old ones behind.
        encoded_by: the tokenizer's fingerprint and the settings that the tokens depend on.
    """

    encoded: Encoded | None = field(default=None, compare=False, repr=False)
    encoded_turns: tuple[Turn, ...] = field(default=(), compare=False, repr=False)
    encoded_by: tuple[object, ...] = field(default=(), compare=False, repr=False)


def with_tokens(document: Document, encoded: Encoded, by: tuple[object, ...]) -> EncodedDocument:
    """The document with the tokens that `by` made of it."""
    fields = (document.id, document.turns, document.source, document.meta)
    return EncodedDocument(*fields, encoded, document.turns, by)


def tokens_of(document: Document, by: tuple[object, ...]) -> Encoded | None:
    """The tokens that a document brings along, if they are those that `by` would make of it."""
    if not isinstance(document, EncodedDocument):
        return None
    same = document.encoded_turns is document.turns and document.encoded_by == by
    return document.encoded if same else None
