"""What a recipe may say about evaluation."""

from pydantic import BaseModel, ConfigDict, Field


class EvalConfig(BaseModel):
    """When a run measures itself, and on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_steps: int = Field(500, ge=1)
    max_rows: int = Field(256, ge=1, description="held-out rows per stream, at most")
    batch_rows: int | None = Field(None, ge=1, description="rows per evaluation step; default train.global_batch_rows")
    tasks: tuple[str, ...] = Field((), description="evaluation tasks by name")
