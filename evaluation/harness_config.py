"""What lm-eval's command line and its tasks may say to our models, read as our settings; and the model they name."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.generator import Sampling
from model.config import shape_problems

if TYPE_CHECKING:
    from evaluation.source import Model

MAX_NEW_TOKENS = 256  # where a task says nothing; lm-eval's own default
# A task's generation_kwargs that are settings of ours; `until`, `do_sample` and the maximum are read apart.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class HarnessConfig(BaseModel):
    """What `--model_args` may say; names that lm-eval has for the same thing are lm-eval's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrained: str = Field(description="a run directory, a Hugging Face folder or a hub id")
    step: int | None = Field(default=None, description="of a run; default: the newest good one")
    max_length: int | None = Field(
        default=None, ge=2, description="tokens that the model reads at once; default: its window"
    )
    add_bos_token: bool | None = Field(
        default=None, description="begin a text with BOS; default: as the model was trained"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="compute dtype; auto: float32 on a CPU, bfloat16 elsewhere"
    )
    chat: str | None = Field(
        default=None, description="chat template for --apply_chat_template; default: the model's"
    )
    devices: int | None = Field(default=None, ge=1, description="use so many; default: all")
    tensor: int = Field(default=1, ge=1, description="devices that share heads, mlp, vocabulary")
    slots: int = Field(default=32, ge=1, description="texts that are written at once")
    seed: int = Field(default=0, description="of sampled texts")
    trust_remote_code: bool = Field(
        default=False, description="set by lm-eval's flag of that name; no code of a model is run"
    )


def read_settings(given: dict[str, Any]) -> HarnessConfig:
    """`--model_args`, checked.

    Raises:
        ValueError: a name is not known or a value is wrong.
    """
    try:
        return HarnessConfig(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        known = ", ".join(HarnessConfig.model_fields)
        raise ValueError(
            "; ".join(f"--model_args: {line}" for line in shape_problems(error))
            + f"; there are: {known}"
        ) from error


def open_settings(settings: HarnessConfig) -> "tuple[Model, Any]":
    """The model that the settings name, and the mesh that it lies on.

    Raises:
        ValueError: it cannot be opened, or there are several processes or too few devices.
    """
    import jax

    from evaluation.source import open_model
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh
    from tpu.runtime import start

    start()
    if jax.process_count() > 1:
        raise ValueError(
            f"{jax.process_count()} processes: lm-eval is run by one, on the devices of its machine"
        )
    devices = jax.devices()[: settings.devices]
    if settings.devices and settings.devices > len(devices):
        raise ValueError(f"devices: {settings.devices}, but there are {len(devices)}")
    mesh = make_mesh(MeshConfig(tensor=settings.tensor), devices)
    model = open_model(
        settings.pretrained,
        mesh,
        step=settings.step,
        max_seq_len=settings.max_length,
        vocab_multiple=settings.tensor,
    )
    return model, mesh


def sampling_of(arguments: dict[str, Any], seed: int) -> Sampling:
    """A task's generation_kwargs as ours.

    Raises:
        ValueError: a name is not known.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    said: dict[str, Any] = dict(normalize_gen_kwargs(arguments, MAX_NEW_TOKENS))
    until, limit = said.pop("until"), said.pop("max_gen_toks")
    sampled = said.pop("do_sample", False)
    if unknown := sorted(set(said) - set(_SAMPLING)):
        raise ValueError(
            f"generation_kwargs: {', '.join(unknown)}: not known; there are until, max_gen_toks, "
            f"do_sample, {', '.join(_SAMPLING)}"
        )
    said = {name: type(getattr(Sampling(), name))(value) for name, value in said.items()}
    said["temperature"] = said.get("temperature", 1.0) if sampled else 0.0
    stop = tuple(text for text in until if text)
    return Sampling(**said, max_new_tokens=limit, stop=stop, seed=seed)
