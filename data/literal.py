"""Texts that say their special tokens themselves: `<s>` written out is BOS, and nothing is added."""

import functools
import re

import numpy as np

from data.tokenizer import Tokenizer


def encode_literal(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Ids int32 `[n]` of a `literal_special` text: its special-token strings become special ids.

    As transformers does with `add_special_tokens=False`; nothing is put before or behind.
    """
    if not tokenizer.special_ids:
        return tokenizer.encode(text)
    pieces = [piece for piece in _special(tuple(tokenizer.special_ids)).split(text) if piece]
    parts = tokenizer.encode_parts([tokenizer.special_ids.get(piece, piece) for piece in pieces])
    return np.concatenate([ids for ids, _ in parts] or [np.zeros(0, np.int32)]).astype(np.int32)


@functools.lru_cache(16)
def _special(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, names), key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
