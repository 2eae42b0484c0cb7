"""How much of a sentence can be found in a text, and what language and script it is in."""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

# A run of letters and digits; scripts that set no spaces are cut into characters below.
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_SHORT = 4  # shorter words say little, unless they hold a digit
_STEM = 6  # words are compared by their beginnings, so that endings do not count

_SCRIPTS = {  # how the Unicode name of a letter begins
    "CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "HANGUL": "Hangul", "LATIN": "Latin",
    "GREEK": "Greek", "CYRILLIC": "Cyrillic", "ARABIC": "Arabic", "HEBREW": "Hebrew",
    "DEVANAGARI": "Devanagari", "THAI": "Thai",
}  # fmt: skip


def words(text: str) -> list[str]:
    """Its words in lower case; of Chinese, Japanese and Thai its characters."""
    return [
        word
        for run in _WORD.findall(text.casefold())
        for word in (_UNSPACED.split(run) if _UNSPACED.search(run) else [run])
        if word
    ]


def content(text: str) -> list[str]:
    """The beginnings of the words that say something; of all words, where none is long enough."""
    found = words(text)
    long = [w for w in found if len(w) >= _SHORT or not w.isascii() or any(map(str.isdigit, w))]
    return [word[:_STEM] for word in long or found]


def grams(text: str, n: int = 1) -> set[tuple[str, ...]]:
    """Its distinct runs of `n` content words; shorter texts have one, which is all of it."""
    found = content(text)
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))} if found else set()


def overlap(part: str, text: str, n: int = 1) -> float:
    """Share of the content n-grams of `part` that `text` has; 0 where there are none."""
    return share(grams(part, n), grams(text, n))


def share(part: set[tuple[str, ...]], whole: set[tuple[str, ...]]) -> float:
    """Share of `part` that is in `whole`; 0 where `part` is empty."""
    return len(part & whole) / len(part) if part else 0.0


def script(text: str) -> str | None:
    """The script of most of its letters; None where it has none."""
    counts = Counter(map(_script_of, filter(str.isalpha, text)))
    # Japanese is written in two scripts, and either may prevail.
    return max(sorted(counts), key=counts.__getitem__) if counts else None


def scripts(text: str, least: float = 0.02) -> set[str]:
    """The scripts that hold at least this share of its letters."""
    counts = Counter(map(_script_of, filter(str.isalpha, text)))
    total = sum(counts.values())
    return {name for name, count in counts.items() if count >= least * total}


def language(text: str) -> tuple[str, float]:
    """Its likeliest language (`en`) and how likely."""
    return _identifier().classify(text)


@functools.cache
def _identifier() -> Any:
    from py3langid import langid

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


@functools.lru_cache(1 << 12)
def _script_of(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ", 1)[0]
    return _SCRIPTS.get(name, name)


def distinct(found: Sequence[str]) -> float:
    """Distinct words over words; 1 where there are none."""
    return len(set(found)) / len(found) if found else 1.0
