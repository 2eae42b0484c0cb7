"""Shapes of the published models that recipes start from, and small ones for tests.

Fields not named here have LlamaConfig's defaults. The tiny ones name no vocabulary: theirs is the
tokenizer's.
"""

from types import MappingProxyType
from typing import Any


def _llama1(**shape: Any) -> dict[str, Any]:
    return dict(vocab_size=32_000, max_seq_len=2048, norm_eps=1e-6, **shape)


def _llama2(**shape: Any) -> dict[str, Any]:
    return dict(vocab_size=32_000, max_seq_len=4096, norm_eps=1e-5, **shape)


def _llama3(max_seq_len: int = 8192, **shape: Any) -> dict[str, Any]:
    return dict(
        vocab_size=128_256, max_seq_len=max_seq_len, rope_theta=500_000.0, norm_eps=1e-5, **shape
    )


def _stretched(factor: float) -> dict[str, Any]:
    return {
        "kind": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_seq_len": 8192,
    }


def _shape(
    embed_dim: int, mlp_dim: int, num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int
) -> dict[str, Any]:
    return {
        "embed_dim": embed_dim,
        "mlp_dim": mlp_dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
    }


_7B = _shape(4096, 11_008, 32, 32, 32, 128)
_13B = _shape(5120, 13_824, 40, 40, 40, 128)
_LLAMA2_70B = _shape(8192, 28_672, 80, 64, 8, 128)
_8B = _shape(4096, 14_336, 32, 32, 8, 128)

PRESETS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        # Tests and the quickstart: 2 to 4 M parameters with a vocabulary of 4,096.
        "tiny": dict(max_seq_len=2048, **_shape(192, 512, 4, 6, 6, 32)),
        "tiny_gqa": dict(max_seq_len=2048, **_shape(192, 512, 4, 8, 2, 24)),
        "tiny_tied": dict(
            max_seq_len=2048,
            tied_head=True,
            rope_theta=500_000.0,
            rope_scaling=_stretched(32.0),
            **_shape(192, 512, 4, 6, 2, 32),
        ),
        # About 20 M parameters with a vocabulary of 32,000; trains on a CPU.
        "small": dict(max_seq_len=2048, **_shape(256, 688, 5, 8, 8, 32)),
        # LLaMA (2023-02)
        "llama1_7b": _llama1(**_7B),
        "llama1_13b": _llama1(**_13B),
        # LLaMA-2 (2023-07); the chat models have the same shape and are listed so that a recipe can
        # say what it means
        "llama2_7b": _llama2(**_7B),
        "llama2_13b": _llama2(**_13B),
        "llama2_70b": _llama2(**_LLAMA2_70B),
        "llama2_7b_chat": _llama2(**_7B),
        "llama2_13b_chat": _llama2(**_13B),
        "llama2_70b_chat": _llama2(**_LLAMA2_70B),
        # Llama 3, 3.1, 3.2 (2024)
        "llama3_8b": _llama3(**_8B),
        "llama3_70b": _llama3(**_LLAMA2_70B),
        "llama3_8b_instruct": _llama3(**_8B),
        "llama3_70b_instruct": _llama3(**_LLAMA2_70B),
        "llama31_8b": _llama3(131_072, rope_scaling=_stretched(8.0), **_8B),
        "llama31_70b": _llama3(131_072, rope_scaling=_stretched(8.0), **_LLAMA2_70B),
        "llama32_1b": _llama3(
            131_072,
            tied_head=True,
            rope_scaling=_stretched(32.0),
            **_shape(2048, 8192, 16, 32, 8, 64),
        ),
        "llama32_3b": _llama3(
            131_072,
            tied_head=True,
            rope_scaling=_stretched(32.0),
            **_shape(3072, 8192, 28, 24, 8, 128),
        ),
        # Mistral-7B-v0.1. Its attention slides over 4,096 tokens; up to that length it is full
        # attention, which is what we have, so this is where the preset stops.
        "mistral_7b": dict(
            family="mistral", vocab_size=32_000, max_seq_len=4096, norm_eps=1e-5, **_8B
        ),
        # Yi-34B: the LLaMA layout with grouped queries
        "yi_34b": dict(
            vocab_size=64_000,
            max_seq_len=4096,
            rope_theta=5_000_000.0,
            norm_eps=1e-5,
            **_shape(7168, 20_480, 60, 56, 8, 128),
        ),
        # InstructLM (Instruction Pre-Training, 2024), trained from scratch in Mistral's
        # architecture
        "instructlm_500m": dict(
            family="mistral",
            vocab_size=32_000,
            max_seq_len=2048,
            norm_eps=1e-5,
            **_shape(1536, 4320, 16, 24, 24, 64),
        ),
        "instructlm_1_3b": dict(
            family="mistral",
            vocab_size=32_000,
            max_seq_len=2048,
            norm_eps=1e-5,
            **_shape(2048, 8192, 20, 32, 8, 64),
        ),
    }
)
