"""SentencePiece BPE word by word: what a word becomes is looked up where it was seen before.

BPE joins neighbours by their rank, and in models such as LLaMA's no piece reaches over a word's end:
a space only ever begins one (or stands among spaces), and a line break is a piece of its own. So a
text's ids are those of its words, one after the other, exactly, and words come again: to look them up
takes a quarter of the time. A word is what stands between spaces and line breaks, with the spaces (or
the one line break) before it.
"""

import re
import threading
from array import array
from collections.abc import Sequence

import numpy as np

from data.sentencepiece_proto import parse

# Words that are remembered, of so many characters at most: some 30 MB. Then it is begun anew.
MAX_WORDS, MAX_CHARS = 1 << 17, 32
# While a text is divided: what a line break before a word, and each space after the first, become.
_BREAK, _SPACE = "\0", "\1"
_REFUSED = re.compile("[\0\1▁]")
_INSIDE = re.compile("[^▁]▁|\n")


class Words:
    """Ids of texts under one SentencePiece model; made by `Words.of`."""

    def __init__(self, model: bytes) -> None:
        """Use `Words.of`."""
        import sentencepiece

        proto = parse(model)
        self._prefix = " " if proto.normalizer_spec.add_dummy_prefix else ""
        proto.normalizer_spec.add_dummy_prefix = False
        self._model = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self._known: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, model: bytes) -> "Words | None":
        """For the bytes of a `.model` file; None where words do not stand for themselves."""
        proto = parse(model)
        trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
        apart = (
            trainer.model_type == trainer.BPE
            and trainer.byte_fallback  # else a run of unknown characters is one token
            and not trainer.treat_whitespace_as_suffix
            and not normalizer.precompiled_charsmap
            and not normalizer.remove_extra_whitespaces
            and normalizer.escape_whitespaces
        )
        if not apart or any(
            piece.type == piece.USER_DEFINED
            or (piece.type in (piece.NORMAL, piece.UNUSED) and _INSIDE.search(piece.piece))
            for piece in proto.pieces
        ):
            return None
        return cls(model)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray | None]:
        """Ids of each text, int32 `[n]`; None for one that holds a character of our own use."""
        divided = [None if _REFUSED.search(text) else self._words(text) for text in texts]
        with self._lock:
            return self._look_up(divided)

    def _look_up(self, divided: Sequence[list[str] | None]) -> list[np.ndarray | None]:
        known = self._known
        new = list(set().union(*[words for words in divided if words]).difference(known))
        # On one core: to start threads takes longer than the words of a text.
        found = self._model.encode([_as_read(word) for word in new], num_threads=1) if new else []
        for word, ids in zip(new, found, strict=True):
            known[word] = array("i", ids).tobytes()
        ids_of = known.__getitem__
        ids = [
            None if words is None else np.frombuffer(bytearray().join(map(ids_of, words)), np.int32)
            for words in divided
        ]
        for word in new:
            if len(word) > MAX_CHARS:
                del known[word]
        if len(known) > MAX_WORDS:
            known.clear()
        return ids

    def _words(self, text: str) -> list[str]:
        """The words of a text, each without the space before it."""
        if not text:
            return []
        text = self._prefix + text
        if "  " in text:  # of "a   b" the words are "a" and, with two spaces more, "b"
            text = text.replace("  ", " " + _SPACE).replace(_SPACE + " ", _SPACE + _SPACE)
        words = text.replace("\n", " " + _BREAK).split(" ")
        if not words[0]:  # nothing stands before the first space
            del words[0]
        else:
            words[0] = _BREAK + _BREAK + words[0]
        return words


def _as_read(word: str) -> str:
    """What a word of `Words._words` stands for."""
    if word.startswith(_BREAK + _BREAK):  # a text begins with it
        return word[2:]
    if word.startswith(_BREAK):
        return "\n" + word[1:]
    return " " + word.replace(_SPACE, " ")
