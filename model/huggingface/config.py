"""A Hugging Face `config.json` <-> LlamaConfig.

Both generations are read: `rope_theta`, `rope_scaling` and `torch_dtype` of transformers 4,
`rope_parameters` and `dtype` of transformers 5. What is written has the current form, with the old
keys beside it for old readers.
"""

import json
from typing import Any, Literal

from etils import epath
from pydantic import ValidationError

from model.config import LlamaConfig, RopeScaling, shape_problems

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}

_FAMILIES: dict[str, Literal["llama", "mistral"]] = {
    "llama": "llama",
    "mistral": "mistral",
    "Yi": "llama",
}  # model_type -> our family
_MUST_BE: dict[str, tuple[Any, ...]] = {  # keys that would change what the network computes
    "hidden_act": ("silu",),
    "pretraining_tp": (None, 1),
    "partial_rotary_factor": (None, 1.0),
    "quantization_config": (None,),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "qk_norm": (None, False),
}


def read_config(
    source: str, *, revision: str | None = None, max_seq_len: int | None = None
) -> LlamaConfig:
    """The shape of a Hugging Face model.

    Args:
        source: a folder (local, gs:// or s3://) or a hub id.
        revision: of a hub id.
        max_seq_len: the longest row that will be used; None means the model's own limit. A model
            with a sliding window has full attention up to the window, so it is read, with the window
            as its limit, for rows that are no longer.

    Raises:
        ValueError: no config.json, or a key that asks for what we do not compute; it is named with
            its value.
    """
    path = _config_file(source, revision)
    try:
        theirs = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    try:
        return from_huggingface(theirs, max_seq_len=max_seq_len)
    except ValidationError as error:
        raise ValueError(f"{path}: {'; '.join(shape_problems(error))}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_huggingface(theirs: dict[str, Any], *, max_seq_len: int | None = None) -> LlamaConfig:
    """The shape that the keys of a config.json describe; raises as read_config does."""
    model_type = theirs.get("model_type")
    if model_type not in _FAMILIES:
        raise ValueError(f"model_type: {model_type!r} is not one of {', '.join(_FAMILIES)}")
    family = _FAMILIES[model_type]
    for key, allowed in _MUST_BE.items():
        value = theirs.get(key, allowed[0])
        if value not in allowed:
            names = " or ".join(repr(a) for a in allowed)
            raise ValueError(f"{key}: {value!r} is not supported, only {names}")
    needed = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
    for key in needed:
        if not isinstance(theirs.get(key), int):
            raise ValueError(f"{key}: {theirs.get(key)!r}; a whole number is needed")
    # AdaptLLM's released configs say max_sequence_length
    positions = theirs.get("max_position_embeddings") or theirs.get("max_sequence_length") or 2048
    if family == "mistral":
        window = theirs.get("sliding_window", 4096)  # transformers' default where the key is absent
        used = positions if max_seq_len is None else min(positions, max_seq_len)
        if window is not None and window < used:
            raise ValueError(
                f"sliding_window: {window} is less than the {used} positions used, and attention "
                f"here is never windowed. Use rows of at most {window} tokens: up to there the two "
                "are the same."
            )
        positions = positions if window is None else min(positions, window)
    heads = theirs["num_attention_heads"]
    kv_heads = theirs.get("num_key_value_heads") or (
        8 if "num_key_value_heads" not in theirs and family == "mistral" else heads
    )
    theta, scaling = _read_rope(theirs)
    return LlamaConfig(
        family=family,
        vocab_size=theirs["vocab_size"],
        embed_dim=theirs["hidden_size"],
        mlp_dim=theirs["intermediate_size"],
        num_layers=theirs["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=theirs.get("head_dim") or theirs["hidden_size"] // heads,
        max_seq_len=positions,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=theirs.get("rms_norm_eps", 1e-6),
        tied_head=bool(theirs.get("tie_word_embeddings", False)),
        attention_bias=bool(theirs.get("attention_bias", False)),
        mlp_bias=bool(theirs.get("mlp_bias", False)),
        init_std=theirs.get("initializer_range") or 0.02,
    )


def to_huggingface(
    config: LlamaConfig,
    *,
    dtype: str,
    bos_id: int | None,
    eos_id: int | list[int] | None,
    pad_id: int | None,
) -> dict[str, Any]:
    """The keys of a config.json that transformers 4 and 5 read alike.

    Args:
        config: ours.
        dtype: of the tensors, in their words: `bfloat16` or `float32`.
        bos_id: the tokenizer's, as the other two; never guessed.
        eos_id: one, or several where a chat template ends turns with another token.
        pad_id: None where the tokenizer has none.

    Raises:
        ValueError: a shape that their classes cannot express.
    """
    if config.family == "mistral" and (config.attention_bias or config.mlp_bias):
        raise ValueError(
            "attention_bias, mlp_bias: MistralForCausalLM has no biases; use family llama"
        )
    if config.embed_dim % config.num_heads:
        raise ValueError(
            f"embed_dim: {config.embed_dim} is not a multiple of num_heads {config.num_heads}; "
            f"{ARCHITECTURES[config.family]} refuses such a shape"
        )
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling is not None:
        rope |= _write_rope(config.rope_scaling)
    old_rope = {k: v for k, v in rope.items() if k != "rope_theta"} if config.rope_scaling else None
    theirs: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.family]],
        "attention_dropout": 0.0,
        "bos_token_id": bos_id,
        "dtype": dtype,
        "eos_token_id": eos_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.embed_dim,
        "initializer_range": config.init_std,
        "intermediate_size": config.mlp_dim,
        "max_position_embeddings": config.max_seq_len,
        "model_type": config.family,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "pad_token_id": pad_id,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "rope_scaling": old_rope,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    if config.family == "mistral":
        theirs["sliding_window"] = None
    else:
        theirs["attention_bias"] = config.attention_bias
        theirs["mlp_bias"] = config.mlp_bias
        theirs["pretraining_tp"] = 1
    return dict(sorted(theirs.items()))


