"""Languages are told as the library tells them, number by number."""

import gzip
import json

import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from data.clean.language import _identifier

TEXTS = [
    "",
    " ",
    "?",
    "1234 5678",
    "THE HEART PUMPS BLOOD.",
    "The heart pumps blood through the body.",
    "Das Herz pumpt Blut durch den Körper.",
    "心脏把血液输送到全身。",
    "Срце пумпа крв кроз тело.",
    "Srce pumpa krv kroz telo.",
    "\ud800 lone",
    "e\u0301te\u0301",
    "a" * 500,
]


@pytest.fixture(scope="module")
def library():
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def test_codes_and_probabilities_are_the_librarys(library):
    for text in TEXTS * 2:  # the second time nothing of the table is new
        assert _identifier()(text) == library.classify(text)


def test_on_real_text(library, realdata):
    with gzip.open(realdata / "medquad.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["answer"] for line, _ in zip(file, range(500), strict=False)]
    with gzip.open(realdata / "general/alpaca_zh.json.gz", "rt") as file:
        texts += [row["output"] for row in json.load(file)[:100]]
    for text in texts:
        assert _identifier()(text[:166]) == library.classify(text[:166])
