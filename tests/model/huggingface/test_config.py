"""config.json, in the forms of transformers 4 and 5."""

import json
import re

import pytest

from model.config import LlamaConfig, RopeScaling
from model.huggingface.config import from_huggingface, read_config, to_huggingface

THEIRS = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def test_defaults_are_transformers():
    config = from_huggingface(THEIRS)
    assert (config.num_kv_heads, config.head_dim, config.norm_eps) == (4, 12, 1e-6)
    assert (config.rope_theta, config.rope_scaling, config.tied_head) == (10_000.0, None, False)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
        {
            "rope_parameters": {"rope_theta": 5e5, **LLAMA3},
            "rope_theta": 5e5,
            "rope_scaling": LLAMA3,
        },
    ],
)
def test_old_and_new_rope_are_read_alike(rope):
    config = from_huggingface(THEIRS | rope)
    assert config.rope_theta == 5e5
    assert config.rope_scaling == RopeScaling(kind="llama3", factor=8.0, original_seq_len=32)


def test_linear_rope():
    old = from_huggingface(THEIRS | {"rope_scaling": {"type": "linear", "factor": 4}})
    new = from_huggingface(
        THEIRS | {"rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 1e4}}
    )
    assert old == new
    assert old.rope_scaling == RopeScaling(kind="linear", factor=4.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: 'gpt2'"),
        ({"model_type": None}, "model_type: None"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu'"),
        ({"pretraining_tp": 2}, "pretraining_tp: 2"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: "),
        ({"vocab_size": None}, "vocab_size: None"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_scaling.rope_type: 'yarn'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters.rope_type: 'dynamic'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor: None"),
        (
            {
                "rope_parameters": {"rope_theta": 1e4},
                "rope_scaling": {"type": "linear", "factor": 2},
            },
            "disagree",
        ),
        ({"model_type": "mistral", "sliding_window": 32}, "sliding_window: 32"),
        (
            {"model_type": "mistral", "max_position_embeddings": 8192},
            "sliding_window: 4096",  # transformers' default where the key is absent
        ),
    ],
)
def test_what_we_do_not_compute_is_named(change, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(THEIRS | change))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_config(str(tmp_path))
    assert str(tmp_path) in str(error.value)


def test_a_window_no_row_reaches_is_full_attention():
    theirs = THEIRS | {"model_type": "mistral", "sliding_window": 32, "num_key_value_heads": 2}
    config = from_huggingface(theirs, max_seq_len=16)
    assert (config.family, config.max_seq_len) == ("mistral", 32)
    assert from_huggingface(theirs | {"sliding_window": None}).max_seq_len == 64


def test_rows_shorter_than_the_model_do_not_shorten_it():
    assert from_huggingface(THEIRS, max_seq_len=16).max_seq_len == 64


def test_no_folder_no_config(tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        read_config(str(tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        read_config(str(tmp_path / "absent"))


@pytest.mark.parametrize("scaling", [None, "linear", "llama3"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_written_configs_read_back_and_in_transformers(family, scaling, tmp_path):
    import transformers

    config = LlamaConfig(
        family=family,
        vocab_size=100,
        embed_dim=48,
        mlp_dim=80,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=20,
        max_seq_len=128,
        rope_theta=5e5,
        rope_scaling=None if scaling is None else RopeScaling(kind=scaling, factor=8.0),
        norm_eps=3e-6,
        tied_head=True,
    )
    written = to_huggingface(config, dtype="bfloat16", bos_id=1, eos_id=2, pad_id=None)
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert read_config(str(tmp_path)) == config
    # As transformers 4 sees it: the new keys are unknown to it.
    old = {k: v for k, v in written.items() if k not in ("rope_parameters", "dtype")}
    assert from_huggingface(old) == config

    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    expected = f"{family.capitalize()}ForCausalLM"
    assert theirs.architectures == [expected]
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, None)
    assert (theirs.head_dim, theirs.num_key_value_heads, theirs.rms_norm_eps) == (20, 2, 3e-6)
    assert theirs.rope_parameters["rope_theta"] == 5e5
    assert theirs.rope_parameters["rope_type"] == (scaling or "default")
    assert str(theirs.dtype).removeprefix("torch.") == "bfloat16"
    assert getattr(theirs, "sliding_window", None) is None


def test_shapes_their_classes_refuse():
    shape = {"vocab_size": 9, "mlp_dim": 8, "num_layers": 1, "num_heads": 4, "num_kv_heads": 4}
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": None}
    with pytest.raises(ValueError, match="embed_dim: 10 is not a multiple of num_heads 4"):
        to_huggingface(LlamaConfig(embed_dim=10, head_dim=4, **shape), dtype="float32", **ids)
    biased = LlamaConfig(family="mistral", embed_dim=8, head_dim=4, mlp_bias=True, **shape)
    with pytest.raises(ValueError, match="MistralForCausalLM has no biases"):
        to_huggingface(biased, dtype="float32", **ids)
