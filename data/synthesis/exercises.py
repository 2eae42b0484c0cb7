"""Exercises in taking words from a text, for a model that begins with random weights.

An answer that is borne out by a text is for the most part copied from it. A model from random
weights must first learn that words can be looked up at all; prose alone teaches it slowly, since
much of prose can be guessed.

* **Lists**: common words in no order, one of them again, and then what came behind it. Nothing else
  helps here, so a thousand steps teach it.
* **Quotations**: a few words of a real text, and how it goes on. They teach it for all words that
  there are, in texts of all kinds.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from pydantic import Field, model_validator

from data.document import draw
from data.strict import Config
from data.synthesis.format import Pair

_WORD = re.compile(r"\S+")
_SENTENCE_END = (".", "!", "?")


class ListsConfig(Config):
    """Lists of words without order."""

    number: int = Field(default=60_000, ge=1)
    vocabulary: int = Field(default=400, ge=50, description="of the pages' commonest words")
    min_words: int = Field(
        default=8, ge=6, description="of a list; short ones are as many as long ones, by halves"
    )
    max_words: int = Field(default=24, ge=7, description="lists are shorter than this")
    response_words: int = Field(default=12, ge=4, description="at most; four at least")

    @model_validator(mode="after")
    def _enough_words(self) -> "ListsConfig":
        if not self.min_words < self.max_words <= self.vocabulary:
            raise ValueError(
                f"max_words: {self.max_words} is not above min_words {self.min_words}, or above "
                f"vocabulary {self.vocabulary}: a list has no word twice"
            )
        return self


class QuotationsConfig(Config):
    """Quotations of the pages' texts, to be gone on with."""

    number: int = Field(default=20_000, ge=1, description="of texts at most, drawn")
    min_words: int = Field(default=20, ge=10, description="of a text")
    quoted_words: int = Field(default=3, ge=1)
    answer_words: int = Field(default=16, ge=4, description="or up to the end of the sentence")
    pairs: int = Field(default=2, ge=1)
    question: str = Field(default='How does the text go on after "{quotation}"?')

    @model_validator(mode="after")
    def _has_a_place(self) -> "QuotationsConfig":
        if "{quotation}" not in self.question:
            raise ValueError("question: has no {quotation} in it")
        return self


def word_lists(texts: Iterable[str], config: ListsConfig) -> Iterator[dict[str, str]]:
    """Lists of the commonest words of `texts` with one of them again, and what came behind it."""
    counts = Counter(word for text in texts for word in re.findall(r"[A-Za-z]{2,}", text))
    common = [word for word, _ in counts.most_common(config.vocabulary)]
    span = min(config.max_words, len(common)) / config.min_words
    for i in range(config.number):
        name = f"list {i}"
        number = int(config.min_words * span ** draw(name, "words").random())
        words = draw(name, "which").sample(common, number)
        length = draw(name, "length").randint(4, min(config.response_words, number - 1))
        at = draw(name, "place").randrange(number - length)
        yield {
            "prompt": " ".join([*words, words[at]]),
            "response": " ".join(words[at + 1 : at + 1 + length]),
        }


def quotations(
    texts: Iterable[str], config: QuotationsConfig
) -> Iterator[tuple[str, tuple[Pair, ...]]]:
    """Texts with quotations of them and how they go on; texts where none can be made are left out."""
    chosen = sorted(set(texts), key=lambda text: (draw(text, "quoted").random(), text))
    made = 0
    for text in chosen:
        pairs = _pairs(text, config)
        if len(pairs) == config.pairs:
            yield text, pairs
            made += 1
        if made == config.number:
            return


def _pairs(text: str, config: QuotationsConfig) -> tuple[Pair, ...]:
    words = [match.span() for match in _WORD.finditer(text)]
    if len(words) < config.min_words:
        return ()
    places = list(range(len(words) - config.quoted_words - 3))
    draw(text, "places").shuffle(places)
    pairs: dict[str, Pair] = {}
    for at in places:
        first, last = at, at + config.quoted_words - 1
        quotation = text[words[first][0] : words[last][1]]
        until = last + 1
        while not text[: words[until][1]].endswith(_SENTENCE_END) and until + 1 < len(words):
            if until - last == config.answer_words:
                break
            until += 1
        answer = text[words[last + 1][0] : words[until][1]]
        behind = text[words[last][1] : words[last + 1][0]]
        clear = behind == " " and "\n" not in quotation + answer and '"' not in quotation
        clear = clear and not quotation.endswith(_SENTENCE_END)
        if clear and text.count(quotation) == 1 and until - last >= 4:
            pairs[quotation] = Pair(config.question.replace("{quotation}", quotation), answer)
        if len(pairs) == config.pairs:
            break
    return tuple(pairs.values())
