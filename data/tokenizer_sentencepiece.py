"""A SentencePiece `.model`, run by SentencePiece itself; `Tokenizer` wraps it."""

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np

from data.sentencepiece_proto import parse
from data.sentencepiece_words import Words

_PADS = ("<pad>", "[PAD]")  # appended by hand to models that have none, as ordinary pieces


class SentencePieceBackend:
    """A SentencePiece model. Special are its control pieces and what the folder's files declare."""

    def __init__(self, path: str, files: dict[str, bytes], declared: set[str]) -> None:
        import sentencepiece

        model = files["tokenizer.model"]
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"tokenizer: {path} is not a SentencePiece model ({error})") from error
        size = self.model.get_piece_size()
        self.pieces: list[str] = [self.model.id_to_piece(i) for i in range(size)]
        ids = {piece: i for i, piece in enumerate(self.pieces)}
        added = json.loads(files.get("added_tokens.json", b"{}"))
        settings = json.loads(files.get("tokenizer_config.json", b"{}"))
        for id_, token in settings.get("added_tokens_decoder", {}).items():
            added[token["content"]] = int(id_)
            if token.get("special"):
                declared = declared | {token["content"]}
        if self.model.pad_id() < 0:
            declared = declared | set(_PADS)
        if ordinary := {piece for piece in added if piece not in ids} - declared:
            raise ValueError(
                f"tokenizer: {path} adds ordinary words to its SentencePiece model "
                f"({sorted(ordinary)[:5]}), which "
                "SentencePiece does not know; save the folder with transformers, "
                "so that it has a tokenizer.json"
            )
        self.ids = added | ids
        self.special_ids = {
            p: i for p, i in ids.items() if self.model.is_control(i) or self.model.is_unknown(i)
        }
        self.special_ids |= {piece: self.ids[piece] for piece in declared if piece in self.ids}
        self.vocab_size = max(size, *(i + 1 for i in self.ids.values()))
        self.digest = hashlib.sha256(model).hexdigest()
        inner = [id_ for id_ in self.special_ids.values() if id_ < size]
        if not all(self.model.is_control(i) or self.model.is_unknown(i) for i in inner):
            model = _as_control(model, self.special_ids)
            self.model = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.words = Words.of(model)
        self.byte_piece = np.array([self.model.is_byte(i) for i in range(size)])
        self.lengths = np.zeros(self.vocab_size, np.int32)
        self.lengths[:size] = [len(piece.replace("▁", " ").encode()) for piece in self.pieces]
        self.lengths[:size][self.byte_piece] = 1
        self.verbatim = _keeps_text(model)
        self.prefix = int(self.lengths[self.encode("a")].sum()) - 1

    def token_id(self, piece: str) -> int | None:
        """The id of an entry, special ones included."""
        return self.ids.get(piece)

    def default_special(self, name: str) -> str | None:
        """The special token of that name where the folder's files say nothing of it."""
        id_ = getattr(self.model, name.replace("_token", "_id"))()
        if id_ < 0 and name == "pad_token":
            return next((piece for piece in _PADS if piece in self.ids), None)
        return self.pieces[id_] if id_ >= 0 else None

    def adds(self, bos_id: int) -> bool:
        """Whether the family begins a text with BOS: as LLaMA-1 and 2 do, all are taken to."""
        return True

    def encode(self, text: str) -> np.ndarray:
        """See `Tokenizer.encode`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `Tokenizer.encode_batch`."""
        if self.words is None:
            return self.model.encode(list(texts), return_type="numpy", num_threads=1)
        return [
            self.model.encode(text, return_type="numpy") if ids is None else ids
            for text, ids in zip(texts, self.words.encode(texts), strict=True)
        ]

    def encode_offsets(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """See `Tokenizer.encode_offsets`."""
        if self.verbatim:
            ids = self.encode(text)
            raw = np.frombuffer(text.encode(), np.uint8)
            ends = np.cumsum(self.lengths[ids])
            prefix = self.prefix if len(ids) else 0
            # Else an unknown character, or U+2581, whose pieces look like spaces, made the lengths
            # too short.
            if not len(ids) or ends[-1] == len(raw) + prefix:
                # The character of every byte: continuation bytes do not begin one.
                char = np.cumsum((raw & 0xC0) != 0x80, dtype=np.int32) - 1
                ends -= prefix
                starts = np.concatenate([[0], ends[:-1]])[: len(ids)]
                spans = np.zeros((len(ids), 2), np.int32)
                full = ends > starts
                spans[full, 0] = char[starts[full]]
                spans[full, 1] = char[ends[full] - 1] + 1
                return ids, spans
        result = self.model.encode(text, return_type="offset_mapping")
        ids = np.array(result["ids"], np.int32)
        spans = np.array(result["offsets"], np.int32).reshape(-1, 2)
        # SentencePiece gives a character to the last of its byte pieces; the others get it here.
        empty = self.byte_piece[ids] & (spans[:, 0] == spans[:, 1])
        spans[empty, 1] += 1
        return ids, spans

    def encode_parts(self, parts: Sequence[str | int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """See `Tokenizer.encode_parts`."""
        return [
            self.encode_offsets(part) if isinstance(part, str) else _special(part) for part in parts
        ]

    def decode(self, ids: list[int]) -> str:
        """The text of ids among which there is no special one."""
        return self.model.decode(ids)

    def byte_lengths(self) -> np.ndarray:
        """See `Tokenizer.byte_lengths`; special tokens are not yet set to 0."""
        return self.lengths.copy()


def _special(id_: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array([id_], np.int32), np.zeros((1, 2), np.int32)


def _keeps_text(model: bytes) -> bool:
    """Whether pieces are the text itself: then spans follow from their lengths (faster by half)."""
    spec = parse(model).normalizer_spec
    return not spec.precompiled_charsmap and not spec.remove_extra_whitespaces


def _as_control(model: bytes, special: Iterable[str]) -> bytes:
    """The SentencePiece model with its special pieces hidden from text. Ids do not change."""
    proto = parse(model)
    special = set(special)
    for piece in proto.pieces:
        if piece.piece in special and piece.type == piece.USER_DEFINED:
            piece.type = piece.CONTROL
    return proto.SerializeToString()
