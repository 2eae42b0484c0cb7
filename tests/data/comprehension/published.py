"""The tasks that the published miner made of the twelve samples, read back from its output files.

A finished text shows its article once and quotes sentences of it again in the tasks. So:

* a connective pair was mined where the second sentence, its connective taken off, stands in the
  output more often than in the article;
* a keyword task was mined where three long words in a row, joined by commas, are followed or
  preceded in their block by a sentence of the article.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from data.comprehension.mined import Mined

# Connective: the family and label under which the published miner files it, and its twin's.
CONNECTIVES = {
    "entail": ("Therefore", "Thus", "Accordingly", "Hence", "For this reason"),
    "contradict": ("However", "But", "On the contrary", "In contrast", "Whereas"),
    "neutral": ("Also", "Furthermore", "Secondly", "Additionally", "Moreover", "In addition"),
    "similar": ("In other words", "Namely", "That is to say", "Similarly", "Equally"),
}
NUM_SAMPLES = 12


@dataclass(frozen=True)
class Published:
    """One published task: its kind, and the characters of the article that it quotes."""

    kind: str  # a label of CONNECTIVES, or keyword
    first: tuple[int, int]
    second: tuple[int, int] | None = None


def article(folder: Path, number: int) -> str:
    """The text that the published miner read."""
    return (folder / "input-raw-texts" / f"{number}.txt").read_text(encoding="utf-8").strip()


def published_tasks(folder: Path, number: int) -> list[Published]:
    """The distinct sound tasks of one output file: no twins, no definitions, no topics."""
    text = article(folder, number)
    output = (folder / "output-read-compre" / f"{number}.txt").read_text(encoding="utf-8")
    return _pairs(text, output) + _keywords(text, output)


def _pairs(text: str, output: str) -> list[Published]:
    found = []
    for kind, words in CONNECTIVES.items():
        opening = re.compile(
            rf"(?<=[.!?])\s+(?:{'|'.join(words)}) ?,\s+(?P<second>[^.!?\n]+(?:\.\d[^.!?\n]*)*[.!?])"
        )
        for match in opening.finditer(text):
            second = match["second"]
            shown = second[0].upper() + second[1:]
            once = output.count(match[0].strip())  # in the article, and in a chain's next premise
            if output.count(shown) <= (once if shown == second else 0):
                continue
            start = max(
                text.rfind(mark, 0, match.start() - 1) for mark in (". ", ".\n", "? ", "! ")
            )
            found.append(Published(kind, (start + 2, match.start()), match.span("second")))
    return found


def _keywords(text: str, output: str) -> list[Published]:
    sentences = [
        (m.start(), m.end())
        for m in re.finditer(r"\S[^.!?\n]*(?:[.!?](?=\S)[^.!?\n]*)*[.!?]", text)
    ]
    found = []
    triple = r"(?<![\w,] )(?<!\w)([A-Za-z]{9,}, [A-Za-z]{9,}, [A-Za-z]{9,})(?![\w,])"
    for match in re.finditer(triple, output):
        if match[0] in text:
            continue
        start = output.rfind("\n\n", 0, match.start())
        stop = output.find("\n\n", match.end())
        block = output[max(start, 0) : stop if stop > 0 else len(output)]
        quoted = [
            span
            for span in sentences
            if text[slice(*span)] in block and _has(text[slice(*span)], match[0])
        ]
        # A sentence that the published splitter took for two, or two for one: any that has a word.
        quoted = quoted or [
            span
            for span in sentences
            if text[slice(*span)] in block
            and any(w in text[slice(*span)] for w in match[0].split(", "))
        ]
        assert quoted, f"no sentence of the article beside {match[0]!r}"
        found.append(Published("keyword", quoted[0]))
    return found


def _has(sentence: str, words: str) -> bool:
    return all(word in sentence for word in words.split(", "))


def is_mined(task: Published, pool: list[Mined]) -> bool:
    """Whether a candidate pool holds the task: the same label, the same sentences.

    Spans may be shorter by the connective that the published miner left before a first sentence,
    by a label or by the stop.
    """
    if task.kind == "keyword":
        return any(
            mined.family == "keyword"
            and (_inside(mined.spans[0], task.first) or _inside(task.first, mined.spans[0]))
            for mined in pool
        )
    assert task.second is not None
    return any(
        mined.label == task.kind
        and _inside(mined.spans[0], task.first)
        and _inside(mined.spans[1], task.second)
        for mined in pool
    )


def _inside(span: tuple[int, int], whole: tuple[int, int], slack: int = 30) -> bool:
    """Whether `span` is `whole` but for a connective at its start and marks at its ends."""
    return whole[0] <= span[0] <= whole[0] + slack and whole[1] - 3 <= span[1] <= whole[1]
