"""Sample answers of the report: how a model goes on from the beginnings of held-out documents."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from data.document import Document
from data.generator import Prompt, Sampling
from evaluation.heldout import read_documents
from model.engine import Engine

ANSWER = Sampling(max_new_tokens=80)
_OPENING = 40  # words of a held-out text that are given


def sample_answers(
    engine: Engine, streams: Mapping[str, str], *, each: int
) -> list[dict[str, Any]]:
    """The likeliest continuations of some documents of every stream, spread over its held-out text.

    Args:
        engine: writes them.
        streams: folders by name.
        each: documents of a stream.

    Returns:
        `stream`, `prompt`, `reference` (how the document itself goes on) and `text` of each.
    """
    asked: dict[str, dict[str, Any]] = {}
    prompts = []
    for stream, path in streams.items():
        documents = read_documents(f"{path}/heldout")
        every = max(1, len(documents) // each)
        for document in documents[::every][:each]:
            turns, reference = _beginning(document)
            key = f"{stream}/{document.id}"
            shown = "\n\n".join(turn.text for turn in turns)
            asked[key] = {"stream": stream, "prompt": shown, "reference": reference}
            prompts.append(Prompt(key, turns, ANSWER))
    for done in engine.generate(prompts):
        asked[done.id]["text"] = done.text if not done.error else f"({done.error})"
    return list(asked.values())


def _beginning(document: Document) -> tuple[tuple[Any, ...], str]:
    """What is given to a model, and how the document goes on."""
    turns = document.turns
    if not document.is_text:
        last = max((i for i, t in enumerate(turns) if t.role == "assistant"), default=len(turns))
        return turns[:last], turns[last].text if last < len(turns) else ""
    text = "\n\n".join(turn.text for turn in turns)
    words = text.split(" ")
    opening = " ".join(words[:_OPENING])
    return (dataclasses.replace(turns[0], text=opening),), " ".join(words[_OPENING : 3 * _OPENING])
