"""A training recipe: the rooms' configurations put together, and the checks that cross them.

A preparation recipe is `data.config.PrepareConfig` as it stands. Checks inside one room live in that room's
`config.py`; here is only what needs two of them. Every message begins with the path of the field to change.
"""

import difflib
import re
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.config import MixtureConfig, PrepareConfig, StreamConfig
from evaluation.config import KINDS, EvalConfig
from model.config import ModelConfig
from model.presets import PRESETS
from tpu.config import MeshConfig
from training.config import (
    CheckpointConfig,
    OptimizerConfig,
    ResumeConfig,
    TrackingConfig,
    TrainConfig,
)

PrepareRecipe = PrepareConfig

# The fields that give a model its shape when neither a preset nor a folder does.
SHAPE = ("embed_dim", "mlp_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim")


class ExportConfig(BaseModel):
    """The Hugging Face folder written and verified when the run is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out: str = Field(min_length=1, description="folder to write")
    dtype: Literal["bf16", "f32"] = Field(
        default="bf16", description="precision of the written weights"
    )
    max_shard_size: str = Field(
        default="5GB",
        pattern=r"^[1-9]\d*[KMGT]B$",
        description="largest safetensors file, such as 500MB",
    )


class TrainRecipe(BaseModel):
    """A training run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_dir: str = Field(
        min_length=1, description="folder of the run: checkpoints, metrics, report"
    )
    seed: int = Field(
        default=0, ge=0, description="of the rows' order and of random initial weights"
    )
    prepare: str | None = Field(
        default=None, description="a preparation recipe, run first when its streams are not there"
    )
    model: ModelConfig
    tokenizer: str | None = Field(
        default=None,
        description="SentencePiece .model, Hugging Face folder or hub id; "
        "default: the one beside model.init_from",
    )
    streams: dict[str, StreamConfig] = Field(default={}, description="packed streams, by name")
    mixture: MixtureConfig = MixtureConfig()
    train: TrainConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    resume: ResumeConfig = ResumeConfig()
    tracking: TrackingConfig = TrackingConfig()
    export: ExportConfig | None = Field(
        default=None, description="write and verify a Hugging Face folder at the end"
    )

    @property
    def schedule_steps(self) -> int:
        """Steps that the learning-rate schedule is laid over."""
        return self.optimizer.schedule_steps or self.train.num_steps

    @property
    def eval_rows(self) -> int:
        """Rows of an evaluation step."""
        return self.eval.batch_rows or self.train.global_batch_rows // self.train.accumulate

    @model_validator(mode="after")
    def _consistent(self) -> "TrainRecipe":
        complaints = [
            *_model(self),
            *_optimizer(self),
            *_rows(self),
            *_mixture(self),
            *_evaluation(self),
            *_places(self),
        ]
        if complaints:
            raise ValueError("\n".join(complaints))
        return self


def _model(r: TrainRecipe) -> Iterator[str]:
    model = r.model
    if model.preset is not None and model.preset not in PRESETS:
        near = difflib.get_close_matches(model.preset, PRESETS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(PRESETS)}"
        yield f"model.preset: no preset {model.preset!r}; {hint}"
    if model.preset is None and model.init_from is None:
        absent = [name for name in SHAPE if getattr(model, name) is None]
        if absent:
            yield (
                "model: set model.preset (tiny, llama2_7b, ...), model.init_from (a Hugging Face folder or "
                f"hub id), or the whole shape: {', '.join(absent)} missing"
            )
    shape = dict(PRESETS.get(model.preset or "", {})) | model.model_dump(exclude_none=True)
    if r.model.revision is not None and r.model.init_from is None:
        yield "model.revision: is of a hub id in model.init_from, which is not set"
    max_seq_len = shape.get("max_seq_len")
    if max_seq_len is not None and r.train.seq_len > max_seq_len:
        yield f"train.seq_len: {r.train.seq_len} is longer than model.max_seq_len {max_seq_len}"
    # num_kv_heads divides num_heads, so it alone decides.
    heads = shape.get("num_kv_heads")
    if heads is not None and heads % r.mesh.tensor:
        yield f"mesh.tensor: {r.mesh.tensor} does not divide model.num_kv_heads {heads}"
    if r.tokenizer is None and r.model.init_from is None and r.train.num_steps > 0:
        yield (
            "tokenizer: name one; there is no model.init_from to take it from "
            "(a preparation recipe leaves its own in OUT_DIR/tokenizer)"
        )


