"""Texts, a tokenizer and a generator for tests: it makes pairs out of a text by rule, and can misbehave."""

import hashlib
import re
from pathlib import Path

from data.document import Document, Turn, document_id
from data.generator import Completion, Prompt
from data.synthesis.format import CONTEXT, CONTEXT_END, Pair, write_pairs
from data.tokenizer import Tokenizer, load_tokenizer
from tests.data import made_tokenizers

ORGANS = (
    "heart",
    "liver",
    "kidney",
    "lung",
    "spleen",
    "stomach",
    "brain",
    "skin",
    "thyroid",
    "retina",
)
TASKS = ("pumps blood", "clears toxins", "filters water", "takes up oxygen", "stores cells")


def text_of(n: int) -> str:
    organ, task = ORGANS[n % 10], TASKS[n // 10 % 5]
    return (
        f"Report {n} is about the {organ} of patient {n}. In that patient the {organ} {task} every "
        f"day. Doctors measured {n + 100} units in the morning and {n + 200} units in the evening. "
        f"They recommended {n % 7 + 2} weeks of rest before the next visit."
    )


def document(n: int, text: str | None = None, **meta) -> Document:
    turns = (Turn("text", text or text_of(n)),)
    return Document(document_id(turns), turns, "made", meta)


def documents(count: int) -> list[Document]:
    return sorted((document(n) for n in range(count)), key=lambda d: d.id)


def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(made_tokenizers.sentencepiece_model(folder))


def last_text(prompt: Prompt) -> str:
    """The text that a prompt asks about."""
    written = prompt.turns[0].text
    return written[written.rindex(CONTEXT) + len(CONTEXT) : written.rindex(CONTEXT_END)].strip()


def num_shots(prompt: Prompt) -> int:
    return prompt.turns[0].text.count(CONTEXT) - 1


def pairs_of(text: str) -> list[Pair]:
    """Four pairs, one of each shape, grounded in a text of `text_of`."""
    organ = re.search(r"about the (\w+) of", text)
    units = re.findall(r"(\d+) units", text)
    weeks = re.search(r"(\d+) weeks", text)
    if not (organ and weeks and len(units) == 2):
        return []
    total = int(units[0]) + int(units[1])
    return [
        Pair("Which organ is the report about?", f"the {organ[1]}"),
        Pair(
            "How many units were measured in the morning?\nOptions:\n"
            + "\n".join(f"- {value}" for value in (units[0], units[1], "7", "9")),
            units[0],
        ),
        Pair(
            "How many units were measured over the whole day?\nLet's think step by step.",
            f"In the morning doctors measured {units[0]} units, in the evening {units[1]} units."
            f"\nTherefore, the answer is {total}",
        ),
        Pair(
            "Was rest recommended by the doctors?\nOptions:\n- yes\n- no\nLet's think step by step.",
            f"They recommended {weeks[1]} weeks of rest.\nTherefore, the answer is yes",
        ),
    ]


def completion(prompt: Prompt) -> Completion:
    """What a well-trained synthesizer says; of every tenth text or so, nothing that can be used."""
    text = last_text(prompt)
    lot = hashlib.blake2b(text.encode(), digest_size=2).digest()[0] % 10
    pairs = pairs_of(text)
    output = write_pairs(pairs[: 1 + lot % 4]) if lot else "I do not know."
    if lot == 9:
        output += "\n\n<QUE> What is left open <ANS> this"
    return Completion(prompt.id, output, "stop", 0, len(output.split()))


def generate(prompts):
    for prompt in prompts:
        yield completion(prompt)


class Recorder:
    """`generate` that remembers the prompts."""

    def __init__(self, answer=completion):
        self.prompts: list[Prompt] = []
        self.answer = answer

    def __call__(self, prompts):
        for prompt in prompts:
            self.prompts.append(prompt)
            yield self.answer(prompt)
