"""Log-likelihoods of options and of whole texts, many at once.

Seam only for the moment: the types and signatures that others may lean on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jax.sharding import Mesh

from model.config import LlamaConfig
from model.llama import Params


@dataclass(frozen=True)
class Asked:
    """A context and what may follow it, as token ids. Neither may be empty."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scored:
    """What a model makes of the continuations of one context, in their order.

    Attributes:
        logprobs: summed log-probability of each, in nats.
        tokens: of each.
        greedy: whether taking the likeliest token every time would have written it.
        cut: tokens that the context lost on its left because the window is shorter.
    """

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    greedy: tuple[bool, ...]
    cut: int


@dataclass(frozen=True)
class Rolled:
    """The log-likelihood of one whole text: nats, and the tokens that were predicted."""

    logprob: float
    tokens: int


class Scorer:
    """Scores with whatever weights it is given; compiled once per shape.

    Args of the constructor:
        config: the network's shape.
        mesh: where the weights lie.
        specs: how (`Model.plan.specs`, or a training run's own).
        max_len: tokens of context and continuation together; default: the model's window.
        compute_dtype: auto is float32 on a CPU, bfloat16 elsewhere.
        bos_id: stays in front when a context is cut.
        batch_tokens: tokens of one call of the program, per device that holds rows.
    """

    def __init__(
        self,
        config: LlamaConfig,
        mesh: Mesh,
        specs: Params,
        *,
        max_len: int | None = None,
        compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        bos_id: int | None = None,
        batch_tokens: int | None = None,
    ) -> None: ...

    def score(self, params: Params, asked: Sequence[Asked]) -> list[Scored]:
        """One result for each, in order."""
        raise NotImplementedError

    def rolling(
        self,
        params: Params,
        texts: Sequence[Sequence[int]],
        *,
        prefix: int | None,
        context: int = 1,
    ) -> list[Rolled]:
        """Whole texts, in windows; `prefix` (BOS or EOS) is what the first token is predicted from."""
        raise NotImplementedError
