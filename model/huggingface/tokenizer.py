"""The training tokenizer as files from which transformers gives the same ids.

A SentencePiece model is turned into a `tokenizer.json` here, not by transformers: what transformers 5
builds of a bare LLaMA-2 model splits runs of spaces differently. The pieces of the JSON are

- normalizer: the model's own character map, if it has one; then ▁ before the text and for every space;
- BPE: every way to split a piece in two pieces is a merge, in the order of the pieces' scores;
  Unigram: pieces and scores as they are;
- no pre-tokenizer, except around user-defined pieces, which are whole wherever they appear in text;
- special tokens are cut out of the text first, so that each stretch between them gets its own ▁, as
  in training.

`tokenizer_class` is PreTrainedTokenizerFast: transformers 4 and 5 then use tokenizer.json as it is. (By
another class, LlamaTokenizer for one, version 5 keeps only the vocabulary and builds the rest anew.)
"""

import json
import re
from typing import Any

from etils import epath

from data.sentencepiece_proto import parse
from data.tokenizer import Tokenizer

_CLASS = "PreTrainedTokenizerFast"
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


def write_tokenizer(
    tokenizer: Tokenizer,
    folder: epath.Path,
    *,
    add_bos: bool,
    max_seq_len: int,
    chat_template: str | None = None,
) -> None:
    """Write tokenizer.json, its configuration, and the original files beside them.

    Args:
        tokenizer: of the run.
        folder: exists.
        add_bos: whether a text begins with BOS by default: as the model was trained.
        max_seq_len: what transformers calls model_max_length.
        chat_template: Jinja; default: the one shipped with the tokenizer.

    Raises:
        ValueError: a SentencePiece model that a tokenizer.json cannot express.
    """
    tokenizer.save(folder)
    for name in ("byte_lengths.npy", "added_tokens.json"):  # ours; said by tokenizer.json
        (folder / name).unlink(missing_ok=True)
    if tokenizer.kind == "sentencepiece":
        spec = _from_sentencepiece((folder / "tokenizer.model").read_bytes(), tokenizer)
    else:
        spec = json.loads((folder / "tokenizer.json").read_text())
        for token in spec.get("added_tokens", []):
            token["special"] = token["special"] or token["content"] in tokenizer.special_ids
    spec["post_processor"] = _post_processor(spec.get("post_processor"), tokenizer, add_bos)
    _write(folder / "tokenizer.json", spec)

    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    for key in ("auto_map", "added_tokens_decoder", "legacy", "sp_model_kwargs", "tokenizer_file"):
        settings.pop(key, None)
    settings |= {
        "add_bos_token": add_bos,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_seq_len,
        "tokenizer_class": _CLASS,
    }
    names = {n: tokenizer.special_names.get(n) for n in _NAMED}
    settings |= names
    template = chat_template or tokenizer.chat_template
    settings.pop("chat_template", None)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    _write(path, settings)
    _write(folder / "special_tokens_map.json", {n: s for n, s in names.items() if s is not None})


def _from_sentencepiece(model: bytes, tokenizer: Tokenizer) -> dict[str, Any]:
    """A tokenizer.json for a SentencePiece model."""
    proto = parse(model)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = {trainer.BPE: _bpe, trainer.UNIGRAM: _unigram}
    if trainer.model_type not in kinds:
        raise ValueError(
            f"tokenizer: {tokenizer.path} is a word or character model; only BPE and Unigram can be "
            "written as a tokenizer.json"
        )
    if trainer.treat_whitespace_as_suffix:
        raise ValueError(
            f"tokenizer: {tokenizer.path} treats whitespace as a suffix; not supported"
        )
    unused = [p.piece for p in proto.pieces if p.type == p.UNUSED]
    if unused:
        raise ValueError(
            f"tokenizer: {tokenizer.path} has pieces of type UNUSED ({unused[:5]}), which a "
            "tokenizer.json cannot express"
        )
    whole = [
        p.piece
        for p in proto.pieces
        if p.type == p.USER_DEFINED and p.piece not in tokenizer.special_ids
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id_,
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for piece, id_ in sorted(tokenizer.special_ids.items(), key=lambda item: item[1])
        ],
        "normalizer": _normalizer(normalizer),
        "pre_tokenizer": _keep_whole(whole),
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *(
                    [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
                    if normalizer.add_dummy_prefix
                    else []
                ),
            ],
        },
        "model": kinds[trainer.model_type](proto, bool(whole)),
    }


def _bpe(proto: Any, has_whole: bool) -> dict[str, Any]:
    """The merges of a BPE model, best first: SentencePiece joins the neighbours of highest score."""
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    normal = {p.piece: p.score for p in proto.pieces if p.type == p.NORMAL}
    merges = []
    for piece, score in normal.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in normal and right in normal:
                merges.append((-score, vocab[piece], vocab[left], vocab[right], left, right))
    merges.sort()
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": proto.pieces[proto.trainer_spec.unk_id].piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": proto.trainer_spec.byte_fallback,
        "ignore_merges": has_whole,  # a user-defined piece has no merges
        "vocab": vocab,
        "merges": [[left, right] for *_, left, right in merges],
    }


def _unigram(proto: Any, has_whole: bool) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": proto.trainer_spec.unk_id,
        "vocab": [[p.piece, p.score] for p in proto.pieces],
        "byte_fallback": proto.trainer_spec.byte_fallback,
    }


def _normalizer(spec: Any) -> dict[str, Any]:
    """What SentencePiece does to a text before it looks for pieces."""
    import base64

    steps: list[dict[str, Any]] = []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if spec.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": "▁"})
    if spec.escape_whitespaces:
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    return {"type": "Sequence", "normalizers": steps}


def _keep_whole(pieces: list[str]) -> dict[str, Any] | None:
    """A pre-tokenizer that isolates pieces which are whole wherever they appear, longest first."""
    if not pieces:
        return None
    pattern = "|".join(re.escape(p) for p in sorted(pieces, key=len, reverse=True))
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _post_processor(old: dict[str, Any] | None, tokenizer: Tokenizer, add_bos: bool) -> Any:
    """BOS before a text, or nothing; a ByteLevel step of the old one is kept."""
    kept = [step for step in _steps(old) if step["type"] == "ByteLevel"]
    if not add_bos:
        return kept[0] if kept else None
    if tokenizer.bos_id is None:
        raise ValueError(f"add_bos: true, but the tokenizer {tokenizer.path} has no BOS")
    bos = tokenizer.special_names["bos_token"]
    special = {"SpecialToken": {"id": bos, "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            special,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": bos, "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
    }
    return {"type": "Sequence", "processors": [*kept, template]} if kept else template


def _steps(processor: dict[str, Any] | None) -> list[dict[str, Any]]:
    if processor is None:
        return []
    if processor["type"] == "Sequence":
        return [step for inner in processor["processors"] for step in _steps(inner)]
    return [processor]


def _write(path: epath.Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
