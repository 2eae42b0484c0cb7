"""What writes text for a stage: our own engine, or a server. Both are one function.

`Generate` takes prompts and yields completions **in any order** (by `Completion.id`), as soon as
they are finished; it may be handed an endless iterator and takes from it only what it can work on.
A prompt's completion depends on the prompt alone (its seed included), never on its batch mates.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from data.document import Turn


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
