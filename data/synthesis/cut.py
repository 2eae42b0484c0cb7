"""Long texts cut where paragraphs or sentences end, so that each piece has so many tokens at most."""

import re

from data.tokenizer import Tokenizer

# Places to cut at, the best first: behind a blank line, a line, a sentence, a word.
_PLACES = tuple(map(re.compile, (r"\n\s*\n\s*", r"\n\s*", r"(?<=[.!?])\s+|(?<=[。！？])", r"\s+")))
_LEAST = 0.5  # a cut lies in the later part of what fits, or the pieces become too many


def cut(text: str, tokenizer: Tokenizer, limit: int) -> list[tuple[int, int]]:
    """Character spans of pieces of at most `limit` tokens each; white space between them is left out.

    Nothing else is: the pieces hold every other character of the text. One piece where all fits.
    """
    pieces, start = [], 0
    while start < len(text):
        rest = text[start:]
        stop = start + _fitting(rest, tokenizer, limit)
        shown = text[start:stop]
        if piece := shown.strip():
            begin = start + shown.index(piece)
            pieces.append((begin, begin + len(piece)))
        start = stop
    return pieces


def _fitting(text: str, tokenizer: Tokenizer, limit: int) -> int:
    """Characters of the first piece."""
    window = text[: limit * 32]  # few tokens are longer, and those pieces come out short
    _, spans = tokenizer.encode_offsets(window)
    if len(spans) <= limit:
        return len(window) if len(window) == len(text) else _place(window, len(window))
    most = limit
    while True:
        stop = _place(window, max(1, int(spans[most - 1, 1])))
        # A piece alone may have a token more than it had inside the text.
        if len(tokenizer.encode(window[:stop].strip())) <= limit or most == 1:
            return stop
        most = max(1, most - 1 - most // 32)


def _place(text: str, stop: int) -> int:
    """The best place to cut in the later part of `text[:stop]`."""
    shown = text[:stop]
    for pattern in _PLACES:
        ends = [match.end() for match in pattern.finditer(shown) if match.end() >= _LEAST * stop]
        if ends:
            return ends[-1]
    return stop
