"""What a recipe may say about training: steps and batches, the optimizer, checkpoints, tracking."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.config import REMAT_SETS, RematSet


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SpikeConfig(Config):
    """Stop when the loss stays high: its running median over `window` steps above `factor` x the best one."""

    factor: float = Field(default=1.5, gt=1)
    window: int = Field(default=50, ge=2)


class TrainConfig(Config):
    """Steps, rows and how a step computes."""

    num_steps: int = Field(ge=0, description="0 writes the initial state as a checkpoint")
    seq_len: int = Field(default=2048, ge=8)
    global_batch_rows: int = Field(
        ge=1, description="rows per step over all devices and accumulation steps"
    )
    accumulate: int = Field(
        default=1, ge=1, description="split every device's rows into so many passes"
    )
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    grad_reduce_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="precision of the gradients' cross-chip sum"
    )
    z_loss: float = Field(default=0.0, ge=0)
    loss_chunk: int | None = Field(
        default=None,
        ge=1,
        description="tokens whose logits are held at once, per device; default: tpu/settings.yaml",
    )
    remat: Literal["auto"] | RematSet = Field(
        default="auto",
        description="what a layer keeps for the backward pass, each with those before: its input and "
        "the attention output, keys and values, queries, the residual stream between its halves, the "
        "gate and up products, everything (nothing is computed again); auto: what fits and is best "
        "by tpu/settings.yaml",
    )
    offload: RematSet | None = Field(
        default=None,
        description="what of it waits in the host's memory, each set with those before; none of it "
        "by default",
    )
    attention: Literal["auto", "xla", "blockwise", "cudnn", "splash"] = "auto"
    attention_blocks: tuple[int, int] | None = Field(
        default=None,
        description="splash: most queries and keys that it works on at a time; default: "
        "tpu/settings.yaml",
    )
    compiler_flags: dict[str, bool | int | str] = Field(
        default={}, description="flags of the TPU compiler, over those of tpu/flags.yaml"
    )
    stop_on_spike: SpikeConfig | None = None
    prefetch: int = Field(default=2, ge=1, description="batches made ahead")

    @model_validator(mode="after")
    def _offload_leaves_something(self) -> "TrainConfig":
        if self.offload is None:
            return self
        if self.remat == "none":
            raise ValueError(
                "offload: train.remat=none keeps everything on the device; take a smaller train.remat"
            )
        least = "mlp" if self.remat == "auto" else self.remat
        if REMAT_SETS.index(self.offload) > REMAT_SETS.index(least):
            raise ValueError(
                f"offload: {self.offload} is more than a layer keeps; at most {least}, as train.remat"
            )
        return self


class OptimizerConfig(Config):
    """AdamW with a warmed-up schedule."""

    peak_lr: float = Field(default=1e-5, gt=0)
    end_lr: float = Field(default=0.0, ge=0, description="where the schedule ends")
    warmup_steps: int = Field(default=0, ge=0)
    warmup_from: float = Field(
        default=0.0,
        ge=0,
        description="where warm-up begins: an annealed base's last rate when re-warming",
    )
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    decay_steps: int | None = Field(
        default=None, ge=1, description="wsd: steps of the final decay; default a tenth of the run"
    )
    schedule_steps: int | None = Field(
        default=None, ge=1, description="steps the schedule is laid over; default train.num_steps"
    )
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.1, ge=0, description="never on norms and biases")
    decay_embeddings: bool = True
    clip_norm: float | None = Field(default=1.0, gt=0)


class CheckpointConfig(Config):
    """When checkpoints are written and which are kept."""

    every_steps: int = Field(default=500, ge=1)
    keep: int = Field(default=3, ge=1, description="newest steps to keep")
    keep_every: int | None = Field(
        default=None, ge=1, description="also keep every step divisible by this"
    )
    save_concurrent_gb: float = Field(
        default=1.0, gt=0, description="bounds host memory while saving"
    )


class ResumeConfig(Config):
    """What a restart may do, and where another run is carried on."""

    from_run: str | None = Field(
        default=None, description="a run directory to go on from, optimizer state and all"
    )
    accept_changes: bool = Field(
        default=False, description="go on although the recipe differs from the checkpoint's"
    )


class WandbConfig(Config):
    """Weights & Biases, with the key from the environment."""

    project: str
    entity: str | None = None
    name: str | None = None


class TrackingConfig(Config):
    """Where a run's numbers go, besides the console."""

    every_steps: int = Field(default=10, ge=1)
    tensorboard: bool = True
    wandb: WandbConfig | None = None
    profile: tuple[int, int] | None = Field(
        default=None, description="[first step, last step] of a profiler window"
    )
