"""The shape of a LLaMA-family network, and what a recipe may say about it."""

import difflib
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.presets import PRESETS

__all__ = [
    "PRESETS",
    "REMAT_SETS",
    "GenerationConfig",
    "LlamaConfig",
    "LoraConfig",
    "ModelConfig",
    "RematSet",
    "RopeScaling",
    "resolve",
]

# What a layer keeps for its backward pass besides its input, each set with those before it (model/llama.py).
RematSet = Literal["attention", "kv", "qkv", "residual", "mlp", "none"]
REMAT_SETS: tuple[RematSet, ...] = get_args(RematSet)


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RopeScaling(Config):
    """A stretch of the rotary positions.

    `linear` is position interpolation, `llama3` the stretch by wavelength of Llama 3.1.
    """

    kind: Literal["linear", "llama3"]
    factor: float = Field(gt=0)
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_seq_len: int = 8192


class LoraConfig(Config):
    """Low-rank adapters beside frozen weights (model/lora.py)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(
        default=32.0, gt=0, description="an adapter's product counts alpha / rank times"
    )
    targets: tuple[Literal["q", "k", "v", "o", "gate", "up", "down"], ...] = Field(
        default=("q", "k", "v", "o", "gate", "up", "down"),
        min_length=1,
        description="the matrices of every layer that get one",
    )
    base_dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="what the frozen matrices are held in"
    )

    @property
    def scale(self) -> float:
        """How often an adapter's product counts."""
        return self.alpha / self.rank

    @model_validator(mode="after")
    def _once_each(self) -> "LoraConfig":
        twice = sorted({name for name in self.targets if self.targets.count(name) > 1})
        if twice:
            raise ValueError(f"targets: {', '.join(twice)} stands twice; name each once")
        return self


class LlamaConfig(Config):
    """Shape letters: V vocab_size, D embed_dim, F mlp_dim, L num_layers, N num_heads.

    K is num_kv_heads, H head_dim.
    """

    family: Literal["llama", "mistral"] = "llama"
    vocab_size: int = Field(ge=2)
    vocab_multiple: int = Field(
        default=1,
        ge=1,
        description="pad the vocabulary to a multiple, for sharding; undone on export",
    )
    embed_dim: int = Field(ge=1)
    mlp_dim: int = Field(ge=1)
    num_layers: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    num_kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=2)
    max_seq_len: int = Field(default=2048, ge=1, description="max_position_embeddings")
    rope_theta: float = Field(default=10_000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    norm_eps: float = Field(default=1e-5, gt=0)
    tied_head: bool = Field(default=False, description="the head is the transposed embedding table")
    attention_bias: bool = Field(default=False, description="biases on q, k, v and o")
    mlp_bias: bool = Field(default=False, description="biases on gate, up and down")
    init_std: float = Field(default=0.02, gt=0)
    lora: LoraConfig | None = Field(
        default=None, description="adapters that are trained in place of the weights"
    )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: vocab_size rounded up to vocab_multiple."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @model_validator(mode="after")
    def _consistent(self) -> "LlamaConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads: {self.num_kv_heads} does not divide num_heads {self.num_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim: {self.head_dim} is odd; rotary embedding needs an even one"
            )
        return self


class ModelConfig(Config):
    """A recipe's `model`: a preset or a Hugging Face folder; any other field overrides its shape."""

    preset: str | None = Field(
        default=None, description="a name of PRESETS: tiny, llama2_7b, llama3_8b, ..."
    )
    init_from: str | None = Field(
        default=None,
        description="a Hugging Face folder, hub id or run directory to take weights from",
    )
    revision: str | None = Field(default=None, description="revision of a hub id")
    vocab_size: int | None = Field(
        default=None, ge=2, description="default: the preset's; tiny presets take the tokenizer's"
    )
    vocab_multiple: int | None = Field(
        default=None, ge=1, description="pad the vocabulary to a multiple, for sharding"
    )
    embed_dim: int | None = Field(default=None, ge=1)
    mlp_dim: int | None = Field(default=None, ge=1)
    num_layers: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    num_kv_heads: int | None = Field(default=None, ge=1)
    head_dim: int | None = Field(default=None, ge=2)
    max_seq_len: int | None = Field(default=None, ge=1)
    rope_theta: float | None = Field(default=None, gt=0)
    rope_scaling: RopeScaling | None = None
    norm_eps: float | None = Field(default=None, gt=0)
    tied_head: bool | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    init_std: float | None = Field(default=None, gt=0)
    lora: LoraConfig | None = Field(
        default=None,
        description="train low-rank adapters and leave the weights as they are, e.g. {rank: 16}",
    )


