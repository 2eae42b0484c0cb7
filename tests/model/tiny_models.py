"""Small Hugging Face folders to generate with: trained for a moment, or random."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# name -> (their config class, keys over the small shape, steps of training)
SHAPES: dict[str, tuple[str, dict[str, Any], int]] = {
    "grouped": ("LlamaConfig", {"num_key_value_heads": 2}, 40),
    "tied_stretched": (
        "LlamaConfig",
        {
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        40,
    ),
    "biases_single_head": (
        "LlamaConfig",
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "head_dim": 24},
        40,
    ),
    "mistral": (
        "MistralConfig",
        {"num_key_value_heads": 2, "sliding_window": 512, "initializer_range": 0.3},
        0,
    ),
    "random_wide": ("LlamaConfig", {"num_key_value_heads": 4, "initializer_range": 0.3}, 0),
}


def sample_texts() -> list[str]:
    """Texts of the sample corpus."""
    lines = (ROOT / "data" / "sample" / "biomedicine.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def make_tokenizer(folder: Path) -> Any:
    """A SentencePiece tokenizer of 600 pieces, as a Hugging Face folder."""
    from etils import epath

    from data.config import SentencePieceConfig
    from data.tokenizer import load_tokenizer, train_sentencepiece
    from model.huggingface.tokenizer import write_tokenizer

    texts = sample_texts()[:60]
    trained = train_sentencepiece(texts, folder / "trained", SentencePieceConfig(vocab_size=600))
    write_tokenizer(trained, epath.Path(folder), add_bos=True, max_seq_len=512)
    return load_tokenizer(folder)


def make_folder(folder: Path, name: str, tokenizer: Any) -> Any:
    """The model of that name, written to the folder that holds the tokenizer; theirs, for reference."""
    import torch
    import transformers
    from etils import epath

    from model.huggingface.tokenizer import write_tokenizer

    cls, keys, steps = SHAPES[name]
    torch.manual_seed(len(name))
    config = getattr(transformers, cls)(
        **{
            "vocab_size": 608,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "initializer_range": 0.1,
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": 0,
        }
        | keys
    )
    model = getattr(transformers, cls.replace("Config", "ForCausalLM"))(config)
    if steps:
        _train(model, tokenizer, steps)
    model.eval().save_pretrained(folder)
    write_tokenizer(tokenizer, epath.Path(folder), add_bos=True, max_seq_len=512)
    return model


def _train(model: Any, tokenizer: Any, steps: int) -> None:
    """A few steps of AdamW on the sample texts, each ended by EOS."""
    import numpy as np
    import torch

    ids = [[tokenizer.bos_id, *tokenizer.encode(t), tokenizer.eos_id] for t in sample_texts()[:80]]
    stream = torch.tensor(np.concatenate(ids)).long()
    rows = stream[: len(stream) // 96 * 96].reshape(-1, 96)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        batch = rows[(8 * step) % (len(rows) - 8) :][:8]
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
