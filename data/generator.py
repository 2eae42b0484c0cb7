"""What writes text for a stage: our own engine, or a server. Both are one function.

`Generate` takes prompts and yields completions **in any order** (by `Completion.id`), as soon as
they are finished; it may be handed an endless iterator and takes from it only what it can work on.
A prompt's completion depends on the prompt alone (its seed included), never on its batch mates.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from data.document import Turn
from data.strict import Config


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: only the k likeliest; 0 leaves all.
        top_p: only the likeliest that hold this much probability together.
        min_p: only those at least this share of the likeliest one's probability.
        repetition_penalty: divides (multiplies, if negative) the logits of tokens seen before.
        max_new_tokens: at most so many.
        stop: strings that end the text; they are not part of it.
        seed: same prompt, same seed, same text.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Prompt:
    """What to continue: a `text` turn taken as it is, or a conversation to reply to.

    Attributes:
        id: unique in the job; names the completion.
        turns: one turn `text`, or a conversation that goes through the model's chat template.
        sampling: how to continue it.
        literal_special: strings of special tokens in a text become their ids (`<s>` is BOS), and
            BOS is not added: the text says itself where it stands.
    """

    id: str
    turns: tuple[Turn, ...]
    sampling: Sampling = Sampling()
    literal_special: bool = False


@dataclass(frozen=True)
class Completion:
    """What came of one prompt.

    Attributes:
        id: the prompt's.
        text: the continuation, without the stop string.
        finish: `stop` (EOS or a stop string), `length` (max_new_tokens or the window), `error`.
        num_prompt_tokens: tokens read.
        num_tokens: tokens written.
        logprobs: of each written token, where they were asked for.
        error: what went wrong where `finish` is `error`; the text is empty then.
    """

    id: str
    text: str
    finish: Literal["stop", "length", "error"]
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    logprobs: tuple[float, ...] = ()
    error: str = ""


Generate = Callable[[Iterable[Prompt]], Iterator[Completion]]


# --- what a recipe says ---------------------------------------------------------------------------


class ServerConfig(Config):
    """An OpenAI-compatible server, for texts and for conversations."""

    # A URL that is refused may hold a key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_url: str = Field(
        default="http://localhost:8000/v1", description="up to and with /v1; vLLM's own default"
    )
    model: str = Field(default="", description="the name under which the server has the model")
    endpoint: Literal["completions", "chat"] = Field(
        default="completions",
        description="completions continues texts as they are; chat sends messages, which the "
        "server puts through the model's chat template",
    )
    api_key_env: str | None = Field(
        default=None,
        description="the environment variable that holds the key; the key itself is nowhere",
    )
    concurrency: int = Field(default=32, ge=1, le=4096, description="requests under way at once")
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(
        default=None, gt=0, description="read and written, together"
    )
    attempts: int = Field(
        default=8,
        ge=1,
        description="tries of one request, where it fails with 408, 409, 429, 5xx or time",
    )
    backoff_s: float = Field(
        default=1.0,
        gt=0,
        description="wait before the second try; doubled each time, up to a minute",
    )
    timeout_s: float = Field(
        default=300.0, gt=0, description="longest wait for the next byte of an answer"
    )
    price_in: float = Field(default=0.0, ge=0, description="US$ per million tokens read")
    price_out: float = Field(default=0.0, ge=0, description="US$ per million tokens written")
    max_cost: float | None = Field(
        default=None, gt=0, description="US$ after which no further request is sent"
    )
    bos: str | None = Field(
        default="<s>",
        description="the BOS string that the server itself puts before a text: where a prompt "
        "brings it literally, it is left to the server, so that it is never doubled; null: the "
        "server adds none",
    )
    extra: dict[str, Any] = Field(
        default={},
        description="further fields of the request's body, as the server knows them; null takes "
        "one away",
    )

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^/@?#]+(/[^@?#]*)?", url):
            shown = re.sub(r"//[^/]*@|[?].*", "...", url)  # it may hold a key
            raise ValueError(
                f"base_url: {shown!r} is not of the form http(s)://host[:port]/v1; a key goes into "
                "the environment variable that api_key_env names"
            )
        return url


_SPEED = ("slots", "steps")  # of an engine


class GeneratorConfig(ServerConfig):
    """What writes text for a preparation: our own engine, or a server."""

    kind: Literal["engine", "openai"] = Field(
        default="engine",
        description="a model on this machine's devices, or an OpenAI-compatible server",
    )
    model: str = Field(
        default="",
        description="engine: a Hugging Face folder, a hub id or a run directory; openai: the "
        "server's name of the model",
    )
    tokenizer: str | None = Field(
        default=None,
        description="counts the tokens of prompts; default: the one beside an engine's model, "
        "else the recipe's own",
    )
    engine: dict[str, Any] = Field(
        default={},
        description="settings of the engine, as `python -m model.generate --help` names them",
    )

    def identity(self) -> dict[str, Any]:
        """What the texts depend on: all but where and how fast the model is asked, and its price.

        So a job goes on with a server that has moved, other limits, or more money.
        """
        told = self.model_dump(include={"kind", "model", "endpoint", "bos", "extra", "tokenizer"})
        texts = {name: value for name, value in self.engine.items() if name not in _SPEED}
        return told | {"engine": texts}

    @model_validator(mode="after")
    def _model_is_named(self) -> "GeneratorConfig":
        if not self.model:
            what = "a model folder or run directory" if self.kind == "engine" else "the model"
            raise ValueError(f"generator.model: missing; name {what}")
        return self
