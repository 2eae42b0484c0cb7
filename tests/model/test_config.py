"""Presets, and the one shape that a recipe means."""

import pytest
from pydantic import ValidationError

from model.config import PRESETS, LlamaConfig, ModelConfig, resolve
from model.llama import num_params

# Parameters as the models' authors publish them, in billions.
PUBLISHED = {
    "llama1_7b": 6.74,
    "llama1_13b": 13.02,
    "llama2_7b": 6.74,
    "llama2_13b_chat": 13.02,
    "llama2_70b": 68.98,
    "llama3_8b": 8.03,
    "llama3_70b_instruct": 70.55,
    "llama31_8b": 8.03,
    "llama31_70b": 70.55,
    "llama32_1b": 1.236,
    "llama32_3b": 3.213,
    "mistral_7b": 7.24,
    "yi_34b": 34.39,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_size(name):
    config = resolve(ModelConfig(preset=name), tokenizer_vocab=None, base=None)
    assert num_params(config) / 1e9 == pytest.approx(PUBLISHED[name], rel=2e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves(name):
    config = resolve(ModelConfig(preset=name), tokenizer_vocab=4096, base=None)
    assert config.vocab_size == PRESETS[name].get("vocab_size", 4096)
    assert config.embed_dim % config.num_heads == 0  # or transformers refuses the export


def test_tiny_is_a_few_million():
    for name in ("tiny", "tiny_gqa", "tiny_tied"):
        config = resolve(ModelConfig(preset=name), tokenizer_vocab=4096, base=None)
        assert 2e6 < num_params(config) < 4e6


def test_unknown_preset_names_near_ones():
    with pytest.raises(ValueError, match=r"model\.preset: no preset 'llama2-7b'.*llama2_7b"):
        resolve(ModelConfig(preset="llama2-7b"), tokenizer_vocab=None, base=None)


def test_overrides_win_over_a_preset():
    model = ModelConfig(preset="tiny", num_layers=2, tied_head=True, vocab_multiple=64)
    config = resolve(model, tokenizer_vocab=1000, base=None)
    assert (config.num_layers, config.tied_head) == (2, True)
    assert (config.vocab_size, config.padded_vocab_size) == (1000, 1024)
    assert config.embed_dim == PRESETS["tiny"]["embed_dim"]


def test_vocabulary_smaller_than_the_tokenizers():
    with pytest.raises(ValueError, match=r"model\.vocab_size: 32000 is smaller .* 32001"):
        resolve(ModelConfig(preset="llama2_7b"), tokenizer_vocab=32_001, base=None)


def test_no_vocabulary_at_all():
    with pytest.raises(ValueError, match=r"model\.vocab_size: missing"):
        resolve(ModelConfig(preset="tiny"), tokenizer_vocab=None, base=None)


def test_missing_fields_are_named():
    with pytest.raises(ValueError, match=r"model\.mlp_dim.*model\.head_dim: missing"):
        resolve(
            ModelConfig(embed_dim=64, num_layers=1, num_heads=2, num_kv_heads=2),
            tokenizer_vocab=100,
            base=None,
        )


def test_weights_fix_the_shape_but_not_lengths():
    base = resolve(ModelConfig(preset="tiny"), tokenizer_vocab=1000, base=None)
    free = ModelConfig(init_from="x", max_seq_len=128, norm_eps=1e-6, vocab_multiple=16)
    config = resolve(free, tokenizer_vocab=900, base=base)
    assert (config.max_seq_len, config.norm_eps, config.padded_vocab_size) == (128, 1e-6, 1008)
    with pytest.raises(ValueError, match=r"model\.init_from: x .*model\.num_layers: 2, .* 4"):
        resolve(ModelConfig(init_from="x", num_layers=2), tokenizer_vocab=900, base=base)
    with pytest.raises(ValueError, match=r"model\.embed_dim"):
        resolve(ModelConfig(init_from="x", preset="small"), tokenizer_vocab=900, base=base)


def test_odd_head_dim_and_heads_that_do_not_divide():
    shape = {"vocab_size": 10, "embed_dim": 12, "mlp_dim": 8, "num_layers": 1}
    with pytest.raises(ValidationError, match="head_dim: 3 is odd"):
        LlamaConfig(**shape, num_heads=2, num_kv_heads=2, head_dim=3)
    with pytest.raises(ValidationError, match="num_kv_heads: 2 does not divide num_heads 3"):
        LlamaConfig(**shape, num_heads=3, num_kv_heads=2, head_dim=4)
