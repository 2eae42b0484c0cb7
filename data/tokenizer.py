"""Text to token ids and back: SentencePiece and Hugging Face tokenizers behind one class.

* `encode` never adds BOS or EOS, and a special-token string inside text ("</s>" typed by somebody)
  is ordinary text: no document can end itself or open an assistant turn.
* A `.model` is run by SentencePiece itself, so its ids are exactly the original's. A folder that
  has both files is run from `tokenizer.json`, because that is what transformers would use.
* Special tokens written by a chat template go through `encode_parts`, which keeps them apart from
  text.
* Bytes are counted over tokens: SentencePiece models such as LLaMA's put one space before every
  text, and that space is a byte of the first token, so that exactly
  `sum(byte_lengths[encode(text)]) == len(text.encode()) + prefix_bytes`.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from etils import epath

from data.config import SentencePieceConfig
from data.tokenizer_huggingface import HuggingFaceBackend
from data.tokenizer_sentencepiece import SentencePieceBackend

_SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_ENDS = ("bos_token", "eos_token", "pad_token", "unk_token")
_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


class Tokenizer:
    """A tokenizer and what must be known of it; made by `load_tokenizer`.

    Attributes:
        path: as given to `load_tokenizer`.
        kind: which library runs it.
        vocab_size: one more than the largest id.
        bos_id, eos_id, pad_id, unk_id: ids, None where the tokenizer has none (`eos_id` always is
            there).
        add_bos: whether this family begins a text with BOS (LLaMA: yes; GPT-NeoX: no).
        fingerprint: SHA-256 over all that determines ids; equal for copies of one tokenizer.
        special_ids: special-token string to id. Only `encode_parts` gives these ids.
        special_names: `bos_token`, `eos_token`, ... to their strings, as a chat template sees them.
        chat_template: the Jinja template shipped with it, if any.
        prefix_bytes: bytes of the space that this tokenizer puts before a text (0 or 1).
    """

    path: str
    kind: Literal["sentencepiece", "huggingface"]
    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int | None
    unk_id: int | None
    add_bos: bool
    fingerprint: str
    special_ids: dict[str, int]
    special_names: dict[str, str]
    chat_template: str | None

    def __init__(self, path: str, files: dict[str, bytes], config: dict[str, Any]) -> None:
        """Use `load_tokenizer`. `config` is the model's `config.json`, `{}` where there is none."""
        self.path, self._files = path, files
        settings = json.loads(files.get("tokenizer_config.json", b"{}"))
        map_ = json.loads(files.get("special_tokens_map.json", b"{}"))
        self.special_names = names = _special_names(settings, map_)
        declared = {*names.values(), *_declared(settings, map_)}
        if "tokenizer.json" in files:
            self.kind = "huggingface"
            given = {name: config.get(f"{name}_id") for name in _ENDS if name not in names}
            self._backend = HuggingFaceBackend(path, files, declared, given)
        else:
            self.kind = "sentencepiece"
            self._backend = SentencePieceBackend(path, files, declared)
        for name in _ENDS:
            if name not in names and (piece := self._backend.default_special(name)):
                names[name] = piece
                if self.kind == "huggingface":  # from the model's config.json, which is not kept
                    map_[name] = piece
                    files["special_tokens_map.json"] = json.dumps(map_, indent=2).encode()
        self.special_ids = self._backend.special_ids
        self.vocab_size = self._backend.vocab_size

        ids = {name: self._backend.token_id(piece) for name, piece in names.items()}
        if (eos_id := ids.get("eos_token")) is None:
            raise ValueError(
                f"tokenizer: {path} names no end-of-text token that is in its vocabulary "
                f"(eos_token: {names.get('eos_token')!r}); set eos_token in tokenizer_config.json"
            )
        self.eos_id = eos_id
        self.bos_id, self.pad_id = ids.get("bos_token"), ids.get("pad_token")
        self.unk_id = ids.get("unk_token")
        self.special_ids |= {names[name]: id_ for name, id_ in ids.items() if id_ is not None}
        if self.bos_id is None:
            self.add_bos = False
        elif settings.get("add_bos_token") is not None:
            self.add_bos = bool(settings["add_bos_token"])
        else:
            self.add_bos = self._backend.adds(self.bos_id)
        self.chat_template = _chat_template(files, settings)

        ends = [self.bos_id, self.eos_id, self.pad_id]
        facts = [self._backend.digest, *ends, sorted(self.special_ids.items())]
        self.fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        self.prefix_bytes = max(0, int(self.byte_lengths()[self.encode("a")].sum()) - 1)

    def encode(self, text: str) -> np.ndarray:
        """Ids of `text`, int32 `[n]`, without BOS or EOS."""
        return self._backend.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` for many texts, faster, on one core: the parallelism is over processes."""
        return self._backend.encode_batch(texts)

    def encode_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 `[n]` and the character span of each in `text`, int32 `[n, 2]`, end exclusive.

        Byte pieces of one character all have the span of that character. The space that
        SentencePiece puts before a text has no character: a token that is nothing else has an empty
        span.
        """
        return self._backend.encode_offsets(text)

    def encode_parts(self, parts: Sequence[str | int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """`encode_offsets` for every part of a whole that is made of texts and special-token ids.

        A text follows the special token before it as it would in transformers (no space is put
        before it unless the tokenizer does so after special tokens). Spans are relative to their
        part; a special id has the span (0, 0).
        """
        return self._backend.encode_parts(parts)

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Text of `ids`. Special tokens are left out, or written with `keep_special`."""
        names = {id_: name for name, id_ in self.special_ids.items()}
        text, run = [], []
        for id_ in map(int, ids):
            if id_ not in names:
                run += [id_] * (id_ < self.vocab_size)  # a model's vocabulary may be padded
            elif keep_special:
                text += [self._backend.decode(run), names[id_]]
                run = []
        return "".join([*text, self._backend.decode(run)])

    def pieces(self) -> list[str]:
        """Its entries as the library spells them, with their marks (`▁`, `Ġ`, `##`), by id."""
        return sorted(self._backend.ids, key=self._backend.ids.__getitem__)

    def byte_lengths(self) -> np.ndarray:
        """Bytes of text that each vocabulary entry stands for, int32 `[vocab_size]`.

        Special tokens and the unknown token count 0, byte pieces 1. Read-only.
        """
        return self._byte_lengths

    @functools.cached_property
    def _byte_lengths(self) -> np.ndarray:
        lengths = self._backend.byte_lengths()
        lengths[list(self.special_ids.values())] = 0
        lengths.flags.writeable = False
        return lengths

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write its files and `byte_lengths.npy`; `load_tokenizer(folder)` gives it back."""
        out = epath.Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (out / name).write_bytes(content)
        with (out / "byte_lengths.npy").open("wb") as file:
            np.save(file, self.byte_lengths())

    def __reduce__(self) -> tuple[Any, ...]:
        return load_tokenizer, (self.path,)

    def __repr__(self) -> str:
        return f"Tokenizer({self.path!r}, {self.kind}, {self.vocab_size} entries)"


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer at `path`, ready for use.

    `path` is a SentencePiece model file, a folder with `tokenizer.json` or `tokenizer.model`
    (local, `gs://`, `s3://`), or a Hugging Face hub id.

    Raises:
        ValueError: nothing usable is there.
    """
    path = os.fspath(path)
    place = epath.Path(path)
    if place.is_dir():
        folder = place
    elif place.exists():
        name = "tokenizer.json" if path.endswith(".json") else "tokenizer.model"
        return Tokenizer(path, {name: place.read_bytes()}, {})
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        folder = epath.Path(_download(path))
    else:
        raise ValueError(
            f"tokenizer: {path} does not exist; name a SentencePiece .model file, "
            "a Hugging Face tokenizer folder "
            "or a hub id (organisation/name)"
        )
    files = {name: (folder / name).read_bytes() for name in _FILES if (folder / name).exists()}
    if not {"tokenizer.json", "tokenizer.model"} & files.keys():
        raise ValueError(f"tokenizer: {path} has neither tokenizer.json nor tokenizer.model")
    config = folder / "config.json"
    return Tokenizer(path, files, json.loads(config.read_text()) if config.exists() else {})


