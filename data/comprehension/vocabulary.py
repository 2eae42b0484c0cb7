"""The words of a domain: pieces of its own vocabulary that the general tokenizer does not have.

A piece of the domain's SentencePiece model is a keyword when it is a whole word (or, in a language
without spaces, two characters or more), the general tokenizer has neither it nor its base form, and
its shape is that of a term (see `keywords` in connectives/<language>.yaml). Both vocabularies are
compared as text: `▁` and the byte-level alphabet of `Ġ` are undone first.
"""

import functools
import hashlib
import heapq
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etils import epath

from data.comprehension.finders import alternatives
from data.comprehension.language import Language

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer

MEGABYTE = 1_000_000
# Several wait for each other busily: two take three times the processor time of one.
_THREADS = 1
# SentencePiece skips longer lines.
_LINE_BYTES = 4096


@dataclass(frozen=True)
class Vocabulary:
    """The keywords of a domain in one language. Small, picklable.

    Attributes:
        words: keyword, lower case, to its rank: the number of pieces that the general tokenizer
            cuts it into. The higher, the further from general text.
        language: code of the language.
        fingerprint: SHA-256 of all that determines `words`.
    """

    words: Mapping[str, int] = field(repr=False)
    language: str
    fingerprint: str

    @functools.cached_property
    def forms(self) -> dict[str, str]:
        """A keyword as it may stand in a text (asthma, Asthma, ASTHMA) to itself."""
        forms: dict[str, str] = {}
        for word in self.words:
            for form in (word, word[0].upper() + word[1:], word.upper()):
                forms[form] = word
        return forms

    @functools.cached_property
    def lengths(self) -> dict[str, tuple[int, ...]]:
        """The first two characters of keywords to the lengths of those, the longest first."""
        lengths: dict[str, set[int]] = {}
        for word in self.words:
            lengths.setdefault(word[:2], set()).add(len(word))
        return {begin: tuple(sorted(sizes, reverse=True)) for begin, sizes in lengths.items()}


def load_vocabulary(
    path: str | os.PathLike[str], general_tokenizer: "Tokenizer", language: Language
) -> Vocabulary:
    """The keywords of the SentencePiece model at `path` against a general tokenizer of any kind.

    Raises:
        ValueError: there is no SentencePiece model at `path`.
    """
    import sentencepiece

    place = epath.Path(os.fspath(path))
    if not place.is_file():
        raise ValueError(
            f"domain_vocab: {os.fspath(path)} does not exist; "
            "name a SentencePiece .model file, or say auto"
        )
    content = place.read_bytes()
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=content)
    except RuntimeError as error:
        raise ValueError(
            f"domain_vocab: {os.fspath(path)} is not a SentencePiece model ({error})"
        ) from error
    pieces = [
        model.id_to_piece(id_)
        for id_ in range(model.get_piece_size())
        if not (model.is_control(id_) or model.is_unknown(id_) or model.is_byte(id_))
    ]
    words = keywords_among(pieces, plain_pieces(general_tokenizer.pieces()), language)
    lengths = general_tokenizer.encode_batch([f" {word}" for word in words])
    ranks = {word: len(ids) for word, ids in zip(words, lengths, strict=True)}
    rules = language.file.keywords.model_dump_json()
    facts = [hashlib.sha256(content).hexdigest(), general_tokenizer.fingerprint, rules]
    fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return Vocabulary(ranks, language.code, fingerprint)


def keywords_among(pieces: Iterable[str], general: frozenset[str], language: Language) -> list[str]:
    """The keywords among the pieces of a domain's SentencePiece model, sorted, lower case.

    Args:
        pieces: as the model has them, with their boundary mark.
        general: the words of the general vocabulary, marks undone.
        language: its `keywords` rules say what a term looks like.
    """
    rules = language.file.keywords
    spaced = language.file.sentences.spaced
    whole = language.compile(rules.piece)
    forbidden = language.compile(rules.forbidden)
    verbs = language.finite | frozenset(language.file.clauses.verbs)
    general = frozenset(word.lower() for word in general) | frozenset(rules.general)
    starts = re.compile(f"^(?:{alternatives(rules.starts) or '(?!)'})")
    assert whole is not None
    words = set()
    for piece in pieces:
        if spaced and not piece.startswith("▁"):
            continue
        word = piece.lstrip("▁").lower()
        if word in rules.terms:
            words.add(word)
            continue
        if len(word) < rules.min_chars or not whole.fullmatch(word) or word in verbs:
            continue
        if forbidden and forbidden.search(word):
            continue
        if any(base in general for base in _bases(word, rules.endings, starts)):
            continue
        words.add(word)
    return sorted(words)


