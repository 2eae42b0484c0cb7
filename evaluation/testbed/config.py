"""What a recipe may say about the testbed. The defaults are the small size, for two CPU cores."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.config import ModelConfig
from training.config import OptimizerConfig

Variant = Literal["raw", "raw_general_qa", "comprehension", "instructions", "mixed", "synthesizer"]
Wordings = int | Literal["unlimited"]


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DomainConfig(Config):
    """The things that are learned about."""

    wording: str = Field(
        default="pharmacopoeia",
        description="sentences and questions: a file of evaluation/testbed, or a path to a YAML like it",
    )
    entities: int = Field(default=120, ge=5)
    held_out: float = Field(
        default=0.4, gt=0, lt=1, description="share of the entities that are raw articles only"
    )
    seed: int = Field(default=0, description="of names, facts, split and articles")


class GeneralConfig(Config):
    """General text and questions, the same in every variant."""

    wording: str = Field(default="towns", description="as domain.wording")
    entities: int = Field(default=24, ge=2)


class SharesConfig(Config):
    """Shares of the tokens. What is left belongs to the raw articles."""

    general_text: float = Field(default=0.04, ge=0, lt=1)
    general_questions: float = Field(
        default=0.08, ge=0, lt=1, description="in variant raw they are general text instead"
    )
    made: float = Field(
        default=0.26,
        gt=0,
        lt=1,
        description="what the variant makes of the taught entities; raw variants read articles "
        "instead, mixed shares it out equally",
    )

    @model_validator(mode="after")
    def _room_for_articles(self) -> "SharesConfig":
        rest = 1 - self.general_text - self.general_questions - self.made
        if rest <= 0:
            raise ValueError(f"shares: {rest:.2f} is left for raw articles; lower the others")
        return self


class RunConfig(Config):
    """How every run trains."""

    tokens: int = Field(
        default=2_000_000, ge=1, description="tokens of a run, padding left out; equal for all"
    )
    extend: tuple[float, ...] = Field(
        default=(1.33,),
        description="where a variant has memorised too little, it and all it is compared with "
        "train to so many times `tokens` (on from there if the rate is constant, else anew); the "
        "last one is the cap",
    )
    memorised: float = Field(
        default=0.8, ge=0, le=1, description="memorised share below which a run is trained on"
    )
    seq_len: int = Field(default=128, ge=16)
    batch_rows: int = Field(default=16, ge=1, description="rows of a step")
    accumulate: int = Field(default=1, ge=1)
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: float32 on a CPU, bfloat16 elsewhere"
    )

    @model_validator(mode="after")
    def _rising(self) -> "RunConfig":
        if list(self.extend) != sorted({1.0, *self.extend})[1:]:
            raise ValueError(f"run.extend: {list(self.extend)} must rise from above 1")
        return self

    @property
    def budgets(self) -> tuple[int, ...]:
        """Tokens at which a run is measured, the last one is the cap."""
        return (self.tokens, *(round(self.tokens * factor) for factor in self.extend))


class TestbedConfig(Config):
    """A comparison of ways to teach a domain, on a domain whose facts are known."""

    __test__ = False  # a configuration, not a test class

    out_dir: str = Field(default="runs/testbed")
    domain: DomainConfig = DomainConfig()
    general: GeneralConfig = GeneralConfig()
    vocab_size: int = Field(
        default=1024, ge=300, description="pieces of the tokenizer trained here"
    )
    model: ModelConfig = ModelConfig(
        embed_dim=96, mlp_dim=256, num_layers=3, num_heads=4, num_kv_heads=4, head_dim=24
    )
    optimizer: OptimizerConfig = OptimizerConfig(
        peak_lr=3e-3, end_lr=3e-4, warmup_steps=40, schedule="cosine", weight_decay=0.1
    )
    run: RunConfig = RunConfig()
    shares: SharesConfig = SharesConfig()
    variants: tuple[Variant, ...] = (
        "raw",
        "raw_general_qa",
        "comprehension",
        "instructions",
        "mixed",
    )
    wordings: tuple[Wordings, ...] = Field(
        default=(1, 5, "unlimited"), description="wordings of every article, each at the first seed"
    )
    main_wordings: Wordings = Field(
        default="unlimited", description="the one that runs with all seeds"
    )
    seeds: tuple[int, ...] = (0, 1, 2)
    synthesizer: str | None = Field(
        default=None,
        description="variant synthesizer: the trained synthesizer, a Hugging Face folder, hub id or "
        "run directory",
    )
    synthesis: dict[str, Any] = Field(
        default={}, description="variant synthesizer: as `synthesis` of a preparation recipe"
    )
    engine: dict[str, Any] = Field(
        default={}, description="variant synthesizer: as `python -m model.generate --help` has it"
    )
    draws: int = Field(default=2000, ge=10, description="of the bootstrap over entities")
    workers: int = Field(
        default=2, ge=1, description="processes, of one thread each on a CPU; 1 for a GPU or TPU"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "TestbedConfig":
        if self.main_wordings not in self.wordings:
            raise ValueError(
                f"main_wordings: {self.main_wordings} is none of wordings {list(self.wordings)}"
            )
        if "synthesizer" in self.variants and self.synthesizer is None:
            raise ValueError(
                "synthesizer: variant synthesizer needs the MODEL that writes its pairs"
            )
        for name in ("variants", "wordings", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}: {list(values)} must name each once, and at least one")
        return self
