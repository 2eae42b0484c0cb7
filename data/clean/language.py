"""The language a document is in, from its beginning; kept as `meta.language`, an ISO 639 code.

py3langid looks at some hundred characters (140 languages). `und` says that they are too few to tell.
Documents are dropped for their language only where a recipe names those to keep.
"""

import functools
import math
import unicodedata
from collections import Counter
from collections.abc import Callable

import numpy as np

from data.clean.config import LanguageConfig
from data.document import Document

UNKNOWN = "und"
# "Is septo-optic dysplasia inherited?" is Latin with a probability of 0.13.
UNSURE = 0.3
CHINESE = frozenset(("zh", "wuu", "yue"))
# A third of the characters leaves no doubt about most texts, in half the time: of 22,000 documents
# of nine corpora one was told otherwise by all of them.
FIRST_LOOK = 3
SURE = 0.95


def identifier(config: LanguageConfig) -> Callable[[Document], tuple[Document, str | None]]:
    """A function that notes a document's language, and gives the reason why it goes, if it does."""

    def identify(document: Document) -> tuple[Document, str | None]:
        code, probability = language_of(document, config.characters)
        unwanted = config.keep and code not in (*config.keep, UNKNOWN)
        if unwanted and probability >= config.min_probability:
            return document, code
        meta = {**document.meta, "language": code}
        return Document(document.id, document.turns, document.source, meta), None

    return identify


def language_of(document: Document, characters: int) -> tuple[str, float]:
    """The language of a document's first characters, and how likely it is."""
    text = ""
    for turn in document.turns:
        if turn.role != "system" and len(text) < characters:
            text += turn.text.lstrip()[: characters - len(text)] + "\n"
    text = text.strip()
    code, probability = _classify(text[: characters // FIRST_LOOK])
    if probability < SURE and len(text) > characters // FIRST_LOOK:
        code, probability = _classify(text)
    return (code if probability >= UNSURE else UNKNOWN), probability


def _classify(text: str) -> tuple[str, float]:
    code, probability = _identifier()(text)
    if code in CHINESE:
        # Which Chinese it is told to be shares the probability, and is chance where a text is short.
        return "zh", min(1.0, 2 * probability)
    return code, probability


class _Identifier:
    """py3langid's model, and what `classify` does with it in half the time.

    The library turns the rows of its table that a text needs into 32 bits for every text; here each
    is turned once. The arithmetic and its order are the library's, so the numbers are.
    """

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._moves, self._features = model.tk_nextmove, model.tk_output
        self._rows = [row << 8 for row in model.tk_row]
        self._codes = [str(code) for code in model.nb_classes]
        self._narrow, self._priors = np.asarray(model.nb_ptc), np.asarray(model.nb_pc)
        self._wide = np.zeros(self._narrow.shape, np.float32)  # pages that are not used stay free
        self._is_wide = np.zeros(len(self._wide), np.bool_)
        first = {code: at for at, code in reversed([*enumerate(self._codes)])}
        self._again = [(first[c], at) for at, c in enumerate(self._codes) if first[c] != at]

    def __call__(self, text: str) -> tuple[str, float]:
        """The most likely language of a text, and how likely it is."""
        if text.isupper():
            text = text.lower()
        data = unicodedata.normalize("NFC", text).encode("utf8", errors="surrogatepass")
        scores = self._scores(data)
        scores *= 1.0 / math.sqrt(len(data) or 1)
        np.exp(scores - scores.max(), out=scores)
        scores /= scores.sum()
        for at, again in self._again:
            scores[at] += scores[again]
            scores[again] = 0.0
        best = int(scores.argmax())
        return self._codes[best], float(scores[best])

    def _scores(self, data: bytes) -> np.ndarray:
        moves, rows, state = self._moves, self._rows, 0
        states: list[int] = []
        add = states.append
        for byte in data:
            state = moves[rows[state] + byte]
            add(state)
        counts = Counter(map(self._features.__getitem__, states))
        counts.pop(-1, None)  # states that end no feature
        if not counts:
            return np.zeros(len(self._codes), np.float32)
        features = np.fromiter(counts.keys(), np.intp, len(counts))
        if not (known := self._is_wide.take(features)).all():
            new = features[~known]
            self._wide[new], self._is_wide[new] = self._narrow[new], True
        numbers = np.fromiter(counts.values(), np.float32, len(counts))
        return np.log1p(numbers) @ self._wide.take(features, 0) + self._priors


@functools.cache
def _identifier() -> _Identifier:
    return _Identifier()