def _optimizer(r: TrainRecipe) -> Iterator[str]:
    o, steps = r.optimizer, r.schedule_steps
    if r.train.num_steps and o.warmup_steps > steps:
        yield f"optimizer.warmup_steps: {o.warmup_steps} is more than the {steps} steps of the schedule"
    short = o.schedule_steps is not None and o.schedule_steps < r.train.num_steps
    if short and o.end_lr == 0 and o.schedule != "constant":
        yield (
            f"optimizer.schedule_steps: {o.schedule_steps} is less than train.num_steps "
            f"{r.train.num_steps}; the rest would run at a rate of 0 (raise it, or set optimizer.end_lr)"
        )
    if o.decay_steps is not None and o.schedule != "wsd":
        yield f"optimizer.decay_steps: is for optimizer.schedule wsd, which is {o.schedule}"
    elif o.decay_steps is not None and r.train.num_steps and o.warmup_steps + o.decay_steps > steps:
        yield (
            f"optimizer.decay_steps: {o.decay_steps} and warmup_steps {o.warmup_steps} "
            f"are more than the {steps} steps of the schedule"
        )
    for name, value in (("end_lr", o.end_lr), ("warmup_from", o.warmup_from)):
        if value > o.peak_lr:
            yield f"optimizer.{name}: {value} is above peak_lr {o.peak_lr}"


def _rows(r: TrainRecipe) -> Iterator[str]:
    rows, passes = r.train.global_batch_rows, r.train.accumulate
    if r.mesh.fsdp == 0:
        yield "mesh.fsdp: 0 is no number of ways; -1 takes all devices that the other axes leave"
    ways = r.mesh.slices * r.mesh.data * max(r.mesh.fsdp, 1)
    if rows % (ways * passes):
        yield (
            f"train.global_batch_rows: {rows} does not divide by {ways * passes} "
            f"(mesh slices x data x fsdp = {ways}, train.accumulate = {passes})"
        )
    if r.train.seq_len % r.mesh.sequence:
        yield f"mesh.sequence: {r.mesh.sequence} does not divide train.seq_len {r.train.seq_len}"
    if r.tracking.profile is not None:
        first, last = r.tracking.profile
        if not 1 <= first <= last <= (r.train.num_steps or last):
            yield (
                f"tracking.profile: [{first}, {last}] is not [first step, last step] "
                f"within 1 to train.num_steps {r.train.num_steps}"
            )


def _mixture(r: TrainRecipe) -> Iterator[str]:
    schedule = r.mixture.schedule
    if not r.streams and r.train.num_steps > 0:
        yield "streams: name at least one (only train.num_steps 0 needs none)"
    points: set[float] = {0.0, 1.0}
    for name, stream in r.streams.items():
        if isinstance(stream.weight, tuple):
            at = [progress for progress, _ in stream.weight]
            points.update(at)
            if schedule != "piecewise":
                yield (
                    f"streams.{name}.weight: a list of points needs mixture.schedule piecewise, "
                    f"which is {schedule}"
                )
            if not at or at != sorted(set(at)):
                yield f"streams.{name}.weight: progress must rise from point to point, is {at}"
        if schedule == "priority":
            if stream.priority is None:
                yield f"streams.{name}.priority: missing; mixture.schedule priority needs it of every stream"
            if stream.weight != 1.0:
                yield f"streams.{name}.weight: mixture.schedule priority has no weights; set priority"
        else:
            for key in ("priority", "epochs"):
                if getattr(stream, key) is not None:
                    yield f"streams.{name}.{key}: needs mixture.schedule priority, which is {schedule}"
    if r.streams and schedule != "priority":
        empty = [p for p in sorted(points) if not any(_weight(s, p) for s in r.streams.values())]
        if empty:
            yield f"streams: every weight is 0 at progress {empty[0]:g}"


def _evaluation(r: TrainRecipe) -> Iterator[str]:
    named = {f"eval.streams.{kind}": getattr(r.eval.streams, kind) for kind in KINDS}
    forgetting = r.eval.forgetting
    if forgetting is not None:
        named["eval.forgetting.streams"] = forgetting.streams
        if not (forgetting.streams or r.eval.streams.general):
            yield (
                "eval.forgetting: nothing to watch; name general streams in eval.streams.prose and "
                "eval.streams.instructions, or in eval.forgetting.streams"
            )
    for field, names in named.items():
        for name in names:
            if name not in r.streams:
                near = difflib.get_close_matches(name, r.streams, n=1, cutoff=0.5)
                hint = (
                    f"did you mean {near[0]}?"
                    if near
                    else f"there are {', '.join(r.streams) or 'none'}"
                )
                yield f"{field}: no stream {name!r} in streams; {hint}"
    kinds = [name for kind in KINDS for name in getattr(r.eval.streams, kind)]
    for name in sorted({name for name in kinds if kinds.count(name) > 1}):
        yield f"eval.streams: {name} stands there twice; a stream is of one kind"


def _weight(stream: StreamConfig, progress: float) -> float:
    """The weight at a point of the run: linear between points, level outside of them."""
    if not isinstance(stream.weight, tuple):
        return stream.weight
    before = [p for p in stream.weight if p[0] <= progress]
    after = [p for p in stream.weight if p[0] >= progress]
    if not before or not after:
        return (before or after or [(0.0, 0.0)])[-1 if before else 0][1]
    (x0, y0), (x1, y1) = before[-1], after[0]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (progress - x0) / (x1 - x0)


def _places(r: TrainRecipe) -> Iterator[str]:
    if r.export is not None and re.sub("/+$", "", r.export.out) == re.sub("/+$", "", r.run_dir):
        yield f"export.out: {r.export.out} is the run_dir; the folder must be another one"