def _bases(word: str, endings: Iterable[tuple[str, str]], starts: re.Pattern[str]) -> Iterable[str]:
    """A word and what it may be made of, as far as that is long enough to be a word itself."""
    yield word
    if len(stem := starts.sub("", word)) >= 5:
        yield stem
    for end, form in endings:
        if word.endswith(end) and len(base := word.removesuffix(end) + form) >= 4:
            yield base


def plain_pieces(pieces: Iterable[str]) -> frozenset[str]:
    """The words among a tokenizer's entries, with the mark of a word's beginning undone.

    Where entries carry such a mark (`▁` of SentencePiece, `Ġ` of byte-level BPE), only those that
    do are whole words; `##` of WordPiece marks the others. In a script without spaces entries have
    no mark, and are words as they are.
    """
    pieces = list(pieces)
    bytes_of = _byte_alphabet()
    marked = sum(piece.startswith("Ġ") for piece in pieces)
    byte_level = marked > sum(piece.startswith("▁") for piece in pieces)
    words = set()
    for piece in pieces:
        if byte_level:
            try:
                piece = bytes(bytes_of[char] for char in piece).decode()
            except (KeyError, UnicodeDecodeError):  # a special token; a part of a character
                continue
            begins, word = piece.startswith(" "), piece.removeprefix(" ")
        else:
            begins, word = piece.startswith("▁"), piece.removeprefix("▁")
            if piece.startswith("##"):
                continue
        if word and (begins or not word[0].isascii() or (not marked and "▁" not in pieces)):
            words.add(word)
    return frozenset(words)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE (GPT-2), read backwards."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


class VocabularySample:
    """A sample of a corpus's texts for training a vocabulary, chosen by their content alone.

    The texts with the smallest hashes are kept, up to `max_bytes`: the same ones whatever the order
    they come in, and each once. Samples of parts of a corpus can be merged.
    """

    def __init__(self, max_bytes: int = 200 * MEGABYTE) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._heap: list[tuple[int, str]] = []  # the largest hash first
        self._seen: set[int] = set()

    def add(self, text: str) -> None:
        """Offers one text."""
        content = text.encode()
        key = int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "big")
        if key in self._seen or (self.num_bytes >= self.max_bytes and -key < self._heap[0][0]):
            return
        self._seen.add(key)
        heapq.heappush(self._heap, (-key, text))
        self.num_bytes += len(content)
        # The smallest hashes whose texts together reach `max_bytes`: whether one is among them
        # does not depend on those that came and went.
        while (
            self._heap
            and self.num_bytes - (size := len(self._heap[0][1].encode())) >= self.max_bytes
        ):
            largest, _ = heapq.heappop(self._heap)
            self._seen.discard(-largest)
            self.num_bytes -= size

    def merge(self, other: "VocabularySample") -> None:
        """Offers all texts of another sample of the same size."""
        for text in other.texts():
            self.add(text)

    def texts(self) -> list[str]:
        """The texts of the sample, in an order that their content decides."""
        return [text for _, text in sorted(self._heap, key=lambda item: -item[0])]

    @property
    def words(self) -> Counter[str]:
        """What stands between white space in `texts`, to how often it does."""
        return Counter(word for text in self.texts() for word in text.split())

    def keys(self) -> list[str]:
        """The hashes of `texts`, 32 hexadecimal digits each, in their order."""
        return [f"{-key:032x}" for key, _ in sorted(self._heap, key=lambda item: -item[0])]


