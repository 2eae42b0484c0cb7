"""A `tokenizer.json`, run by the tokenizers library; `Tokenizer` wraps it."""

import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# Stands for a special token between two texts while the whole is tokenized at once. Both ends are
# Unicode noncharacters, which valid interchanged text does not hold.
_MARK = "\ufdd0special\ufdd1"


class HuggingFaceBackend:
    """A `tokenizer.json`, run by the tokenizers library; special tokens in text stay text."""

    def __init__(
        self, path: str, files: dict[str, bytes], declared: set[str], ids: dict[str, Any]
    ) -> None:
        """`ids`: what the model's `config.json` says of special tokens that no other file names."""
        # Where it names several for one, the first is the tokenizer's.
        self.given = {n: id_[0] if isinstance(id_, list) else id_ for n, id_ in ids.items()}
        # Documents are spread over processes; threads inside each would only get in their way.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            spec = json.loads(files["tokenizer.json"])
            spec |= {"truncation": None, "padding": None}
            for token in spec.get("added_tokens", []):
                named = token["content"] in declared or token["id"] in self.given.values()
                token["special"] = token["special"] or named
            post_processor, spec["post_processor"] = (
                spec.get("post_processor"),
                None,
            )  # it would trim offsets
            self.spec = spec
            self.model = self._build(spec)
            self.whole = (
                self._build(spec | {"post_processor": post_processor}) if post_processor else None
            )
        except (
            Exception
        ) as error:  # the library raises plain Exception for whatever is wrong with the file
            raise ValueError(
                f"tokenizer: {path}: tokenizer.json cannot be read ({error})"
            ) from error
        self.ids = self.model.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self.ids.values()) + 1
        self.added = {token["content"]: token for token in spec.get("added_tokens", [])}
        self.special_ids = {p: self.ids[p] for p, token in self.added.items() if token["special"]}
        self.special_ids |= {piece: self.ids[piece] for piece in declared if piece in self.ids}
        self.strips = {
            self.ids[p]: (token["lstrip"], token["rstrip"]) for p, token in self.added.items()
        }
        for piece, id_ in self.special_ids.items():
            if id_ in self.encode(piece):  # the model has it as a word like any other
                warnings.warn(
                    f"{path}: the text {piece!r} inside a document becomes the special token",
                    stacklevel=4,
                )
        self.digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def _build(spec: dict[str, Any]) -> Any:
        import tokenizers

        model = tokenizers.Tokenizer.from_str(json.dumps(spec))
        model.encode_special_tokens = True
        return model

    @functools.cached_property
    def marked(self) -> tuple[Any, int]:
        """The same tokenizer with `_MARK` as a further entry, and its id."""
        import tokenizers

        model = self._build(self.spec)
        model.add_tokens([tokenizers.AddedToken(_MARK, normalized=False, special=False)])
        return model, model.token_to_id(_MARK)

    def token_id(self, piece: str) -> int | None:
        """The id of an entry, special ones included."""
        return self.ids.get(piece)

    def default_special(self, name: str) -> str | None:
        """The special token of that name where the folder's files say nothing of it."""
        id_ = self.given.get(name)
        return None if id_ is None else self.model.id_to_token(id_)

    def adds(self, bos_id: int) -> bool:
        """Whether the family begins a text with BOS."""
        return self.whole is not None and self.whole.encode("a").ids[:1] == [bos_id]

    def encode(self, text: str) -> np.ndarray:
        """See `Tokenizer.encode`."""
        return np.array(self.model.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `Tokenizer.encode_batch`."""
        encodings = self.model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def encode_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode_offsets`."""
        encoding = self.model.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int32).reshape(-1, 2)

    def encode_parts(self, parts: Sequence[str | int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `Tokenizer.encode_parts`."""
        model, mark = self.marked
        texts, moved = (
            [],
            [],
        )  # what each text part starts with in the whole, less the spaces its neighbours eat
        whole = 0
        for i, part in enumerate(parts):
            text, cut = _MARK, 0
            if isinstance(part, str):
                after = i > 0 and self.strips.get(parts[i - 1], (False, False))[1]
                before = i + 1 < len(parts) and self.strips.get(parts[i + 1], (False, False))[0]
                text = part.rstrip() if before else part
                cut = len(text) - len(text.lstrip()) if after else 0
                text = text[cut:]
            texts.append(text)
            moved.append(cut - whole)
            whole += len(text)
        encoding = model.encode("".join(texts), add_special_tokens=False)
        ids = np.array(encoding.ids, np.int32)
        spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        marks = np.flatnonzero(ids == mark)
        if len(marks) != sum(not isinstance(part, str) for part in parts):
            raise ValueError(
                "a text holds the noncharacters U+FDD0 and U+FDD1; remove them before encoding"
            )
        result, start, marks = [], 0, iter([*marks, len(ids)])
        stop = next(marks)
        for part, move in zip(parts, moved, strict=True):
            if isinstance(part, str):
                result.append((ids[start:stop], spans[start:stop] + move))
            else:
                result.append(_special(part))
                start, stop = stop + 1, next(marks)
        return result

    def decode(self, ids: list[int]) -> str:
        """The text of ids among which there is no special one."""
        return self.model.decode(ids, skip_special_tokens=False)

    def byte_lengths(self) -> np.ndarray:
        """See `Tokenizer.byte_lengths`; special tokens are not yet set to 0."""
        lengths = np.zeros(self.vocab_size, np.int32)
        types = set(_types(self.spec.get("pre_tokenizer"))) | set(_types(self.spec.get("decoder")))
        byte_level = "ByteLevel" in types
        byte_fallback = bool(self.spec["model"].get("byte_fallback"))
        prefix = (
            (self.spec["model"].get("continuing_subword_prefix") or "") if not byte_level else ""
        )
        for piece, id_ in self.ids.items():
            if piece in self.added:
                lengths[id_] = len(piece.encode())
            elif byte_level:
                lengths[id_] = len(piece)  # one printable character stands for each byte
            elif byte_fallback and re.fullmatch("<0x[0-9A-F]{2}>", piece):
                lengths[id_] = 1
            else:
                lengths[id_] = len(piece.removeprefix(prefix).replace("▁", " ").encode())
        return lengths


def _special(id_: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([id_], np.int32), np.zeros((1, 2), np.int32)


def _types(part: Any) -> Iterable[str]:
    """The `type` of a part of a tokenizer.json and of everything inside it."""
    if isinstance(part, dict):
        if "type" in part:
            yield str(part["type"])
        for value in part.values():
            yield from _types(value)
    elif isinstance(part, list):
        for value in part:
            yield from _types(value)
