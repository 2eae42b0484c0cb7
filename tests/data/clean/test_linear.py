"""No stage takes longer per byte for what nobody wrote than for prose, times three."""

import random
import time
from collections.abc import Callable

from data.benchmarks import Item
from data.clean.config import CleanConfig
from data.clean.decontaminate import TestItems
from data.clean.stages import Cleaned, cleaner
from data.clean.survey import Surveyor
from data.document import Document
from tests.data.clean.judged import text

SIZE = 1_000_000
# name -> what is repeated; a text is so many bytes of it
ADVERSARIAL = {
    "spaces": " ",
    "newlines": "\n",
    "spaces and newlines": " " * 50 + "\n",
    "tabs": "\t ",
    "leader dots": ".",
    "dots and pages": "Chapter " + "." * 90 + " 12\n",
    "one word": "a",
    "digits": "1",
    "digits apart": "1 ",
    "no terminators": "word and word ",
    "hyphens": "-\n",
    "cut words": "abc-\n",
    "at signs": "a@",
    "dotted": "a.",
    "plus signs": "+1 ",
    "braces": "({[",
    "joiners": "\u200d",
    "wide spaces": "\u3000",
    "one character": "血",
    "marks on marks": "\u0301",
    "a long line": "Words of one line, no end. ",
}


def adversarial(name: str, size: int = SIZE) -> str:
    """So many bytes of what nobody wrote, between two words."""
    return f"word{ADVERSARIAL[name] * (size // len(ADVERSARIAL[name].encode()))}end @ x"


def prose() -> str:
    rng = random.Random(0)
    words = [("".join(rng.choices("etaoinshrdlu", k=rng.randrange(2, 10)))) for _ in range(20_000)]
    sentences = []
    while sum(map(len, sentences)) < SIZE:
        sentence = " ".join(rng.choice(words) for _ in range(rng.randrange(5, 25)))
        sentences.append(sentence.capitalize() + (".\n\n" if rng.random() < 0.1 else ". "))
    return "".join(sentences)[:SIZE]


def everything() -> Callable[[Document], object]:
    config = CleanConfig.model_validate(
        {
            "personal": {"emails": True, "phones": True, "ids": True},
            "quality": {"min_stop_words": 0, "max_bullets": 1.0, "min_end_marks": 0.0},
        }
    )
    clean = cleaner(config)
    items = [Item(str(i), f"a question of words {i}", answers=("word",)) for i in range(50)]
    items += [Item("d", ". . ."), Item("w", "word and word"), Item("1", "1 1 1 1 1 1")]
    items += [Item("l", "word and " * 12), Item("t", "word and", answers=("and word",))]
    base = Surveyor.of(config, corpora=["c"], fraction=0.1)
    test_items = TestItems.of({"task": items}, config.contamination)
    surveyor = Surveyor(base.ranks, base.fraction, True, True, test_items)

    def run(document: Document) -> object:
        done = clean(document)
        # What the rules take away is noted all the same, as a longer text around it would be.
        return surveyor.survey(document, Cleaned(done.document or document), "c")

    return run


def seconds(run: Callable[[Document], object], document: Document) -> float:
    start = time.process_time()
    run(document)
    return time.process_time() - start


def test_adversarial_texts_take_no_longer_than_prose():
    """Processor seconds side by side; the figures are in `tests/benchmarks/cleaning.py`."""
    run = everything()
    run(text("warm up"))
    reference = text(prose())
    budget = 3 * min(seconds(run, reference) for _ in range(3))
    slow = {}
    for name in ADVERSARIAL:
        document = text(adversarial(name))
        taken = seconds(run, document)
        if taken > budget:  # something else may have been in the way
            taken = min(seconds(run, document) for _ in range(3))
        if taken > budget:
            slow[name] = round(taken / budget * 3, 1)
    assert not slow