@dataclass
class CountedSample:
    """Texts of a language with spaces, each once, as what training sees of them: hashes and words.

    Attributes:
        sizes: 16 bytes that stand for a text, as hexadecimal digits, to its bytes.
        words: what stands between white space, to how often it does.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    words: Counter[str] = field(default_factory=Counter)

    @property
    def num_bytes(self) -> int:
        """Bytes of all texts."""
        return sum(self.sizes.values())

    def add(self, text: str) -> bool:
        """Counts one text; False if it was there already."""
        content = text.encode()
        key = hashlib.blake2b(content, digest_size=16).hexdigest()
        if key in self.sizes:
            return False
        self.sizes[key] = len(content)
        self.words.update(text.split())
        return True

    def merge(self, other: "CountedSample") -> bool:
        """Adds another sample; False if a text is in both, whose words are counted twice now."""
        apart = self.sizes.keys().isdisjoint(other.sizes)
        self.sizes |= other.sizes
        self.words.update(other.words)
        return apart


def train_vocabulary(
    texts: Iterable[str] | VocabularySample | CountedSample,
    language: Language,
    folder: str | os.PathLike[str],
    *,
    vocab_size: int = 32000,
    max_bytes: int = 200 * MEGABYTE,
    log: Callable[[str], None] | None = None,
) -> epath.Path:
    """Trains the domain's SentencePiece model once; `folder` keeps it for the next run.

    Args:
        texts: of the corpus, in any order; a sample of them is chosen by content.
        language: of the texts.
        folder: where `<language>.<digest>.model` goes. The digest stands for the sample and the
            settings, so a model that is there already is the one that would be trained.
        vocab_size: pieces at most; a small corpus gives fewer (`hard_vocab_limit` is false).
        max_bytes: size of the sample.
        log: is told what is done and how large the sample is.

    Returns:
        Path of the model file.

    Raises:
        ValueError: the texts are too few to learn any vocabulary from.
    """
    if isinstance(texts, VocabularySample | CountedSample):
        sample = texts
    else:
        sample = VocabularySample(max_bytes)
        for text in texts:
            sample.add(text)
    options = _options(vocab_size, language)
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for key in sample.keys() if isinstance(sample, VocabularySample) else sorted(sample.sizes):
        digest.update(bytes.fromhex(key))
    out = epath.Path(os.fspath(folder))
    path = out / f"{language.code}.{digest.hexdigest()[:16]}.model"
    if path.exists():
        return path
    if log:
        log(
            f"training the {language.file.name} vocabulary of the domain on "
            f"{sample.num_bytes / MEGABYTE:.1f} MB of text"
        )
    content = _train(sample, options, language)
    out.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: written beside, then renamed (an object store writes whole objects).
    partial = out / f"{path.name}.{os.getpid()}.partial"
    partial.write_bytes(content)
    partial.replace(path)
    return path


def _options(vocab_size: int, language: Language) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "model_type": "unigram",
        "hard_vocab_limit": False,
        "character_coverage": 0.9995,
        "input_sentence_size": 0,
        "shuffle_input_sentence": False,
        "max_sentence_length": _LINE_BYTES,
        # Words never reach over a space, so a spaced language is learned from its words and their
        # numbers, in half the time.
        "input_format": "tsv" if language.file.sentences.spaced else "text",
        "num_threads": _THREADS,
        "split_digits": True,
        "byte_fallback": False,
        "bos_id": -1,
        "eos_id": -1,
        "pad_id": -1,
        "max_sentencepiece_length": 24 if language.file.sentences.spaced else 6,
    }


def _train(
    sample: VocabularySample | CountedSample, options: dict[str, Any], language: Language
) -> bytes:
    import sentencepiece

    def lines() -> Iterable[str]:
        if options["input_format"] == "tsv":
            counts = sorted(sample.words.items())
            yield from (f"{word[: _LINE_BYTES // 8]}\t{n}" for word, n in counts)
            return
        assert isinstance(sample, VocabularySample)
        for text in sample.texts():
            for line in text.splitlines():
                # Longer lines would be skipped; characters of one to four bytes are cut off early.
                for start in range(0, len(line), _LINE_BYTES // 4):
                    yield line[start : start + _LINE_BYTES // 4]

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines()), model_writer=model, minloglevel=2, **options
        )
    except RuntimeError as error:
        raise ValueError(
            f"domain_vocab: auto: no {language.file.name} vocabulary can be learned from "
            f"{sample.num_bytes:,} bytes of text ({error}); name a SentencePiece model file, or "
            "set domain_vocab: null"
        ) from error
    return model.getvalue()
