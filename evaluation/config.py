"""What a recipe may say about evaluation: when a run measures itself, on what, and what a report compares."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KindsConfig(Config):
    """Which streams speak of the domain and which of everything else, by their names."""

    domain: tuple[str, ...] = Field(default=(), description="what the model is adapted to")
    prose: tuple[str, ...] = Field(default=(), description="general running text")
    instructions: tuple[str, ...] = Field(default=(), description="general instructions")

    @property
    def general(self) -> tuple[str, ...]:
        """The streams on which forgetting shows."""
        return (*self.prose, *self.instructions)

    def of(self, stream: str) -> str:
        """A stream's kind; "other" where none is said."""
        return next((kind for kind in KINDS if stream in getattr(self, kind)), "other")


KINDS = ("domain", "prose", "instructions")


class ForgettingConfig(Config):
    """The alarm of a run that forgets: general bits per byte against the run's own step 0."""

    streams: tuple[str, ...] = Field(
        default=(), description="streams to watch; default: eval.streams.prose and .instructions"
    )
    limit: float = Field(
        default=0.02, ge=0, description="alarm when bits per byte rose by more than this share"
    )
    after_steps: int | None = Field(
        default=None,
        ge=0,
        description="no alarm up to this step, as loss rises while the learning rate re-warms; "
        "default: twice optimizer.warmup_steps",
    )
    action: Literal["warn", "stop"] = Field(
        default="warn", description="stop: save, and end the run with an error"
    )


class SafetyConfig(Config):
    """The safety-template matrix of a report."""

    templates: tuple[str, ...] = Field(
        default=(), description="columns by name; default: all of evaluation/safety.yaml"
    )
    max_new_tokens: int = Field(default=64, ge=8, description="of each answer that is judged")


class ReportConfig(Config):
    """What the adaptation report compares (`python -m evaluation.report`)."""

    domain_tasks: tuple[str, ...] = Field(default=(), description="tasks of the domain, by name")
    general_tasks: tuple[str, ...] = Field(default=(), description="tasks of everything else")
    finetune: tuple[str, ...] = Field(
        default=(), description="tasks on whose train split each model is tuned first, besides"
    )
    limit: int | None = Field(default=None, ge=1, description="items a task, at most; null: all")
    chat: bool = Field(
        default=False, description="prompts of tasks go through each model's chat template"
    )
    answers: int = Field(default=3, ge=0, description="sample answers for each domain stream")
    corpus_date: str | None = Field(
        default=None,
        pattern=r"^\d{4}(-\d{2}){0,2}$",
        description="when the corpus was collected (2024-06); tasks older than it are marked",
    )
    tensor: int = Field(
        default=1, ge=1, description="devices that share the weights while answers are written"
    )
    safety: SafetyConfig | None = Field(default=SafetyConfig(), description="null leaves it out")


class EvalConfig(Config):
    """When a run measures itself, and on what."""

    every_steps: int = Field(default=500, ge=1)
    max_rows: int = Field(default=256, ge=1, description="held-out rows per stream, at most")
    batch_rows: int | None = Field(
        default=None, ge=1, description="rows per evaluation step; default train.global_batch_rows"
    )
    streams: KindsConfig = KindsConfig()
    tasks: tuple[str, ...] = Field(
        default=(), description="tasks scored as the run goes, by name or file"
    )
    task_budget: float = Field(
        default=0.05,
        gt=0,
        description="share of training time that tasks may take; bounds how many items are asked and "
        "how often",
    )
    forgetting: ForgettingConfig | None = None
    report: ReportConfig = ReportConfig()
