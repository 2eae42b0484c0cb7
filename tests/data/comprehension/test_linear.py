"""No text makes mining slower than linear.

Compared are times of one process for texts of one pattern in different lengths, where quadratic
work would show by far; a `slow` test compares with prose.
"""

import time

import pytest

from data.comprehension.language import load_language
from data.comprehension.mine import mine
from data.comprehension.sentences import split_sentences
from data.comprehension.vocabulary import Vocabulary

EN = load_language("en")
VOCABULARY = Vocabulary({"dialysis": 3, "nephritis": 4, "creatinine": 3}, "en", "test")
PROSE = (
    "Dialysis is a treatment that removes waste and creatinine from the blood of patients. "
    "However, it does not cure nephritis, because the kidney itself stays damaged. Therefore, 40 "
    "patients were asked about their life with dialysis. The mean age was 61.5 years.\n\n"
)
PLAIN = PROSE + (
    "The house stands near the river, and its garden reaches down to the water. In summer the "
    "children of the village swim there after school, and their parents sit under the old trees "
    "until the evening. Nobody remembers who planted them. The path along the bank is narrow, and "
    "in spring it is often flooded for some days; then people take the road over the hill.\n\n"
)
HOSTILE = {
    "spaces": " ",
    "a stop and 32,000 spaces": "However, it is so. " + " " * 32000,
    "line breaks": "\n",
    "lines of one letter": "x\n",
    "leader dots": "Chapter one " + "." * 200 + " 12\n",
    "dots": ".",
    "dots and spaces": ". ",
    "no terminator": "the blood is a part of it because the kidney ",
    "open brackets": "(it is so. But ",
    "quotes": '"It is so. ',
    "connectives": "However, ",
    "joints": "it is so, but ",
    "commas": "Although, ",
    "clauses behind a head": "While x, we are a, we are b, we are c, we are d, we are e, we are f. ",
    "definitions": "x is a ",
    "numbers": "was 1 ",
    "spelled numbers": "One hundred ",
    "abbreviations": "e.g. ",
    "short sentences": "It is. ",
    "list items": "- a b\n",
    "labels": "METHODS: a\n",
    "keywords": "dialysis nephritis ",
    "one word": "a",
    "capitals": "A B C D. ",
    "many tasks": PROSE,
    "a term that is nowhere else": "Dialysis is a treatment that cleans the blood.\n\n",
}


def repeated(unit: str, size: int) -> str:
    return (unit * (size // len(unit) + 1))[:size]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_split_without_loss(name: str):
    text = repeated(HOSTILE[name], 40_000)
    at = 0
    for start, stop in split_sentences(text, EN):
        assert not text[at:start].strip()
        at = stop
    assert not text[at:].strip()


@pytest.mark.parametrize("name", HOSTILE)
def test_long_sentences_are_not_matched(name: str):
    """What is shown to an expression of a rule is never longer than a sentence may be."""
    most = EN.file.clauses.max_chars
    for task in mine(repeated(HOSTILE[name], 40_000), EN, VOCABULARY):
        if task.family != "section":
            assert all(stop - start <= most for start, stop in task.spans)


def seconds(text: str) -> float:
    start = time.process_time()
    mine(text, EN, VOCABULARY)
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_costs_no_more_than_prose_times_three(name: str):
    """The promise is three times; the bound leaves room for a busy machine. Quadratic would be 100 s."""
    text = repeated(HOSTILE[name], 1_000_000)
    prose = min(seconds(repeated(PLAIN, 1_000_000)) for _ in range(2))
    assert min(seconds(text) for _ in range(2)) < 5 * prose


@pytest.mark.parametrize("name", HOSTILE)
def test_four_times_the_text_is_no_more_than_a_few_times_the_work(name: str):
    """Quadratic work would be 16 times; so small a text leaves a wide margin to noise."""
    mine(PROSE, EN, VOCABULARY)
    small = min(seconds(repeated(HOSTILE[name], 50_000)) for _ in range(3))
    large = min(seconds(repeated(HOSTILE[name], 200_000)) for _ in range(3))
    assert large < 9 * small + 0.02
