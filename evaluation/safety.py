"""The safety-template matrix: how often a model declines, by template.

What a fine-tuned model declines depends on the template that it is asked through, and adaptation may
change one template and not another, so the whole row is measured: running text, the model's own chat
template, the same with a safety system prompt (Lyu et al., arXiv 2402.18540, train without one and
serve with one). Requests, templates and the phrases that count as declining are data: `safety.yaml`,
which also says what the figures can and cannot show.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data.document import Turn
from data.generator import Generate, Prompt, Sampling

MATRIX = Path(__file__).resolve().parent / "safety.yaml"
_SYSTEM_PROMPTS = (
    Path(__file__).resolve().parent.parent / "data" / "comprehension" / "system_prompts.yaml"
)
Asked = Literal["decline", "answer"]
KINDS: tuple[Asked, ...] = ("decline", "answer")


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Template(Config):
    """A column of the matrix."""

    kind: Literal["text", "chat"]
    text: str = Field(default="{request}", description="where the request stands")
    system: str | None = Field(default=None, description="a published system prompt, by name")

    @model_validator(mode="after")
    def _consistent(self) -> "Template":
        if "{request}" not in self.text:
            raise ValueError("text: has no place {request}")
        if self.system is not None and self.kind == "text":
            raise ValueError("system: is for kind chat; write it into text")
        return self

    def turns(self, request: str) -> tuple[Turn, ...]:
        """A request as it is asked."""
        asked = self.text.replace("{request}", request)
        if self.kind == "text":
            return (Turn("text", asked),)
        system = [Turn("system", system_prompts()[self.system])] if self.system else []
        return (*system, Turn("user", asked))


class Request(Config):
    """A request to decline, and the harmless one that looks like it."""

    decline: str
    answer: str


class Matrix(Config):
    """What is asked, how, and what counts as declining."""

    about: str
    templates: dict[str, Template]
    window: int = Field(ge=20, description="characters of an answer that are looked at")
    declines: tuple[str, ...] = Field(min_length=1)
    requests: dict[str, Request] = Field(min_length=1)

    def declined(self, text: str) -> bool:
        """Whether an answer declines, by the phrases."""
        begins = text.strip()[: self.window].replace("\u2019", "'").lower()
        return any(phrase in begins for phrase in self.declines)


@dataclass(frozen=True)
class Reply:
    """One answer of the matrix."""

    template: str
    request: str
    kind: Asked
    prompt: str
    text: str
    declined: bool


def load_matrix(path: str | Path = MATRIX, *, templates: Sequence[str] = ()) -> Matrix:
    """The matrix of a file, with some of its columns or all.

    Raises:
        ValueError: the file is wrong, or a column is not in it.
    """
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    try:
        matrix = Matrix.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {place}: {first['msg']}") from error
    unknown = [name for name in templates if name not in matrix.templates]
    if unknown:
        raise ValueError(
            f"eval.report.safety.templates: no template {unknown[0]!r}; there are "
            f"{', '.join(matrix.templates)}"
        )
    for name, template in matrix.templates.items():
        if template.system is not None and template.system not in system_prompts():
            raise ValueError(f"{path}: templates.{name}.system: no prompt {template.system!r}")
    if not templates:
        return matrix
    return matrix.model_copy(update={"templates": {n: matrix.templates[n] for n in templates}})


def ask(matrix: Matrix, generate: Generate, *, max_new_tokens: int) -> list[Reply]:
    """A model's greedy answers to every request through every template.

    Raises:
        ValueError: a template cannot be used with the model, or a request does not fit its window.
    """
    sampling = Sampling(max_new_tokens=max_new_tokens)
    asked: dict[str, tuple[str, str, Asked, str]] = {
        f"{name}/{request}/{kind}": (name, request, kind, getattr(both, kind))
        for name in matrix.templates
        for request, both in matrix.requests.items()
        for kind in KINDS
    }
    prompts: Iterator[Prompt] = (
        Prompt(key, matrix.templates[name].turns(text), sampling)
        for key, (name, _, _, text) in asked.items()
    )
    replies: dict[str, Reply] = {}
    for done in generate(prompts):
        name, request, kind, text = asked[done.id]
        if done.finish == "error":
            raise ValueError(f"safety: {name}: {request}: {done.error}")
        replies[done.id] = Reply(name, request, kind, text, done.text, matrix.declined(done.text))
    return [replies[key] for key in asked]


def rates(
    replies: Sequence[Reply], interval: Callable[[int, int], tuple[float, float]]
) -> dict[str, dict[str, Any]]:
    """By template: how often what should be declined was, and what should be answered; empty answers."""
    table: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(reply.template for reply in replies):
        row: dict[str, Any] = {}
        for kind in KINDS:
            some = [r for r in replies if r.template == name and r.kind == kind]
            count = sum(reply.declined for reply in some)
            row[kind] = {
                "declined": count,
                "asked": len(some),
                "empty": sum(not reply.text.strip() for reply in some),
                "interval": list(interval(count, len(some))),
            }
        table[name] = row
    return table


@functools.cache
def system_prompts() -> dict[str, str]:
    """System prompts of published models, by name, byte for byte."""
    return yaml.safe_load(_SYSTEM_PROMPTS.read_text(encoding="utf-8"))
