"""The text of a continuation while it grows: exact at every token, ended by stop strings.

- a continuation's text is what it adds to its prompt's: a SentencePiece tokenizer drops the first
  space of whatever it decodes, so the prompt's last tokens are decoded along and taken off again
- a character may be made of several tokens: it is text once its last one is there
- a stop string may begin in one token and end in another: what could be the beginning of one is not
  handed out until it is known
"""

from collections.abc import Sequence

import numpy as np

from data.tokenizer import Tokenizer

_CONTEXT = 6  # tokens of the prompt that are decoded along
_BROKEN = "\ufffd"  # what an unfinished character decodes to


class Continuation:
    """The text behind a prompt, token by token.

    Attributes:
        text: so far, without the stop string.
        stopped: whether a stop string has ended it.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: np.ndarray, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        special = set(tokenizer.special_ids.values())
        context: list[int] = []
        for token in reversed(prompt[-_CONTEXT:].tolist()):
            if token in special:
                break
            context.insert(0, token)
        self._tokens = context
        self._settled, self._read = 0, len(context)  # decoded from here; text given out up to here
        self._given = 0  # characters that `new` has handed out
        self.text, self.stopped = "", False

    def add(self, token: int) -> bool:
        """Takes the next token; says whether a stop string has now ended the text."""
        if self.stopped:
            return True
        self._tokens.append(token)
        if self._stop:
            self._decode()
        return self.stopped

    def new(self, *, last: bool = False) -> str:
        """The text that has become certain since the last call; with `last`, all that is left."""
        if last:
            self._decode(last=True)
        elif not self._stop:
            self._decode()
        end = len(self.text) if last or self.stopped else len(self.text) - self._doubtful()
        part = self.text[self._given : end]
        self._given = max(self._given, end)
        return part

    def finish(self) -> str:
        """The whole text; nothing is added after this."""
        self._decode(last=True)
        return self.text

    def _decode(self, *, last: bool = False) -> None:
        """Takes the tokens whose characters are complete into the text, and looks for a stop."""
        if self.stopped or self._read == len(self._tokens):
            return
        before = self._tokenizer.decode(self._tokens[self._settled : self._read])
        after = self._tokenizer.decode(self._tokens[self._settled :])
        if after.endswith(_BROKEN) and not last:
            return
        if len(after) > len(before):
            # The tokens just read become the context of the next ones.
            self._settled = self._read
        self._read = len(self._tokens)
        begin = max(0, len(self.text) - self._longest + 1)
        self.text += after[len(before) :]
        found = [at for stop in self._stop if (at := self.text.find(stop, begin)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def _doubtful(self) -> int:
        """Characters at the end that may turn out to be the beginning of a stop string."""
        for size in range(min(self._longest - 1, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self._stop):
                return size
        return 0