def train_sentencepiece(
    texts: Iterable[str], folder: str | os.PathLike[str], config: SentencePieceConfig
) -> Tokenizer:
    """Train a LLaMA-like SentencePiece model on `config.sample_mb` of `texts`; save it to `folder`.

    Text is not normalised, bytes stand in for unknown characters, every digit is its own piece,
    runs of spaces are kept; ids: unk 0, BOS 1, EOS 2. The same texts in the same order give the
    same model on any machine.
    """
    import io

    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts, int(config.sample_mb * 1e6)),
            model_writer=model,
            vocab_size=config.vocab_size,
            model_type=config.model_type,
            max_sentence_length=2 * _SENTENCE_BYTES,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            byte_fallback=True,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            user_defined_symbols=list(config.symbols),
            num_threads=4,  # fixed: the sums of unigram training depend on their number
            minloglevel=1,
        )
    except RuntimeError as error:
        raise ValueError(
            f"train_tokenizer.vocab_size: {config.vocab_size} pieces cannot be trained on this "
            f"text ({error})"
        ) from error
    out = epath.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(os.fspath(out))
    tokenizer.save(out)
    return tokenizer


_SENTENCE_BYTES = 4096  # longer lines are cut: SentencePiece would leave them out


def _sentences(texts: Iterable[str], max_bytes: int) -> Iterable[str]:
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _SENTENCE_BYTES // 4):
                sentence = line[start : start + _SENTENCE_BYTES // 4].replace("\0", "")
                max_bytes -= len(sentence.encode())
                if max_bytes < 0:
                    return
                if sentence:
                    yield sentence


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _special_names(settings: dict[str, Any], map_: dict[str, Any]) -> dict[str, str]:
    names = {
        name: _content(settings.get(name)) or _content(map_.get(name)) for name in _SPECIAL_NAMES
    }
    return {name: piece for name, piece in names.items() if piece}


def _declared(settings: dict[str, Any], map_: dict[str, Any]) -> set[str]:
    """Special tokens without a name of their own."""
    listed = [
        *(settings.get("additional_special_tokens") or []),
        *(map_.get("additional_special_tokens") or []),
    ]
    extra = settings.get("extra_special_tokens") or []
    listed += extra.values() if isinstance(extra, dict) else extra
    return {piece for token in listed if (piece := _content(token))}


def _chat_template(files: dict[str, bytes], settings: dict[str, Any]) -> str | None:
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode()
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _download(hub_id: str) -> str:
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(hub_id, allow_patterns=[*_FILES, "config.json"])
    except Exception as error:  # network, access and naming errors have no common class
        raise ValueError(
            f"tokenizer: {hub_id} is neither a path here nor readable from the hub ({error})"
        ) from error
