"""Small tokenizers of the families that matter, made on the spot and written as Hugging Face folders."""

import json
from pathlib import Path

import sentencepiece
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "Aspirin reduces fever and pain in adults. It is given orally, 325 mg twice a day.",
    "The heart  pumps blood; 1234 beats.\n\n- rest\n- exercise\n\tindented",
    "日本語の文。中文也有：你好。 Ünïcödé café naïve",
    "[INST] <<SYS>> user assistant system What is it? It is asthma. Why? Because.",
] * 10

LLAMA3 = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(folder: Path, special: list[str], *, bos: bool, **settings) -> Path:
    """GPT-2's kind of tokenizer, as Llama-3 (`bos`), GPT-NeoX and Qwen have it."""
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    model.add_special_tokens(special)
    if bos:
        model.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=True),
                processors.TemplateProcessing(
                    single=f"{special[0]} $A",
                    special_tokens=[(special[0], model.token_to_id(special[0]))],
                ),
            ]
        )
    return _write(folder, model, settings)


def llama3(folder: Path, **settings) -> Path:
    settings = {"bos_token": LLAMA3[0], "eos_token": LLAMA3[1]} | settings
    return byte_level(folder, LLAMA3, bos=True, **settings)


def chatml(folder: Path, **settings) -> Path:
    return byte_level(folder, CHATML, bos=False, **{"eos_token": "<|im_end|>"} | settings)


def sentencepiece_model(folder: Path, **options) -> Path:
    """A small LLaMA-like `.model`, trained by the library itself."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "vocab_size": 420,
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
    } | options
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in TEXTS for line in text.split("\n")),
            model_writer=file,
            **options,
        )
    return folder / "tokenizer.model"


def llama2(folder: Path, *, prefix: str, **settings) -> Path:
    """The same as a `tokenizer.json`: a space before every text (`every`), or before the whole only (`first`)."""
    path = sentencepiece_model(folder)
    source = sentencepiece.SentencePieceProcessor(model_file=str(path))
    path.unlink()
    pieces = [source.id_to_piece(i) for i in range(source.get_piece_size())]
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = sorted(
        (
            (ids[piece], piece[:cut], piece[cut:])
            for piece in pieces
            if not source.is_byte(ids[piece]) and not source.is_control(ids[piece])
            for cut in range(1, len(piece))
            if piece[:cut] in ids and piece[cut:] in ids
        ),
    )
    model = Tokenizer(
        models.BPE(
            ids, [m[1:] for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    if prefix == "every":
        model.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    model.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    model.add_special_tokens(["<unk>", "<s>", "</s>"])
    model.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", ids["<s>"])]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _write(folder, model, names | settings)


def _write(folder: Path, model: Tokenizer, settings: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
