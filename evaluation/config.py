"""What a recipe may say about evaluation."""

from pydantic import BaseModel, ConfigDict, Field


class EvalConfig(BaseModel):
    """When a run measures itself, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_steps: int = Field(default=500, ge=1)
    max_rows: int = Field(default=256, ge=1, description="held-out rows per stream, at most")
    batch_rows: int | None = Field(
        default=None, ge=1, description="rows per evaluation step; default train.global_batch_rows"
    )
    tasks: tuple[str, ...] = Field(default=(), description="evaluation tasks by name")
