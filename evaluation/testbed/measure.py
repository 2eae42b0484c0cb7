"""What a model has memorised and what it can answer, by the product's own option scoring.

The right value ranks first where its log-likelihood is the highest among its attribute's values; an
answer is right greedily where taking the likeliest token every time would have written it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.chat import encode_prompt
from data.document import Turn
from data.tokenizer import Tokenizer
from evaluation.options import Asked, Scored
from evaluation.testbed.questions import Item
from evaluation.testbed.streams import CHAT


@dataclass(frozen=True)
class Answer:
    """What came of one item: the right value's rank among the values (1 is first), and greedily."""

    entity: str
    attribute: str
    kind: str
    rank: int
    greedy: bool


def asked(items: Sequence[Item], tokenizer: Tokenizer) -> list[Asked]:
    """Items as token ids: the prompt as training has it, and every value behind one space.

    Raises:
        ValueError: a value's tokens begin inside the prompt's, so that they cannot be told apart.
    """
    result = []
    for item in items:
        turn = Turn("text" if item.kind == "cloze" else "user", item.prompt)
        context = encode_prompt([turn], tokenizer, CHAT, add_bos=tokenizer.add_bos).tolist()
        start = [tokenizer.bos_id] if tokenizer.add_bos else []
        continuations = []
        for value in item.values:
            whole = start + tokenizer.encode(f"{item.prompt} {value}").tolist()
            if whole[: len(context)] != context:
                raise ValueError(
                    f"{item.kind} {item.prompt!r}: its last token changes where {value!r} follows; "
                    "begin the values with a letter or digit behind a space"
                )
            continuations.append(tuple(whole[len(context) :]))
        result.append(Asked(tuple(context), tuple(continuations)))
    return result


def answers(items: Sequence[Item], scored: Sequence[Scored]) -> list[Answer]:
    """What the scores say of each item; of equal log-likelihoods the wrong value comes first."""
    found = []
    for item, score in zip(items, scored, strict=True):
        right = score.logprobs[item.right]
        rank = sum(logprob >= right for logprob in score.logprobs)
        found.append(Answer(item.entity, item.attribute, item.kind, rank, score.greedy[item.right]))
    return found


def summary(found: Sequence[Answer]) -> dict[str, Any]:
    """The figures of one model; shares over entities x attributes.

    `memorised`: the right value ranks first in the cloze. Of both question wordings: `greedy`,
    `first` (ranks first), `mean_rank`, and `greedy_given_memorised` (None where nothing is).
    """
    known = {(a.entity, a.attribute) for a in found if a.kind == "cloze" and a.rank == 1}
    cloze = [a for a in found if a.kind == "cloze"]
    figures: dict[str, Any] = {
        "memorised": _share(a.rank == 1 for a in cloze),
        "memorised_greedy": _share(a.greedy for a in cloze),
    }
    for kind in ("seen", "unseen"):
        asked_ = [a for a in found if a.kind == kind]
        figures[kind] = {
            "greedy": _share(a.greedy for a in asked_),
            "first": _share(a.rank == 1 for a in asked_),
            "mean_rank": sum(a.rank for a in asked_) / len(asked_) if asked_ else None,
            "greedy_given_memorised": _share(
                a.greedy for a in asked_ if (a.entity, a.attribute) in known
            ),
        }
    return figures


def _share(found: Any) -> float | None:
    values = list(found)
    return sum(values) / len(values) if values else None