class GenerationConfig(Config):
    """How the engine runs.

    A text depends on it in the last bits only: `slots`, `compute_dtype` and the mesh change how sums
    are rounded, which a near tie between two tokens may see. Its company in the slots never does.
    """

    slots: int = Field(default=16, ge=1, le=4096, description="sequences written at once")
    window: int | None = Field(
        default=None,
        ge=2,
        description="tokens of prompt and text together; default: the model's, 4096 at most",
    )
    steps: int = Field(
        default=16, ge=1, le=256, description="tokens of every sequence between looks at the host"
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: float32 on a CPU, bfloat16 elsewhere"
    )
    long_prompts: Literal["error", "cut"] = Field(
        default="error",
        description="a prompt that leaves no room in the window is an error completion, or loses "
        "its beginning (BOS stays)",
    )
    logprobs: bool = Field(default=False, description="give the log-probability of every token")
    stop_tokens: tuple[str, ...] = Field(
        default=(),
        description="tokens that end a text, besides EOS and those of generation_config.json",
    )


def resolve(
    config: ModelConfig, *, tokenizer_vocab: int | None, base: LlamaConfig | None
) -> LlamaConfig:
    """The one shape that a recipe's `model` means.

    Args:
        config: what the recipe says; its fields override the preset's or the base's.
        tokenizer_vocab: entries of the run's tokenizer, None where there is none to ask.
        base: the shape of the weights to start from (`init_from`), None for a fresh model. Its
            weights fix the shapes: only what no weight depends on may be overridden (lengths,
            rotary numbers, norm_eps, vocabulary padding).

    Raises:
        ValueError: an unknown preset, a field that is missing or contradicts the weights, a
            vocabulary too small for the tokenizer.
    """
    overrides = {
        name: getattr(config, name)
        for name in type(config).model_fields
        if name in LlamaConfig.model_fields and getattr(config, name) is not None
    }
    if base is not None:
        fields = base.model_dump()
        wanted = {**(preset_fields(config.preset) if config.preset else {}), **overrides}
        wrong = [
            f"model.{name}: {wanted[name]}, the weights have {fields[name]}"
            for name in wanted
            if name not in _FREE_OF_WEIGHTS and wanted[name] != fields[name]
        ]
        if wrong:
            source = config.init_from or "the folder"
            raise ValueError(
                f"model.init_from: {source} has another shape than the recipe asks for: "
                f"{'; '.join(wrong)}. Leave these fields (or model.preset) out."
            )
        if base.lora is not None and config.lora not in (None, base.lora):
            raise ValueError(
                f"model.lora: {config.lora}, the run that the weights come from has {base.lora}. Leave "
                "it out to go on with those adapters, or export that run and begin with its folder."
            )
        fields |= overrides
    elif config.preset is not None:
        fields = preset_fields(config.preset) | overrides
    else:
        fields = overrides
    if fields.get("vocab_size") is None:
        if tokenizer_vocab is None:
            raise ValueError(
                "model.vocab_size: missing; set it, or name a tokenizer whose vocabulary it takes"
            )
        fields["vocab_size"] = tokenizer_vocab
    missing = [
        n for n, f in LlamaConfig.model_fields.items() if f.is_required() and n not in fields
    ]
    if missing:
        names = ", ".join(f"model.{name}" for name in missing)
        raise ValueError(f"{names}: missing; set model.preset or model.init_from, or these fields")
    if tokenizer_vocab is not None and tokenizer_vocab > fields["vocab_size"]:
        raise ValueError(
            f"model.vocab_size: {fields['vocab_size']} is smaller than the tokenizer's "
            f"{tokenizer_vocab}, whose last ids would have no embedding. Use the model's own "
            "tokenizer, or set a larger vocab_size."
        )
    try:
        return LlamaConfig(**fields)
    except ValidationError as error:
        raise ValueError("; ".join(f"model.{line}" for line in shape_problems(error))) from error


def shape_problems(error: ValidationError) -> list[str]:
    """What is wrong with a shape, field by field, without the library's own words around it."""
    lines = []
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{field}: {problem['input']}: {message}" if field else message)
    return lines


def preset_fields(name: str) -> dict[str, Any]:
    """A copy of a preset's fields.

    Raises:
        ValueError: no such preset; the message names the nearest ones.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(PRESETS)}"
        raise ValueError(f"model.preset: no preset {name!r}; {hint}")
    return dict(PRESETS[name])


# Fields that no weight's shape or place depends on, so that a recipe may set them over the weights'
# own.
_FREE_OF_WEIGHTS = {
    "family",
    "vocab_multiple",
    "max_seq_len",
    "rope_theta",
    "rope_scaling",
    "norm_eps",
    "init_std",
    "lora",
}