def _read_rope(theirs: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from the new key or the old ones; both at once must agree."""
    new, old = theirs.get("rope_parameters"), theirs.get("rope_scaling")
    found = []
    for key, rope in (("rope_parameters", new), ("rope_scaling", old)):
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise ValueError(f"{key}: {rope!r} is not a mapping")
        theta = rope.get("rope_theta", theirs.get("rope_theta", 10_000.0))
        found.append((float(theta), _scaling(key, rope, theirs)))
    if not found:
        return float(theirs.get("rope_theta") or 10_000.0), None
    if any(other != found[0] for other in found):
        raise ValueError(f"rope_parameters: {new} and rope_scaling: {old} disagree; keep one")
    return found[0]


def _scaling(key: str, rope: dict[str, Any], theirs: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"{key}.partial_rotary_factor: {rope['partial_rotary_factor']!r}, only 1")
    if kind == "default":
        return None
    needed = {
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    }
    if kind not in needed:
        raise ValueError(
            f"{key}.rope_type: {kind!r} is not supported, only default, linear, llama3"
        )
    for name in needed[kind]:
        if not isinstance(rope.get(name), int | float):
            raise ValueError(f"{key}.{name}: {rope.get(name)!r}; rope_type {kind} needs a number")
    if kind == "linear":
        return RopeScaling(kind="linear", factor=rope["factor"])
    original: int = rope.get("original_max_position_embeddings") or theirs.get(
        "max_position_embeddings", 2048
    )
    return RopeScaling(
        kind="llama3",
        factor=rope["factor"],
        low_freq_factor=rope["low_freq_factor"],
        high_freq_factor=rope["high_freq_factor"],
        original_seq_len=original,
    )


def _write_rope(scaling: RopeScaling) -> dict[str, Any]:
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_seq_len,
    }


def _config_file(source: str, revision: str | None) -> epath.Path:
    folder = epath.Path(source)
    if folder.is_dir():
        path = folder / "config.json"
        if not path.exists():
            raise ValueError(f"{source}: has no config.json; it is not a Hugging Face model folder")
        return path
    if not is_hub_id(source):
        raise ValueError(f"{source}: no such folder, and not a hub id (org/name)")
    import huggingface_hub

    try:
        return epath.Path(huggingface_hub.hf_hub_download(source, "config.json", revision=revision))
    except OSError as error:  # huggingface_hub's errors are, and the network's
        raise ValueError(f"{source}: no such folder, and the Hub says: {error}") from error


def is_hub_id(source: str) -> bool:
    """True for `org/name`, which a folder that is not there could also be spelled like."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if "://" in source or source.startswith((".", "/", "~")) or source.count("/") != 1:
        return False
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True
